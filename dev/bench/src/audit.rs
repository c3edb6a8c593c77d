//! The API server's own audit log, read while it grows: what was written, by whom, and when that was answered.
//!
//! In: the log of `dev/env`, level Metadata or RequestResponse, without reads. The time of a write is the event's `stageTimestamp` of
//! `ResponseComplete`: the server's own clock, microseconds, taken when the answer has been written, so a little after etcd's commit
//! and never before. A watch would add its own way and our own scheduling to it.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{BufRead, BufReader, Seek},
    path::PathBuf,
};

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::Value;

use crate::api::USER_AGENT;

/// Everybody who writes here beside EventPulse, by the beginning of the user agent.
const OTHERS: [&str; 6] =
    [USER_AGENT, "kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl", "kwok"];

/// A write that was answered.
#[derive(Clone, Debug, PartialEq)]
pub struct Write {
    /// When the API server had received it.
    pub received: Timestamp,
    /// When it was answered.
    pub answered: Timestamp,
    /// `create`, `patch`, `update`, `delete`, …
    pub verb: String,
    /// `deployments`, `incidents/status`, …
    pub resource: String,
    /// The object.
    pub name: String,
    /// HTTP status.
    pub code: u16,
    /// Whether EventPulse made it.
    pub ours: bool,
    /// The object after it, where the log has bodies.
    pub object: Value,
}

impl Write {
    /// Whether it took effect.
    pub fn committed(&self) -> bool {
        (200..300).contains(&self.code)
    }

    /// `create actions`.
    pub fn kind(&self) -> String {
        format!("{} {}", self.verb, self.resource)
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Line {
    verb: String,
    #[serde(default)]
    user_agent: String,
    request_received_timestamp: Timestamp,
    stage_timestamp: Timestamp,
    object_ref: Option<Reference>,
    response_status: Option<Status>,
    #[serde(default)]
    response_object: Value,
}

#[derive(Deserialize)]
struct Reference {
    resource: String,
    subresource: Option<String>,
    name: Option<String>,
}

#[derive(Deserialize)]
struct Status {
    code: u16,
}

fn read(line: &str) -> Option<Write> {
    let line: Line = serde_json::from_str(line).ok()?;
    let reference = line.object_ref?;
    let subresource = reference.subresource.map(|name| format!("/{name}")).unwrap_or_default();
    let named = line.response_object["metadata"]["name"].as_str().map(str::to_owned);
    Some(Write {
        received: line.request_received_timestamp,
        answered: line.stage_timestamp,
        verb: line.verb,
        resource: reference.resource + &subresource,
        name: reference.name.or(named).unwrap_or_default(),
        code: line.response_status?.code,
        ours: !OTHERS.iter().any(|other| line.user_agent.starts_with(other)),
        object: line.response_object,
    })
}

/// Reads on from where it was.
pub struct Audit {
    path: PathBuf,
    place: u64,
}

impl Audit {
    /// From what is written after now.
    pub fn from_now(path: PathBuf) -> Self {
        let place = std::fs::metadata(&path).map_or(0, |metadata| metadata.len());
        Self { path, place }
    }

    /// What has been written since; a line that is not whole yet is left for the next time.
    pub fn read(&mut self) -> anyhow::Result<Vec<Write>> {
        let mut file = File::open(&self.path)?;
        file.seek(std::io::SeekFrom::Start(self.place))?;
        let (mut reader, mut line, mut writes) = (BufReader::with_capacity(1 << 20, file), String::new(), Vec::new());
        loop {
            line.clear();
            let length = reader.read_line(&mut line)?;
            if !line.ends_with('\n') {
                return Ok(writes);
            }
            self.place += length as u64;
            writes.extend(read(&line));
        }
    }
}

/// How many of each kind.
pub fn count_by_kind<'a>(writes: impl IntoIterator<Item = &'a Write>) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for write in writes {
        *counts.entry(write.kind()).or_default() += 1;
    }
    counts
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn line(verb: &str, resource: &str, agent: &str, code: u16) -> String {
        format!(
            "{{\"kind\":\"Event\",\"stage\":\"ResponseComplete\",\"verb\":\"{verb}\",\"userAgent\":\"{agent}\",\"objectRef\":{{\"resource\":\
             \"{resource}\",\"namespace\":\"shop\",\"name\":\"a\",\"subresource\":\"status\"}},\"responseStatus\":{{\"metadata\":{{}},\
             \"code\":{code}}},\"requestReceivedTimestamp\":\"2026-01-01T12:00:00.000100Z\",\"stageTimestamp\":\
             \"2026-01-01T12:00:00.002300Z\"}}\n"
        )
    }

    #[test]
    fn a_log_that_grows_is_read_once_and_by_whole_lines() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("audit.log");
        std::fs::write(&path, line("create", "old", "", 201)).unwrap();
        let mut audit = Audit::from_now(path.clone());
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        let (first, second) = (line("update", "incidents", "", 200), line("patch", "deployments", "kubectl/v1", 422));
        write!(file, "{first}{}", &second[..40]).unwrap();
        let writes = audit.read().unwrap();
        assert_eq!(writes.len(), 1);
        assert_eq!((writes[0].kind().as_str(), writes[0].name.as_str()), ("update incidents/status", "a"));
        assert!(writes[0].ours && writes[0].committed());
        assert_eq!(writes[0].answered.duration_since(writes[0].received).as_micros(), 2_200);
        writeln!(file, "{}no JSON", &second[40..]).unwrap();
        let writes = audit.read().unwrap();
        assert!(writes.len() == 1 && !writes[0].ours && !writes[0].committed(), "{writes:?}");
        assert!(audit.read().unwrap().is_empty());
    }

    #[test]
    fn who_is_not_known_is_eventpulse() {
        let ours = |agent: &str| read(&line("create", "actions", agent, 201)).unwrap().ours;
        assert!(ours("") && ours("eventpulse/0.1.0") && !ours(USER_AGENT) && !ours("kube-controller-manager/v1.37.0"));
        let without_agent = line("create", "actions", "", 201).replace("\"userAgent\":\"\",", "");
        assert!(read(&without_agent).unwrap().ours);
    }
}
