//! SQLite with group commit: one thread writes, and everything that waits for it goes into one transaction, so that one fsync
//! serves many callers (promise 1: what is answered is on disk).
//!
//! In: closures over a connection. Out: their results, after the commit that they are part of.

use std::{
    io::{ErrorKind, Read as _},
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rusqlite::{Connection, ErrorCode, OpenFlags, TransactionBehavior};
use tokio::sync::{mpsc, oneshot};

use super::{directory_lock::DirectoryLock, liveness::waiting};

/// How many writes may wait; beyond it callers wait to hand theirs over (promise 6).
const QUEUE: usize = 1_024;
/// How many writes share one transaction at most, so that nobody waits for an endless one.
const BATCH: usize = 512;
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// What SQLite keeps of the write-ahead log after a checkpoint, in bytes.
const WAL_LIMIT_BYTES: i64 = 64 << 20;

/// How an SQLite file begins, and how much of it is its head (sqlite.org/fileformat.html, section 1.3).
const MAGIC: &[u8] = b"SQLite format 3\0";
const HEAD_BYTES: u64 = 100;

/// The tables of one file, and what the file is recognised by.
#[derive(Clone, Copy, Debug)]
pub struct Schema {
    /// SQLite's `application_id`: tells this file from every other one.
    pub application_id: i32,
    /// Statement batches; number `i` leads from `user_version` `i` to `i + 1`. Only ever appended to.
    pub migrations: &'static [&'static str],
}

/// Why a file could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// SQLite could not open or prepare it.
    #[error("open {}: {source}", path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        source: rusqlite::Error,
    },
    /// The file belongs to something else.
    #[error("{} is no file of this kind (application id {found:#x}); move it away", path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// The application id that it carries.
        found: i32,
    },
    /// A newer version of EventPulse wrote it.
    #[error("{} has schema version {found}, this version of EventPulse knows {known}; use the newer version", path.display())]
    TooNew {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The newest version that is known.
        known: usize,
    },
    /// The file system gives no write-ahead log, as some network file systems do not.
    #[error("{}: no write-ahead log on this file system (journal mode {mode}); use a local disk", path.display())]
    NoWal {
        /// The file.
        path: PathBuf,
        /// The mode that SQLite fell back to.
        mode: String,
    },
    /// Other users could not be kept from reading it.
    #[error("set the permissions of {}: {source}", path.display())]
    Protect {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The thread could not be started.
    #[error("start the writer of {}: {source}", path.display())]
    Thread {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
}

impl OpenError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            OpenError::Open { .. } => "open",
            OpenError::Foreign { .. } => "foreign_file",
            OpenError::TooNew { .. } => "too_new",
            OpenError::NoWal { .. } => "no_wal",
            OpenError::Protect { .. } => "protect",
            OpenError::Thread { .. } => "thread",
        }
    }
}

/// Why a write is not on disk. Nothing of it is.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// This write's own statements failed, or it panicked; the others of its transaction are not affected.
    #[error("write: {0}")]
    Statement(String),
    /// There is no room on the disk.
    #[error("the disk is full: {0}")]
    DiskFull(String),
    /// Reading or writing the disk failed, or the file is held by somebody.
    #[error("the disk does not take it: {0}")]
    Io(String),
    /// The file is damaged or cannot be written: a person has to look at it.
    #[error("the file cannot be used: {0}")]
    Damaged(String),
    /// The file was removed, or another one put in its place, while it was open: what is written to it is gone with the process.
    #[error("{} was removed or replaced while it was open; start the process again", .0.display())]
    Removed(PathBuf),
    /// The file was closed.
    #[error("the file is closed")]
    Closed,
}

impl WriteError {
    /// A bounded label for metrics.
    pub fn category(&self) -> &'static str {
        match self {
            WriteError::Statement(_) => "statement",
            WriteError::DiskFull(_) => "disk_full",
            WriteError::Io(_) => "io",
            WriteError::Damaged(_) => "damaged",
            WriteError::Removed(_) => "removed",
            WriteError::Closed => "closed",
        }
    }

    /// Whether the same write may succeed later.
    pub fn is_transient(&self) -> bool {
        matches!(self, WriteError::DiskFull(_) | WriteError::Io(_))
    }
}

