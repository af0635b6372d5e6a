//! The figures of the store that several instances share. There are none where it is in this process.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

const BUCKETS: [f64; 12] = [0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.3, 1.0, 2.0];

/// How Redis does; clones share it.
#[derive(Clone, Debug)]
pub struct RedisFigures {
    up: Gauge,
    errors: Counter,
    seconds: Histogram,
}

impl Default for RedisFigures {
    fn default() -> RedisFigures {
        RedisFigures { up: Gauge::default(), errors: Counter::default(), seconds: Histogram::new(BUCKETS) }
    }
}

impl RedisFigures {
    /// Registers them in `registry`.
    pub fn register(&self, registry: &mut Registry) {
        let help = "1 while the Redis that the instances share can be used";
        registry.register("tabproxy_redis_up", help, self.up.clone());
        let help = "Calls of Redis that failed, or were not made because it was gone";
        registry.register("tabproxy_redis_errors", help, self.errors.clone());
        let help = "How long a call of Redis took";
        registry.register("tabproxy_redis_seconds", help, self.seconds.clone());
    }

    /// Whether it can be used.
    pub fn is_up(&self, is: bool) {
        self.up.set(i64::from(is));
    }

    /// One call more.
    pub fn called(&self, took: Duration, is_good: bool) {
        self.seconds.observe(took.as_secs_f64());
        if !is_good {
            self.errors.inc();
        }
    }
}
