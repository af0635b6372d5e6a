//! The services that are measured.

use std::fmt;
use std::path::Path;

use tabproxy::practice::Practice;

use super::load::Fail;
use super::shared::service::{Plan, Service};

/// Enough for the largest load in one browser.
const MAX_INFLIGHT: &str = "256";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Setup {
    /// How many instances.
    pub instances: usize,
    /// How many browsers each has.
    pub browsers: usize,
    /// Whether clients speak to nginx; otherwise to the one instance.
    pub nginx: bool,
}

const fn behind_nginx(instances: usize, browsers: usize) -> Setup {
    Setup { instances, browsers, nginx: true }
}

impl Setup {
    /// One instance alone: the floor of all others.
    pub const ALONE: Setup = Setup { instances: 1, browsers: 1, nginx: false };
    /// In the order of the table.
    pub const ALL: [Setup; 5] =
        [Setup::ALONE, behind_nginx(1, 1), behind_nginx(2, 1), behind_nginx(4, 1), behind_nginx(1, 2)];

    /// Starts it. Several instances share a Redis.
    pub async fn start(self, site: &Practice, log: &Path) -> Result<Service, Fail> {
        start(site, log, self.instances, self.browsers, self.instances > 1).await
    }
}

impl fmt::Display for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.nginx, self.instances, self.browsers) {
            (false, ..) => f.write_str("1 alone"),
            (true, 1, 1) => f.write_str("1"),
            (true, 1, browsers) => write!(f, "1 with {browsers} browsers"),
            (true, instances, _) => write!(f, "{instances}"),
        }
    }
}

/// Starts a service of that many instances and browsers.
pub async fn start(
    site: &Practice,
    log: &Path,
    instances: usize,
    browsers: usize,
    redis: bool,
) -> Result<Service, Fail> {
    let mut env = vec![("TABPROXY_MAX_INFLIGHT", MAX_INFLIGHT.to_owned())];
    if browsers > 1 {
        env.push(("TABPROXY_BROWSERS", browsers.to_string()));
    }
    Service::start(site, &Plan { instances, redis, env, log: log.to_owned() }).await
}
