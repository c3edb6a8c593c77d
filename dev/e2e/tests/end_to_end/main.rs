//! What EventPulse exists for, on real parts: the release binary as processes of its own, reached only by HTTP, kubectl and Kafka.
//!
//! A module for each letter of the list in `docs/design.md`, section 11, named for what it proves.

#![allow(clippy::unwrap_used)] // A helper that fails is a test that fails.

mod a_main_job;
mod b_ladder;
mod c_repetition;
mod d_replicas;
mod e_kill;
mod f_broker_away;
mod g_resolution;
mod h_frozen;
mod h_rewound;
mod i_breaker;
mod j_apiserver_away;
mod k_permissions;
mod l_one_trace;
mod m_liveness;
mod n_kinds;
mod o_mail;
mod p_alerts_topic;
mod producer;
mod q_image;
mod q_install;
mod q_values;
mod r_explain;
mod s_alert_rules;
mod s_seen;
mod t_ledger;
