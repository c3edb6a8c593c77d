//! The conditions from a list of problems, and of a rule from its storm. Pure.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

use super::{reason, validate::Problem};

/// The most problems that a message tells; the author mends some and sees the next.
const PROBLEMS_TOLD_MAX: usize = 8;
/// The most bytes of a message; the API takes 32768.
const MESSAGE_LEN_MAX: usize = 4096;

/// What the API server knows of a resource's status.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Known {
    /// `metadata.generation`.
    pub generation: Option<i64>,
    /// `status.observedGeneration`.
    pub observed_generation: Option<i64>,
    /// `status.conditions`.
    pub conditions: Vec<Condition>,
}

/// A storm of a rule that goes on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Storm {
    /// Since when.
    pub began_at: Timestamp,
    /// Its incident; none when a person has resolved it.
    pub incident: Option<String>,
}

/// The conditions that should be written, or none when what is known says the same already. `Ready` comes first; `Storm` is there only
/// while one goes on, and what is not written any more the API server takes away.
pub(super) fn conditions(
    known: &Known,
    problems: &[Problem],
    storm: Option<&Storm>,
    now: Timestamp,
) -> Option<Vec<Condition>> {
    let of_type = |kind: &str| known.conditions.iter().find(|condition| condition.type_ == kind);
    let wanted: Vec<Condition> =
        std::iter::once(ready(known, problems, now)).chain(storm.map(|storm| storming(known, storm))).collect();
    let same = wanted.iter().all(|condition| of_type(&condition.type_) == Some(condition))
        && of_type(reason::STORM).is_some() == storm.is_some()
        && known.observed_generation == known.generation;
    (!same).then_some(wanted)
}

fn storming(known: &Known, storm: &Storm) -> Condition {
    let incident =
        storm.incident.as_ref().map_or_else(|| "resolved by a person".to_owned(), |name| format!("incident {name}"));
    let began = Timestamp::from_second(storm.began_at.as_second()).unwrap_or(storm.began_at);
    Condition {
        type_: reason::STORM.into(),
        status: "True".into(),
        reason: reason::TOO_MANY_OPEN.into(),
        message: format!(
            "Since {began} so many incidents of this rule are open that further alerts open none ({incident})."
        ),
        observed_generation: known.generation,
        last_transition_time: Time(began),
    }
}

/// The `Ready` condition. `lastTransitionTime` moves only with the status.
fn ready(known: &Known, problems: &[Problem], now: Timestamp) -> Condition {
    let before = known.conditions.iter().find(|condition| condition.type_ == reason::READY);
    let status = if problems.is_empty() { "True" } else { "False" };
    let mut wanted = Condition {
        type_: reason::READY.into(),
        status: status.into(),
        reason: problems.first().map_or(reason::VALID, |problem| problem.reason).into(),
        message: message(problems),
        observed_generation: known.generation,
        last_transition_time: Time(now),
    };
    if let Some(before) = before.filter(|before| before.status == wanted.status) {
        wanted.last_transition_time = before.last_transition_time.clone();
    }
    wanted
}

fn message(problems: &[Problem]) -> String {
    if problems.is_empty() {
        return "Everything compiles, and everything that it refers to is there.".into();
    }
    let told = problems.iter().take(PROBLEMS_TOLD_MAX).map(|problem| format!("{}: {}", problem.field, problem.message));
    let mut message = told.collect::<Vec<_>>().join("; ");
    if message.len() > MESSAGE_LEN_MAX {
        let end = (0..=MESSAGE_LEN_MAX).rev().find(|end| message.is_char_boundary(*end)).unwrap_or(0);
        message.truncate(end);
        message.push('…');
    }
    if problems.len() > PROBLEMS_TOLD_MAX {
        message.push_str(&format!("; and {} more", problems.len() - PROBLEMS_TOLD_MAX));
    }
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problem(reason: &'static str) -> Problem {
        Problem { field: "spec.a".into(), reason, message: "is wrong".into() }
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    fn written(known: &mut Known, problems: &[Problem], now: Timestamp) -> Condition {
        let condition = conditions(known, problems, None, now).expect("something to write").remove(0);
        known.observed_generation = known.generation;
        known.conditions = vec![condition.clone()];
        condition
    }

    #[test]
    fn the_same_status_is_not_written_twice() {
        let mut known = Known { generation: Some(1), ..Known::default() };
        assert_eq!(written(&mut known, &[], at(1)).status, "True");
        assert_eq!(conditions(&known, &[], None, at(2)), None);
        known.generation = Some(2);
        assert_eq!(written(&mut known, &[], at(3)).observed_generation, Some(2));
        assert_eq!(conditions(&known, &[], None, at(4)), None);
    }

    #[test]
    fn the_transition_time_moves_only_with_the_status() {
        let mut known = Known { generation: Some(1), ..Known::default() };
        written(&mut known, &[], at(1));
        let time = |condition: Condition| condition.last_transition_time.0;
        assert_eq!(time(written(&mut known, &[problem(reason::INVALID_MATCHER)], at(5))), at(5));
        assert_eq!(time(written(&mut known, &[problem(reason::RUNBOOK_NOT_FOUND)], at(6))), at(5));
        assert_eq!(time(written(&mut known, &[], at(7))), at(7));
    }

    #[test]
    fn conditions_of_others_are_left_alone() {
        let mut known = Known { generation: Some(1), ..Known::default() };
        let mine = written(&mut known, &[], at(1));
        known.conditions = vec![Condition { type_: "Audited".into(), ..mine.clone() }, mine];
        assert_eq!(conditions(&known, &[], None, at(2)), None);
    }

    #[test]
    fn a_message_is_bounded_and_the_first_problem_gives_the_reason() {
        let problems: Vec<Problem> = (0..40)
            .map(|n| Problem {
                field: format!("spec.f[{n}]"),
                reason: reason::INVALID_MATCHER,
                message: "ä".repeat(2_000),
            })
            .collect();
        let condition = conditions(&Known::default(), &problems, None, at(1)).unwrap().remove(0);
        assert_eq!((condition.status.as_str(), condition.reason.as_str()), ("False", "InvalidMatcher"));
        assert!(
            condition.message.len() < MESSAGE_LEN_MAX + 50 && condition.message.ends_with("and 32 more"),
            "{}",
            condition.message.len()
        );
    }

    #[test]
    fn a_storm_is_a_condition_beside_ready_as_long_as_it_lasts() {
        let mut known = Known { generation: Some(1), ..Known::default() };
        known.conditions = vec![written(&mut known, &[], at(1))];
        let storm = Storm { began_at: at(5), incident: Some("cpu-high-x".into()) };
        let both = conditions(&known, &[], Some(&storm), at(9)).unwrap();
        let told: Vec<_> = both.iter().map(|condition| (condition.type_.as_str(), condition.status.as_str())).collect();
        assert_eq!(told, [("Ready", "True"), ("Storm", "True")]);
        assert_eq!((both[0].last_transition_time.0, both[1].last_transition_time.0), (at(1), at(5)));
        assert!(both[1].message.contains("incident cpu-high-x"), "{}", both[1].message);
        known.conditions = both;
        assert_eq!(conditions(&known, &[], Some(&storm), at(10)), None);
        assert_eq!(conditions(&known, &[], None, at(11)).unwrap().len(), 1, "it is over");
    }
}
