//! What the benchmark, the soak and the tests have in common: reading `/proc`, middle values, SVG, where a run was
//! made, wires that can be cut, how long a test may take, and a whole service of several instances.
//!
//! Not part of the crate: they include it by path. Knows none of them.

// Each of the programs uses its part.
#![allow(dead_code)]

pub mod about;
pub mod foreign;
pub mod limit;
pub mod procfs;
pub mod program;
pub mod relay;
pub mod service;
pub mod stats;
pub mod svg;
pub mod wires;
