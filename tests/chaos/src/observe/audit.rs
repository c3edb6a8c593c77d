//! Who wrote what, by the API server's audit log. Whoever writes what stands there already is answered with the version that stands there, and
//! has written nothing: the one who asked first made it.

use std::{
    collections::HashMap,
    fs::File,
    io::{BufRead, BufReader, Seek, SeekFrom},
    path::{Path, PathBuf},
};

use jiff::Timestamp;
use serde_json::Value;

/// Who made a write.
#[derive(Clone, Debug, Default)]
pub(crate) struct Who {
    /// Whether EventPulse spoke.
    pub ours: bool,
    /// The account for which it spoke.
    pub account: Option<String>,
}

/// A write: plural name of the kind, namespace, name and the resourceVersion that it made.
type Written = (String, String, String, String);

/// Reads what is new each time.
pub(crate) struct Audit {
    path: PathBuf,
    read_to: u64,
    /// With the time at which the API server was asked.
    by_write: HashMap<Written, (Timestamp, Who)>,
}

impl Audit {
    pub(crate) fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), read_to: 0, by_write: HashMap::new() }
    }

    /// Takes in what was logged since.
    pub(crate) fn read(&mut self) -> std::io::Result<()> {
        let mut file = File::open(&self.path)?;
        file.seek(SeekFrom::Start(self.read_to))?;
        let mut reader = BufReader::new(file);
        let mut line = String::new();
        while reader.read_line(&mut line)? > 0 {
            if !line.ends_with('\n') {
                // Its end is still to come.
                break;
            }
            self.read_to += line.len() as u64;
            if let Some((written, asked_at, who)) = serde_json::from_str(&line).ok().and_then(|event| of(&event)) {
                let made = self.by_write.entry(written).or_insert_with(|| (asked_at, who.clone()));
                if asked_at < made.0 {
                    *made = (asked_at, who);
                }
            }
            line.clear();
        }
        Ok(())
    }

    /// Who made this write; none: nobody got an answer to it, and the log does not know whether it took effect.
    pub(crate) fn who(&self, kind: &str, object: &(String, String), version: &str) -> Option<&Who> {
        let written = (kind.to_owned(), object.0.clone(), object.1.clone(), version.to_owned());
        self.by_write.get(&written).map(|(_, who)| who)
    }
}

fn of(event: &Value) -> Option<(Written, Timestamp, Who)> {
    let text = |path: &str| event.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let version = text("/responseObject/metadata/resourceVersion");
    if version.is_empty() || event["verb"] == "get" {
        return None;
    }
    let written = (
        text("/objectRef/resource"),
        text("/responseObject/metadata/namespace"),
        text("/responseObject/metadata/name"),
        version,
    );
    let asked_at = event["requestReceivedTimestamp"].as_str()?.parse().ok()?;
    let account = event.pointer("/impersonatedUser/username").and_then(Value::as_str).map(str::to_owned);
    Some((written, asked_at, Who { ours: text("/userAgent").starts_with("eventpulse/"), account }))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use serde_json::json;

    use super::*;

    fn log(name: &str) -> (std::path::PathBuf, File) {
        let path = std::env::temp_dir().join(format!("eventpulse-chaos-{name}-{}", std::process::id()));
        let file = File::create(&path).unwrap();
        (path, file)
    }

    fn line(verb: &str, agent: &str, second: u8) -> String {
        let event = json!({
            "verb": verb, "userAgent": agent, "objectRef": {"resource": "deployments"},
            "requestReceivedTimestamp": format!("2026-01-01T12:00:{second:02}.000000Z"),
            "impersonatedUser": {"username": "system:serviceaccount:shop:remediator"},
            "responseObject": {"metadata": {"namespace": "shop", "name": "t1", "resourceVersion": "7"}},
        });
        format!("{event}\n")
    }

    #[test]
    fn whoever_asked_first_made_it_and_the_one_who_changed_nothing_did_not() {
        let (path, mut file) = log("audit-order");
        for (verb, agent, second) in [
            ("update", "kube-controller-manager/1", 2),
            ("patch", "eventpulse/0.1", 1),
            ("update", "kube-controller-manager/1", 3),
        ] {
            file.write_all(line(verb, agent, second).as_bytes()).unwrap();
        }
        let mut audit = Audit::new(&path);
        audit.read().unwrap();
        assert!(audit.who("deployments", &("shop".to_owned(), "t1".to_owned()), "7").unwrap().ours);
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn what_is_logged_is_read_once_and_only_whole_lines() {
        let (whole, object) = (line("patch", "eventpulse/0.1", 0), ("shop".to_owned(), "t1".to_owned()));
        let (path, mut file) = log("audit");
        file.write_all(&whole.as_bytes()[..20]).unwrap();
        let mut audit = Audit::new(&path);
        audit.read().unwrap();
        assert!(audit.who("deployments", &object, "7").is_none());
        file.write_all(&whole.as_bytes()[20..]).unwrap();
        audit.read().unwrap();
        let who = audit.who("deployments", &object, "7").unwrap();
        assert!(who.ours && who.account.as_deref() == Some("system:serviceaccount:shop:remediator"));
        assert!(audit.who("deployments", &object, "8").is_none());
        std::fs::remove_file(path).unwrap();
    }
}
