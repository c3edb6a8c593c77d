//! A plan as text for people, and as JSON. Pure.

use std::{collections::BTreeMap, fmt::Write as _};

use jiff::Timestamp;
use serde::Serialize;

use super::plan::{Held, Move, Plan};
use crate::cli::printable;

/// As JSON.
#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Replay<'a> {
    /// Whether nothing was changed.
    dry_run: bool,
    /// From when on; none for everything.
    since: Option<Timestamp>,
    /// Every partition of the services.
    partitions: Vec<Partition>,
    /// How many records come again.
    again: u64,
    /// Who has to be stopped before.
    #[serde(skip_serializing_if = "Option::is_none")]
    in_use: Option<&'a str>,
}

#[derive(Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Partition {
    group: &'static str,
    topic: &'static str,
    partition: u32,
    /// The oldest record.
    first: u64,
    /// One after the newest record.
    end: u64,
    /// None where nothing is stored: the group begins with the oldest record.
    stored: Option<u64>,
    /// None where it stays as it is.
    new: Option<u64>,
    again: u64,
}

/// `in_use` says who has to be stopped before.
pub(super) fn json<'a>(plan: &Plan, dry_run: bool, in_use: Option<&'a str>) -> Replay<'a> {
    let partition = |(held, becomes): &(Held, Move)| Partition {
        group: held.group,
        topic: held.topic.name(),
        partition: held.progress.partition,
        first: held.progress.first,
        end: held.progress.end,
        stored: held.progress.next,
        new: becomes.to().map(|(new, _)| new),
        again: becomes.to().map_or(0, |(_, again)| again),
    };
    let partitions = plan.partitions.iter().map(partition).collect();
    Replay { dry_run, since: plan.since, partitions, again: plan.again(), in_use }
}

/// As a table of what moves, and what is to be said of the rest.
pub(super) fn text(plan: &Plan, dry_run: bool, in_use: Option<&str>) -> String {
    let moved: Vec<_> =
        plan.partitions.iter().filter_map(|(held, becomes)| Some((held, becomes, becomes.to()?))).collect();
    let mut text = String::new();
    // Writing to a String cannot fail.
    if !moved.is_empty() {
        let _ = writeln!(
            text,
            "{:<10}  {:<22}  {:>9}  {:>12}  {:>12}  {:>12}",
            "GROUP", "TOPIC", "PARTITION", "STORED", "NEW", "COME AGAIN"
        );
    }
    for (held, becomes, (new, again)) in &moved {
        let note = if matches!(becomes, Move::Anew { .. }) { "  the topic was made anew" } else { "" };
        let (partition, stored) = (held.progress.partition, held.progress.next.unwrap_or_default());
        let (group, topic) = (held.group, held.topic.name());
        let _ = writeln!(text, "{group:<10}  {topic:<22}  {partition:>9}  {stored:>12}  {new:>12}  {again:>12}{note}");
    }
    for (group, (unstored, stay)) in rest(plan) {
        if unstored > 0 {
            let _ = writeln!(
                text,
                "{group}: {unstored} partitions have no stored offset; it begins with their oldest record by itself"
            );
        }
        if stay > 0 {
            let since = plan.since.map(|since| format!(" since {since}")).unwrap_or_default();
            let _ = writeln!(text, "{group}: of {stay} partitions the log holds nothing that it has consumed{since}");
        }
    }
    let again = plan.again();
    text.push_str(match (moved.is_empty(), dry_run) {
        (true, _) => "Nothing comes again.\n",
        (false, true) => "",
        (false, false) => "The groups are set back; start EventPulse again.\n",
    });
    if !moved.is_empty() {
        let would = if dry_run { "would come" } else { "come" };
        let _ = writeln!(text, "{again} records {would} again.");
    }
    if let Some(problem) = in_use {
        let _ = writeln!(text, "EventPulse is running and has to be stopped before: {}", printable(problem));
    }
    text
}

/// Of each group, how many partitions have no stored offset, and how many stay.
fn rest(plan: &Plan) -> BTreeMap<&'static str, (u64, u64)> {
    let mut rest = BTreeMap::<&'static str, (u64, u64)>::new();
    for (held, becomes) in &plan.partitions {
        let (unstored, stay) = rest.entry(held.group).or_default();
        match becomes {
            Move::Unstored => *unstored += 1,
            Move::Stays => *stay += 1,
            Move::Back { .. } | Move::Anew { .. } => {}
        }
    }
    rest
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::replay::plan::tests::held;

    #[test]
    fn the_table_has_what_moves_with_its_sum_and_tells_of_the_rest() {
        let all =
            vec![held(3, 3, Some(10), 12), held(4, 0, Some(500), 12), held(0, 0, None, 5), held(0, 0, Some(0), 0)];
        let plan = Plan::new(None, all);
        assert_eq!(
            text(&plan, false, None),
            "GROUP       TOPIC                   PARTITION        STORED           NEW    COME AGAIN\n\
             incidents   incident.opened                 2            10             3             7\n\
             incidents   incident.opened                 2           500             0            12  the topic was made anew\n\
             incidents: 1 partitions have no stored offset; it begins with their oldest record by itself\n\
             incidents: of 1 partitions the log holds nothing that it has consumed\n\
             The groups are set back; start EventPulse again.\n\
             19 records come again.\n"
        );
        let dry = text(&plan, true, Some("group x has 1 members\u{1b}[2J"));
        assert!(dry.ends_with("19 records would come again.\nEventPulse is running and has to be stopped before: group x has 1 members [2J\n"), "{dry}");
        let found = serde_json::to_value(json(&plan, true, None)).unwrap();
        assert_eq!((&found["again"], &found["partitions"][2]["stored"]), (&19.into(), &serde_json::Value::Null));
    }

    #[test]
    fn an_empty_table_says_why() {
        let since = "2026-01-02T03:04:05Z".parse().unwrap();
        let plan = Plan::new(Some(since), vec![held(12, 3, Some(10), 12)]);
        assert_eq!(
            text(&plan, false, None),
            "incidents: of 1 partitions the log holds nothing that it has consumed since 2026-01-02T03:04:05Z\n\
             Nothing comes again.\n"
        );
        let plan = Plan::new(None, vec![held(0, 0, None, 0)]);
        assert!(text(&plan, true, None).ends_with("begins with their oldest record by itself\nNothing comes again.\n"));
    }
}
