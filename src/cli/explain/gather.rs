//! What the API server and the log know. Whatever cannot be read is noted, and the story is told from the rest.

use std::fmt::Debug;

use anyhow::Context as _;
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::ListParams, core::NamespaceResourceScope};
use serde::de::DeserializeOwned;

use super::{
    ExplainArgs,
    log::{self, FromLog, Ids},
};
use crate::{
    api::v1alpha1::{Action, AlertGroup, Incident, LABEL_INCIDENT, Notification, Rule},
    runtime::{
        Metrics, api_server,
        kube_api::{self, ApiFailure},
    },
};

/// How many objects one answer holds.
const PAGE: u32 = 500;

/// Everything that a story is told from.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    pub(super) ids: Ids,
    pub(super) incidents: Vec<Incident>,
    pub(super) actions: Vec<Action>,
    pub(super) notifications: Vec<Notification>,
    pub(super) groups: Vec<AlertGroup>,
    pub(super) rules: Vec<Rule>,
    /// None where it was not read.
    pub(super) log: Option<FromLog>,
    /// What could not be read, and what to do.
    pub(super) notes: Vec<String>,
}

/// Reads it all. Fails only where the API server cannot be found at all, or a flag is wrong.
pub(super) async fn gather(args: &ExplainArgs, now: Timestamp) -> anyhow::Result<Facts> {
    let bus = args.log.to_read()?;
    let config = api_server::find().await.context("find the API server")?;
    let reader = Reader {
        namespace: args.namespace.clone(),
        fallback: config.default_namespace.clone(),
        client: api_server::client(&config, "explain", &Metrics::default()).await.context("find the API server")?,
    };
    let ids = Ids { subject: args.subject.clone(), namespace: args.namespace.clone(), ..Ids::default() };
    let mut facts = Facts { ids, ..Facts::default() };
    reader.find_subject(&mut facts).await;
    if !args.no_log {
        match log::read(&bus, now - args.since.as_signed(), facts.ids.clone()).await {
            Ok((found, ids)) => {
                facts.log = Some(found);
                facts.ids = ids;
            }
            Err(error) => facts.notes.push(format!(
                "The log was not read, so the story is told from the resources only: {error:#}. Give --kafka-brokers, or --data-dir \
                 on the machine that has the embedded log (in a cluster: kubectl exec, in EventPulse's pod)."
            )),
        }
    }
    reader.read_the_rest(&mut facts).await;
    Ok(facts)
}

struct Reader {
    client: Client,
    namespace: Option<String>,
    fallback: String,
}

impl Reader {
    /// The Incident, Action or Notification of this name, or the incidents that list the alert.
    async fn find_subject(&self, facts: &mut Facts) {
        let name = facts.ids.subject.clone();
        let of_name = ListParams::default().fields(&format!("metadata.name={name}"));
        let lists_alert = |incident: &Incident| {
            let alerts = incident.status.iter().flat_map(|status| &status.alerts);
            alerts.clone().any(|alert| alert.alert_id == name || alert.fingerprint == name)
        };
        let incidents: Vec<Incident> = self.list(&ListParams::default(), &mut facts.notes).await;
        let ids = &mut facts.ids;
        for incident in incidents {
            if lists_alert(&incident) {
                ids.of_alert = true;
                ids.incidents.insert(incident.name_any());
            } else if incident.name_any() == name {
                ids.incidents.insert(name.clone());
                let alerts = incident.status.iter().flat_map(|status| &status.alerts);
                ids.alerts.extend(alerts.map(|alert| alert.alert_id.clone()));
            }
        }
        let actions: Vec<Action> = self.list(&of_name, &mut facts.notes).await;
        ids.incidents.extend(actions.iter().map(|action| action.spec.incident_ref.name.clone()));
        let notifications: Vec<Notification> = self.list(&of_name, &mut facts.notes).await;
        ids.incidents.extend(notifications.iter().map(|message| message.spec.incident.incident_id.clone()));
    }

    /// What belongs to the story's incidents, and every rule.
    async fn read_the_rest(&self, facts: &mut Facts) {
        for incident in facts.ids.incidents.clone() {
            let of_name = ListParams::default().fields(&format!("metadata.name={incident}"));
            facts.incidents.extend(self.list::<Incident>(&of_name, &mut facts.notes).await);
            let of_incident = ListParams::default().labels(&format!("{LABEL_INCIDENT}={incident}"));
            facts.actions.extend(self.list::<Action>(&of_incident, &mut facts.notes).await);
            facts.notifications.extend(self.list::<Notification>(&of_incident, &mut facts.notes).await);
        }
        let ids = facts.ids.clone();
        let mut groups: Vec<AlertGroup> = self.list(&ListParams::default(), &mut facts.notes).await;
        groups.retain(|group| {
            let spec = &group.spec;
            let of_alert = spec.alerts.iter().any(|alert| {
                alert.fingerprint == ids.subject
                    || alert.alert_id.as_str() == ids.subject
                    || ids.alerts.contains(alert.alert_id.as_str())
            });
            let open = spec.episode.as_ref().map(|episode| &episode.incident_id);
            let ended = spec.last_episode.as_ref().map(|episode| &episode.incident_id);
            of_alert || open.into_iter().chain(ended).any(|incident| ids.incidents.contains(incident.as_str()))
        });
        facts.groups = groups;
        facts.rules = self.list(&ListParams::default(), &mut facts.notes).await;
        facts.notes.sort();
        facts.notes.dedup();
    }

    /// All of a kind, page by page, of the namespace that was asked for, or of all that may be read.
    async fn list<K>(&self, params: &ListParams, notes: &mut Vec<String>) -> Vec<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
    {
        let scoped = |namespace: &str| Api::<K>::namespaced(self.client.clone(), namespace);
        let result = match &self.namespace {
            Some(namespace) => pages(&scoped(namespace), params).await,
            None => match pages(&Api::<K>::all(self.client.clone()), params).await {
                Err(ApiFailure::Refused { code: 403, .. }) => {
                    notes.push(format!(
                        "Only the namespace {} was looked at: you may not list in all of them. -n names another one.",
                        self.fallback
                    ));
                    pages(&scoped(&self.fallback), params).await
                }
                result => result,
            },
        };
        result.unwrap_or_else(|failure| {
            notes.push(format!("{} could not be read: {failure}", K::plural(&())));
            Vec::new()
        })
    }
}

async fn pages<K: Clone + DeserializeOwned + Debug>(api: &Api<K>, params: &ListParams) -> Result<Vec<K>, ApiFailure> {
    let mut params = params.clone().limit(PAGE);
    let mut objects = Vec::new();
    loop {
        let page = kube_api::call(kube_api::CALL_TIMEOUT, api.list(&params)).await?;
        objects.extend(page.items);
        match page.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(objects),
        }
    }
}
