//! What is wrong with a NotificationChannel.

use super::{ChannelReferences, Problem, SecretFact};
use crate::{
    api::v1alpha1::{NotificationChannel, SecretKeyReference},
    compile::addresses,
    config_status::reason,
    template,
};

/// Every Secret key that the channel refers to, with the field that does.
pub(in crate::config_status) fn secrets(channel: &NotificationChannel) -> Vec<(&'static str, &SecretKeyReference)> {
    let spec = &channel.spec;
    let slack = spec.slack.as_ref().map(|slack| ("spec.slack.webhookURLSecretRef", &slack.webhook_url_secret_ref));
    let webhook = spec.webhook.as_ref();
    let url =
        webhook.and_then(|webhook| webhook.url_secret_ref.as_ref()).map(|secret| ("spec.webhook.urlSecretRef", secret));
    let signing = webhook
        .and_then(|webhook| webhook.signing_secret_ref.as_ref())
        .map(|secret| ("spec.webhook.signingSecretRef", secret));
    let teams = spec.teams.as_ref().map(|teams| ("spec.teams.webhookURLSecretRef", &teams.webhook_url_secret_ref));
    let email = spec.email.iter().flat_map(|email| {
        [
            ("spec.email.caSecretRef", &email.ca_secret_ref),
            ("spec.email.usernameSecretRef", &email.username_secret_ref),
            ("spec.email.passwordSecretRef", &email.password_secret_ref),
        ]
    });
    let email = email.filter_map(|(field, secret)| Some((field, secret.as_ref()?)));
    slack.into_iter().chain(url).chain(signing).chain(teams).chain(email).collect()
}

/// Everything that is wrong with the channel, in the order of its fields.
pub(in crate::config_status) fn channel(channel: &NotificationChannel, references: &ChannelReferences) -> Vec<Problem> {
    let mut problems = Vec::new();
    for (field, SecretKeyReference { name, key }) in secrets(channel) {
        let (reason, message) = match references.get(&(name.clone(), key.clone())) {
            Some(SecretFact::Present) => continue,
            Some(SecretFact::KeyMissing) => {
                (reason::SECRET_KEY_NOT_FOUND, format!("the Secret {name} has no key {key}"))
            }
            Some(SecretFact::Forbidden) => (
                reason::SECRET_FORBIDDEN,
                format!("EventPulse may not read the Secret {name}; its role needs get on secrets here"),
            ),
            Some(SecretFact::Missing) | None => {
                (reason::SECRET_NOT_FOUND, format!("there is no Secret {name} in this namespace"))
            }
        };
        problems.push(Problem::new(field, reason, message));
    }
    if let Some(Err(errors)) = channel.spec.email.as_ref().map(addresses) {
        problems.extend(errors.into_iter().map(Problem::field));
    }
    for (index, template) in channel.spec.templates.iter().enumerate() {
        let texts = [("title", Some(&template.title)), ("body", template.body.as_ref())];
        for (part, text) in texts.into_iter().filter_map(|(part, text)| Some((part, text?))) {
            if let Err(error) = template::check(text) {
                problems.push(Problem::new(
                    format!("spec.templates[{index}].{part}"),
                    reason::INVALID_TEMPLATE,
                    error.to_string(),
                ));
            }
        }
    }
    problems
}
