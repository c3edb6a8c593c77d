//! A Kubernetes API server in memory, under a real `kube::Client`.
//!
//! In: requests of its clients, and what a test puts, removes, compacts or breaks. Out: the answers of the real one, as
//! `tests/contract` holds on both: create, get, list in pages, watch, replace, JSON, merge and apply patches, the status subresource,
//! generations, finalizers and preconditions. Beside them: faults on request, and every change of what is stored, in order.
//!
//! It is a function of its requests and of its clock: no random source, no time but tokio's for what waits.
//!
//! What it leaves out: schemas (no defaults, no pruning, no validation beyond metadata), admission but for namespaces that end, rights,
//! the other parts of the control plane (nobody collects garbage or ends a namespace), `managedFields` (kept, and not shown), what a
//! write of a status of Kubernetes' own kinds may change beside it. It refuses strategic merge patches, deletions of whole
//! collections, generated names, dry runs and watches that send initial events.

mod answer;
mod api;
mod apply;
mod commit;
mod create;
mod delete;
mod discovery;
mod fault;
mod fields;
mod kinds;
mod list;
mod metadata;
mod patch;
mod path;
mod route;
mod selector;
mod service;
mod state;
mod update;
mod watch;

pub use answer::AnswerBody;
pub use api::FakeApi;
pub use commit::Commit;
pub use fault::Fault;
pub use service::{ApiService, Seen};
