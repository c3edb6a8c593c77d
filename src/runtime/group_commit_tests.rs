use std::sync::mpsc as std_mpsc;

use super::*;

const SCHEMA: Schema =
    Schema { application_id: 0x4550_0001, migrations: &["CREATE TABLE t (n INTEGER PRIMARY KEY) STRICT"] };

fn open(directory: &Path) -> GroupCommit {
    GroupCommit::open(Arc::new(DirectoryLock::acquire(directory).unwrap()), "t.sqlite", SCHEMA).unwrap()
}

fn open_error(directory: &Path, schema: Schema) -> OpenError {
    let lock = Arc::new(DirectoryLock::acquire(directory).unwrap());
    GroupCommit::open(lock, "t.sqlite", schema).unwrap_err()
}

async fn insert(file: &GroupCommit, n: i64) -> Result<i64, WriteError> {
    file.write(move |c| {
        c.execute("INSERT INTO t VALUES (?1)", [n])?;
        Ok(n)
    })
    .await
}

fn stored(file: &GroupCommit) -> Vec<i64> {
    let reader = file.reader().unwrap();
    let mut statement = reader.prepare("SELECT n FROM t ORDER BY n").unwrap();
    statement.query_map([], |row| row.get(0)).unwrap().collect::<Result<_, _>>().unwrap()
}

#[tokio::test]
async fn a_file_is_judged_by_its_head_before_it_is_opened() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("t.sqlite");
    let check = |schema| GroupCommit::check(&path, schema).map_err(|error| error.category());
    assert_eq!(check(SCHEMA), Ok(()), "it is absent");
    for (content, said) in
        [(&b""[..], Ok(())), (b"x", Err("open")), (&[0; 4096], Err("open")), (b"SQLite format 3\0", Err("open"))]
    {
        std::fs::write(&path, content).unwrap();
        assert_eq!(check(SCHEMA), said, "{content:?}");
    }
    std::fs::remove_file(&path).unwrap();
    let file = open(dir.path());
    insert(&file, 1).await.unwrap();
    assert_eq!(check(SCHEMA), Ok(()), "what was written is in the write-ahead log");
    file.close().await;
    assert_eq!(check(SCHEMA), Ok(()));
    assert_eq!(check(Schema { application_id: 7, ..SCHEMA }), Err("foreign_file"));
    assert_eq!(check(Schema { migrations: &[], ..SCHEMA }), Err("too_new"));
    let beside: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside.len(), 2, "the file and the lock: {beside:?}");
}

/// Holds the writer until the sender is dropped, so that what comes after has to wait together.
async fn hold(file: &GroupCommit) -> (std_mpsc::Sender<()>, tokio::task::JoinHandle<Result<(), WriteError>>) {
    let (release, held) = std_mpsc::channel::<()>();
    let (started, running) = oneshot::channel();
    let held_file = file.clone();
    let task = tokio::spawn(async move {
        held_file
            .write(move |_| {
                let _ = started.send(());
                let _ = held.recv();
                Ok(())
            })
            .await
    });
    running.await.unwrap();
    (release, task)
}

/// Starts every future, waits until all of them have handed their write over, and lets the writer go on.
async fn together<T: Send + 'static>(
    file: &GroupCommit,
    writes: Vec<impl Future<Output = Result<T, WriteError>> + Send + 'static>,
) -> Vec<Result<T, WriteError>> {
    let (release, held) = hold(file).await;
    let capacity = file.messages.capacity();
    let count = writes.len();
    let tasks: Vec<_> = writes.into_iter().map(tokio::spawn).collect();
    while file.messages.capacity() > capacity - count {
        tokio::task::yield_now().await;
    }
    drop(release);
    held.await.unwrap().unwrap();
    let mut results = Vec::new();
    for task in tasks {
        results.push(task.await.unwrap());
    }
    results
}

