//! The site's own formats, pure: nothing in here does I/O.

pub mod challenge;
pub mod history;
pub mod notice;
pub mod plugin;
pub mod refusal;
pub mod turn;
