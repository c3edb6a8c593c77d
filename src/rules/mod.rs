//! The service `rules`.
