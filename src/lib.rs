//! x
pub mod browser;
pub mod cli;
pub mod config;
pub mod error;
pub mod exchange;
pub mod flow;
pub mod pipe;
pub mod practice;
pub mod site;
