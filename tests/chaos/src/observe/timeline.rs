//! What was seen, line by line, for whoever asks why the oracle says what it says.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
};

use eventpulse_oracle::{Observed, Write};
use serde_json::Value;

/// Writes it to a new file in this directory, and gives its path.
pub(crate) fn keep(observed: &Observed, dir: &Path, name: &str) -> std::io::Result<PathBuf> {
    let path = dir.join(format!("eventpulse-chaos-{name}-{}.txt", std::process::id()));
    std::fs::write(&path, lines(observed))?;
    Ok(path)
}

/// Every change in the order in which it took effect.
fn lines(observed: &Observed) -> String {
    observed.writes.iter().fold(String::new(), |mut text, write| {
        line(&mut text, write);
        text
    })
}

fn line(text: &mut String, write: &Write) {
    let by = match (&write.account, write.ours) {
        (Some(account), _) => account.as_str(),
        (None, true) => "eventpulse",
        (None, false) => "another",
    };
    let of = |path: &str| (at(write.before.as_deref(), path), at(write.after.as_deref(), path));
    let (namespace, name) = &write.object;
    let (was, is) = of("/metadata/resourceVersion");
    let _ = write!(text, "{} {} {namespace}/{name} {was} → {is} by {by}", write.at, write.kind);
    for path in [
        "/status/phase",
        "/status/reason",
        "/spec/phase",
        "/spec/replicas",
        "/spec/template/metadata/annotations",
        "/metadata/generation",
        super::RING,
    ] {
        let (was, is) = of(path);
        if was != is {
            let _ = write!(text, " {path}: {was} → {is}");
        }
    }
    text.push('\n');
}

fn at(object: Option<&Value>, path: &str) -> String {
    object.and_then(|object| object.pointer(path)).map_or_else(|| "-".into(), Value::to_string)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use jiff::Timestamp;
    use serde_json::json;

    use super::*;

    #[test]
    fn a_line_says_who_changed_what() {
        let object = |version: &str, replicas| {
            Some(Arc::new(json!({"metadata": {"resourceVersion": version}, "spec": {"replicas": replicas}})))
        };
        let write = Write {
            at: Timestamp::UNIX_EPOCH,
            ours: true,
            account: Some("remediator".into()),
            kind: "deployments".into(),
            object: ("shop".into(), "t".into()),
            before: object("7", 1),
            after: object("8", 2),
        };
        let observed = Observed { writes: vec![write], ..Observed::default() };
        assert_eq!(
            lines(&observed),
            "1970-01-01T00:00:00Z deployments shop/t \"7\" → \"8\" by remediator /spec/replicas: 1 → 2\n"
        );
    }
}
