//! Bearer tokens from a file, compared in constant time, read again when the file changes.

use std::{
    fs::Metadata,
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::SystemTime,
};

use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// Why there are no tokens.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("--auth-token-file {}: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("--auth-token-file {}: is no file", path.display())]
    NoFile {
        /// What it is called.
        path: PathBuf,
    },
    /// The file holds no token.
    #[error("--auth-token-file {}: holds no token; write one a line", path.display())]
    Empty {
        /// The file.
        path: PathBuf,
    },
}

/// The tokens that are valid now. Several lines are several tokens, so that one can be replaced without a gap.
pub(super) struct Tokens {
    path: PathBuf,
    state: RwLock<State>,
}

#[derive(Clone, PartialEq)]
struct State {
    /// Only hashes are kept, all of one length, so that a comparison tells nothing of a token's length either.
    hashes: Vec<[u8; 32]>,
    /// Of the file that they were read from.
    stamp: Option<Stamp>,
    /// Of the file that could not be read last, so that it is said once.
    unreadable: Option<Option<Stamp>>,
}

/// Time of the last change, and length.
type Stamp = (SystemTime, u64);

impl Tokens {
    pub(super) fn load(path: PathBuf) -> Result<Self, TokenError> {
        let stamp = std::fs::metadata(&path).ok().and_then(|meta| stamp_of(&meta));
        let hashes = read(&path)?;
        Ok(Self { path, state: RwLock::new(State { hashes, stamp, unreadable: None }) })
    }

    /// Whether the value of an `Authorization` header holds a valid token. Every token is compared, each in constant time.
    pub(super) fn allow(&self, header: Option<&[u8]>) -> bool {
        let Some(token) = header.and_then(bearer) else { return false };
        let given: [u8; 32] = Sha256::digest(token.trim_ascii()).into();
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.hashes.iter().fold(Choice::from(0), |found, hash| found | hash.ct_eq(&given)).into()
    }

    /// Reads the file again if it has changed, away from the async threads: it may be on a mount that hangs. An unreadable or empty one
    /// changes nothing, is said once, and is tried again: then gives why.
    pub(super) async fn refresh(&self) -> Result<(), TokenError> {
        let stamp = tokio::fs::metadata(&self.path).await.ok().and_then(|meta| stamp_of(&meta));
        if self.state.read().unwrap_or_else(PoisonError::into_inner).stamp == stamp {
            return Ok(());
        }
        let read = match tokio::fs::metadata(&self.path).await {
            Ok(meta) if meta.is_file() => tokio::fs::read(&self.path).await,
            Ok(_) => return self.unreadable(stamp, TokenError::NoFile { path: self.path.clone() }),
            Err(error) => Err(error),
        };
        let read = read.map_err(|source| TokenError::Read { path: self.path.clone(), source });
        match read.and_then(|text| hashes_of(&text, &self.path)) {
            Ok(hashes) => {
                tracing::info!(tokens = hashes.len(), "The tokens were read again.");
                let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
                *state = State { hashes, stamp, unreadable: None };
                Ok(())
            }
            Err(error) => self.unreadable(stamp, error),
        }
    }

    fn unreadable(&self, stamp: Option<Stamp>, error: TokenError) -> Result<(), TokenError> {
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.unreadable.replace(stamp) != Some(stamp) {
            tracing::error!(%error, "The tokens stay as they were.");
        }
        Err(error)
    }
}

/// The token of `Bearer TOKEN`; a scheme's name is the same in upper and lower case (RFC 9110, section 11.1).
fn bearer(header: &[u8]) -> Option<&[u8]> {
    let (scheme, token) = header.split_at_checked(b"Bearer ".len())?;
    scheme.eq_ignore_ascii_case(b"Bearer ").then_some(token)
}

fn stamp_of(meta: &Metadata) -> Option<Stamp> {
    Some((meta.modified().ok()?, meta.len()))
}