#[tokio::test]
async fn many_writers_share_one_commit_and_find_their_data_after_reopening() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    let writes = (0..200).map(|n| {
        let file = file.clone();
        async move { insert(&file, n).await }
    });
    let results = together(&file, writes.collect()).await;
    assert_eq!(results, (0..200).map(Ok).collect::<Vec<_>>());
    // The one that held the writer, and all others together.
    assert_eq!((file.commits(), file.writes()), (2, 201));
    file.close().await;
    assert_eq!(insert(&file, 7).await, Err(WriteError::Closed));
    let again = open(directory.path());
    assert_eq!(stored(&again), (0..200).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_commit_takes_its_part_and_writers_beyond_the_queue_wait() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    let (release, held) = hold(&file).await;
    let count = i64::try_from(QUEUE + BATCH).unwrap();
    let writers: Vec<_> = (0..count)
        .map(|n| {
            let file = file.clone();
            tokio::spawn(async move { insert(&file, n).await })
        })
        .collect();
    while file.messages.capacity() > 0 {
        tokio::task::yield_now().await;
    }
    assert_eq!(file.messages.max_capacity(), QUEUE);
    drop(release);
    held.await.unwrap().unwrap();
    for (n, writer) in (0..count).zip(writers) {
        assert_eq!(writer.await.unwrap(), Ok(n));
    }
    // The one that held the writer, and then no more than so many at once.
    let least = 1 + u64::try_from(count).unwrap().div_ceil(BATCH as u64);
    assert!(file.commits() >= least, "{} commits of {} writes", file.commits(), file.writes());
}

#[tokio::test]
async fn the_write_ahead_log_is_cut_to_its_bound() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    let read = |c: &Connection| c.pragma_query_value(None, "journal_size_limit", |row| row.get::<_, i64>(0));
    assert_eq!(file.write(read).await, Ok(WAL_LIMIT_BYTES));
}

#[tokio::test]
async fn an_error_or_a_panic_takes_nothing_else_with_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    let writes = (0..9_i64).map(|n| {
        let file = file.clone();
        async move {
            file.write(move |c| {
                c.execute("INSERT INTO t VALUES (?1)", [n])?;
                match n % 3 {
                    1 => c.execute("INSERT INTO t VALUES ('no number')", []).map(|_| n),
                    2 => panic!("at work"),
                    _ => Ok(n),
                }
            })
            .await
        }
    });
    let results = together(&file, writes.collect()).await;
    for (n, result) in results.iter().enumerate() {
        match n % 3 {
            0 => assert_eq!(*result, Ok(n as i64)),
            _ => assert!(matches!(result, Err(WriteError::Statement(_))), "{result:?}"),
        }
    }
    assert_eq!(stored(&file), [0, 3, 6]);
    assert_eq!(insert(&file, 1).await, Ok(1));
}

#[tokio::test]
async fn a_full_disk_is_said_to_be_one_and_passes() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    let limit = |pages: i64| file.write(move |c| c.pragma_update_and_check(None, "max_page_count", pages, |_| Ok(())));
    limit(1).await.unwrap();
    const MANY: &str = "WITH RECURSIVE s(i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM s WHERE i < 100000)
        INSERT INTO t SELECT i FROM s";
    let many = |c: &Connection| c.execute(MANY, []);
    let error = file.write(many).await.unwrap_err();
    assert!(matches!(error, WriteError::DiskFull(_)), "{error:?}");
    assert!(error.is_transient());
    assert_eq!(stored(&file), Vec::<i64>::new());
    limit(1_000_000).await.unwrap();
    assert_eq!(file.write(many).await, Ok(100_000));
}

#[tokio::test]
async fn a_transaction_that_sqlite_ended_by_itself_fails_for_all_in_it() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    type Work = Box<dyn FnOnce(&Connection) -> rusqlite::Result<()> + Send>;
    let works: Vec<Work> = vec![
        Box::new(|c| c.execute("INSERT INTO t VALUES (1)", []).map(|_| ())),
        // As SQLite does when it runs out of room or memory in the middle of it.
        Box::new(|c| c.execute_batch("ROLLBACK")),
        Box::new(|c| c.execute("INSERT INTO t VALUES (2)", []).map(|_| ())),
    ];
    let writes = works.into_iter().map(|work| {
        let file = file.clone();
        async move { file.write(work).await }
    });
    let results = together(&file, writes.collect()).await;
    assert!(results.iter().all(|result| matches!(result, Err(WriteError::Io(_)))), "{results:?}");
    assert_eq!(stored(&file), Vec::<i64>::new());
    assert_eq!(insert(&file, 3).await, Ok(3));
}

#[tokio::test]
async fn the_directory_is_locked_until_the_writer_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    assert!(DirectoryLock::acquire(directory.path()).is_err());
    let (release, held) = hold(&file).await;
    let closing = tokio::spawn({
        let file = file.clone();
        async move { file.close().await }
    });
    tokio::task::yield_now().await;
    assert!(DirectoryLock::acquire(directory.path()).is_err());
    drop(release);
    closing.await.unwrap();
    held.await.unwrap().unwrap();
    assert!(DirectoryLock::acquire(directory.path()).is_ok());
}

