//! Counts.

use super::Redis;
use crate::store::Tallies;

impl Tallies for Redis {}
