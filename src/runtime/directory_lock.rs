//! One process for one data directory: a second one would take over offsets and outboxes that are still in use (promise 1).

use std::{
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Seek, Write},
    path::{Path, PathBuf},
};

const FILE_NAME: &str = "eventpulse.lock";

/// Why the data directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DirectoryLockError {
    /// It cannot be created or written.
    #[error("data directory {}: {source}; create it so that this user may write, or name another one with --data-dir", directory.display())]
    Prepare {
        /// The directory.
        directory: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Another process, or this one a second time, has it.
    #[error(
        "data directory {} is in use by {holder}; stop that process, or name another directory with --data-dir",
        directory.display()
    )]
    InUse {
        /// The directory.
        directory: PathBuf,
        /// `process 1234`, as the holder wrote it down.
        holder: String,
    },
}

impl DirectoryLockError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            DirectoryLockError::Prepare { .. } => "prepare_directory",
            DirectoryLockError::InUse { .. } => "directory_in_use",
        }
    }
}

/// Holds the directory until it is dropped. The system releases it when the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    directory: PathBuf,
    /// The advisory lock (flock) lives as long as this handle.
    _file: File,
}

impl DirectoryLock {
    /// Creates the directory where it is absent, readable by this user only, and takes it.
    pub fn acquire(directory: &Path) -> Result<Self, DirectoryLockError> {
        let prepare = |source| DirectoryLockError::Prepare { directory: directory.to_owned(), source };
        create_directory(directory).map_err(prepare)?;
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(directory.join(FILE_NAME))
            .map_err(prepare)?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                return Err(DirectoryLockError::InUse { directory: directory.to_owned(), holder: holder(&mut file) });
            }
            Err(TryLockError::Error(source)) => return Err(prepare(source)),
        }
        write_pid(&mut file).map_err(prepare)?;
        Ok(Self { directory: directory.to_owned(), _file: file })
    }

    /// Whether [`DirectoryLock::acquire`] would succeed now. Creates and takes nothing that stays.
    pub fn check(directory: &Path) -> Result<(), DirectoryLockError> {
        let prepare = |source| DirectoryLockError::Prepare { directory: directory.to_owned(), source };
        let mark = format!(".eventpulse-check-{}", std::process::id());
        if !directory.exists() {
            // It is created below the first that is there.
            let parents = std::path::absolute(directory).map_err(prepare)?;
            let Some(parent) = parents.ancestors().find(|parent| parent.exists()) else { return Ok(()) };
            let probe = parent.join(mark);
            return std::fs::create_dir(&probe).and_then(|()| std::fs::remove_dir(&probe)).map_err(prepare);
        }
        let probe = directory.join(mark);
        let written = File::create_new(&probe).and_then(|mut file| file.write_all(b"x"));
        // Where it was not created there is none to remove.
        let _ = std::fs::remove_file(&probe);
        written.map_err(prepare)?;
        let mut file = match OpenOptions::new().read(true).write(true).open(directory.join(FILE_NAME)) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(source) => return Err(prepare(source)),
        };
        match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => {
                Err(DirectoryLockError::InUse { directory: directory.to_owned(), holder: holder(&mut file) })
            }
            Err(TryLockError::Error(source)) => Err(prepare(source)),
        }
    }

    /// The directory that is held.
    pub fn directory(&self) -> &Path {
        &self.directory
    }
}

#[cfg(unix)]
fn create_directory(directory: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    // Alerts can hold what is nobody else's business.
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(directory)
}

#[cfg(not(unix))]
fn create_directory(directory: &Path) -> std::io::Result<()> {
    std::fs::create_dir_all(directory)
}

fn write_pid(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())?;
    file.flush()
}

/// Only digits are repeated: the file may have been written by anybody.
fn holder(file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(pid)) => format!("process {pid}"),
        _ => "another process".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_one_is() {
        let parent = tempfile::tempdir().unwrap();
        let directory = parent.path().join("data/deep");
        let first = DirectoryLock::acquire(&directory).unwrap();
        let error = DirectoryLock::acquire(&directory).unwrap_err();
        let text = error.to_string();
        assert!(matches!(error, DirectoryLockError::InUse { .. }), "{text}");
        assert!(text.contains(&directory.display().to_string()), "{text}");
        assert!(text.contains(&format!("process {}", std::process::id())), "{text}");
        drop(first);
        assert_eq!(DirectoryLock::acquire(&directory).unwrap().directory(), directory);
    }

    #[test]
    fn a_check_says_what_taking_it_would_and_leaves_nothing_behind() {
        let parent = tempfile::tempdir().unwrap();
        let entries = |directory: &Path| std::fs::read_dir(directory).unwrap().count();
        let directory = parent.path().join("data/deep");
        DirectoryLock::check(&directory).unwrap();
        assert_eq!(entries(parent.path()), 0);
        let held = DirectoryLock::acquire(&directory).unwrap();
        let error = DirectoryLock::check(&directory).unwrap_err().to_string();
        assert!(error.contains(&format!("is in use by process {}", std::process::id())), "{error}");
        drop(held);
        DirectoryLock::check(&directory).unwrap();
        assert_eq!(entries(&directory), 1, "the file of the lock");
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        for wrong in [file.clone(), file.join("data")] {
            assert_eq!(DirectoryLock::check(&wrong).unwrap_err().category(), "prepare_directory", "{wrong:?}");
        }
    }

    #[test]
    fn what_stands_in_the_file_of_a_holder_is_not_trusted() {
        let directory = tempfile::tempdir().unwrap();
        let _first = DirectoryLock::acquire(directory.path()).unwrap();
        for content in [&b"\xff\xfe"[..], b"", b"12 \x1b[31m evil", &[b'9'; 4096]] {
            std::fs::write(directory.path().join(FILE_NAME), content).unwrap();
            let text = DirectoryLock::acquire(directory.path()).unwrap_err().to_string();
            assert!(text.contains("in use by another process;"), "{text}");
        }
    }

    #[test]
    fn a_directory_that_cannot_be_made_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let file = parent.path().join("file");
        std::fs::write(&file, "").unwrap();
        let error = DirectoryLock::acquire(&file.join("data")).unwrap_err();
        assert_eq!(error.category(), "prepare_directory");
        assert!(error.to_string().contains("file/data"), "{error}");
    }
}
