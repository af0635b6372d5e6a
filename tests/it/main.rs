//! One integration binary: real sockets, the practice site, and a real Chromium with a profile of its own
//! for every test.

// A panic in a test is how it fails.
#![allow(clippy::unwrap_used)]

mod bodies;
mod clients;
mod faults;
mod input;
mod layers;
mod overload;
mod refusals;
mod resources;
mod rig;
mod site;
mod start;
mod ways;
