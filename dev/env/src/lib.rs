//! The environment of tests, demo and benchmarks, on real parts: etcd, kube-apiserver, kube-controller-manager, kube-scheduler,
//! kubectl and kwok; Apache Kafka in KRaft mode; Alertmanager and Prometheus; the OpenTelemetry Collector; the mail
//! server Mailpit.
//!
//! In: pinned modules under `dev/tools` and `dev/kafka`. Out: an [`Environment`] with free ports and a directory of its own, whose
//! parts are stopped by the pid that was recorded. It listens on loopback only, and never looks at the user's `KUBECONFIG`,
//! `~/.kube/config` or an in-cluster account: every child gets a short list of variables and none of
//! them.
//!
//! As seen on two shared cores: the control plane builds in about 8 minutes the first time and starts in 6 seconds; Kafka's jars
//! arrive in 20 seconds and a broker starts in 6.

mod cache;
mod collector;
mod control_plane;
mod environment;
mod error;
mod install;
mod instance;
mod kafka;
mod kafka_client;
mod mail;
mod monitoring;
mod pki;
mod ports;
pub mod process;
mod run;
mod tools;

pub use cache::cache_dir;
pub use collector::{Collector, Signal};
pub use control_plane::{ControlPlane, ControlPlaneOptions};
pub use environment::{Environment, EnvironmentBuilder};
pub use error::{Error, Result};
pub use instance::{Ended, InstanceName, ended_by_themselves, stop_instance};
pub use kafka::Kafka;
pub use kafka_client::{KafkaClient, PlainRecord};
pub use mail::{MailOptions, MailServer, MailTls};
pub use monitoring::{Alertmanager, Prometheus};
pub use ports::{free_port, listeners};
pub use process::{Process, Spec, until_interrupted};
pub use tools::{Tool, Tools};