/// By SQLite's result codes (sqlite.org/rescode.html).
impl From<rusqlite::Error> for WriteError {
    fn from(error: rusqlite::Error) -> Self {
        let text = error.to_string();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => WriteError::DiskFull(text),
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::DatabaseBusy
                | ErrorCode::DatabaseLocked
                | ErrorCode::CannotOpen
                | ErrorCode::OutOfMemory
                | ErrorCode::OperationInterrupted
                | ErrorCode::FileLockingProtocolFailed,
            ) => WriteError::Io(text),
            Some(
                ErrorCode::DatabaseCorrupt
                | ErrorCode::NotADatabase
                | ErrorCode::ReadOnly
                | ErrorCode::PermissionDenied,
            ) => WriteError::Damaged(text),
            _ => WriteError::Statement(text),
        }
    }
}

/// A file and its writer. Cheap to clone; the writer ends when it is closed or the last clone is gone.
#[derive(Clone, Debug)]
pub struct GroupCommit {
    messages: mpsc::Sender<Message>,
    counts: Arc<Counts>,
    path: Arc<Path>,
}

#[derive(Debug, Default)]
struct Counts {
    commits: AtomicU64,
    writes: AtomicU64,
}

enum Message {
    Write(Box<dyn Write>),
    Close(oneshot::Sender<()>),
}

impl GroupCommit {
    /// Opens `file` in the locked directory, creates or migrates its tables, and starts the writer. It blocks on the disk: call it
    /// before the services start, or from `spawn_blocking`. The directory stays locked until the writer has ended.
    pub fn open(lock: Arc<DirectoryLock>, file: &str, schema: Schema) -> Result<Self, OpenError> {
        let path = lock.directory().join(file);
        let connection = open_writer(&path, schema)?;
        let (messages, receiver) = mpsc::channel(QUEUE);
        let counts = Arc::<Counts>::default();
        let files = Files::of(&path).map_err(|source| OpenError::Protect { path: path.clone(), source })?;
        let writer = Writer { connection, files, counts: Arc::clone(&counts), _lock: lock };
        std::thread::Builder::new()
            .name("group-commit".into())
            .spawn(move || writer.run(receiver))
            .map_err(|source| OpenError::Thread { path: path.clone(), source })?;
        Ok(Self { messages, counts, path: path.into() })
    }

    /// Whether [`GroupCommit::open`] would take this file, as far as its head says. One that is absent or empty is created. Opens
    /// nothing with SQLite, which would leave files beside it.
    pub fn check(path: &Path, schema: Schema) -> Result<(), OpenError> {
        let open = |code, text: String| OpenError::Open {
            path: path.to_owned(),
            source: rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), Some(text)),
        };
        let mut head = Vec::new();
        let read = std::fs::File::open(path).and_then(|file| file.take(HEAD_BYTES).read_to_end(&mut head));
        match read {
            // That the directory is none is said of the directory.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => return Ok(()),
            Err(error) => return Err(open(rusqlite::ffi::SQLITE_CANTOPEN, error.to_string())),
            Ok(0) => return Ok(()),
            Ok(_) => {}
        }
        let field = |at: usize| head.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map(i32::from_be_bytes);
        let (true, Some(version), Some(application)) = (head.starts_with(MAGIC), field(60), field(68)) else {
            return Err(open(rusqlite::ffi::SQLITE_NOTADB, "file is not a database".into()));
        };
        // 0: what makes it one may still be in the write-ahead log.
        if application != 0 && application != schema.application_id {
            return Err(OpenError::Foreign { path: path.to_owned(), found: application });
        }
        let known = schema.migrations.len();
        if usize::try_from(version).is_ok_and(|version| version <= known) {
            return Ok(());
        }
        Err(OpenError::TooNew { path: path.to_owned(), found: version.into(), known })
    }

    /// Runs `work` in the next transaction and returns its result when that is on disk. An error rolls back what `work` did and
    /// nothing else. `work` must be short, and must not begin or end transactions. Dropping the future does not undo a write that
    /// was handed over.
    pub async fn write<T, F>(&self, work: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (message, result) = message(work);
        // The disk may take as long as it likes: a restart would not make it faster.
        waiting(self.messages.send(message)).await.map_err(|_| WriteError::Closed)?;
        waiting(result).await.unwrap_or(Err(WriteError::Closed))
    }

    /// The same for a thread that is not one of the async runtime's.
    pub fn write_blocking<T, F>(&self, work: F) -> Result<T, WriteError>
    where
        T: Send + 'static,
        F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let (message, result) = message(work);
        self.messages.blocking_send(message).map_err(|_| WriteError::Closed)?;
        result.blocking_recv().unwrap_or(Err(WriteError::Closed))
    }

    /// Writes what was handed over, closes the file and gives the directory back. Writes handed over later fail as closed.
    pub async fn close(&self) {
        let (done, closed) = oneshot::channel();
        if self.messages.send(Message::Close(done)).await.is_ok() {
            // An error says that the writer has ended, which is what is wanted.
            let _ = closed.await;
        }
    }

    /// A connection of one's own that can only read. Use it away from the async threads, and end its statements soon: an open one
    /// keeps the write-ahead log from being cut.
    pub fn reader(&self) -> rusqlite::Result<Connection> {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(&self.path, flags)?;
        connection.busy_timeout(BUSY_TIMEOUT)?;
        Ok(connection)
    }

    /// How many transactions were committed.
    pub fn commits(&self) -> u64 {
        self.counts.commits.load(Ordering::Relaxed)
    }

    /// How many writes they held.
    pub fn writes(&self) -> u64 {
        self.counts.writes.load(Ordering::Relaxed)
    }
}

