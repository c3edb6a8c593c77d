//! Log lines: sentences with fields, for people or as JSON. `RUST_LOG` chooses what is said; by default everything from `info`, but
//! what the Kubernetes client says of its own calls: whoever made the call says what it means.

use std::io::IsTerminal;

use tracing_subscriber::{EnvFilter, fmt, layer::SubscriberExt, util::SubscriberInitExt};

/// Sets the process's log up. A second call changes nothing.
pub fn init(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info,kube_client=off"));
    let registry = tracing_subscriber::registry().with(filter);
    // An error means that a log is set up already, as it is in tests.
    let _ = if json {
        registry.with(fmt::layer().json().flatten_event(true).with_writer(std::io::stderr)).try_init()
    } else {
        let colours = std::io::stderr().is_terminal();
        registry.with(fmt::layer().with_target(false).with_ansi(colours).with_writer(std::io::stderr)).try_init()
    };
}
