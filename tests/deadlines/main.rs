//! What must be over in time: each fault with the deadline that it has on a machine of two cores.
//!
//! A program of its own, whose tests run one at a time: a deadline is worth nothing while another test uses the
//! machine. The figures are printed: `cargo test --test deadlines -- --nocapture`.

// A panic in a test is how it fails.
#![allow(clippy::unwrap_used)]

mod clients;
mod link;
mod repairs;
#[path = "../it/rig.rs"]
mod rig;
#[path = "../shared/mod.rs"]
mod shared;

use std::time::Instant;

use tokio::sync::{Mutex, MutexGuard};

/// Waits until no other test runs, and keeps it so.
async fn alone() -> MutexGuard<'static, ()> {
    static MACHINE: Mutex<()> = Mutex::const_new(());
    MACHINE.lock().await
}

/// Holds `what` to its limit in seconds, counted from `began`.
fn within(what: &str, limit: f64, began: Instant) {
    let took = began.elapsed().as_secs_f64();
    println!("{what}: {took:.2} s (at most {limit} s)");
    assert!(took <= limit, "{what}: {took:.2} s, and not {limit} s at most");
}