#[test]
fn a_file_of_something_else_or_of_a_newer_version_is_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("t.sqlite");
    Connection::open(&path).unwrap().execute_batch("CREATE TABLE mine (x)").unwrap();
    let error = open_error(directory.path(), SCHEMA);
    assert!(matches!(error, OpenError::Foreign { found: 0, .. }), "{error}");

    Connection::open(&path)
        .unwrap()
        .execute_batch(&format!("PRAGMA application_id = {}; PRAGMA user_version = 2", SCHEMA.application_id))
        .unwrap();
    let error = open_error(directory.path(), SCHEMA);
    assert!(error.to_string().contains("schema version 2, this version of EventPulse knows 1"), "{error}");
    Connection::open(&path).unwrap().execute_batch("PRAGMA user_version = -1").unwrap();
    assert!(matches!(open_error(directory.path(), SCHEMA), OpenError::TooNew { found: -1, .. }));

    std::fs::write(&path, vec![b'x'; 8_192]).unwrap();
    let error = open_error(directory.path(), SCHEMA);
    assert!(error.to_string().contains("t.sqlite"), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), vec![b'x'; 8_192]);
}

#[tokio::test]
async fn a_later_version_migrates_what_an_earlier_one_wrote() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    insert(&file, 5).await.unwrap();
    file.close().await;
    const NEWER: Schema = Schema {
        migrations: &[SCHEMA.migrations[0], "ALTER TABLE t RENAME TO old; CREATE VIEW t AS SELECT n * 2 AS n FROM old"],
        ..SCHEMA
    };
    let lock = Arc::new(DirectoryLock::acquire(directory.path()).unwrap());
    let file = GroupCommit::open(lock, "t.sqlite", NEWER).unwrap();
    assert_eq!(stored(&file), [10]);
}

#[tokio::test]
async fn a_commit_waits_for_the_disk() {
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    let settings = file
        .write(|c| {
            let read = |name: &str| c.pragma_query_value(None, name, |row| row.get::<_, i64>(0));
            Ok((read("synchronous")?, read("auto_vacuum")?))
        })
        .await;
    // FULL and INCREMENTAL.
    assert_eq!(settings, Ok((2, 2)));
}

#[cfg(unix)]
#[tokio::test]
async fn other_users_cannot_read_it() {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().unwrap();
    let file = open(directory.path());
    insert(&file, 1).await.unwrap();
    for name in ["t.sqlite", "t.sqlite-wal"] {
        let mode = std::fs::metadata(directory.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
}

/// SQLite itself would go on, and answer that all is well.
#[tokio::test]
async fn what_is_written_to_a_file_that_was_removed_or_replaced_is_no_success() {
    let remove = |path: &Path| std::fs::remove_file(path).unwrap();
    let replace = |path: &Path| {
        let copy = path.with_extension("copy");
        std::fs::copy(path, &copy).unwrap();
        std::fs::rename(&copy, path).unwrap();
    };
    for (name, replaced) in [("t.sqlite", false), ("t.sqlite", true), ("t.sqlite-wal", false), ("t.sqlite-wal", true)] {
        let directory = tempfile::tempdir().unwrap();
        let file = open(directory.path());
        assert_eq!(insert(&file, 1).await, Ok(1));
        if replaced {
            replace(&directory.path().join(name));
        } else {
            remove(&directory.path().join(name));
        }
        for n in 2..4 {
            let error = insert(&file, n).await.unwrap_err();
            assert_eq!(error, WriteError::Removed(directory.path().join(name)), "{name}");
            assert!(!error.is_transient() && error.to_string().contains("start the process again"), "{error}");
        }
        let before: Vec<_> = std::fs::read_dir(directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
        file.close().await;
        for path in before {
            assert!(path.exists(), "{path:?} may be another process's");
        }
    }
}

#[tokio::test]
async fn a_directory_that_was_removed_takes_nothing_more() {
    let parent = tempfile::tempdir().unwrap();
    let directory = parent.path().join("data");
    let file = open(&directory);
    std::fs::remove_dir_all(&directory).unwrap();
    assert_eq!(insert(&file, 1).await, Err(WriteError::Removed(directory.join("t.sqlite"))));
}
