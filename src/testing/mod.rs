//! What the tests of several rooms share. Not in release builds.

pub mod context;

pub use context::{TestContext, measured_client};
pub use eventpulse_fake_api::{FakeApi, Fault, Seen};

mod moved;
mod whole;
