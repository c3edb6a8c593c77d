//! Tests of the rules: the compiler and the index, the decision case by case, its properties over generated histories, and the
//! service on the log in memory and the API server in memory.

mod backlog;
mod compiling;
mod deciding;
mod fixtures;
mod held;
mod incidents;
mod properties;
mod routing;
mod serving;
mod storms;
