//! What is accepted while the log does not take it: kept within bounds, relayed in order, removed when the log has it.

use super::*;

#[tokio::test]
async fn while_the_broker_is_away_alerts_are_kept_up_to_the_bound_and_published_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote();
    remote.away.store(true, Ordering::SeqCst);
    let bounded = IngestConfig { outbox_max_alerts: 3, ..config(&dir) };
    let server = start(Arc::clone(&remote), bounded.clone()).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["a", "b"])).await.0, 200);
    let (status, text) = server.post(WEBHOOK, "", &alerts(&["c", "d"])).await;
    assert_eq!((status, text.contains("retry-after: 5")), (503, true), "{text}");
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["e"])).await.0, 200, "there is room for one");
    server.stop().await;
    remote.away.store(false, Ordering::SeqCst);
    let server = start(remote, bounded).await;
    let mut names: Vec<String> = server.logged(3).await.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "e"], "what was accepted is published, what was refused is not");
    for _ in 0..200 {
        if server.post(WEBHOOK, "", &alerts(&["f", "g", "h"])).await.0 == 200 {
            return server.stop().await;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("the outbox is still full");
}

#[tokio::test]
async fn the_outbox_is_bounded_in_bytes_too() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote();
    remote.away.store(true, Ordering::SeqCst);
    let server = start(Arc::clone(&remote), IngestConfig { outbox_max_bytes: 1_500, ..config(&dir) }).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["a"])).await.0, 200);
    let (status, text) = server.post(WEBHOOK, "", &alerts(&[&"x".repeat(1_000)])).await;
    assert_eq!((status, text.contains("of 1500 bytes wait")), (503, true), "{text}");
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["b"])).await.0, 200, "what was refused takes no room");
    let metrics = server.test.ctx.metrics.clone();
    server.stop().await;
    let bytes = |metrics: &Metrics| {
        let text = metrics.encode().unwrap();
        let line = text.lines().find(|line| line.starts_with("eventpulse_outbox_bytes"));
        line.and_then(|line| line.rsplit_once(' ')).map(|(_, value)| value.parse::<u64>().unwrap())
    };
    let held = bytes(&metrics);
    assert!(held > Some(0));
    let server = start(Arc::clone(&remote), config(&dir)).await;
    eventually("counted again after a restart", || bytes(&server.test.ctx.metrics) == held).await;
    remote.away.store(false, Ordering::SeqCst);
    eventually("all is relayed", || bytes(&server.test.ctx.metrics) == Some(0)).await;
    server.stop().await;
}

/// What was accepted stays in the outbox until the log has it.
#[tokio::test]
async fn a_relay_that_removes_before_the_log_has_it_is_noticed() {
    for (mutant, kept) in [(None, 1), (Some(Mutant::RelayedBeforeAcknowledged), 0)] {
        let dir = tempfile::tempdir().unwrap();
        let remote = remote();
        remote.away.store(true, Ordering::SeqCst);
        mutants::choose(mutant);
        let server = start(Arc::clone(&remote), config(&dir)).await;
        assert_eq!(server.post(WEBHOOK, "", &alerts(&["a"])).await.0, 200);
        server.stop().await;
        mutants::choose(None);
        remote.away.store(false, Ordering::SeqCst);
        // Another process on the same directory.
        start(Arc::clone(&remote), config(&dir)).await.stop().await;
        assert_eq!(remote.log.records(Topic::AlertRaised).len(), kept, "{mutant:?}");
    }
}

