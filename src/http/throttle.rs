//! How often an address may be wrong: some times at once, then rarely.

use std::net::{IpAddr, Ipv6Addr};
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use crate::error::{Fault, FaultKind};
use crate::store::{Quota, Tallies};

/// So many wrong keys or passwords from one address at once, and one more each so many seconds.
const WRONG: Quota = Quota { burst: NonZeroU32::new(10).unwrap(), period: Duration::from_secs(6) };

/// Counts what an address does wrong, in all instances together.
pub struct Throttle {
    name: &'static str,
    tallies: Arc<dyn Tallies>,
}

impl Throttle {
    /// One that is kept in `tallies` under `name`.
    pub fn new(name: &'static str, tallies: Arc<dyn Tallies>) -> Throttle {
        Throttle { name, tallies }
    }

    /// One more from there.
    ///
    /// # Errors
    /// How long to wait, when it was one too many.
    pub async fn count(&self, from: Option<IpAddr>) -> Result<(), Fault> {
        let from = from.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), network);
        self.tallies.count(format!("{}:{from}", self.name), WRONG).await.map_err(|wait| {
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
    use crate::store::Embedded;

    #[tokio::test]
    async fn one_address_gets_tired_and_another_does_not() {
        let store = Arc::new(Embedded::new("/nowhere".into(), 1));
        let throttle = Throttle::new("key", store.clone());
        let from = |text: &str| Some(text.parse().unwrap());
        let mut counted = 0;
        while counted < 100 && throttle.count(from("2001:db8::1")).await.is_ok() {
            counted += 1;
        }
        assert_eq!(counted, 10);
        let refused = throttle.count(from("2001:db8::ffff")).await.unwrap_err();
        assert_eq!(refused.kind(), FaultKind::TooManyAttempts);
        assert!(refused.wait().is_some_and(|it| it <= WRONG.period && !it.is_zero()));
        for other in ["2001:db8:0:1::1", "10.0.0.1"] {
            assert!(throttle.count(from(other)).await.is_ok());
        }
        assert!(Throttle::new("password", store).count(from("2001:db8::1")).await.is_ok());
    }
}
