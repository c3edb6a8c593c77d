//! **Order**: what converges when inputs that happen at about the same time come in any order.

use super::*;

/// One episode whose inputs come in any order within each of its phases.
#[derive(Clone, Debug)]
pub(super) struct Burst {
    pods: u8,
    joins: u8,
    overtaken: bool,
    first_fails: bool,
    second_completes: bool,
    copies: u8,
}

pub(super) fn bursts() -> impl Strategy<Value = (Kind, Vec<Burst>, u64)> {
    let burst = (1..4_u8, 0..3_u8, any::<bool>(), any::<bool>(), any::<bool>(), 1..4_u8).prop_map(
        |(pods, joins, overtaken, first_fails, second_completes, copies)| Burst {
            pods,
            joins,
            overtaken,
            first_fails,
            second_completes,
            copies,
        },
    );
    (kind(), prop::collection::vec(burst, 3..5), any::<u64>())
}

/// A shuffle that follows a seed; seed 0 is the order as it is.
fn shuffle<T>(items: &mut [T], seed: &mut u64) {
    if *seed == 0 {
        return;
    }
    for last in (1..items.len()).rev() {
        *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407) | 1;
        items.swap(last, usize::try_from(*seed >> 33).unwrap_or(0) % (last + 1));
    }
}

/// What must be the same in whatever order.
#[derive(Debug, PartialEq)]
struct Essence {
    incidents: usize,
    steps: Vec<(usize, String)>,
    messages: BTreeMap<String, usize>,
    resolved: usize,
    in_ledger: usize,
    alerts: Vec<String>,
    inputs: usize,
}

fn play_bursts(kind: Kind, bursts: &[Burst], mut seed: u64) -> Essence {
    let mut scenario = Scenario::of(kind.rule());
    let mut inputs = 0;
    let mut phase = |scenario: &mut Scenario, now: i64, mut wave: Vec<Delivered>| {
        shuffle(&mut wave, &mut seed);
        inputs += wave.len();
        wave.iter().for_each(|input| scenario.deliver(now, input));
    };
    for (round, burst) in bursts.iter().enumerate() {
        let begin = 10_000 * i64::try_from(round).unwrap();
        let copies = usize::from(burst.copies);
        let alert = |told: Told| Delivered::Alert(told.raised());
        // 1: the alerts fire, each told by both of a pair.
        let fires = |pod: u8| {
            [alert(firing(pod, begin).accepted(begin + 10)), alert(firing(pod, begin + 7).accepted(begin + 10))]
        };
        let first: Vec<Delivered> = (0..burst.pods).flat_map(fires).collect();
        phase(&mut scenario, begin + 10, vec![first.clone(); copies].concat());
        // 2: the first step answers, further alerts join, some of which have ended already.
        let mut second: Vec<Delivered> = first.clone();
        if burst.first_fails {
            second.extend(vec![answer(&scenario, false, false).unwrap(); copies]);
            for pod in 10..10 + burst.joins {
                second.push(alert(firing(pod, begin + 20).accepted(begin + 30)));
                if burst.overtaken {
                    second.push(alert(resolved(pod, begin + 20, begin + 30)));
                }
            }
        }
        phase(&mut scenario, begin + 30, second);
        // 3: the last step answers.
        let completes = !burst.first_fails || burst.second_completes;
        let mut third = vec![answer(&scenario, completes, false).unwrap(); copies];
        third.extend(first.clone());
        phase(&mut scenario, begin + 60, third);
        // 4: the alerts end.
        let mut last: Vec<Delivered> =
            (0..burst.pods).flat_map(|pod| vec![alert(resolved(pod, begin, begin + 90)); copies]).collect();
        if burst.first_fails && !burst.overtaken {
            last.extend((10..10 + burst.joins).map(|pod| alert(resolved(pod, begin + 20, begin + 90))));
        }
        last.extend(first.clone());
        phase(&mut scenario, begin + 90, last);
        phase(&mut scenario, begin + 5_000, vec![Delivered::Timer]);
    }
    essence(&scenario, inputs)
}

fn essence(scenario: &Scenario, inputs: usize) -> Essence {
    let mut incidents: Vec<String> = Vec::new();
    let mut steps = Vec::new();
    let mut messages = BTreeMap::new();
    let mut resolved = 0;
    for event in &scenario.said {
        match &event.payload {
            Payload::IncidentOpened(fact) => incidents.push(fact.incident.incident_id.to_string()),
            Payload::IncidentResolved(_) => resolved += 1,
            Payload::ActionRequested(request) => {
                let ordinal = incidents.iter().position(|id| *id == request.incident.incident_id.to_string());
                steps.push((ordinal.unwrap(), request.step.clone()));
            }
            Payload::NotificationRequested(message) => {
                *messages.entry(format!("{} {}", message.template, message.occurrence)).or_default() += 1;
            }
            _ => {}
        }
    }
    let ledger = &outcome(scenario).ledger;
    let group = scenario.group.as_ref().unwrap();
    assert!(group.episode.is_none());
    let known = group.alerts.iter().map(|alert| {
        format!(
            "{} {:?} {} {} {:?} {}",
            alert.fingerprint,
            alert.status,
            alert.starts_at,
            alert.last_starts_at,
            alert.ends_at,
            // Whether it was part of the incident before it ended is the order's; that it is a repetition from now on is not.
            known_through(alert)
        )
    });
    Essence {
        incidents: incidents.len(),
        steps,
        messages,
        resolved,
        in_ledger: ledger.len(),
        alerts: known.collect(),
        inputs,
    }
}

/// **Order.**
pub(super) fn check_order((kind, bursts, seed): (Kind, Vec<Burst>, u64)) -> TestCaseResult {
    let in_order = play_bursts(kind, &bursts, 0);
    prop_assert!(in_order.inputs >= INPUTS_MIN, "only {} inputs", in_order.inputs);
    prop_assert_eq!(in_order.incidents, bursts.len(), "not one incident for each episode");
    prop_assert_eq!(in_order, play_bursts(kind, &bursts, seed | 1));
    Ok(())
}
