//! What the benchmark, the soak and the tests have in common: reading `/proc`, middle values, SVG, where a run was
//! made, wires that can be cut, how long a test may take, a real nginx and Redis, and a whole service of several
//! instances.
//!
//! Not part of the crate: they include it by path. Knows none of them.

// Each of the programs uses its part.
#![allow(dead_code)]

pub mod about;
pub mod foreign;
pub mod limit;
pub mod nginx;
pub mod procfs;
pub mod program;
pub mod redis;
pub mod relay;
pub mod service;
pub mod stats;
pub mod svg;
pub mod wires;

use std::net::SocketAddr;

/// Why a part does not run.
pub type Fail = Box<dyn std::error::Error + Send + Sync>;

/// How often a free port may turn out to be taken: between the system's picking it and our taking it, another
/// may.
pub const PORT_TRIES: usize = 5;

/// A port that nobody listens on at this moment.
///
/// # Errors
/// When there is none.
pub fn free_port() -> std::io::Result<SocketAddr> {
    std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()
}
