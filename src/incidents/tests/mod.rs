//! Tests of the pure part: examples, convergence, bounds. Those of the service stand beside it.

mod bounds;
mod convergence;
mod examples;
mod faults;
mod lines;
pub mod make;
mod service;
