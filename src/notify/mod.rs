//! The service `notify`.
