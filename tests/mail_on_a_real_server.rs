//! The way out for mail before a real mail server (Mailpit): STARTTLS, TLS from the first byte, logging in, and what happens when the
//! certificate, the password or the protection is not what it should be.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use eventpulse::{
    api::v1alpha1::EmailTLS,
    notify::{
        deliver::Outcome,
        http::Secret,
        smtp::{Login, Mail, MailServer, MailTransport, SmtpClient},
    },
};
use eventpulse_env::{Environment, MailOptions, MailTls};
use eventpulse_testkit::mail::taken;

/// How long a try may take; it takes milliseconds.
const TIMEOUT: Duration = Duration::from_secs(60);
const PASSWORD: &str = "s3cret-pass/word";

struct Place {
    port: u16,
    ca: String,
    url: String,
}

async fn start(environment: &mut Environment, name: &str, options: MailOptions) -> Place {
    let server = environment.start_mail_server(name, &options).await.unwrap();
    Place { port: server.port(), ca: server.ca_pem(), url: server.url() }
}

fn login(password: &str) -> Option<Login> {
    Some(Login { username: Secret::new("eventpulse"), password: Secret::new(password) })
}

fn server(place: &Place, tls: EmailTLS, ca: &str, login: Option<Login>) -> MailServer {
    let ca = (!ca.is_empty()).then(|| ca.as_bytes().to_vec());
    MailServer { host: "localhost".into(), port: place.port, tls, ca, login, hello_name: "eventpulse.test".into() }
}

async fn send(server: &MailServer, subject: &str) -> Outcome {
    let mail = Mail {
        from: "alerts@example.com".parse().unwrap(),
        recipients: vec!["ops@example.com".parse().unwrap()],
        content: format!("Subject: {subject}\r\nFrom: alerts@example.com\r\n\r\nfirst\r\n.\r\n.last\r\n").into_bytes(),
        waits_for_all: true,
    };
    SmtpClient::default().send(server, &mail, TIMEOUT).await
}

fn assert_refused(outcome: &Outcome, says: &[&str]) {
    let Outcome::Refused { reason, .. } = outcome else { panic!("{outcome:?}") };
    assert!(says.iter().all(|part| reason.contains(part)), "{reason} does not say {says:?}");
    assert!(!reason.contains(PASSWORD), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn mail_is_delivered_with_the_protection_that_was_asked_for_and_with_no_less() {
    let mut environment = Environment::builder("smtp").start().await.unwrap();
    let users = || Some(("eventpulse".to_owned(), PASSWORD.to_owned()));
    let options = |tls, login| MailOptions { tls, login, recipients: None };
    let starttls = start(&mut environment, "starttls", options(MailTls::StartTls, None)).await;
    let with_login = start(&mut environment, "login", options(MailTls::StartTls, users())).await;
    let implicit = start(&mut environment, "implicit", options(MailTls::Implicit, users())).await;
    let plain = start(&mut environment, "plain", options(MailTls::None, None)).await;

    // As it should be.
    for (place, tls, ca, login, subject) in [
        (&starttls, EmailTLS::StartTLS, starttls.ca.as_str(), None, "by STARTTLS"),
        (&with_login, EmailTLS::StartTLS, &with_login.ca, login(PASSWORD), "by STARTTLS with a login"),
        (&implicit, EmailTLS::Implicit, &implicit.ca, login(PASSWORD), "by TLS with a login"),
        (&plain, EmailTLS::None, "", None, "in plain text"),
    ] {
        assert_eq!(send(&server(place, tls, ca, login), subject).await, Outcome::Delivered, "{subject}");
        let mails = taken(&place.url).await;
        assert_eq!(mails.len(), 1, "{subject}");
        assert_eq!(mails[0].header("Subject").as_deref(), Some(subject));
        assert_eq!(mails[0].text.replace("\r\n", "\n").trim_end(), "first\n.\n.last");
    }

    // Not as it should be.
    let stranger = implicit.ca.as_str();
    let outcome = send(&server(&starttls, EmailTLS::StartTLS, stranger, None), "x").await;
    assert_refused(&outcome, &["SMTP, STARTTLS", "invalid peer certificate"]);
    let outcome = send(&server(&implicit, EmailTLS::Implicit, &starttls.ca, login(PASSWORD)), "x").await;
    assert_refused(&outcome, &["SMTP, connect", "invalid peer certificate"]);
    // The machine's own authorities do not vouch for it either.
    let outcome = send(&server(&starttls, EmailTLS::StartTLS, "", None), "x").await;
    assert_refused(&outcome, &["certificate"]);
    let outcome = send(&server(&plain, EmailTLS::StartTLS, &starttls.ca, None), "x").await;
    assert_refused(&outcome, &["the server does not offer it", "spec.email.tls"]);
    let outcome = send(&server(&plain, EmailTLS::Implicit, &starttls.ca, login(PASSWORD)), "x").await;
    assert_refused(&outcome, &["SMTP, connect"]);
    let outcome = send(&server(&plain, EmailTLS::None, "", login(PASSWORD)), "x").await;
    assert_refused(&outcome, &["never sent in plain text"]);
    // A server that offers no login is not given one.
    let outcome = send(&server(&starttls, EmailTLS::StartTLS, &starttls.ca, login(PASSWORD)), "x").await;
    assert_refused(&outcome, &["SMTP, log in"]);
    for wrong in [
        server(&with_login, EmailTLS::StartTLS, &with_login.ca, login("wrong-word")),
        server(&with_login, EmailTLS::StartTLS, &with_login.ca, None),
        server(&starttls, EmailTLS::None, "", None),
    ] {
        let outcome = send(&wrong, "x").await;
        let Outcome::Rejected { reason } = &outcome else { panic!("{outcome:?}") };
        assert!(reason.contains('5') && !reason.contains("wrong-word"), "{reason}");
    }
    for place in [&starttls, &with_login, &implicit, &plain] {
        assert_eq!(taken(&place.url).await.len(), 1, "something went out that should not");
    }
    environment.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_away_costs_a_try_and_takes_the_next_one() {
    let mut environment = Environment::builder("smtp-away").start().await.unwrap();
    let options = MailOptions { recipients: Some("^ops@".into()), ..MailOptions::default() };
    let place = start(&mut environment, "mail", options).await;
    let there = server(&place, EmailTLS::StartTLS, &place.ca, None);
    environment.mail_server_mut("mail").stop().await;
    assert_refused(&send(&there, "x").await, &["SMTP, connect", "refused"]);
    environment.mail_server_mut("mail").restart().await.unwrap();
    assert_eq!(send(&there, "back").await, Outcome::Delivered);
    // A recipient that the server does not know.
    let mail = Mail {
        from: "alerts@example.com".parse().unwrap(),
        recipients: ["gone@example.com", "ops@example.com"].map(|text| text.parse().unwrap()).to_vec(),
        content: b"Subject: in part\r\n\r\nx\r\n".to_vec(),
        waits_for_all: true,
    };
    let outcome = SmtpClient::default().send(&there, &mail, TIMEOUT).await;
    let Outcome::DeliveredInPart { reason } = &outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("accepted for 1 of 2 recipients, not for gone@example.com"), "{reason}");
    let subjects: Vec<String> = taken(&place.url).await.into_iter().map(|mail| mail.subject).collect();
    assert_eq!(subjects, ["back", "in part"]);
    environment.stop().await;
}
