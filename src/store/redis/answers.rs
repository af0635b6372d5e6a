//! Answers: a stream of Redis each, bounded and expiring.

use super::Redis;
use crate::store::Answers;

impl Answers for Redis {}
