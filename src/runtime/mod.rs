//! What every service stands on: clock, random source, the three steps, mailboxes, ownership, supervision and telemetry.
//!
//! In: the ports (bus, Kubernetes client, clock, random source) and the configuration. Out: the [`Context`] that a service is a
//! function of, and the pieces it is built from. May not touch: any service.

pub mod admin;
pub mod api_metrics;
pub mod api_server;
pub mod clock;
pub mod consume;
pub mod context;
pub mod directory_lock;
pub mod disk_room;
pub mod failing;
pub mod group_commit;
pub mod health;
pub mod http_server;
pub mod kinds;
pub mod kube_api;
pub mod kube_events;
pub mod liveness;
pub mod mailbox;
pub mod metrics;
pub mod ownership;
pub mod places;
pub mod random;
pub mod retention;
pub mod retry_budget;
pub mod right_of_way;
pub mod shutdown;
pub mod store;
pub mod supervisor;
pub mod tasks;
pub mod telemetry;
pub mod watch_cache;

pub use consume::{Gate, Inbound, consume, publish_dead_letter};
pub use context::Context;
pub use health::{Health, ServiceHealth};
pub use kinds::Kinds;
pub use kube_api::{ApiFailure, classify};
pub use kube_events::KubeEvents;
pub use liveness::Liveness;
pub use mailbox::{Handler, Mailboxes};
pub use metrics::Metrics;
pub use ownership::Ownership;
pub use right_of_way::RightOfWay;
pub use shutdown::{Deadlines, Ending, Signals, Stop};
pub use store::{Owned, Rank, Step, Store, StoreError};
pub use supervisor::Supervisor;
pub use tasks::{TaskFailure, Tasks};
pub use watch_cache::WatchCache;
