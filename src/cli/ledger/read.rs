//! The log, read for an account: how far rules has come, then every record since, then, where something is lacking, everything.

use jiff::Timestamp;

use super::{
    account::{Account, Place, Progress},
    report::{Lag, Report, Totals},
    search::{Horizon, Search, alert_of, kept_from},
};
use crate::{
    api::v1alpha1::Duration,
    bus::{BusConfig, Retention, history},
    cli::{flags::is_absent, progress},
    events::{AlertDecided, Event, Payload, Topic},
    rules,
};

/// What an account is of.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) since: Timestamp,
    pub(super) now: Timestamp,
    pub(super) grace: Duration,
    pub(super) topic_retention: Duration,
}

/// Reads it all. Fails where there is no such log, or more in it than an account holds.
pub(super) async fn read(bus: &BusConfig, span: Span) -> anyhow::Result<Report> {
    let mut notes = Vec::new();
    // First of all: whatever is done by now, its reason stands on the log when that is read.
    let lags = match history::progress(bus.clone(), rules::CONSUMES.group, Topic::AlertRaised).await {
        Ok(found) if found.is_empty() => return Err(is_absent(Topic::AlertRaised)),
        Ok(found) => found,
        Err(error) => {
            notes.push(format!(
                "How far rules has come was not read ({error}): what was accepted less than --grace ({}) ago counts as under way.",
                span.grace
            ));
            Vec::new()
        }
    };
    let next = lags.iter().map(|one| (one.partition, one.next.unwrap_or(one.first))).collect();
    let graced_from = kept_from(span.now, span.grace.as_signed());
    let account = Account::new(Progress { next, graced_from });
    let topics = vec![Topic::DeadLetter, Topic::AlertRaised, Topic::AlertDecided];
    let first = Reading { account, records: 0 };
    let Reading { mut account, records } = history::read(bus.clone(), topics, span.since, first).await?;
    let balance = account.balance()?;

    let keeps = (span.topic_retention.as_signed(), Retention::default().ledger.max(span.topic_retention.as_std()));
    let ledger = jiff::SignedDuration::try_from(keeps.1).unwrap_or(jiff::SignedDuration::MAX);
    let (raised, decided) = (Horizon::new(kept_from(span.now, keeps.0)), Horizon::new(kept_from(span.now, ledger)));
    let mut search = Search::new(balance.missing.clone(), account.take_orphans(), raised, decided);
    if search.is_needed() {
        progress("Looking for what stands before that");
        let topics = vec![Topic::AlertRaised, Topic::AlertDecided];
        search = history::read(bus.clone(), topics, Timestamp::UNIX_EPOCH, Searching(search)).await?.0;
    }
    let lags = lags.into_iter().map(Lag::from).collect();
    Ok(Report::new(Totals { span, records, lags, notes }, &account, &balance, search.end()))
}

struct Reading {
    account: Account,
    records: u64,
}

impl history::Visit for Reading {
    fn visit(&mut self, past: history::Past) {
        self.records += 1;
        if self.records.is_multiple_of(100_000) {
            progress(&format!("Reading the log: {} records", self.records));
        }
        let place = place_of(&past);
        let event = past.record.decode().ok();
        match past.record.topic {
            Topic::DeadLetter => {
                let Some(Event { id, source, payload: Payload::DeadLetter(letter), .. }) = event else { return };
                self.account.letter(id.as_str(), &source, *letter);
            }
            Topic::AlertRaised => self.account.raised(place, past.timestamp, event.and_then(alert_of).as_ref()),
            _ => self.account.decided(place, event.and_then(|event| Some((event.time, decision_of(event)?)))),
        }
    }
}

struct Searching(Search);

impl history::Visit for Searching {
    fn visit(&mut self, past: history::Past) {
        let place = place_of(&past);
        let event = past.record.decode().ok();
        if past.record.topic == Topic::AlertRaised {
            self.0.raised(place, past.timestamp, event.and_then(alert_of).as_ref());
        } else {
            self.0.decided(place, past.timestamp, event.and_then(decision_of));
        }
    }
}

fn place_of(past: &history::Past) -> Place {
    Place { partition: past.at.partition, offset: past.offset }
}

fn decision_of(event: Event) -> Option<AlertDecided> {
    match event.payload {
        Payload::AlertDecided(decided) => Some(*decided),
        _ => None,
    }
}
