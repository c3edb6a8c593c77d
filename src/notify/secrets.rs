//! Values of Secrets of the channel's own namespace: read when they are needed, kept for a moment, never watched and never logged.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Secret as KubeSecret;
use kube::Api;

use crate::{
    api::v1alpha1::SecretKeyReference,
    events::NamespacedName,
    runtime::{
        ApiFailure, Context,
        kube_api::{CALL_TIMEOUT, call},
    },
};

/// How long a Secret is believed. A message that the receiver rejects is judged with one that was just read.
const KEEP_FOR: SignedDuration = SignedDuration::from_secs(10);
/// The most Secrets that are kept (promise 6).
const KEEP_MAX: usize = 256;

type Values = Arc<BTreeMap<String, Vec<u8>>>;

/// A value, and whether it was read just now.
pub(super) struct Value {
    pub bytes: Vec<u8>,
    pub fresh: bool,
}

pub(super) struct Secrets {
    ctx: Context,
    kept: Mutex<HashMap<NamespacedName, (Timestamp, Values)>>,
}

impl Secrets {
    pub fn new(ctx: &Context) -> Self {
        Self { ctx: ctx.clone(), kept: Mutex::default() }
    }

    /// The value of a key, or the reason why there is none, which a person can mend.
    pub async fn get(&self, namespace: &str, reference: &SecretKeyReference) -> Result<Value, String> {
        let name = NamespacedName { namespace: namespace.to_owned(), name: reference.name.clone() };
        let (values, fresh) = match self.kept(&name) {
            // A key that is missing may have been added just now.
            Some(values) if values.contains_key(&reference.key) => (values, false),
            _ => (self.read(&name).await?, true),
        };
        let bytes = values
            .get(&reference.key)
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(|| format!("Secret {name} has no value under the key {}", reference.key))?;
        Ok(Value { bytes: bytes.clone(), fresh })
    }

    /// It may be out of date.
    pub fn forget(&self, namespace: &str) {
        self.lock().retain(|name, _| name.namespace != namespace);
    }

    fn kept(&self, name: &NamespacedName) -> Option<Values> {
        let now = self.ctx.clock.now();
        let kept = self.lock();
        let (since, values) = kept.get(name)?;
        (now.duration_since(*since) < KEEP_FOR && now >= *since).then(|| Arc::clone(values))
    }

    async fn read(&self, name: &NamespacedName) -> Result<Values, String> {
        let api: Api<KubeSecret> = Api::namespaced(self.ctx.kube.clone(), &name.namespace);
        let secret = call(CALL_TIMEOUT, api.get(&name.name)).await.map_err(|failure| match failure {
            ApiFailure::NotFound(_) => format!("Secret {name} is not there"),
            failure => format!("Secret {name} cannot be read: {failure}"),
        })?;
        let values: Values =
            Arc::new(secret.data.unwrap_or_default().into_iter().map(|(key, bytes)| (key, bytes.0)).collect());
        let mut kept = self.lock();
        if kept.len() >= KEEP_MAX {
            kept.clear();
        }
        kept.insert(name.clone(), (self.ctx.clock.now(), Arc::clone(&values)));
        Ok(values)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<NamespacedName, (Timestamp, Values)>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::{bus::MemoryBus, testing::TestContext};

    fn reference(name: &str) -> SecretKeyReference {
        serde_json::from_value(json!({"name": name, "key": "url"})).unwrap()
    }

    #[tokio::test]
    async fn a_secret_is_kept_for_a_moment_and_no_more_than_so_many_are() {
        let test = TestContext::new("notify", Arc::new(MemoryBus::new(1)));
        for n in 0..=KEEP_MAX {
            let secret = json!({
                "apiVersion": "v1", "kind": "Secret",
                "metadata": {"name": format!("s{n}"), "namespace": "shop"}, "data": {"url": "aHR0cA=="},
            });
            test.api.put("/api/v1/secrets", secret);
        }
        let secrets = Secrets::new(&test.ctx);
        let get = async |n: usize| secrets.get("shop", &reference(&format!("s{n}"))).await.unwrap();
        for n in 0..KEEP_MAX {
            let value = get(n).await;
            assert_eq!((value.bytes.as_slice(), value.fresh), (&b"http"[..], true));
        }
        assert!(!get(0).await.fresh);
        assert!(get(KEEP_MAX).await.fresh);
        assert_eq!(secrets.lock().len(), 1, "all others are read again");
        assert!(!get(KEEP_MAX).await.fresh);
        test.clock.advance(SignedDuration::from_secs(10));
        assert!(get(KEEP_MAX).await.fresh);
    }
}
