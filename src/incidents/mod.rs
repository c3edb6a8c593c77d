//! The service `incidents`.
