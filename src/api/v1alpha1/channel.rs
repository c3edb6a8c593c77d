//! `NotificationChannel`: where messages go.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use kube::{CustomResource, KubeSchema};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Duration, SecretKeyReference, duration::within};

/// Where messages go. `type` names the member that is set.
#[derive(CustomResource, Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[kube(
    group = "eventpulse.io",
    version = "v1alpha1",
    kind = "NotificationChannel",
    namespaced,
    shortname = "nch",
    category = "eventpulse",
    status = "NotificationChannelStatus",
    derive = "PartialEq",
    printcolumn(name = "Type", type_ = "string", json_path = ".spec.type"),
    printcolumn(name = "Ready", type_ = "string", json_path = ".status.conditions[?(@.type==\"Ready\")].status"),
    printcolumn(
        name = "Message",
        type_ = "string",
        json_path = ".status.conditions[?(@.type==\"Ready\")].message",
        priority = 1
    ),
    printcolumn(name = "Age", type_ = "date", json_path = ".metadata.creationTimestamp")
)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("(self.type == 'Slack') == has(self.slack)", "slack: needed for type Slack and for no other"))]
#[x_kube(validation = ("(self.type == 'Webhook') == has(self.webhook)", "webhook: needed for type Webhook and for no other"))]
#[x_kube(validation = ("(self.type == 'Email') == has(self.email)", "email: needed for type Email and for no other"))]
#[x_kube(validation = ("(self.type == 'Teams') == has(self.teams)", "teams: needed for type Teams and for no other"))]
pub struct NotificationChannelSpec {
    /// Which member says where to.
    pub r#type: ChannelType,
    /// A Slack incoming webhook, or anything that speaks its format.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub slack: Option<SlackChannel>,
    /// A JSON webhook with a signature and an idempotency key.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub webhook: Option<WebhookChannel>,
    /// Mail, by SMTP.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<EmailChannel>,
    /// A Microsoft Teams workflow that begins when a webhook request is received.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub teams: Option<TeamsChannel>,
    /// Templates of this channel. One with the name of a built-in template takes its place.
    #[serde(default)]
    #[schemars(length(max = 32))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["name".into()]))]
    pub templates: Vec<MessageTemplate>,
    /// How long one try to send may take.
    #[serde(default = "default_send_timeout")]
    #[x_kube(validation = within("timeout", "100ms", "5m"))]
    pub timeout: Duration,
}

fn default_send_timeout() -> Duration {
    Duration::from_secs(10)
}

/// The member of a channel's union.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum ChannelType {
    /// `slack` is set.
    Slack,
    /// `webhook` is set.
    Webhook,
    /// `email` is set.
    Email,
    /// `teams` is set.
    Teams,
}

/// A Slack incoming webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct SlackChannel {
    /// The Secret key that holds the webhook's URL, which is itself a secret.
    #[serde(rename = "webhookURLSecretRef")]
    pub webhook_url_secret_ref: SecretKeyReference,
}

/// A JSON webhook.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = ("has(self.url) != has(self.urlSecretRef)", "url and urlSecretRef: exactly one of them is needed"))]
pub struct WebhookChannel {
    /// The URL, when it is no secret: `http` or `https`, without a user name or password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), regex(pattern = "^https?://[^\\s/?#@]+([/?#]\\S*)?$"))]
    pub url: Option<String>,
    /// The Secret key that holds the URL, when it is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url_secret_ref: Option<SecretKeyReference>,
    /// The Secret key that holds the key of the HMAC-SHA256 signature. Without it messages are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signing_secret_ref: Option<SecretKeyReference>,
}

/// A Microsoft Teams workflow with the trigger "When a Teams webhook request is received".
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct TeamsChannel {
    /// The Secret key that holds the workflow's URL, which is itself a secret.
    #[serde(rename = "webhookURLSecretRef")]
    pub webhook_url_secret_ref: SecretKeyReference,
}

/// Mail, by SMTP to one server, which sends it on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = (
    "has(self.usernameSecretRef) == has(self.passwordSecretRef)",
    "usernameSecretRef and passwordSecretRef: both are needed to log in, or none"
))]
#[x_kube(validation = (
    "self.tls != 'None' || !has(self.passwordSecretRef)",
    "passwordSecretRef: a password is never sent in plain text, so tls None takes none"
))]
#[x_kube(validation = ("self.tls != 'None' || !has(self.caSecretRef)", "caSecretRef: tls None has no certificate to check"))]
pub struct EmailChannel {
    /// The server: a DNS name or an IP address. Its certificate must be for it.
    #[schemars(
        length(min = 1, max = 253),
        regex(pattern = "^([A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?|[0-9A-Fa-f:.]+)$")
    )]
    pub host: String,
    /// The port. Without it: 587 for `StartTLS`, 465 for `Implicit`, 25 for `None`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1, max = 65535))]
    pub port: Option<i32>,
    /// How the connection is protected. It never falls back to anything less.
    #[serde(default)]
    pub tls: EmailTLS,
    /// The Secret key that holds the certificates, in PEM, of the authorities that may vouch for the server, in place of the
    /// machine's own.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "caSecretRef")]
    pub ca_secret_ref: Option<SecretKeyReference>,
    /// The Secret key that holds the user name. Without it EventPulse does not log in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub username_secret_ref: Option<SecretKeyReference>,
    /// The Secret key that holds the password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub password_secret_ref: Option<SecretKeyReference>,
    /// The name that EventPulse says hello with (EHLO). Without it: the domain of `from`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(min = 1, max = 253), regex(pattern = "^[A-Za-z0-9]([-A-Za-z0-9.]*[A-Za-z0-9])?$"))]
    pub hello_name: Option<String>,
    /// Who writes: `alerts@example.com`, or `EventPulse <alerts@example.com>`.
    #[schemars(length(min = 3, max = 320))]
    pub from: String,
    /// Who is written to, each like `from`.
    #[schemars(length(min = 1, max = 20), inner(length(min = 3, max = 320)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub to: Vec<String>,
    /// Who gets a copy.
    #[serde(default)]
    #[schemars(length(max = 20), inner(length(min = 3, max = 320)))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Set)]
    pub cc: Vec<String>,
}

/// How a connection to a mail server is protected.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum EmailTLS {
    /// TLS after STARTTLS; a server that does not offer it gets nothing.
    #[default]
    StartTLS,
    /// TLS from the first byte.
    Implicit,
    /// Plain text, which everybody on the way can read and change.
    None,
}

/// A message template (minijinja).
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct MessageTemplate {
    /// Name, as a rule's notification uses it.
    #[schemars(length(min = 1, max = 63), regex(pattern = "^[A-Za-z][A-Za-z0-9]*$"))]
    pub name: String,
    /// The headline, one line.
    #[schemars(length(min = 1, max = 1024))]
    pub title: String,
    /// The text below it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 8192))]
    pub body: Option<String>,
}

/// What EventPulse says about a channel.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
pub struct NotificationChannelStatus {
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// `Ready`: the templates compile and the Secrets are there.
    #[serde(default)]
    #[schemars(length(max = 8))]
    #[x_kube(merge_strategy = kube::core::ListMerge::Map(vec!["type".into()]))]
    pub conditions: Vec<Condition>,
}
