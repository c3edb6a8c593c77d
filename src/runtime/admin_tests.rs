use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

async fn get_text(address: SocketAddr, path: &str) -> (u16, String) {
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    (text[9..12].parse().unwrap(), text)
}

fn admin() -> Admin {
    Admin { health: Health::default(), liveness: Liveness::default(), metrics: Metrics::default() }
}

fn bound() -> (TcpListener, SocketAddr) {
    let listener = bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// On a thread of its own, as in the process.
fn started(admin: &Admin) -> SocketAddr {
    let (listener, address) = bound();
    start(listener, admin.clone()).unwrap();
    address
}

#[tokio::test]
async fn readiness_lists_what_is_missing_and_why() {
    let admin = admin();
    let address = started(&admin);
    let rules = admin.health.service("rules");
    rules.ready("bus");
    rules.not_ready("service", "the first list of rules has not arrived");
    let (status, text) = get_text(address, "/readyz").await;
    assert_eq!(status, 503);
    assert!(text.contains("[-] rules/service: the first list of rules has not arrived"), "{text}");
    assert!(!text.contains("rules/bus"), "{text}");
    rules.ready("service");
    let (status, text) = get_text(address, "/readyz?verbose").await;
    assert_eq!((status, text.contains("[+] rules/bus")), (200, true), "{text}");
    rules.trouble("channels", Some("messages to shop/ops-slack wait".into()));
    let (status, text) = get_text(address, "/readyz").await;
    assert_eq!((status, text.contains("[!] rules/channels: messages to shop/ops-slack wait")), (200, true), "{text}");
    rules.trouble("channels", None);
    assert!(!get_text(address, "/readyz?verbose").await.1.contains("channels"));
    assert_eq!(get_text(address, "/livez").await.0, 200);
    assert_eq!(get_text(address, "/metrics").await.0, 200);
}

#[tokio::test]
async fn one_service_is_asked_by_its_name_and_an_unknown_one_is_told_which_there_are() {
    let admin = admin();
    let address = started(&admin);
    let (ingest, rules) = (admin.health.service("ingest"), admin.health.service("rules"));
    ingest.ready("service");
    for (path, status, says) in [
        ("/readyz/ingest", 200, "ready"),
        ("/readyz/ingest/?verbose", 200, "[+] ingest/service"),
        ("/readyz/rules", 503, "[-] rules/service: starting"),
        ("/readyz/rules?verbose=1&x", 503, "not ready"),
        ("/readyz/process", 404, "this process runs ingest, rules"),
        ("/readyz/notify", 404, "this process runs ingest, rules"),
        ("/readyz/%00%ff", 404, "this process runs ingest, rules"),
        ("/readyz/ingest/rules", 404, "this process runs ingest, rules"),
    ] {
        let (found, text) = get_text(address, path).await;
        assert_eq!((found, text.contains(says)), (status, true), "{path}: {text}");
    }
    rules.ready("service");
    assert_eq!(get_text(address, "/readyz/rules").await.0, 200);
}

/// Whatever the async threads do, whoever asks is told: here none of them is free.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn blocked_threads_are_told_by_a_thread_that_is_not() {
    let admin = admin();
    let address = started(&admin);
    let blocked = std::thread::spawn({
        let liveness = admin.liveness.clone();
        move || {
            let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            let (tasks, _failures) = Tasks::new();
            let ticking = async {
                loop {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            runtime.spawn(liveness.follow("executor", Duration::from_secs(1), ticking));
            runtime.spawn(async {
                std::thread::sleep(Duration::from_secs(5));
            });
            // The other one goes on all the while.
            runtime.block_on(async { tokio::time::sleep(Duration::from_secs(8)).await });
            drop(tasks);
        }
    });
    let mut seen = Vec::new();
    while !blocked.is_finished() {
        let (status, text) = get_text(address, "/livez").await;
        assert_eq!(status == 503, text.contains("[-] executor: it has not moved for"), "{text}");
        if seen.last() != Some(&status) {
            seen.push(status);
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(seen, [200, 503, 200]);
    assert!(get_text(address, "/livez?verbose").await.1.contains("\r\nok\n"));
}

/// Else whoever asks again and again on one connection would keep the place of a probe.
#[tokio::test]
async fn a_connection_is_one_requests() {
    let address = started(&admin());
    let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
    stream.write_all("GET /livez HTTP/1.1\r\nHost: x\r\n\r\n".repeat(2).as_bytes()).await.unwrap();
    let mut text = String::new();
    // The second request is not read, so that its sender may see a reset.
    let _ = stream.read_to_string(&mut text).await;
    assert_eq!(text.matches("HTTP/1.1 200").count(), 1, "{text}");
}

#[tokio::test]
async fn whoever_says_nothing_is_hung_up_on_and_makes_room() {
    let ((listener, address), shutdown) = (bound(), CancellationToken::new());
    let bounds = HttpBounds { connections: 2, header_timeout: Duration::from_millis(300), ..BOUNDS };
    let tasks = Tasks::new().0;
    let server = tokio::spawn(serve_within(bounds, listener, admin(), tasks.clone(), shutdown.clone()));
    let mut silent = Vec::new();
    for _ in 0..3 {
        silent.push(tokio::net::TcpStream::connect(address).await.unwrap());
    }
    // All are hung up on in the end.
    assert_eq!(get_text(address, "/livez").await.0, 200);
    for mut stream in silent {
        let mut text = Vec::new();
        let _ = stream.read_to_end(&mut text).await;
    }
    shutdown.cancel();
    server.await.unwrap();
    tasks.finished().await;
}

/// Whoever begins requests and does not end them keeps nobody out, for however long it may take.
#[tokio::test]
async fn a_probe_is_answered_while_slow_clients_have_every_place() {
    let ((listener, address), shutdown) = (bound(), CancellationToken::new());
    let bounds = HttpBounds { connections: 4, header_timeout: Duration::from_secs(3600), lifetime: None };
    let tasks = Tasks::new().0;
    let server = tokio::spawn(serve_within(bounds, listener, admin(), tasks.clone(), shutdown.clone()));
    let mut slow = Vec::new();
    for head in ["GET /livez HTTP/1.1\r\nHo", "", "GET /metrics HTTP/1.1\r\n"].into_iter().cycle().take(12) {
        let mut stream = tokio::net::TcpStream::connect(address).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    for path in ["/livez", "/metrics", "/livez", "/readyz/nobody", "/livez"] {
        let answer = tokio::time::timeout(Duration::from_secs(60), get_text(address, path)).await;
        let (status, text) = answer.unwrap_or_else(|_| panic!("{path} was kept out"));
        assert!(status == 200 || path == "/readyz/nobody", "{path}: {text}");
    }
    shutdown.cancel();
    server.await.unwrap();
    drop(slow);
    tasks.finished().await;
}
