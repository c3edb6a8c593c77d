//! The door for commands of the same user: a socket in the data directory, over which the process that has the log writes a record for
//! them. Who may open the directory may knock; the admin port, which anybody in the cluster may reach, takes no records.
//!
//! A frame is its length (u32, little endian) and JSON; one record is asked for and answered after the other.

use std::{fs, io, os::unix::fs::PermissionsExt as _, path::Path, sync::Arc, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{EmbeddedBus, EmbeddedStorage, storage::FILE};
use crate::{
    bus::{Bus as _, BusError, EmbeddedConfig, LocalOptions, Retention, local::WeakBus},
    events::Record,
    runtime::{Metrics, clock::SystemClock, directory_lock::DirectoryLock},
};

const SOCKET: &str = "publish.sock";
/// A record in JSON and base 64: its bytes grow by a third, and names and keys sixfold where they are control characters.
const FRAME_BYTES: usize = 16 << 20;
/// How long whoever knocked may take with everything that it asks for, and how long an answer is waited for.
const PATIENCE: Duration = Duration::from_secs(30);
const ACCEPT_RETRY: Duration = Duration::from_secs(1);

/// What is asked for: one record.
#[derive(Debug, Serialize, Deserialize)]
struct Asked {
    topic: String,
    key: Option<String>,
    headers: Vec<(String, String)>,
    value: String,
}

/// What became of it.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Answer {
    /// Why it was not written.
    problem: Option<String>,
    /// Whether the same can never be written.
    refused: bool,
}

impl Asked {
    fn new(record: &Record) -> Self {
        Self {
            topic: record.topic.name().to_owned(),
            key: record.key.clone(),
            headers: record.headers.iter().map(|(name, value)| (name.clone(), BASE64.encode(value))).collect(),
            value: BASE64.encode(&record.value),
        }
    }

    fn record(self) -> Result<Record, String> {
        let decode = |text: &str| BASE64.decode(text).map_err(|error| error.to_string());
        let headers = self.headers.into_iter().map(|(name, value)| Ok((name, decode(&value)?.into())));
        Ok(Record {
            topic: self.topic.parse().map_err(|error: crate::events::UnknownTopic| error.to_string())?,
            key: self.key,
            headers: headers.collect::<Result<_, String>>()?,
            value: decode(&self.value)?.into(),
        })
    }
}

/// Opens the door. The directory is locked, so a socket that is there belongs to nobody any more.
pub(super) fn open(directory: &Path) -> io::Result<UnixListener> {
    let path = directory.join(SOCKET);
    match fs::remove_file(&path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(&path)?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Until the log is closed, or nobody has it any more. One command after the other: they are few, and each has a deadline.
pub(super) async fn serve(bus: WeakBus<EmbeddedStorage>, listener: UnixListener, closed: CancellationToken) {
    loop {
        let accepted = tokio::select! {
            () = closed.cancelled() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(ACCEPT_RETRY).await;
            continue;
        };
        let Some(bus) = bus.upgrade() else { return };
        let answered = tokio::select! {
            () = closed.cancelled() => return,
            answered = timeout(PATIENCE, answer(&bus, stream)) => answered,
        };
        match answered {
            Ok(Ok(())) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "A command that asked for a record to be written was not understood.")
            }
            Err(_) => tracing::warn!("A command that asked for records to be written took too long."),
        }
    }
}

/// Until the other side has no more.
async fn answer(bus: &EmbeddedBus, mut stream: UnixStream) -> io::Result<()> {
    while let Some(asked) = read_frame::<Asked>(&mut stream).await? {
        let published = match asked.record() {
            Ok(record) => bus.publish(vec![record]).await,
            Err(problem) => Err(BusError::Refused(problem)),
        };
        let answer = match published {
            Ok(()) => Answer::default(),
            Err(BusError::Refused(problem)) => Answer { problem: Some(problem), refused: true },
            Err(error) => Answer { problem: Some(error.to_string()), refused: false },
        };
        write_frame(&mut stream, &answer).await?;
    }
    Ok(())
}

