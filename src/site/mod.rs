//! The site's own formats, pure: nothing in here does I/O.

pub mod challenge;
pub mod classic;
pub mod conversation;
pub mod delta;
pub mod history;
pub mod notice;
pub mod plugin;
pub mod refusal;
pub mod request;
mod said;
pub mod signin;
pub mod sse;
pub mod turn;