fn open_writer(path: &Path, schema: Schema) -> Result<Connection, OpenError> {
    let open = |source| OpenError::Open { path: path.to_owned(), source };
    let mut connection = Connection::open(path).map_err(open)?;
    connection.busy_timeout(BUSY_TIMEOUT).map_err(open)?;
    // Alerts can hold what is nobody else's business; SQLite gives its other files the permissions of this one.
    #[cfg(unix)]
    std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o600))
        .map_err(|source| OpenError::Protect { path: path.to_owned(), source })?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0)).map_err(open)?;
    let tables: i64 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(open)?;
    if tables > 0 && application != schema.application_id {
        return Err(OpenError::Foreign { path: path.to_owned(), found: application });
    }
    // Only has an effect before the first table: deleted records give their room back to the disk in small steps.
    connection.pragma_update(None, "auto_vacuum", "INCREMENTAL").map_err(open)?;
    let mode: String =
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0)).map_err(open)?;
    if mode != "wal" {
        return Err(OpenError::NoWal { path: path.to_owned(), mode });
    }
    // FULL: a commit returns after its fsync (promise 1). NORMAL would lose the last commits with the power.
    connection.pragma_update(None, "synchronous", "FULL").map_err(open)?;
    connection.pragma_update(None, "journal_size_limit", WAL_LIMIT_BYTES).map_err(open)?;
    migrate(&mut connection, path, schema)?;
    Ok(connection)
}

fn migrate(connection: &mut Connection, path: &Path, schema: Schema) -> Result<(), OpenError> {
    let open = |source| OpenError::Open { path: path.to_owned(), source };
    let found: i64 = connection.pragma_query_value(None, "user_version", |row| row.get(0)).map_err(open)?;
    let known = schema.migrations.len();
    let version = match usize::try_from(found) {
        Ok(version) if version <= known => version,
        _ => return Err(OpenError::TooNew { path: path.to_owned(), found, known }),
    };
    if version == known {
        return Ok(());
    }
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(open)?;
    for migration in &schema.migrations[version..] {
        transaction.execute_batch(migration).map_err(open)?;
    }
    transaction.pragma_update(None, "application_id", schema.application_id).map_err(open)?;
    transaction.pragma_update(None, "user_version", known as i64).map_err(open)?;
    transaction.commit().map_err(open)
}

fn message<T, F>(work: F) -> (Message, oneshot::Receiver<Result<T, WriteError>>)
where
    T: Send + 'static,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
{
    let (reply, result) = oneshot::channel();
    (Message::Write(Box::new(Typed { work: Some(work), value: None, reply })), result)
}

/// One caller's work, without its types.
trait Write: Send {
    fn run(&mut self, connection: &Connection) -> Result<(), WriteError>;
    fn answer(self: Box<Self>, outcome: Result<(), WriteError>);
}

struct Typed<F, T> {
    work: Option<F>,
    value: Option<T>,
    reply: oneshot::Sender<Result<T, WriteError>>,
}

impl<F, T> Write for Typed<F, T>
where
    T: Send,
    F: FnOnce(&Connection) -> rusqlite::Result<T> + Send,
{
    fn run(&mut self, connection: &Connection) -> Result<(), WriteError> {
        let Some(work) = self.work.take() else { return Ok(()) };
        // A panic may end its own write, and never the writer that all others depend on.
        let result = catch_unwind(AssertUnwindSafe(|| work(connection)))
            .map_err(|_| WriteError::Statement("the write panicked".into()))?;
        self.value = Some(result?);
        Ok(())
    }

    fn answer(self: Box<Self>, outcome: Result<(), WriteError>) {
        let Self { value, reply, .. } = *self;
        // A caller that went away needs no answer.
        let _ = reply.send(outcome.and_then(|()| value.ok_or(WriteError::Closed)));
    }
}