/// None where the other side has ended between two frames.
async fn read_frame<T: DeserializeOwned>(stream: &mut UnixStream) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    match stream.read_exact(&mut length).await {
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        read => read?,
    };
    let length = u32::from_le_bytes(length) as usize;
    if length > FRAME_BYTES {
        return Err(io::Error::other(format!("a frame of {length} bytes; at most {FRAME_BYTES} are taken")));
    }
    let mut frame = vec![0; length];
    stream.read_exact(&mut frame).await?;
    serde_json::from_slice(&frame).map(Some).map_err(io::Error::other)
}

async fn write_frame<T: Serialize>(stream: &mut UnixStream, value: &T) -> io::Result<()> {
    let frame = serde_json::to_vec(value).map_err(io::Error::other)?;
    let length = u32::try_from(frame.len()).map_err(io::Error::other)?;
    stream.write_all(&length.to_le_bytes()).await?;
    stream.write_all(&frame).await
}

/// See [`crate::bus::beside::publish`].
pub(in crate::bus) async fn publish(config: EmbeddedConfig, records: Vec<Record>) -> Result<(), BusError> {
    let place = config.directory.join(FILE);
    if !place.exists() {
        return Err(BusError::Open(format!("there is no embedded log at {}", place.display())));
    }
    match UnixStream::connect(config.directory.join(SOCKET)).await {
        Ok(stream) => ask(stream, &records).await,
        Err(error) => open_for_the_moment(config, records, &error).await,
    }
}

async fn ask(mut stream: UnixStream, records: &[Record]) -> Result<(), BusError> {
    for record in records {
        let asked = async {
            write_frame(&mut stream, &Asked::new(record)).await?;
            read_frame::<Answer>(&mut stream).await
        };
        let failed = |problem: String| BusError::Publish(format!("the process that has the log: {problem}"));
        match timeout(PATIENCE, asked).await {
            Ok(Ok(Some(Answer { problem: None, .. }))) => {}
            Ok(Ok(Some(Answer { problem: Some(problem), refused: true }))) => return Err(BusError::Refused(problem)),
            Ok(Ok(Some(Answer { problem: Some(problem), .. }))) => return Err(failed(problem)),
            Ok(Ok(None)) => return Err(failed("it has ended".into())),
            Ok(Err(error)) => return Err(failed(error.to_string())),
            Err(_) => return Err(failed(format!("no answer within {} s", PATIENCE.as_secs()))),
        }
    }
    Ok(())
}

