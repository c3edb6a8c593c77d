//! (o) People are told by mail and in Teams: over real mail servers, once, and never with less protection than was asked for.

use eventpulse_e2e::{START, Shop};
use eventpulse_env::{MailOptions, MailTls};
use eventpulse_testkit::{
    alerts::{Alert, webhook},
    mail::{CuttingRelay, Taken, taken},
    sink::Received,
};
use jiff::Timestamp;
use serde_json::{Value, json};

const PASSWORD: &str = "s3cret-pass/word";
const FLOW: &str = "/workflows/a/triggers/manual/paths/invoke?sig=xoxsecretxox";
/// Each is told of the one incident.
const CHANNELS: [&str; 6] = ["starttls", "implicit", "stranger", "away", "cut", "teams"];

struct Place {
    port: u16,
    url: String,
    ca: String,
}

async fn mail_server(shop: &mut Shop, name: &str, tls: MailTls) -> Place {
    let login = (tls != MailTls::None).then(|| ("eventpulse".to_owned(), PASSWORD.to_owned()));
    let options = MailOptions { tls, login, recipients: None };
    let server = shop.environment.start_mail_server(name, &options).await.unwrap();
    Place { port: server.port(), url: server.url(), ca: server.ca_pem() }
}

fn channel(name: &str, place: &Place, port: u16, tls: &str, ca: &str) -> Value {
    let mut email = json!({
        "host": "localhost", "port": port, "tls": tls, "from": "EventPulse <eventpulse@shop.example>", "to": ["ops@shop.example"],
    });
    if !place.ca.is_empty() {
        let of = |key: &str| json!({"name": "mail", "key": key});
        email["caSecretRef"] = of(ca);
        email["usernameSecretRef"] = of("username");
        email["passwordSecretRef"] = of("password");
    }
    json!({
        "apiVersion": "eventpulse.io/v1alpha1", "kind": "NotificationChannel", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"type": "Email", "email": email},
    })
}

/// The Secrets and channels, and the rule that names them all.
fn furnish(shop: &Shop, starttls: &Place, implicit: &Place, away: &Place, plain: &Place, relay: &CuttingRelay) {
    let secret = |name: &str, data: Value| {
        json!({
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": "shop"}, "stringData": data,
        })
    };
    let mail = json!({
        "username": "eventpulse", "password": PASSWORD, "starttls": starttls.ca, "implicit": implicit.ca, "away": away.ca,
    });
    let teams = json!({"type": "Teams", "teams": {"webhookURLSecretRef": {"name": "teams", "key": "url"}}});
    let objects = [
        secret("mail", mail),
        secret("teams", json!({"url": shop.sink.url(FLOW)})),
        channel("starttls", starttls, starttls.port, "StartTLS", "starttls"),
        channel("implicit", implicit, implicit.port, "Implicit", "implicit"),
        // The right server, and an authority that does not vouch for it.
        channel("stranger", starttls, starttls.port, "StartTLS", "implicit"),
        channel("away", away, away.port, "StartTLS", "away"),
        channel("cut", plain, relay.port(), "None", ""),
        json!({
            "apiVersion": "eventpulse.io/v1alpha1", "kind": "NotificationChannel",
            "metadata": {"name": "teams", "namespace": "shop"}, "spec": teams,
        }),
    ];
    let text: Vec<String> = objects.iter().map(Value::to_string).collect();
    shop.environment.plane().apply(&text.join("\n---\n")).unwrap();
    let told =
        CHANNELS.map(|name| json!({"channelRef": {"name": name}, "template": "IncidentOpened", "events": ["Opened"]}));
    shop.patch("rule/cpu-high", &json!({"spec": {"notifications": told}}).to_string()).unwrap();
}

/// The message's resource for a channel.
fn notification(shop: &Shop, channel: &str) -> Option<Value> {
    shop.get("notifications").into_iter().find(|found| found["spec"]["channelRef"]["name"] == channel)
}

async fn delivered(shop: &Shop, channel: &str) -> Value {
    let done = || notification(shop, channel).filter(|found| found["spec"]["phase"] == "Delivered");
    shop.wait_for(&format!("the message for {channel}"), done).await
}

/// That of a channel which waits, with why.
async fn waits(shop: &Shop, channel: &str, why: &str) -> Value {
    let waits = || {
        notification(shop, channel)
            .filter(|found| found["spec"]["lastError"].as_str().is_some_and(|error| error.contains(why)))
    };
    shop.wait_for(&format!("{channel} waits: {why}"), waits).await
}

fn id_of(notification: &Value) -> String {
    format!("<{}@shop.example>", notification["metadata"]["name"].as_str().unwrap())
}

