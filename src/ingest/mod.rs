//! The service `ingest`.
