//! What can go wrong, each with what to do about it.

use std::path::PathBuf;

/// Why the environment, or a part of it, is not there.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something that the machine must have is missing or too old.
    #[error("{what}\n  remedy: {remedy}")]
    Missing {
        /// What is missing.
        what: String,
        /// What to do.
        remedy: String,
    },
    /// The machine lacks something that a build needs.
    #[error("{problems}")]
    Machine {
        /// What it lacks, each with what to do.
        problems: String,
    },
    /// A build did not work.
    #[error("build {what}: {reason}")]
    Build {
        /// What was built.
        what: String,
        /// Why not, with the last lines that it said.
        reason: String,
    },
    /// A file or directory.
    #[error("{path}: {source}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A process did not start.
    #[error("start {name}: {source}")]
    Spawn {
        /// Which.
        name: String,
        /// Why.
        source: std::io::Error,
    },
    /// A process ended by itself.
    #[error("{name} ended: {status}. Its last lines:\n{lines}")]
    Died {
        /// Which.
        name: String,
        /// Its exit status.
        status: String,
        /// The last lines of its log.
        lines: String,
    },
    /// Something did not happen in time.
    #[error("{name}: {what} did not happen within {seconds} s. Its last lines:\n{lines}")]
    Timeout {
        /// Which part.
        name: String,
        /// What was waited for.
        what: String,
        /// How long.
        seconds: u64,
        /// The last lines of its log.
        lines: String,
    },
    /// A certificate or key.
    #[error("make certificates: {0}")]
    Certificate(#[from] rcgen::Error),
    /// kubectl said no.
    #[error("kubectl {arguments}: {output}")]
    Kubectl {
        /// What was asked.
        arguments: String,
        /// What it said.
        output: String,
    },
}

/// With [`enum@Error`].
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Names the file of an I/O error.
pub(crate) fn at(path: impl Into<PathBuf>) -> impl FnOnce(std::io::Error) -> Error {
    move |source| Error::File { path: path.into(), source }
}
