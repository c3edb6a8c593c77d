//! The real server: etcd and kube-apiserver alone, so that nobody but the case writes.

use std::{path::Path, time::Duration};

use eventpulse_env::{ControlPlaneOptions, Environment};
use http::Request;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};

/// How long the definitions may take until they are served.
const SERVED_WITHIN: Duration = Duration::from_secs(60);

pub struct Real {
    environment: Environment,
    client: Client,
}

impl Real {
    pub async fn start() -> Self {
        let builder = Environment::builder("api-contract").control_plane(ControlPlaneOptions::default());
        let environment = builder.start().await.unwrap();
        // They would put something into every namespace, and change what a case has written.
        for process in environment.processes() {
            if ["kube-controller-manager", "kube-scheduler", "kwok"].contains(&process.name()) {
                process.kill();
            }
        }
        let plane = environment.plane();
        for definition in definitions() {
            plane.apply(&definition).unwrap();
        }
        plane.run_kubectl(&["wait", "--for=condition=Established", "crd", "--all", "--timeout=60s"]).unwrap();
        let kubeconfig = Kubeconfig::read_from(plane.kubeconfig()).unwrap();
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.unwrap();
        config.default_retry = false;
        let client = Client::try_from(config).unwrap();
        let real = Self { environment, client };
        for collection in [
            "/api/v1/configmaps",
            "/apis/apps/v1/deployments",
            "/apis/eventpulse.io/v1alpha1/rules",
            "/apis/eventpulse.io/v1alpha1/alertgroups",
        ] {
            tokio::time::timeout(SERVED_WITHIN, real.is_served(collection)).await.expect(collection);
        }
        real
    }

    /// Waits until a collection is listed and watched.
    async fn is_served(&self, collection: &str) {
        for query in ["", "?watch=1&timeoutSeconds=1"] {
            loop {
                let request = Request::get(format!("{collection}{query}")).body(Body::empty()).unwrap();
                if self.client.send(request).await.is_ok_and(|answer| answer.status() == 200) {
                    break;
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }

    pub fn client(&self) -> Client {
        self.client.clone()
    }

    /// Where etcd listens: `127.0.0.1:PORT`.
    pub fn etcd(&self) -> String {
        self.environment.plane().etcd_address().to_owned()
    }

    pub async fn stop(self) {
        self.environment.stop().await;
    }
}

/// EventPulse's definitions, as YAML.
pub fn definitions() -> Vec<String> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../crds");
    let mut files: Vec<_> = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read_to_string(file).unwrap()).collect()
}
