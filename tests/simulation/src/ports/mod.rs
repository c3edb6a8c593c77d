//! What stands in for the outside of a replica: its way to the API server, its log, its network. Each call may be lost, late, refused
//! or answered wrongly, and the replica may be killed before or after any effect.

pub(crate) mod api;
pub(crate) mod log;
pub(crate) mod network;
