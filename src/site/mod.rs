//! The site's own formats, pure: nothing in here does I/O.

pub mod challenge;
pub mod signin;
