//! browser
pub mod channel;
pub mod frame;
pub mod gateway;
pub mod launch;
pub mod link;
pub mod state;
