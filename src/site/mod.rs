//! The site's own formats, pure: nothing in here does I/O.

pub mod challenge;
pub mod classic;
pub mod conversation;
pub mod delta;
pub mod refusal;
pub mod request;
pub mod signin;
pub mod sse;