/// Its sender was told that it is accepted, so it cannot be dropped (promise 1).
#[tokio::test]
async fn an_accepted_alert_that_the_log_refuses_becomes_a_dead_letter() {
    let values: Vec<String> = (0..30).map(|_| "x".repeat(4_000)).collect();
    let mut body: Value = serde_json::from_str(&alerts(&["small", "large", "last"])).unwrap();
    for (i, value) in values.iter().enumerate() {
        body["alerts"][1]["labels"][format!("l{i}")] = json!(value);
    }
    // A letter with 64 KiB of the alert fits, and then only one without any of it.
    for (max_bytes, is_kept) in [(100_000, true), (1_500, false)] {
        let dir = tempfile::tempdir().unwrap();
        let remote = remote();
        remote.max_bytes.store(max_bytes, Ordering::SeqCst);
        let server = start(Arc::clone(&remote), config(&dir)).await;
        let (status, text) = server.post(WEBHOOK, "", &body.to_string()).await;
        assert_eq!((status, text.contains("\"accepted\":3")), (200, true), "{text}");
        let letters = server.letters(1).await;
        assert_eq!(letters.len(), 1);
        assert_eq!((letters[0].reason, letters[0].truncated), (DeadLetterReason::Refused, true));
        assert_eq!(!letters[0].data.is_empty(), is_kept);
        assert!(letters[0].origin.starts_with("alert.raised "), "{}", letters[0].origin);
        let mut names: Vec<String> = server.logged(2).await.into_iter().map(|(name, _)| name).collect();
        names.sort();
        assert_eq!(names, ["last", "small"], "it holds up no other");
        server.stop().await;
    }
}

#[tokio::test]
async fn a_row_that_cannot_be_read_becomes_a_dead_letter() {
    let dir = tempfile::tempdir().unwrap();
    start(remote(), config(&dir)).await.stop().await;
    let file = rusqlite::Connection::open(dir.path().join("ingest.db")).unwrap();
    file.execute("INSERT INTO outbox (entry) VALUES ('{\"id\":1}')", []).unwrap();
    drop(file);
    let server = start(remote(), config(&dir)).await;
    let letters = server.letters(1).await;
    assert_eq!((letters[0].reason, letters[0].data.as_str()), (DeadLetterReason::InvalidData, "eyJpZCI6MX0="));
    server.stop().await;
}

#[tokio::test]
async fn what_waits_for_kafka_goes_to_the_embedded_log_when_that_takes_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote();
    remote.away.store(true, Ordering::SeqCst);
    let server = start(Arc::clone(&remote), config(&dir)).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["a", "b"])).await.0, 200);
    server.stop().await;
    let server = start_local(remote, config(&dir)).await;
    assert_eq!(server.post(WEBHOOK, "", &alerts(&["c"])).await.0, 200);
    let mut names: Vec<String> = server.logged(3).await.into_iter().map(|(name, _)| name).collect();
    names.sort();
    assert_eq!(names, ["a", "b", "c"]);
    server.stop().await;
}

/// A disk that is almost full takes no removals: what was accepted goes to the log all the same, once, and is removed when there is room.
#[tokio::test]
async fn what_cannot_be_removed_holds_up_nothing_and_is_published_once() {
    let dir = tempfile::tempdir().unwrap();
    let remote = remote();
    remote.away.store(true, Ordering::SeqCst);
    let server = start(Arc::clone(&remote), config(&dir)).await;
    let names: Vec<String> = (0..1_200).map(|number| format!("a{number}")).collect();
    for names in names.chunks(100) {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        assert_eq!(server.post(WEBHOOK, "", &alerts(&names)).await.0, 200);
    }
    let file = rusqlite::Connection::open(dir.path().join("ingest.db")).unwrap();
    file.busy_timeout(Duration::from_secs(10)).unwrap();
    file.execute_batch("CREATE TRIGGER full BEFORE DELETE ON outbox BEGIN SELECT RAISE(FAIL, 'no room'); END").unwrap();
    remote.away.store(false, Ordering::SeqCst);
    let on_log = || remote.log.records(Topic::AlertRaised).len();
    eventually("all are on the log", || on_log() >= names.len()).await;
    eventually("it is said", || server.unready("outbox").is_some_and(|why| why.contains("no room"))).await;
    let held = |file: &rusqlite::Connection| {
        file.query_row("SELECT count(*) FROM outbox", [], |row| row.get::<_, u32>(0)).unwrap() as usize
    };
    assert_eq!((on_log(), held(&file)), (names.len(), names.len()));
    file.execute_batch("DROP TRIGGER full").unwrap();
    eventually("all are removed", || held(&file) == 0).await;
    eventually("it is ready", || server.unready("outbox").is_none()).await;
    assert_eq!(on_log(), names.len());
    server.stop().await;
}