/// Whether there are tokens in a file. Blocks on the disk.
pub fn check_token_file(path: &Path) -> Result<usize, TokenError> {
    Ok(read(path)?.len())
}

fn read(path: &Path) -> Result<Vec<[u8; 32]>, TokenError> {
    let unread = |source| TokenError::Read { path: path.to_owned(), source };
    if !std::fs::metadata(path).map_err(unread)?.is_file() {
        return Err(TokenError::NoFile { path: path.to_owned() });
    }
    hashes_of(&std::fs::read(path).map_err(unread)?, path)
}

fn hashes_of(text: &[u8], path: &Path) -> Result<Vec<[u8; 32]>, TokenError> {
    let lines = text.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty());
    let hashes: Vec<[u8; 32]> = lines.map(|line| Sha256::digest(line).into()).collect();
    if hashes.is_empty() { Err(TokenError::Empty { path: path.to_owned() }) } else { Ok(hashes) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_token_is_replaced_without_a_gap() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        std::fs::write(&path, "old\n").unwrap();
        let tokens = Tokens::load(path.clone()).unwrap();
        for scheme in ["Bearer", "bearer", "BEARER"] {
            assert!(tokens.allow(Some(format!("{scheme} old").as_bytes())), "{scheme}");
        }
        for header in [
            None,
            Some(&b""[..]),
            Some(b"old"),
            Some(b"Basic old"),
            Some(b"Bearer"),
            Some(b"Bearerold"),
            Some(b"Bearer "),
            Some(b"Bearer olds"),
            Some(b"Bearer new"),
        ] {
            assert!(!tokens.allow(header), "{header:?}");
        }
        std::fs::write(&path, "old\r\nnew\n").unwrap();
        tokens.refresh().await.unwrap();
        assert!(tokens.allow(Some(b"Bearer old")) && tokens.allow(Some(b"Bearer new")));
        for broken in ["", " \n\n"] {
            std::fs::write(&path, broken).unwrap();
            assert!(matches!(tokens.refresh().await, Err(TokenError::Empty { .. })), "{broken:?}");
            assert!(tokens.allow(Some(b"Bearer new")), "{broken:?} takes no token away");
        }
        std::fs::remove_file(&path).unwrap();
        assert!(matches!(tokens.refresh().await, Err(TokenError::Read { .. })));
        std::fs::create_dir(&path).unwrap();
        assert!(matches!(tokens.refresh().await, Err(TokenError::NoFile { .. })));
        std::fs::remove_dir(&path).unwrap();
        assert!(tokens.allow(Some(b"Bearer new")));
        std::fs::write(&path, "other").unwrap();
        tokens.refresh().await.unwrap();
        assert!(!tokens.allow(Some(b"Bearer new")) && tokens.allow(Some(b"Bearer other")));
    }

    /// What could not be read is not taken for known: a mount that comes back, or a permission that is mended, changes no time.
    #[tokio::test]
    async fn what_could_not_be_read_is_tried_again_though_its_time_is_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let then = SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000);
        let write = |text: &str| {
            std::fs::write(&path, text).unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(then).unwrap();
        };
        std::fs::write(&path, "old").unwrap();
        let tokens = Tokens::load(path.clone()).unwrap();
        write("\n\n\n\n\n");
        tokens.refresh().await.unwrap_err();
        write("newer");
        tokens.refresh().await.unwrap();
        assert!(tokens.allow(Some(b"Bearer newer")) && !tokens.allow(Some(b"Bearer old")));
    }

    #[test]
    fn without_a_token_it_does_not_start() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        assert!(matches!(Tokens::load(path.clone()), Err(TokenError::Read { .. })));
        std::fs::write(&path, "\n").unwrap();
        assert!(matches!(Tokens::load(path), Err(TokenError::Empty { .. })));
        assert!(matches!(Tokens::load(dir.path().to_owned()), Err(TokenError::NoFile { .. })));
    }
}
