//! `make bench`: not there yet.
fn main() {}
