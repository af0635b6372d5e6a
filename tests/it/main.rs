//! One integration binary: real sockets, the practice site, and a real Chromium with a profile of its own
//! for every test.

// A panic in a test is how it fails.
#![allow(clippy::unwrap_used)]

mod access;
mod bodies;
mod browsers;
mod chat;
mod clients;
mod compat;
mod console;
mod deploy;
mod devtools;
mod doctor;
mod doors;
mod elsewhere;
mod faults;
mod heartbeat;
mod input;
mod instances;
mod kubernetes;
mod layers;
mod log;
mod nginx;
mod operator;
mod overload;
mod plugin;
mod program;
mod pty;
mod refusals;
mod relay;
mod repairs;
mod resources;
mod rig;
mod sdks;
mod session;
#[path = "../shared/mod.rs"]
mod shared;
mod site;
mod start;
mod store;
mod terminal;
mod walls;
mod ways;
