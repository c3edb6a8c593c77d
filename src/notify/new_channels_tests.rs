//! Mail and Teams through the whole service: mail against a peer that answers as a script says, Teams against the testkit's sink.

use eventpulse_testkit::mail::{Say, SmtpPeer, agreeable};

use super::*;

const FLOW: &str = "/workflows/a/triggers/manual/paths/invoke?api-version=1&sig=xoxsecretxox";

/// A peer that takes everything but what `answer` answers, and the channel `mail` to it and two people.
async fn mail_world(
    timeout: &str,
    answer: impl Fn(&str) -> Option<Say> + Send + Sync + 'static,
) -> (FakeApi, MemoryBus, SmtpPeer) {
    let (api, bus, _) = world(timeout).await;
    let script = move |command: &str| answer(command).unwrap_or_else(|| agreeable(command));
    let peer = SmtpPeer::start(Arc::new(script)).await.unwrap();
    put_mail_channel(&api, "mail", timeout, json!({"host": "127.0.0.1", "port": peer.port(), "tls": "None"}));
    (api, bus, peer)
}

fn put_mail_channel(api: &FakeApi, name: &str, timeout: &str, server: Value) {
    let mut email = json!({"from": "EventPulse <alerts@example.com>", "to": ["a@example.com", "b@example.com"]});
    server.as_object().unwrap().iter().for_each(|(key, value)| email[key] = value.clone());
    put_channel(api, name, json!({"type": "Email", "email": email, "timeout": timeout}));
}

