//! The service `actions`.
