//! Against a peer that answers as a script says; TLS and login are tried on a real server (`tests/mail_on_a_real_server.rs`).

use std::{sync::Arc, time::Instant};

use eventpulse_testkit::mail::{Say, SmtpPeer, agreeable};

use super::*;

const SHORT: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_secs(30);

fn server(peer: &SmtpPeer, tls: EmailTLS) -> MailServer {
    let hello_name = "eventpulse.test".into();
    MailServer { host: "127.0.0.1".into(), port: peer.port(), tls, ca: None, login: None, hello_name }
}

fn mail(waits_for_all: bool) -> Mail {
    let address = |text: &str| text.parse().unwrap();
    Mail {
        from: address("alerts@example.com"),
        recipients: vec![address("a@example.com"), address("b@example.com")],
        content: b"Subject: x\r\n\r\nfirst\r\n.\r\n..two\r\nRCPT TO:<evil@example.com>\r\n".to_vec(),
        waits_for_all,
    }
}

async fn peer(answer: impl Fn(&str) -> Option<Say> + Send + Sync + 'static) -> SmtpPeer {
    SmtpPeer::start(Arc::new(move |command| answer(command).unwrap_or_else(|| agreeable(command)))).await.unwrap()
}

/// What comes of a message when the command that begins like this is answered so.
async fn outcome(at: &'static str, say: Say, timeout: Duration) -> (Outcome, Vec<String>) {
    let peer = peer(move |command| command.starts_with(at).then(|| say.clone())).await;
    let outcome = SmtpClient::default().send(&server(&peer, EmailTLS::None), &mail(true), timeout).await;
    (outcome, peer.heard())
}

#[tokio::test]
async fn a_message_goes_out_whole_and_its_dots_end_nothing() {
    let peer = peer(|_| None).await;
    let outcome = SmtpClient::default().send(&server(&peer, EmailTLS::None), &mail(true), LONG).await;
    assert_eq!(outcome, Outcome::Delivered);
    let heard = peer.heard();
    assert_eq!(
        heard[..5],
        [
            "EHLO eventpulse.test",
            "MAIL FROM:<alerts@example.com>",
            "RCPT TO:<a@example.com>",
            "RCPT TO:<b@example.com>",
            "DATA"
        ]
    );
    // Dots at the beginning of a line are doubled (RFC 5321, section 4.5.2), and what follows is still the message.
    assert_eq!(heard[5], "Subject: x\r\n\r\nfirst\r\n..\r\n...two\r\nRCPT TO:<evil@example.com>\r\n\r\n.\r\n");
    assert_eq!(heard[6..], ["QUIT"]);
}

/// The table of `docs/notifications.md`: each kind of answer at each point of the conversation.
#[tokio::test]
async fn an_answer_means_what_the_documentation_says() {
    let (now, good) = (Say::Lines("451 4.3.0 try again later"), Say::Lines("554 5.7.1 no"));
    for (at, say, wanted) in [
        ("CONNECT", &now, "Refused"),
        ("CONNECT", &good, "Refused"),
        ("CONNECT", &Say::Close, "Refused"),
        ("CONNECT", &Say::Lines("hello, I am a web server"), "Refused"),
        ("EHLO", &good, "Refused"),
        ("MAIL", &now, "Refused"),
        ("MAIL", &good, "Rejected"),
        ("MAIL", &Say::Close, "Refused"),
        ("RCPT", &now, "Refused"),
        ("RCPT", &good, "Rejected"),
        ("DATA", &now, "Refused"),
        ("DATA", &good, "Rejected"),
        ("DATA", &Say::Close, "Refused"),
        (".", &now, "Refused"),
        (".", &good, "Rejected"),
        (".", &Say::Close, "Unknown"),
        (".", &Say::Lines("what?"), "Unknown"),
        (".", &Say::Lines("421 4.3.2 shutting down"), "Refused"),
        ("QUIT", &Say::Close, "Delivered"),
        ("QUIT", &good, "Delivered"),
    ] {
        let (outcome, heard) = outcome(at, say.clone(), LONG).await;
        assert!(format!("{outcome:?}").starts_with(wanted), "{at} {say:?}: {outcome:?} after {heard:?}");
    }
}

/// A server that says nothing costs its own try and no more; only one that has the whole message leaves a doubt.
#[tokio::test]
async fn a_server_that_hangs_is_given_up() {
    for (at, wanted) in
        [("CONNECT", "Refused"), ("EHLO", "Refused"), ("MAIL", "Refused"), ("DATA", "Refused"), (".", "Unknown")]
    {
        let begin = Instant::now();
        let (outcome, _) = outcome(at, Say::Hang, SHORT).await;
        assert!(format!("{outcome:?}").starts_with(wanted), "{at}: {outcome:?}");
        assert!(format!("{outcome:?}").contains("no answer within 700 ms"), "{at}: {outcome:?}");
        assert!(begin.elapsed() < LONG, "{at}");
    }
    // After the message was taken, goodbyes are not waited for.
    assert_eq!(outcome("QUIT", Say::Hang, SHORT).await.0, Outcome::Delivered);
}

