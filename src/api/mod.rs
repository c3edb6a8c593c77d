//! The custom resources: what people write and what EventPulse writes.
//!
//! In: nothing. Out: types with defaults, schema and validation, from which `eventpulse crds` generates `crds/`.
//! May not touch: events, bus, runtime, any service.

pub mod crds;
pub mod v1alpha1;
