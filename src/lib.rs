//! x
pub mod browser;
pub mod error;
pub mod exchange;
pub mod flow;
pub mod pipe;
pub mod site;
