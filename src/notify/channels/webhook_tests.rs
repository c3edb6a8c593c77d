//! The body, and the keys of signatures.

use super::*;
use crate::{
    events::NamespacedName,
    notify::testing::{noon, spec},
};

/// `docs/notifications.md` shows this body.
#[test]
fn the_body_is_as_documented() {
    let name = NamespacedName { namespace: "shop".into(), name: "ntf-1".into() };
    let mut spec = spec();
    spec.context.target = Some("Deployment/svc-a".into());
    let body = payload(Message { name: &name, spec: &spec, templates: &[], now: noon() });
    let keys = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>().join(" ");
    assert_eq!(
        keys(&body),
        "context decidedAt duplicatePossible event incident message notificationID occurrence template version"
    );
    assert_eq!(
        keys(&body["incident"]),
        "alertCount alerts correlationID incidentID namespace openedAt rule severity summary"
    );
    assert_eq!((keys(&body["message"]), keys(&body["context"])), ("body title".into(), "repetition target".into()));
    assert_eq!(body["incident"]["alerts"][0]["state"], "Firing");
    assert_eq!((body["version"].as_str(), body["event"].as_str()), (Some("1"), Some("Opened")));
    spec.template = "None".into();
    let body = payload(Message { name: &name, spec: &spec, templates: &[], now: noon() });
    assert_eq!(body["message"]["note"], "there is no template None on the channel");
}

/// The example of the Standard Webhooks specification's reference libraries.
#[test]
fn a_signature_is_that_of_standard_webhooks() {
    let key = SigningKey::new(b"whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw").unwrap();
    let signature = key.sign("msg_p5jXN8AQM9LWM0D4loKWxJek", 1_614_265_330, br#"{"test": 2432232314}"#).unwrap();
    assert_eq!(signature, "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=");
}

#[test]
fn a_key_is_its_bytes_but_for_the_newline_of_a_file() {
    let sign = |value: &[u8]| SigningKey::new(value).map(|key| key.sign("id", 1, b"body").unwrap());
    let plain = sign(b"s3cret").unwrap();
    assert_eq!(sign(b"s3cret\n").as_ref(), Some(&plain));
    assert_eq!(sign(b"s3cret\r\n").as_ref(), Some(&plain));
    assert_ne!(sign(b"s3cret\n\n").as_ref(), Some(&plain));
    assert_ne!(sign(b" s3cret").as_ref(), Some(&plain));
    assert!(sign(b"whsec_not base 64!").is_some(), "then it is the key itself");
    assert_eq!([sign(b""), sign(b"\n"), sign(b"whsec_")], [None, None, None]);
    assert!(sign(&[0xff; 200]).is_some());
}
