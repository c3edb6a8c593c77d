//! Instances that outlive the program that started them: their names, their directories, and how they are stopped.

use std::{
    fmt,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use crate::{
    cache::cache_dir,
    error::{Error, Result, at},
    process::{is_recorded_running, last_lines, stop_recorded},
};

const NAME_MAX: usize = 40;
const STOP_TIMEOUT: Duration = Duration::from_secs(15);

/// The name of an instance. It becomes a directory's name, and that directory is deleted with the instance: nothing but
/// `[a-z0-9-]` may be in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InstanceName(String);

impl InstanceName {
    /// Where the instance is, when there is one.
    pub fn dir(&self) -> PathBuf {
        cache_dir().join("instances").join(&self.0)
    }
}

impl FromStr for InstanceName {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=NAME_MAX).contains(&name.len()) && name.bytes().all(allowed) {
            return Ok(Self(name.to_owned()));
        }
        Err(format!("a name is 1 to {NAME_MAX} of the characters a-z, 0-9 and -"))
    }
}

impl fmt::Display for InstanceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Makes the directory of an instance. Keys and the administrator's token are in it, so nobody else may look into it, and one
/// that is there already, whoever made it, is not taken.
pub(crate) fn make_dir(dir: &Path) -> Result<()> {
    if let Some(parent) = dir.parent() {
        std::fs::create_dir_all(parent).map_err(at(parent))?;
    }
    DirBuilder::new().mode(0o700).create(dir).map_err(at(dir))
}

/// Stops every process that was recorded in a directory, in the order in which nothing misses what it needs, and removes the
/// directory. Gives how many there were; none where there is no directory.
pub fn stop_instance(dir: &Path) -> Result<usize> {
    let stopped = stop_processes(dir, STOP_TIMEOUT)?;
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Error::File { path: dir.into(), source: error })
        }
        _ => Ok(stopped),
    }
}

/// A process that was recorded and is gone, although nobody has ended it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Its name.
    pub name: String,
    /// The last lines of its log.
    pub lines: String,
}

/// The processes of a directory that ended by themselves: whoever ends one takes its record away.
pub fn ended_by_themselves(dir: &Path) -> Vec<Ended> {
    let gone = records(dir).unwrap_or_default().into_iter().filter(|record| is_recorded_running(record) == Some(false));
    gone.map(|record| Ended {
        name: record.file_stem().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        lines: last_lines(&String::from_utf8_lossy(&std::fs::read(record.with_extension("log")).unwrap_or_default())),
    })
    .collect()
}

fn records(dir: &Path) -> Result<Vec<PathBuf>> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        entries => entries.map_err(at(dir))?,
    };
    let mut files: Vec<PathBuf> = entries.filter_map(|entry| entry.ok().map(|entry| entry.path())).collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "pid"));
    Ok(files)
}

/// The same without removing anything.
pub(crate) fn stop_processes(dir: &Path, timeout: Duration) -> Result<usize> {
    let mut files = records(dir)?;
    files.sort_by_key(|path| match path.file_stem().and_then(|name| name.to_str()) {
        Some("etcd") => 3,
        Some("kube-apiserver" | "kafka") => 2,
        Some("eventpulse") => 0,
        _ => 1,
    });
    Ok(files.iter().filter(|file| stop_recorded(file, timeout)).count())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::process::{Process, Spec};

    #[test]
    fn a_name_leads_nowhere_else() {
        let long = "a".repeat(NAME_MAX + 1);
        for name in ["", ".", "..", "../tools", "a/b", "/etc", "Ä", "A", "a b", "a_b", "a\0", "a.b", &long] {
            assert!(name.parse::<InstanceName>().is_err(), "{name:?}");
        }
        let fits = "a".repeat(NAME_MAX);
        for name in ["default", "demo", "a-1", &fits] {
            let dir = name.parse::<InstanceName>().unwrap().dir();
            assert_eq!(dir.parent().unwrap(), cache_dir().join("instances"));
            assert_eq!(dir.file_name().unwrap(), name);
        }
    }

    #[test]
    fn a_directory_is_private_and_never_somebody_elses() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("instances/one");
        make_dir(&dir).unwrap();
        assert_eq!(std::fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert!(make_dir(&dir).unwrap_err().to_string().contains("exists"));
        let link = place.path().join("instances/two");
        std::os::unix::fs::symlink(place.path(), &link).unwrap();
        assert!(make_dir(&link).is_err());
    }

    #[test]
    fn who_ended_by_itself_is_told_from_who_was_ended() {
        let place = tempfile::tempdir().unwrap();
        let start = |name: &str, script: &str| {
            Process::spawn(Spec::new(name, "/bin/sh", place.path()).args(["-c", script])).unwrap()
        };
        let (lives, killed) = (start("lives", "exec sleep 600"), start("killed", "exec sleep 600"));
        killed.kill();
        // Its successor of the same name is not taken for it when its handle goes.
        let again = killed.respawn().unwrap();
        drop(killed);
        let died = start("died", "echo 'out of memory'; exit 3");
        while died.exited().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        let found = ended_by_themselves(place.path());
        assert_eq!(found, [Ended { name: "died".into(), lines: "  out of memory".into() }]);
        lives.freeze();
        assert_eq!(ended_by_themselves(place.path()).len(), 1, "a frozen one has not ended");
        again.signal(crate::process::Signal::KILL);
        while again.exited().is_none() {
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(ended_by_themselves(place.path()).len(), 2, "whoever sent that signal, it was not its handle");
    }

    #[test]
    fn all_that_was_recorded_is_stopped_and_its_directory_goes() {
        let place = tempfile::tempdir().unwrap();
        let dir = place.path().join("one");
        assert_eq!(stop_instance(&dir).unwrap(), 0, "an instance that is not there has no processes");
        make_dir(&dir).unwrap();
        let start = |name: &str| Process::spawn(Spec::new(name, "sleep", &dir).arg("600").detached(true)).unwrap();
        let parts = [start("one"), start("two")];
        std::fs::write(dir.join("gone.pid"), "1 1\n").unwrap();
        assert_eq!(stop_instance(&dir).unwrap(), 2);
        assert!(parts.iter().all(|part| part.exited().is_some()) && !dir.exists());
    }
}
