//! The service `config`: says in the status of each Rule, Runbook and NotificationChannel whether it can be used, and why not.
//!
//! In: watches of the three kinds and of the storms of rules, and reads of the Secrets that channels refer to. Out: the condition `Ready`, and of a Rule
//! `Storm`, by server-side apply as `eventpulse-config`, only where they differ. It owns these statuses; the other services never ask it: each compiles what it
//! uses itself. May not touch: the log, and every other service.
//!
//! A resource goes one way: `dereference` (I/O only) → `validate` (pure) → `status` (pure) → `reconcile` writes. One that cannot be
//! read as its type is marked `Malformed` and holds up nobody. Replicas work side by side: they come to the same status, and each
//! writes only on top of the version that it looked at.

mod dereference;
pub mod reason;
mod reconcile;
mod status;
#[cfg(test)]
mod tests;
mod validate;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::sync::broadcast::{self, error::RecvError};

use self::{
    dereference::{Caches, custom_targets},
    reconcile::{Kind, Reconciler, Target},
};
use crate::{
    events::NamespacedName,
    runtime::{Context, Mailboxes, liveness::waiting, watch_cache::name_of},
};

/// How many resources are looked at side by side.
const CONCURRENCY: usize = 8;
/// How often channels and rules on custom kinds are looked at again, because nobody tells when a Secret or a kind appears or goes, and what could not be written is
/// tried again.
const ROUND: Duration = Duration::from_secs(15);

/// Keeps the statuses up to date until shutdown. The API server being away is waited out.
pub async fn run(ctx: Context) -> Result<(), Infallible> {
    ctx.health.works_without_log();
    let caches = Caches::start(&ctx);
    // Before the lists are looked at, so that nothing falls between.
    let mut changes =
        (caches.rules.changes(), caches.runbooks.changes(), caches.channels.changes(), caches.storms.changes());
    tokio::select! {
        () = ctx.shutdown.cancelled() => return Ok(()),
        () = waiting(caches.ready()) => {}
    }
    ctx.health.ready("service");
    let reconciler = Arc::new(Reconciler::new(ctx.clone(), caches.clone()));
    let mailboxes = Mailboxes::new(&ctx, "config status", CONCURRENCY, reconciler.clone());
    let send = |targets: Vec<Target>| targets.into_iter().for_each(|target| mailboxes.send_once(target, (), |()| true));
    send(everything(&caches));
    let mut round = tokio::time::interval(ROUND);
    round.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = ctx.shutdown.cancelled() => return Ok(()),
            change = changes.0.recv() => send(affected(&caches, Kind::Rule, change)),
            change = changes.1.recv() => send(affected(&caches, Kind::Runbook, change)),
            change = changes.2.recv() => send(affected(&caches, Kind::NotificationChannel, change)),
            // Storms are few, and so are their changes.
            change = changes.3.recv() => if !matches!(change, Err(RecvError::Closed)) { send(all_of(Kind::Rule, &caches)) },
            _ = round.tick() => {
                send(reconciler.take_left_over());
                send(all_of(Kind::NotificationChannel, &caches));
                send(rules_on_custom_kinds(&caches));
            }
        }
    }
}

/// Nobody tells either when a custom kind appears or goes.
fn rules_on_custom_kinds(caches: &Caches) -> Vec<Target> {
    let rules = caches.rules.list();
    let custom = rules.iter().filter(|rule| custom_targets(rule).next().is_some());
    custom.map(|rule| (Kind::Rule, name_of(rule.as_ref()))).collect()
}

/// What must be looked at after a change: the resource, and the rules that refer to it.
fn affected(caches: &Caches, kind: Kind, change: Result<NamespacedName, RecvError>) -> Vec<Target> {
    let name = match change {
        Ok(name) => name,
        Err(broadcast::error::RecvError::Lagged(_)) => return everything(caches),
        // The sender lives in the cache, which lives as long as this service.
        Err(broadcast::error::RecvError::Closed) => return Vec::new(),
    };
    let rules = match kind {
        Kind::Rule => Vec::new(),
        Kind::Runbook => caches.rules_that(&name.namespace, |rule| {
            rule.spec.actions.iter().any(|action| action.runbook_ref.name == name.name)
        }),
        Kind::NotificationChannel => caches.rules_that(&name.namespace, |rule| {
            rule.spec.notifications.iter().any(|notification| notification.channel_ref.name == name.name)
        }),
    };
    std::iter::once((kind, name)).chain(rules.into_iter().map(|rule| (Kind::Rule, rule))).collect()
}

fn everything(caches: &Caches) -> Vec<Target> {
    [Kind::Runbook, Kind::NotificationChannel, Kind::Rule].into_iter().flat_map(|kind| all_of(kind, caches)).collect()
}

fn all_of(kind: Kind, caches: &Caches) -> Vec<Target> {
    let (mut names, unreadable): (Vec<NamespacedName>, Vec<NamespacedName>) = match kind {
        Kind::Rule => {
            (caches.rules.list().iter().map(|one| name_of(one.as_ref())).collect(), caches.rules.invalid_names())
        }
        Kind::Runbook => {
            (caches.runbooks.list().iter().map(|one| name_of(one.as_ref())).collect(), caches.runbooks.invalid_names())
        }
        Kind::NotificationChannel => {
            (caches.channels.list().iter().map(|one| name_of(one.as_ref())).collect(), caches.channels.invalid_names())
        }
    };
    names.extend(unreadable);
    names.into_iter().map(|name| (kind, name)).collect()
}
