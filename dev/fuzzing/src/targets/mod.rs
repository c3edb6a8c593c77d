//! The targets, by what they are about.

pub(crate) mod actions;
pub(crate) mod alerts;
pub(crate) mod events;
pub(crate) mod expressions;
pub(crate) mod groups;
pub(crate) mod incidents;
pub(crate) mod matchers;
pub(crate) mod messages;
pub(crate) mod notifications;
pub(crate) mod resources;
pub(crate) mod settings;
