//! The service `incidents`.

pub mod evolve;
pub mod facts;
pub mod fold;
pub mod said;
pub mod text;

#[cfg(test)]
mod tests;