/// Nobody opened the door: nobody has the log, or somebody who has none.
async fn open_for_the_moment(
    config: EmbeddedConfig,
    records: Vec<Record>,
    unanswered: &io::Error,
) -> Result<(), BusError> {
    let directory = config.directory.clone();
    let free = tokio::task::spawn_blocking(move || DirectoryLock::check(&directory)).await;
    if let Ok(Err(error)) = free {
        return Err(BusError::Open(format!("{error} (it does not answer at {SOCKET} there: {unanswered})")));
    }
    // What is to be kept, and for how long, is for the process to say that runs.
    let retention = Retention { events: Duration::MAX, ledger: Duration::MAX };
    let config = EmbeddedConfig { retention, ..config };
    let bus = EmbeddedBus::open(config, Arc::new(SystemClock), Metrics::default(), LocalOptions::default()).await?;
    let published = bus.publish(records).await;
    bus.close(PATIENCE).await;
    published
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::{
        bus::{BusConfig, MAX_RECORD_BYTES, TopicPartition, beside, history},
        events::Topic,
    };

    fn record(text: &'static str) -> Record {
        Record {
            topic: Topic::AlertRaised,
            key: Some("key".into()),
            headers: vec![("bytes".into(), Bytes::from_static(b"\xff\x00"))],
            value: Bytes::from_static(text.as_bytes()),
        }
    }

    fn config(directory: &Path) -> EmbeddedConfig {
        EmbeddedConfig { partitions: 1, ..EmbeddedConfig::new(directory) }
    }

    async fn run(directory: &Path) -> EmbeddedBus {
        let (clock, metrics) = (Arc::new(SystemClock), Metrics::default());
        EmbeddedBus::open(config(directory), clock, metrics, LocalOptions::default()).await.unwrap()
    }

    async fn publish(directory: &Path, record: Record) -> Result<(), BusError> {
        beside::publish(BusConfig::Embedded(config(directory)), vec![record]).await
    }

    async fn stands(directory: &Path, offset: u64) -> Option<Record> {
        let at = TopicPartition { topic: Topic::AlertRaised, partition: 0 };
        let found = history::find(BusConfig::Embedded(config(directory)), at, offset).await.unwrap();
        found.map(|past| past.record)
    }

    #[tokio::test]
    async fn a_record_is_written_by_the_process_that_runs_and_else_by_the_command_itself() {
        let directory = tempfile::tempdir().unwrap();
        let missing = publish(directory.path(), record("none")).await.unwrap_err().to_string();
        assert!(missing.contains("there is no embedded log at "), "{missing}");
        let bus = run(directory.path()).await;
        publish(directory.path(), record("asked")).await.unwrap();
        assert_eq!(stands(directory.path(), 0).await, Some(record("asked")));
        bus.publish(vec![record("own")]).await.unwrap();
        bus.close(PATIENCE).await;
        // What is left of the socket is nobody's.
        publish(directory.path(), record("alone")).await.unwrap();
        assert_eq!(stands(directory.path(), 2).await, Some(record("alone")));
        let bus = run(directory.path()).await;
        publish(directory.path(), record("again")).await.unwrap();
        assert_eq!(stands(directory.path(), 3).await, Some(record("again")));
        drop(bus);
    }

    #[tokio::test]
    async fn what_the_log_refuses_is_refused_and_nonsense_ends_only_its_own_conversation() {
        let directory = tempfile::tempdir().unwrap();
        let bus = run(directory.path()).await;
        let large = Record { value: vec![7; MAX_RECORD_BYTES + 1].into(), ..record("") };
        let refused = publish(directory.path(), large).await.unwrap_err();
        assert!(matches!(&refused, BusError::Refused(problem) if problem.contains("at most")), "{refused}");
        for nonsense in [&b"\xff\xff\xff\xff"[..], b"\x02\0\0\0{]", b"\x01\0", b"\x02\0\0\0{}"] {
            let mut stream = UnixStream::connect(directory.path().join(SOCKET)).await.unwrap();
            stream.write_all(nonsense).await.unwrap();
            stream.shutdown().await.unwrap();
            assert_eq!(stream.read(&mut [0; 8]).await.unwrap_or(0), 0, "{nonsense:?} was answered");
        }
        let unknown = Asked { topic: "no.topic".into(), ..Asked::new(&record("")) };
        let mut stream = UnixStream::connect(directory.path().join(SOCKET)).await.unwrap();
        write_frame(&mut stream, &unknown).await.unwrap();
        let answer: Answer = read_frame(&mut stream).await.unwrap().unwrap();
        assert!(answer.refused && answer.problem.is_some_and(|problem| problem.contains("no.topic")));
        drop(stream);
        publish(directory.path(), record("fine")).await.unwrap();
        assert_eq!(stands(directory.path(), 0).await, Some(record("fine")));
        drop(bus);
    }

    #[tokio::test]
    async fn a_process_that_does_not_answer_is_named_and_its_log_left_alone() {
        let directory = tempfile::tempdir().unwrap();
        let bus = run(directory.path()).await;
        fs::remove_file(directory.path().join(SOCKET)).unwrap();
        let error = publish(directory.path(), record("")).await.unwrap_err().to_string();
        let own = format!("is in use by process {}", std::process::id());
        assert!(error.contains(&own) && error.contains("does not answer at publish.sock"), "{error}");
        assert_eq!(stands(directory.path(), 0).await, None);
        drop(bus);
    }
}
