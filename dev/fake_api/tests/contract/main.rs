//! What a client sees of the API server in memory is what it sees of a real kube-apiserver: each case is one function over a [`Place`]
//! at a server. It is run on both; what it demands must hold on both, and everything that it was told must be the same.
#![allow(clippy::unwrap_used, clippy::expect_used)] // A helper that fails is a test that fails.

mod cases;
mod place;
mod real;
mod told;

use std::{collections::BTreeSet, panic::AssertUnwindSafe, time::Duration};

use eventpulse_fake_api::FakeApi;
use futures::FutureExt;

use crate::{
    cases::{Case, all},
    place::{Place, Server},
    real::Real,
};

/// Nothing takes this long; a case that does has failed.
const DEADLINE: Duration = Duration::from_secs(120);

/// What a case was told, or why it failed.
type Told = Result<Vec<String>, String>;

async fn run(case: &Case, server: &Server, index: usize) -> Told {
    let mut place = Place::new(server, &format!("case-{index}")).await;
    let run = AssertUnwindSafe((case.run)(&mut place)).catch_unwind();
    match tokio::time::timeout(DEADLINE, run).await {
        Ok(Ok(())) => Ok(place.told()),
        Ok(Err(panic)) => {
            let text = panic.downcast_ref::<String>().cloned();
            Err(text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned())).unwrap_or_default())
        }
        Err(_) => Err(format!("took longer than {} s", DEADLINE.as_secs())),
    }
}

async fn run_all(server: &Server) -> Vec<Told> {
    let mut told = Vec::new();
    for (index, case) in all().iter().enumerate() {
        told.push(run(case, server, index).await);
    }
    told
}

/// On a clock that goes forward when everybody waits.
fn on_the_fake() -> Vec<Told> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true).build().unwrap().block_on(async {
        let now = "2026-01-01T12:00:00.5Z".parse().unwrap();
        let api = FakeApi::with_clock(move || now);
        api.namespaces_must_exist(true);
        for definition in real::definitions() {
            api.put(
                "/apis/apiextensions.k8s.io/v1/customresourcedefinitions",
                serde_norway::from_str(&definition).unwrap(),
            );
        }
        run_all(&Server::Fake(api)).await
    })
}

fn on_the_real_one() -> Vec<Told> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().unwrap().block_on(async {
        let real = Real::start().await;
        let told = run_all(&Server::Real(real.client(), real.etcd())).await;
        real.stop().await;
        told
    })
}

/// Where two tellings part, if they do.
fn difference(fake: &Told, real: &Told) -> Option<String> {
    match (fake, real) {
        (Err(fake), _) => Some(format!("on the fake: {fake}")),
        (_, Err(real)) => Some(format!("on the real one: {real}")),
        (Ok(fake), Ok(real)) => {
            let at = (0..fake.len().max(real.len())).find(|at| fake.get(*at) != real.get(*at))?;
            Some(format!("step {at}\n    fake: {:?}\n    real: {:?}", fake.get(at), real.get(at)))
        }
    }
}

#[test]
fn every_case_holds_on_the_api_server_in_memory() {
    let told = on_the_fake();
    let failed: Vec<_> =
        all().iter().zip(&told).filter_map(|(case, told)| Some((case.name, told.as_ref().err()?.clone()))).collect();
    assert!(failed.is_empty(), "{failed:#?}");
    assert!(told.iter().flatten().all(|told| !told.is_empty()), "a case was told nothing");
    assert!(told.len() >= 55, "only {} cases", told.len());
}

#[test]
fn the_real_api_server_says_the_same() {
    let (fake, real) = (on_the_fake(), on_the_real_one());
    let steps = |told: &Told| told.as_ref().map_or("failed".to_owned(), |told| format!("{} steps", told.len()));
    let mut parted = Vec::new();
    println!("{:<96} {:>9} {:>9}  same", "case", "fake", "real");
    for ((case, fake), real) in all().iter().zip(&fake).zip(&real) {
        let difference = difference(fake, real);
        let same = if difference.is_none() { "yes" } else { "NO" };
        println!("{:<96} {:>9} {:>9}  {same}", case.name, steps(fake), steps(real));
        parted.extend(difference.map(|difference| format!("{}: {difference}", case.name)));
    }
    println!("{} cases, {} told otherwise", fake.len(), parted.len());
    assert!(parted.is_empty(), "\n{}", parted.join("\n"));
}

#[test]
fn no_case_is_left_out() {
    let listed: BTreeSet<String> = all().iter().map(|case| case.name.to_owned()).collect();
    assert_eq!(listed.len(), all().len(), "one is listed twice");
    assert_eq!(listed, cases::written());
}