fn headers(mails: &[Taken], name: &str) -> Vec<Option<String>> {
    mails.iter().map(|mail| mail.header(name)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn o_people_are_told_by_mail_and_in_teams_once_and_never_in_plain_text() {
    let mut shop = Shop::open("e2e-o", false).await.unwrap();
    let starttls = mail_server(&mut shop, "mail-starttls", MailTls::StartTls).await;
    let implicit = mail_server(&mut shop, "mail-implicit", MailTls::Implicit).await;
    let away = mail_server(&mut shop, "mail-away", MailTls::StartTls).await;
    let plain = mail_server(&mut shop, "mail-plain", MailTls::None).await;
    let relay = CuttingRelay::before(plain.port, 1).await.unwrap();
    // Stopped in order: it is not taken for one that has died.
    shop.environment.mail_server_mut("mail-away").stop().await;
    furnish(&shop, &starttls, &implicit, &away, &plain, &relay);
    let eventpulse = shop.launcher("eventpulse").start(START).await.unwrap();
    let alert = Alert::cpu_high("svc-a", Timestamp::now());
    assert!(eventpulse.post("webhooks/alertmanager", &webhook(&[alert])).await.unwrap().is_success());

    // The main job, and one mail of each server.
    let incident = shop.incidents_in(1, &["Resolved"]).await.remove(0);
    assert_eq!(shop.replicas("svc-a"), 4);
    let thread = format!("<{}@shop.example>", incident["metadata"]["name"].as_str().unwrap());
    for (name, place) in [("starttls", &starttls), ("implicit", &implicit)] {
        let object = delivered(&shop, name).await;
        assert_eq!((&object["spec"]["tries"], &object["spec"]["duplicatePossible"]), (&json!(1), &json!(false)));
        let mails = taken(&place.url).await;
        assert_eq!(headers(&mails, "Message-ID"), [Some(id_of(&object))], "{name}");
        assert_eq!(headers(&mails, "References"), [Some(thread.clone())]);
        assert_eq!(headers(&mails, "Auto-Submitted"), [Some("auto-generated".to_owned())]);
        assert_eq!(mails[0].subject, "Incident opened: CPU of svc-a above 90 % for 5 minutes");
        assert!(mails[0].text.contains("Rule: shop/cpu-high"), "{}", mails[0].text);
    }

    // Cut off after the server had it: a second copy, marked, with the same Message-ID.
    let object = delivered(&shop, "cut").await;
    assert_eq!(object["spec"]["duplicatePossible"], true, "{object:#}");
    let mails = taken(&plain.url).await;
    assert_eq!(headers(&mails, "Message-ID"), [Some(id_of(&object)), Some(id_of(&object))]);
    assert_eq!(headers(&mails, "EventPulse-Duplicate-Possible"), [None, Some("true".to_owned())]);
    assert!(!mails[0].text.contains("repetition") && mails[1].text.contains("possibly a repetition"));
    assert_eq!(relay.cuts_left(), 0);

    // A card in Teams.
    delivered(&shop, "teams").await;
    let cards: Vec<Received> = shop.sink.received_on(FLOW);
    assert_eq!((cards.len(), cards[0].answered), (1, Some(202)));

    // An authority that does not vouch for the server: nothing is sent, and it is said why.
    waits(&shop, "stranger", "invalid peer certificate").await;
    // A server that is away: told when it is back, once.
    waits(&shop, "away", "SMTP, connect:").await;
    shop.environment.mail_server_mut("mail-away").restart().await.unwrap();
    let object = delivered(&shop, "away").await;
    assert!(object["spec"]["tries"].as_i64() > Some(1), "{object:#}");
    let mails = taken(&away.url).await;
    assert_eq!(headers(&mails, "Message-ID"), [Some(id_of(&object))]);
    assert_eq!(headers(&mails, "EventPulse-Duplicate-Possible"), [None], "nothing was sent before");

    let stranger = waits(&shop, "stranger", "invalid peer certificate").await;
    assert_eq!(stranger["spec"]["phase"], "Waiting");
    assert_eq!(taken(&starttls.url).await.len(), 1, "nothing for the stranger");
    let readiness = eventpulse_testkit::client::get(&eventpulse.admin_url("readyz?verbose")).await.unwrap();
    assert!(readiness.is_success() && readiness.text().contains("shop/stranger"), "{}", readiness.text());

    // No secret anywhere that people look.
    let log = eventpulse.process().log();
    let objects: Vec<Value> =
        ["notifications", "notificationchannels", "incidents"].iter().flat_map(|kind| shop.get(kind)).collect();
    for text in [log, json!(objects).to_string(), readiness.text()] {
        assert!(!text.contains(PASSWORD) && !text.contains("xoxsecretxox"), "{text}");
    }
    assert!(eventpulse.stop(START).await);
    shop.environment.stop().await;
}
