//! The service `notify`: turns requests into messages, each to one channel, at least once and marked when it may be a second copy.
//!
//! In: notification.requested; NotificationChannels, and Secrets of their namespace. Out: `Notification` resources, which only this
//! service writes, messages to the outside, notification.delivered and notification.failed. Pure: [`deliver`] (what is to be done),
//! [`render`] (what is said), `record` (events and resource), `due`, `retention`. May not touch: any other service.

pub mod channels;
pub mod deliver;
mod due;
pub mod http;
mod lanes;
mod line_by_line;
mod prepare;
mod record;
pub mod render;
mod retention;
mod secrets;
mod sender;
mod service;
pub mod smtp;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

pub use service::{CONSUMES, NotifyConfig, NotifyError, Outside, run};
