//! What the benchmark and the soak have in common: reading `/proc`, middle values, SVG, and where a run was made.
//!
//! Not part of the crate: `benches/stream` and `tests/soak` include it by path. Knows neither of them.

// Each of the two programs uses its part.
#![allow(dead_code)]

pub mod about;
pub mod procfs;
pub mod stats;
pub mod svg;
