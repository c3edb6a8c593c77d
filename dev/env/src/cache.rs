//! Where built tools are kept: outside the work tree, shared by every clone.

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use sha2::{Digest, Sha256};

use crate::error::{Error, Result, at};

/// `$EVENTPULSE_CACHE`, else `$XDG_CACHE_HOME/eventpulse`, else `~/.cache/eventpulse`. Absolute: builds and parts run in directories
/// of their own, from which a relative path would lead elsewhere.
pub fn cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let dir = variable("EVENTPULSE_CACHE").unwrap_or_else(|| {
        variable("XDG_CACHE_HOME")
            .or_else(|| variable("HOME").map(|home| home.join(".cache")))
            .unwrap_or_else(std::env::temp_dir)
            .join("eventpulse")
    });
    // It fails only where the working directory is gone; then nothing relative leads anywhere.
    std::path::absolute(&dir).unwrap_or(dir)
}

/// A name for what is built from these files and words: it changes when one of them does.
pub(crate) fn key(files: &[&Path], words: &[&str]) -> Result<String> {
    let mut hasher = Sha256::new();
    for file in files {
        hasher.update(std::fs::read(file).map_err(at(*file))?);
    }
    for word in words {
        hasher.update(word.as_bytes());
        hasher.update([0]);
    }
    Ok(hasher.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect())
}

/// Held while one process builds; the others wait for it and then find the result. Whoever no longer wants it drops the future.
pub(crate) async fn lock(path: &Path, what: &str, timeout: Duration) -> Result<File> {
    let file = File::create(path).map_err(at(path))?;
    let deadline = Instant::now() + timeout;
    let mut told = false;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                if !told {
                    eprintln!("  another process builds {what}; waiting for it");
                    told = true;
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
            Err(TryLockError::WouldBlock) => {
                let remedy = format!("see what holds {}, end it if it hangs, and try again", path.display());
                return Err(Error::Missing { what: format!("the lock for building {what}"), remedy });
            }
            Err(TryLockError::Error(source)) => return Err(Error::File { path: path.into(), source }),
        }
    }
}
