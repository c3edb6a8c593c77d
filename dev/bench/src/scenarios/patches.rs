//! Targets that were acted on, by the API server's own log.

use std::{collections::HashMap, ops::Range, time::Duration};

use jiff::Timestamp;

use super::waiting::until_none_is_left;
use crate::{
    audit::{Audit, Write},
    stage::Stage,
};

/// The number of a target by its name: `t7`.
pub(super) fn target(name: &str) -> Option<u64> {
    let number = name.strip_prefix('t').filter(|number| number.bytes().all(|byte| byte.is_ascii_digit()))?;
    number.parse().ok()
}

/// The target that EventPulse has patched with this write; none of one that took no effect.
pub(super) fn target_of_patch(write: &Write) -> Option<u64> {
    let is_patch = write.ours && write.committed() && write.verb == "patch" && write.resource == "deployments";
    is_patch.then(|| target(&write.name))?
}

/// What was written since a moment, and of each target when the first patch of it was answered.
pub(super) struct Patches {
    pub writes: Vec<Write>,
    pub first: HashMap<u64, Timestamp>,
    audit: Audit,
}

impl Patches {
    pub(super) fn from_now(stage: &Stage) -> Self {
        Self { writes: Vec::new(), first: HashMap::new(), audit: stage.audit() }
    }

    /// Reads on.
    pub(super) fn read(&mut self) -> anyhow::Result<()> {
        let more = self.audit.read()?;
        for write in &more {
            if let Some(target) = target_of_patch(write) {
                self.first.entry(target).or_insert(write.answered);
            }
        }
        self.writes.extend(more);
        Ok(())
    }

    /// How many of these are patched.
    pub(super) fn of(&self, targets: &Range<u64>) -> usize {
        self.first.keys().filter(|target| targets.contains(target)).count()
    }

    /// Until all of these are patched, or for so long none was.
    pub(super) async fn wait(&mut self, stage: &Stage, targets: Range<u64>, patience: Duration) -> anyhow::Result<()> {
        let all = targets.clone().count();
        until_none_is_left(patience, async || {
            stage.running()?;
            self.read()?;
            Ok(all - self.of(&targets))
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_patch_of_a_target_that_took_effect_counts() {
        let write = |verb: &str, name: &str, code| Write {
            received: Timestamp::UNIX_EPOCH,
            answered: Timestamp::UNIX_EPOCH,
            verb: verb.into(),
            resource: "deployments".into(),
            name: name.into(),
            code,
            ours: true,
            object: serde_json::Value::Null,
        };
        assert_eq!(target_of_patch(&write("patch", "t7", 200)), Some(7));
        let others = [
            ("patch", "t7", 422),
            ("update", "t7", 200),
            ("patch", "tx", 200),
            ("patch", "t", 200),
            ("patch", "floor", 200),
        ];
        for (verb, name, code) in others {
            assert_eq!(target_of_patch(&write(verb, name, code)), None, "{verb} {name} {code}");
        }
        assert_eq!(target_of_patch(&Write { ours: false, ..write("patch", "t7", 200) }), None);
    }
}
