//! What a try needs, from what people wrote: the channel, its templates, and the values of its Secrets.

use std::{sync::Arc, time::Duration};

use super::{
    channels::{Channel, Email, SigningKey, Slack, Teams, Webhook},
    http::Secret,
    sender::{Sender, channel_of},
    smtp::{Login, MailServer},
};
use crate::{
    api::v1alpha1::{
        ChannelType, EmailChannel, EmailTLS, MessageTemplate, NotificationChannelSpec, NotificationSpec,
        SecretKeyReference, WebhookChannel,
    },
    compile::addresses,
    events::NamespacedName,
};

/// Everything that a try needs.
pub(super) struct Prepared {
    pub channel: Box<dyn Channel>,
    pub templates: Vec<MessageTemplate>,
    pub timeout: Duration,
    /// Whether its secrets were read just now.
    pub fresh: bool,
}

/// Reads the Secrets of one namespace, and remembers whether all were read just now.
struct Reader<'a> {
    sender: &'a Sender,
    namespace: &'a str,
    fresh: bool,
}

impl Reader<'_> {
    async fn bytes(&mut self, reference: &SecretKeyReference) -> Result<Vec<u8>, String> {
        let value = self.sender.secrets.get(self.namespace, reference).await?;
        self.fresh &= value.fresh;
        Ok(value.bytes)
    }

    /// A password may begin and end with spaces, but not with the newline that files end with.
    async fn password(&mut self, reference: &SecretKeyReference) -> Result<Secret, String> {
        match std::str::from_utf8(&self.bytes(reference).await?).map(|text| text.trim_end_matches(['\r', '\n'])) {
            Ok("") => Err("the password in the Secret is empty".into()),
            Ok(text) if !text.contains('\0') => Ok(Secret::new(text)),
            _ => Err("the password in the Secret is no text".into()),
        }
    }

    /// Without the white space around it, such as the newline that files end with. `what` names it for people.
    async fn text(&mut self, what: &str, reference: &SecretKeyReference) -> Result<Secret, String> {
        match std::str::from_utf8(&self.bytes(reference).await?).map(str::trim) {
            Ok("") => Err(format!("{what} in the Secret is empty")),
            Ok(text) => Ok(Secret::new(text)),
            Err(_) => Err(format!("{what} in the Secret is no text")),
        }
    }
}

impl Sender {
    /// What the next try of a notification needs, or what is missing, which a person can mend.
    pub async fn prepare(&self, name: &NamespacedName, view: &NotificationSpec) -> Result<Prepared, String> {
        let channel_name = channel_of(name, view);
        let missing = || format!("NotificationChannel {channel_name} is not there");
        let channel = self.channels.get(&channel_name).ok_or_else(missing)?;
        let spec = &channel.spec;
        let timeout = spec.timeout.as_std().clamp(Duration::from_millis(100), Duration::from_secs(300));
        let mut reader = Reader { sender: self, namespace: &name.namespace, fresh: true };
        let channel = self.channel(&channel_name, spec, &mut reader).await?;
        Ok(Prepared { channel, templates: spec.templates.clone(), timeout, fresh: reader.fresh })
    }

    async fn channel(
        &self,
        name: &NamespacedName,
        spec: &NotificationChannelSpec,
        reader: &mut Reader<'_>,
    ) -> Result<Box<dyn Channel>, String> {
        let http = Arc::clone(&self.outside.http);
        let incomplete = || format!("NotificationChannel {name} has no member for its type");
        Ok(match spec.r#type {
            ChannelType::Slack => {
                let slack = spec.slack.as_ref().ok_or_else(incomplete)?;
                Box::new(Slack { http, url: reader.text("the URL", &slack.webhook_url_secret_ref).await? })
            }
            ChannelType::Teams => {
                let teams = spec.teams.as_ref().ok_or_else(incomplete)?;
                Box::new(Teams { http, url: reader.text("the URL", &teams.webhook_url_secret_ref).await? })
            }
            ChannelType::Webhook => {
                let webhook = spec.webhook.as_ref().ok_or_else(incomplete)?;
                let (url, signing_key) = webhook_of(name, webhook, reader).await?;
                Box::new(Webhook { http, url, signing_key })
            }
            ChannelType::Email => {
                let email = spec.email.as_ref().ok_or_else(incomplete)?;
                self.email(name, email, reader).await?
            }
        })
    }

    async fn email(
        &self,
        name: &NamespacedName,
        email: &EmailChannel,
        reader: &mut Reader<'_>,
    ) -> Result<Box<dyn Channel>, String> {
        let addresses = addresses(email).map_err(|errors| {
            let errors: Vec<String> = errors.iter().map(ToString::to_string).collect();
            format!("NotificationChannel {name}: {}", errors.join("; "))
        })?;
        let login = match (&email.username_secret_ref, &email.password_secret_ref) {
            (Some(username), Some(password)) => Some(Login {
                username: reader.text("the user name", username).await?,
                password: reader.password(password).await?,
            }),
            (None, None) => None,
            _ => return Err(format!("NotificationChannel {name} has a user name or a password, but not both")),
        };
        let ca = match &email.ca_secret_ref {
            Some(reference) => Some(reader.bytes(reference).await?),
            None => None,
        };
        let usual = match email.tls {
            EmailTLS::StartTLS => 587,
            EmailTLS::Implicit => 465,
            EmailTLS::None => 25,
        };
        let port = u16::try_from(email.port.unwrap_or(usual))
            .map_err(|_| format!("NotificationChannel {name}: spec.email.port is no port"))?;
        let (host, hello_name) = (email.host.clone(), addresses.hello_name.clone());
        let server = MailServer { host, port, tls: email.tls, ca, login, hello_name };
        Ok(Box::new(Email { mail: Arc::clone(&self.outside.mail), server, addresses }))
    }
}

async fn webhook_of(
    name: &NamespacedName,
    webhook: &WebhookChannel,
    reader: &mut Reader<'_>,
) -> Result<(Secret, Option<SigningKey>), String> {
    let url = match (&webhook.url, &webhook.url_secret_ref) {
        (Some(url), _) => Secret::new(url),
        (None, Some(reference)) => reader.text("the URL", reference).await?,
        (None, None) => return Err(format!("NotificationChannel {name} has no URL")),
    };
    let signing_key = match &webhook.signing_secret_ref {
        Some(reference) => Some(SigningKey::new(&reader.bytes(reference).await?).ok_or("the signing key is empty")?),
        None => None,
    };
    Ok((url, signing_key))
}
