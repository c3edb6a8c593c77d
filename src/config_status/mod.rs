//! The service `config_status`.