/// Which files they are, so that it is noticed when they are removed or replaced. SQLite goes on writing to a file that has no name any
/// more, and nobody will ever read it (promise 1).
struct Files([(PathBuf, Identity); 2]);

/// Device and number of a file, which no other has as long as this one is open.
type Identity = Option<(u64, u64)>;

impl Files {
    /// The database and its write-ahead log. Both are there once the tables are.
    fn of(path: &Path) -> std::io::Result<Self> {
        let mut log = path.as_os_str().to_owned();
        log.push("-wal");
        let known = |path: PathBuf| identity(&path).map(|identity| (path, identity));
        Ok(Self([known(path.to_owned())?, known(log.into())?]))
    }

    /// Whether they are still where they were. It is asked after a commit: what was written before they went is in them.
    fn check(&self) -> Result<(), WriteError> {
        let moved = self.0.iter().find(|(path, known)| !matches!(identity(path), Ok(now) if now == *known));
        moved.map_or(Ok(()), |(path, _)| Err(WriteError::Removed(path.clone())))
    }
}

#[cfg(unix)]
fn identity(path: &Path) -> std::io::Result<Identity> {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(path).map(|meta| Some((meta.dev(), meta.ino())))
}

#[cfg(not(unix))]
fn identity(path: &Path) -> std::io::Result<Identity> {
    std::fs::metadata(path).map(|_| None)
}

struct Writer {
    connection: Connection,
    files: Files,
    counts: Arc<Counts>,
    _lock: Arc<DirectoryLock>,
}

impl Writer {
    fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut closing = Vec::new();
        while let Some(first) = messages.blocking_recv() {
            let mut batch = Vec::new();
            let mut next = Some(first);
            while let Some(message) = next.take() {
                match message {
                    Message::Write(write) => batch.push(write),
                    Message::Close(done) => {
                        messages.close();
                        closing.push(done);
                    }
                }
                if batch.len() < BATCH {
                    next = messages.try_recv().ok();
                }
            }
            self.write(batch);
        }
        let Self { connection, files, counts: _, _lock: lock } = self;
        match files.check() {
            Ok(()) => drop(connection),
            // SQLite would remove the write-ahead log by its name, and it may be another process's by now.
            Err(_) => std::mem::forget(connection),
        }
        drop(lock);
        for done in closing {
            // A caller that went away needs no answer.
            let _ = done.send(());
        }
    }

    /// One transaction for all of them; answers each.
    fn write(&mut self, mut batch: Vec<Box<dyn Write>>) {
        if batch.is_empty() {
            return;
        }
        let count = batch.len() as u64;
        let transacted = transact(&mut self.connection, &mut batch);
        let (outcomes, committed) = match transacted.and_then(|outcomes| self.files.check().map(|()| outcomes)) {
            Ok(outcomes) => (outcomes, Ok(())),
            Err(error) => {
                tracing::warn!(%error, writes = count, "A transaction was not committed.");
                (vec![Ok(()); batch.len()], Err(error))
            }
        };
        if committed.is_ok() {
            self.counts.commits.fetch_add(1, Ordering::Relaxed);
            self.counts.writes.fetch_add(count, Ordering::Relaxed);
        }
        for (write, outcome) in batch.into_iter().zip(outcomes) {
            write.answer(committed.clone().and(outcome));
        }
    }
}

/// Each write in a savepoint of its own, so that its failure takes nothing else with it. An error is one of the whole transaction.
fn transact(
    connection: &mut Connection,
    batch: &mut [Box<dyn Write>],
) -> Result<Vec<Result<(), WriteError>>, WriteError> {
    let mut transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let mut outcomes = Vec::with_capacity(batch.len());
    for write in batch {
        let savepoint = transaction.savepoint()?;
        let outcome = write.run(&savepoint);
        // SQLite ends the whole transaction by itself on some errors, a full disk among them (sqlite.org/lang_transaction.html):
        // then the writes before this one are gone as well, and every caller must hear of it (promise 1).
        if savepoint.is_autocommit() {
            return Err(outcome.err().unwrap_or_else(|| WriteError::Io("SQLite rolled the transaction back".into())));
        }
        match &outcome {
            Ok(()) => savepoint.commit()?,
            Err(_) => savepoint.finish()?,
        }
        outcomes.push(outcome);
    }
    transaction.commit()?;
    Ok(outcomes)
}

#[cfg(test)]
#[path = "group_commit_tests.rs"]
mod tests;
