//! Written by EventPulse.
