//! The floors: what each part takes by itself, on this machine, in this run, measured directly before and after the load with nothing
//! else to do. A result says more as a multiple of them than in milliseconds.

use std::{
    collections::BTreeMap,
    fs::OpenOptions,
    io::Write as _,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::Context as _;
use http::Method;
use rand::{RngExt as _, SeedableRng as _, rngs::StdRng};
use serde_json::json;

use crate::{
    api::{Api, JSON_PATCH},
    latencies::{Latencies, Summary},
    outcome::Floor,
    stage::target,
};

/// 4 KiB appended and `fdatasync`, in the data directory's file system.
pub const FSYNC: &str = "fsync";
/// A record from `produce` to a waiting consumer.
pub const HOP: &str = "hop";
/// POST of a small object.
pub const CREATE: &str = "create";
/// GET of one object, past every cache.
pub const READ: &str = "read";
/// JSON Patch of one Deployment.
pub const PATCH: &str = "patch";

/// Between two calls: as after a pause, not as fast as it goes.
const PAUSE: Duration = Duration::from_millis(2);
/// Not counted: the connection, and what both sides do only once.
const WARM_UP: usize = 10;
/// How many sums are drawn for a percentile of them.
const DRAWS: usize = 20_000;
const DEPLOYMENT: &str = "/apis/apps/v1/namespaces/shop/deployments/floor";

/// Distributions by name.
#[derive(Clone, Debug, Default)]
pub struct Floors(BTreeMap<&'static str, Latencies>);

impl Floors {
    /// More samples of one.
    pub fn add(&mut self, name: &'static str, more: &Latencies) {
        self.0.entry(name).or_insert_with(Latencies::new).merge(more);
    }

    /// All of another measurement.
    pub fn merge(&mut self, other: &Self) {
        for (name, more) in &other.0 {
            self.add(name, more);
        }
    }

    /// The medians of what is on a path, each so many times, in ms.
    pub fn sum(&self, path: &[(&'static str, u32)]) -> Floor {
        let median = |name| self.0.get(name).map_or(0.0, |floor| floor.summary().p50);
        let value = path.iter().map(|(name, times)| median(*name) * f64::from(*times)).sum();
        let term =
            |(name, times): &(&str, u32)| if *times == 1 { (*name).to_owned() } else { format!("{times} × {name}") };
        Floor { path: path.iter().map(term).collect::<Vec<_>>().join(" + "), value }
    }

    /// The 99th percentile of the sum of what is on a path, in ms, each drawn for itself: how slow a path is now and then of which
    /// every part has only its own bad moments.
    pub fn p99(&self, path: &[(&'static str, u32)]) -> Floor {
        // The same draws each time.
        let mut random = StdRng::seed_from_u64(0);
        let parts: Vec<&Latencies> = path
            .iter()
            .filter_map(|(name, times)| Some(std::iter::repeat_n(self.0.get(name)?, *times as usize)))
            .flatten()
            .collect();
        let mut draw = || parts.iter().map(|part| part.quantile(random.random())).sum::<Duration>();
        let sums = Latencies::of((0..DRAWS).map(|_| draw()));
        Floor { path: format!("p99 of {}", self.sum(path).path), value: sums.summary().p99 }
    }

    /// What is reported.
    pub fn summaries(&self) -> BTreeMap<String, Summary> {
        self.0.iter().map(|(name, floor)| ((*name).to_owned(), floor.summary())).collect()
    }
}

/// Appends so often to a file of this directory. It blocks.
pub fn fsync(dir: &Path, samples: usize) -> anyhow::Result<Latencies> {
    let path = dir.join("floor");
    let mut file = OpenOptions::new().create(true).append(true).open(&path).context("the file of the floor")?;
    let (block, mut all) = (vec![7_u8; 4096], Latencies::new());
    for _ in 0..samples {
        let begin = Instant::now();
        file.write_all(&block)?;
        file.sync_data()?;
        all.record(begin.elapsed());
        std::thread::sleep(PAUSE);
    }
    std::fs::remove_file(path)?;
    Ok(all)
}

/// The calls to the API server. It makes a Deployment `floor` and small ConfigMaps, and removes them.
pub async fn api(api: &Api, samples: usize) -> anyhow::Result<Floors> {
    let mut floors = Floors::default();
    let maps = "/api/v1/namespaces/shop/configmaps";
    let data = "x".repeat(1_000);
    api.create("/apis/apps/v1/namespaces/shop/deployments", &target("floor")).await?;
    for i in 0..WARM_UP + samples {
        let map = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": format!("floor-{i}"), "labels": {"bench": "floor"}}, "data": {"x": data},
        });
        let patch = json!([
            {"op": "test", "path": "/metadata/name", "value": "floor"},
            {"op": "replace", "path": "/spec/replicas", "value": i % 2},
            {"op": "add", "path": "/metadata/annotations", "value": {"bench": i.to_string()}},
        ]);
        let create = timed(api.create(maps, &map)).await?;
        let read = timed(api.get(DEPLOYMENT)).await?;
        let patch = timed(api.call(Method::PATCH, DEPLOYMENT, JSON_PATCH, patch.to_string())).await?;
        if i >= WARM_UP {
            for (name, took) in [(CREATE, create), (READ, read), (PATCH, patch)] {
                floors.add(name, &Latencies::of([took]));
            }
        }
    }
    api.call(Method::DELETE, DEPLOYMENT, "application/json", "").await?;
    api.call(Method::DELETE, &format!("{maps}?labelSelector=bench%3Dfloor"), "application/json", "").await?;
    Ok(floors)
}

async fn timed<T>(call: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<Duration> {
    let begin = Instant::now();
    call.await?;
    let took = begin.elapsed();
    tokio::time::sleep(PAUSE).await;
    Ok(took)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_the_sum_of_its_medians() {
        let mut floors = Floors::default();
        let ms = |values: &[u64]| Latencies::of(values.iter().map(|ms| Duration::from_millis(*ms)));
        floors.add(FSYNC, &ms(&[1, 2, 3]));
        floors.add(HOP, &ms(&[4]));
        let mut after = Floors::default();
        after.add(FSYNC, &ms(&[2, 2]));
        floors.merge(&after);
        let floor = floors.sum(&[(FSYNC, 1), (HOP, 2)]);
        assert_eq!(floor.path, "fsync + 2 × hop");
        assert!((floor.value - 10.0).abs() < 0.05, "{floor:?}");
        assert_eq!(floors.summaries()["fsync"].count, 5);
    }

    #[test]
    fn the_slow_end_of_a_path_is_that_of_a_sum_and_not_a_sum_of_slow_ends() {
        let mut floors = Floors::default();
        // Each is slow once in twenty times.
        let mostly = |fast: u64, slow: u64| {
            Latencies::of((0..100).map(|n| Duration::from_millis(if n % 20 == 0 { slow } else { fast })))
        };
        floors.add(CREATE, &mostly(1, 50));
        floors.add(PATCH, &mostly(1, 30));
        let p99 = floors.p99(&[(CREATE, 1), (PATCH, 1)]);
        assert_eq!(p99.path, "p99 of create + patch");
        assert!((p99.value - 51.0).abs() < 0.1, "both at once is one in 400: {p99:?}");
        let p99 = floors.p99(&[(CREATE, 3)]);
        assert!((p99.value - 52.0).abs() < 0.1, "two of three at once is one in 140: {p99:?}");
    }

    #[test]
    fn an_append_is_measured_and_leaves_no_file() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(fsync(dir.path(), 3).unwrap().count(), 3);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
