//! How often an address may be wrong: some times at once, then rarely.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

use crate::error::{Fault, FaultKind};

/// So many wrong keys or passwords from one address at once, and one more each so many seconds.
const WRONG: (NonZeroU32, Duration) = (NonZeroU32::new(10).unwrap(), Duration::from_secs(6));

/// Counts what an address does wrong.
pub struct Throttle(DefaultKeyedRateLimiter<IpAddr>);

impl Throttle {
    /// Nobody has done anything wrong yet.
    pub fn new() -> Throttle {
        let quota = Quota::with_period(WRONG.1).unwrap_or(Quota::per_minute(WRONG.0));
        Throttle(RateLimiter::keyed(quota.allow_burst(WRONG.0)))
    }

    /// Forgets who has not done anything wrong for a while. To be called now and then.
    pub fn forget(&self) {
        self.0.retain_recent();
    }

    /// One more from there.
    ///
    /// # Errors
    /// How long to wait, when it was one too many.
    pub fn count(&self, from: Option<IpAddr>) -> Result<(), Fault> {
        let from = from.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network);
        self.0.check_key(&from).map_err(|until| {
            let wait = until.wait_time_from(DefaultClock::default().now());
            Fault::new(FaultKind::TooManyAttempts, "Too many wrong keys or passwords came from your address.")
                .retry_after(wait)
        })
    }
}

/// Whose addresses are one person's: of IPv6, a whole network.
fn network(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(it) => Ipv6Addr::from_bits(it.to_bits() & !u128::from(u64::MAX)).into(),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_gets_tired_and_another_does_not() {
        let throttle = Throttle::new();
        let from = |text: &str| Some(text.parse().unwrap());
        let counted = (0..100).take_while(|_| throttle.count(from("2001:db8::1")).is_ok()).count();
        assert_eq!(counted, 10);
        let refused = throttle.count(from("2001:db8::ffff")).unwrap_err();
        assert_eq!(refused.kind(), FaultKind::TooManyAttempts);
        assert!(refused.wait().is_some_and(|it| it <= WRONG.1 && !it.is_zero()));
        assert!(throttle.count(from("2001:db8:0:1::1")).is_ok() && throttle.count(from("10.0.0.1")).is_ok());
    }
}
