//! browser
pub mod channel;
pub mod frame;
pub mod launch;
pub mod link;
pub mod state;
