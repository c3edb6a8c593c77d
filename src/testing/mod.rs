//! What the tests of several rooms share. Not in release builds.

pub mod context;
mod discovery;
pub mod fake_api;

pub use context::TestContext;
pub use fake_api::{FakeApi, Fault, Seen};

mod moved;
mod whole;
