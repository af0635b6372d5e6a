//! Counts.

use super::Embedded;
use crate::store::Tallies;

impl Tallies for Embedded {}