#[tokio::test]
async fn nobody_there_is_no_doubt() {
    let gone = SmtpPeer::start(Arc::new(agreeable)).await.unwrap();
    let server = server(&gone, EmailTLS::StartTLS);
    drop(gone);
    tokio::task::yield_now().await;
    let outcome = SmtpClient::default().send(&server, &mail(true), LONG).await;
    assert!(matches!(&outcome, Outcome::Refused { reason, .. } if reason.contains("connect")), "{outcome:?}");
}

/// Nothing is sent with less protection than was asked for, whoever stands in the way.
#[tokio::test]
async fn without_starttls_nothing_is_sent() {
    let peer = peer(|_| None).await;
    let outcome = SmtpClient::default().send(&server(&peer, EmailTLS::StartTLS), &mail(true), LONG).await;
    let Outcome::Refused { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(reason.contains("STARTTLS: the server does not offer it") && reason.contains("spec.email.tls"), "{reason}");
    assert_eq!(peer.heard(), ["EHLO eventpulse.test"]);
}

/// Somebody on the way appends answers to the one before TLS: they must not count as the server's from within TLS.
#[tokio::test]
async fn answers_that_were_slipped_in_before_tls_end_the_try() {
    for slipped in [
        "220 go\r\n250-peer.test\r\n250 AUTH PLAIN\r\n250 ok\r\n250 ok\r\n250 ok\r\n354 go on\r\n250 taken",
        "220 go\r\n250 ok",
    ] {
        let peer = peer(move |command| match command {
            command if command.starts_with("EHLO") => Some(Say::Lines("250-peer.test\r\n250 STARTTLS")),
            "STARTTLS" => Some(Say::Lines(slipped)),
            _ => None,
        })
        .await;
        let outcome = SmtpClient::default().send(&server(&peer, EmailTLS::StartTLS), &mail(true), LONG).await;
        let Outcome::Refused { reason, .. } = outcome else { panic!("{outcome:?}") };
        assert!(reason.contains("STARTTLS"), "{reason}");
        assert!(!peer.heard().iter().any(|line| line.contains("MAIL FROM")), "{:?}", peer.heard());
    }
}

/// One stale address must not silence an incident for all others.
#[tokio::test]
async fn a_message_reaches_those_who_are_accepted() {
    for (waits_for_all, second, wanted) in [
        (true, "550 5.1.1 nobody here", "DeliveredInPart"),
        (false, "550 5.1.1 nobody here", "DeliveredInPart"),
        (true, "450 4.2.0 greylisted", "Refused"),
        (false, "450 4.2.0 greylisted", "DeliveredInPart"),
    ] {
        let peer = peer(move |command| command.starts_with("RCPT TO:<b@").then_some(Say::Lines(second))).await;
        let outcome = SmtpClient::default().send(&server(&peer, EmailTLS::None), &mail(waits_for_all), LONG).await;
        let text = format!("{outcome:?}");
        assert!(text.starts_with(wanted), "{second} {waits_for_all}: {text}");
        assert!(text.contains("b@example.com") && !text.contains("not for a@"), "{text}");
        assert_eq!(peer.heard().iter().any(|line| line == "DATA"), wanted == "DeliveredInPart");
    }
}

#[test]
fn secrets_are_masked_in_every_form_that_a_server_may_repeat() {
    let login = Login { username: Secret::new("eventpulse"), password: Secret::new("pass/word&1") };
    let server = MailServer {
        host: "h".into(),
        port: 1,
        tls: EmailTLS::Implicit,
        ca: None,
        login: Some(login),
        hello_name: "x".into(),
    };
    let text = format!(
        "535 no {} {} {} pass/word&1 of eventpulse\u{7}\u{1b}[31m, pass/w\r\nord&1",
        BASE64.encode("\0eventpulse\0pass/word&1"),
        BASE64.encode("pass/word&1"),
        BASE64.encode("eventpulse")
    );
    let shown = shown(&text, &server);
    assert_eq!(shown, "535 no *** *** *** *** of ***[31m, ***");
    assert!(!format!("{server:?}").contains("word&1") && !format!("{server:?}").contains("eventpulse"));
}

#[test]
fn of_more_servers_than_are_kept_all_are_read_anew() {
    let client = SmtpClient::default();
    for number in 0..=TLS_MAX {
        let host = format!("mail-{number}.example.com");
        let hello_name = "eventpulse.test".into();
        let server = MailServer { host, port: 25, tls: EmailTLS::StartTLS, ca: None, login: None, hello_name };
        assert!(client.tls_of(&server).is_ok());
        assert!(client.lock().len() <= TLS_MAX, "{number}");
    }
    assert_eq!(client.lock().len(), 1);
}