fn mails(peer: &SmtpPeer) -> Vec<String> {
    peer.heard().into_iter().filter(|heard| heard.contains("\r\n")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_becomes_one_mail() {
    let (api, bus, peer) = mail_world("10s", |_| None).await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("mail", "Opened");
    for event in ["a", "a", "b"] {
        running.ask(&request, event).await;
    }
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    running.consumed().await;
    let mails = mails(&peer);
    assert_eq!(mails.len(), 1);
    let id = format!("Message-ID: <{}@example.com>\r\n", request.notification_id);
    assert!(mails[0].contains(&id) && mails[0].contains("Auto-Submitted: auto-generated\r\n"), "{}", mails[0]);
    assert!(peer.heard().contains(&"EHLO example.com".to_owned()));
    assert_eq!((object.spec.tries, object.spec.duplicate_possible, object.spec.last_error), (1, false, None));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mail_whose_answer_was_lost_is_followed_by_a_marked_copy_with_the_same_id() {
    let lost = AtomicBool::new(false);
    let (api, bus, peer) =
        mail_world("10s", move |command| (command == "." && !lost.swap(true, Ordering::SeqCst)).then_some(Say::Close))
            .await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("mail", "Opened");
    running.ask(&request, "a").await;
    let waiting = running.in_phase(&request, NotificationPhase::Waiting).await;
    assert!(waiting.spec.last_error.unwrap().starts_with("SMTP, the message's end:"));
    running.advance(60);
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    assert_eq!((object.spec.tries, object.spec.duplicate_possible), (2, true));
    let mails = mails(&peer);
    let has = |text: &str| mails.iter().map(|mail| mail.contains(text)).collect::<Vec<_>>();
    assert_eq!(has(&format!("Message-ID: <{}@example.com>\r\n", request.notification_id)), [true, true]);
    assert_eq!(has("eventpulse-duplicate-possible: true\r\n"), [false, true]);
    running.stop().await;
}

/// Of many recipients one that is gone costs nobody else the message, and is told of.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_refused_is_named_and_the_others_are_told() {
    let gone = |command: &str| command.starts_with("RCPT TO:<b@").then_some(Say::Lines("550 5.1.1 nobody here"));
    let (api, bus, peer) = mail_world("10s", gone).await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("mail", "Opened");
    running.ask(&request, "a").await;
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    let error = object.spec.last_error.unwrap();
    assert!(error.starts_with("accepted for 1 of 2 recipients, not for b@example.com"), "{error}");
    assert_eq!(mails(&peer).len(), 1);
    running.stop().await;
}

/// A recipient that is refused for now holds the others up for three tries, and no longer.
#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_that_is_refused_for_now_does_not_hold_the_others_up_for_long() {
    let greylisted = |command: &str| command.starts_with("RCPT TO:<b@").then_some(Say::Lines("450 4.2.0 later"));
    let (api, bus, peer) = mail_world("10s", greylisted).await;
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("mail", "Opened");
    running.ask(&request, "a").await;
    for tries in 1..3 {
        let waits =
            || running.object(&request).filter(|found| found.spec.tries == tries && found.spec.sender.is_none());
        until("a try that waits", waits).await;
        assert_eq!(mails(&peer).len(), 0);
        running.advance(60);
    }
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    assert_eq!((object.spec.tries, object.spec.duplicate_possible, mails(&peer).len()), (3, false, 1));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dead_mail_server_holds_up_no_other_channel() {
    let (api, bus, sink) = world("10s").await;
    let peer = SmtpPeer::start(Arc::new(|_: &str| Say::Hang)).await.unwrap();
    put_mail_channel(&api, "mail", "3s", json!({"host": "127.0.0.1", "port": peer.port(), "tls": "None"}));
    let running = Running::start(&api, &bus, 1, 0);
    for i in 0..12 {
        running.ask(&request("mail", &format!("{i}")), "a").await;
    }
    let live = request("ops-slack", "Opened");
    running.ask(&live, "a").await;
    sink.wait_for_on(SLACK, 1, SOON).await.unwrap();
    running.in_phase(&live, NotificationPhase::Delivered).await;
    // Two tries hang; what waits for them is in resources, and its requests are done.
    let hang = || (0..12).filter_map(|i| running.object(&request("mail", &format!("{i}")))).count() == 12;
    until("a resource for each", || hang().then_some(())).await;
    running.stop().await;
}

/// Waits for something that needs the clock to go on; each look moves it by so many seconds.
async fn comes<T>(running: &Running, seconds: i64, mut found: impl FnMut() -> Option<T>) -> T {
    for _ in 0..1500 {
        if let Some(found) = found() {
            return found;
        }
        running.advance(seconds);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("waited in vain while the clock went on");
}

/// What a person can mend is waited for, and said without secrets.
#[tokio::test(flavor = "multi_thread")]
async fn a_mail_channel_that_is_not_right_yet_says_why_and_is_tried_again() {
    let (api, bus, peer) = mail_world("10s", |_| None).await;
    let login = json!({
        "usernameSecretRef": {"name": "smtp", "key": "username"}, "passwordSecretRef": {"name": "smtp", "key": "password"},
    });
    let put = |name: &str, change: Value| {
        let mut server = json!({"host": "127.0.0.1", "port": peer.port(), "tls": "None"});
        change.as_object().unwrap().iter().for_each(|(key, value)| server[key] = value.clone());
        put_mail_channel(&api, name, "10s", server);
    };
    let secret = |password: &str| {
        let data = json!({"username": BASE64.encode("eventpulse"), "password": BASE64.encode(password), "ca": BASE64.encode("no")});
        let metadata = json!({"name": "smtp", "namespace": "shop"});
        api.put(SECRETS, json!({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": data}));
    };
    let running = Running::start(&api, &bus, 1, 0);
    for (i, (change, password, says)) in [
        (json!({"to": ["ops@example.com\r\nBcc: x@example.com"]}), "x", "spec.email.to[0]: a control character"),
        (login.clone(), "", "Secret shop/smtp has no value under the key password"),
        (login.clone(), "\n", "the password in the Secret is empty"),
        (login.clone(), "s3cretword\n", "a password is never sent in plain text"),
        (json!({"tls": "StartTLS"}), "x", "STARTTLS: the server does not offer it"),
        (json!({"tls": "Implicit", "caSecretRef": {"name": "smtp", "key": "ca"}}), "x", "holds no certificate in PEM"),
    ]
    .into_iter()
    .enumerate()
    {
        // Of each its own channel, which the service comes to know when it does.
        let name = format!("mail-{i}");
        secret(password);
        put(&name, change);
        let mut request = request(&name, "Opened");
        request.deadline = at("2026-01-03T12:00:00Z");
        running.ask(&request, "a").await;
        let error = comes(&running, 3, || {
            let error = running.object(&request)?.spec.last_error?;
            error.contains(says).then_some(error)
        })
        .await;
        assert!(!error.contains("s3cretword"), "{error}");
        assert_eq!(mails(&peer).len(), i, "nothing goes out before it is mended");
        put(&name, json!({}));
        let delivered = || running.object(&request).filter(|object| object.spec.phase == NotificationPhase::Delivered);
        comes(&running, 30, delivered).await;
    }
    assert!(!peer.heard().iter().any(|line| line.contains("AUTH") || line.contains("s3cretword")));
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_teams_workflow_gets_one_card_and_its_url_stays_secret() {
    let (api, bus, sink) = world("10s").await;
    put_secret(&api, "teams", "url", &format!("{}\n", sink.url(FLOW)));
    let reference = json!({"name": "teams", "key": "url"});
    put_channel(&api, "teams", json!({"type": "Teams", "teams": {"webhookURLSecretRef": reference}}));
    let path = FLOW.split('?').next().unwrap();
    sink.script(path, [Answer::status(429).header("Retry-After", "30"), Answer::status(502)]);
    let running = Running::start(&api, &bus, 1, 0);
    let request = request("teams", "Opened");
    running.ask(&request, "a").await;
    let due = running.in_phase(&request, NotificationPhase::Waiting).await.spec.due.unwrap();
    assert!((at("2026-01-01T12:00:30Z")..=at("2026-01-01T12:00:31Z")).contains(&due), "{due}");
    running.advance(40);
    sink.wait_for_on(FLOW, 2, SOON).await.unwrap();
    running.in_phase(&request, NotificationPhase::Waiting).await;
    running.advance(60);
    let object = running.in_phase(&request, NotificationPhase::Delivered).await;
    let received = sink.received_on(FLOW);
    assert_eq!((received.len(), received[2].answered), (3, Some(202)), "{:?}", object.spec.last_error);
    assert_eq!(marks(&received), [false, false, true]);
    assert!(received[2].json().to_string().contains("possibly a repetition"));
    assert_eq!(sink.count_by_key(), [(request.notification_id.to_string(), 3)].into());
    // What a workflow refuses for good may repeat its URL.
    sink.always(path, Some(Answer::status(400).body("no trigger at sig=xoxsecretxox")));
    let second = super::request("teams", "Again");
    running.ask(&second, "a").await;
    running.advance(60);
    let failed = || running.object(&second).filter(|found| found.spec.phase == NotificationPhase::Failed);
    let error = comes(&running, 30, failed).await.spec.last_error.unwrap();
    assert!(error.contains("HTTP 400") && !error.contains("xoxsecretxox"), "{error}");
    running.stop().await;
}
