//! The figures of keys and accounts, for the registry that all figures are in.
//!
//! How the accounts are is asked for when somebody looks. Labels are the names that the operator gave; no key
//! and no token is ever one.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

/// Counts requests that were refused for want of a right key.
#[derive(Clone, Debug)]
pub struct Refusals(Counter);

impl Refusals {
    /// Registers the figure in `registry`.
    pub fn new(registry: &mut Registry) -> Refusals {
        let counter = Counter::default();
        let help = "Requests that showed no access key where one is needed, or a wrong one";
        registry.register("tabproxy_keys_refused", help, counter.clone());
        Refusals(counter)
    }

    /// One more.
    pub fn count(&self) {
        self.0.inc();
    }
}

/// Registers the name of this instance in `registry`, as `tabproxy_instance_info{name}`.
///
/// Not as a label of every figure, nor under the label `instance`: whom it scrapes is for Prometheus to say, which
/// puts that label on, and would rename ours. Where the two are to be told together, the info joins them.
pub fn name_instance(registry: &mut Registry, name: &str) {
    let info = Info::new([("name", name.to_owned())]);
    registry.register("tabproxy_instance", "Always 1; the name of this instance, in its label", info);
}

/// An account as it is at the moment of a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccountFigure {
    /// The operator's name for it.
    pub name: String,
    /// `ready`, `resting` or `refused`.
    pub state: &'static str,
    /// Requests that run with it.
    pub running: usize,
}

/// The states that `tabproxy_account_state` has a series for.
const STATES: [&str; 3] = ["ready", "resting", "refused"];

/// Where the accounts are asked how they are.
type Ask = Box<dyn Fn() -> Vec<AccountFigure> + Send + Sync>;

/// Registers the accounts' figures in `registry`; `ask` says how they are.
pub fn watch_accounts(registry: &mut Registry, ask: Ask) {
    registry.register_collector(Box::new(Watch(ask)));
}

struct Watch(Ask);

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Watch")
    }
}

impl Collector for Watch {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let accounts = (self.0)();
        let gauge = ConstGauge::<i64>::new(0).metric_type();
        let help = "1 for the state that a stored account is in; refused: its token needs to be renewed";
        let mut family = encoder.encode_descriptor("tabproxy_account_state", help, None, gauge)?;
        for account in &accounts {
            for state in STATES {
                let labels = [("account", account.name.as_str()), ("state", state)];
                let value = ConstGauge::<i64>::new(i64::from(state == account.state));
                value.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "Requests that run with a stored account";
        let mut family = encoder.encode_descriptor("tabproxy_account_running", help, None, gauge)?;
        for account in &accounts {
            let value = ConstGauge::<i64>::new(account.running as i64);
            value.encode(family.encode_family(&[("account", account.name.as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_are_shown_as_they_are_when_asked() {
        let mut registry = Registry::default();
        let ask = || vec![AccountFigure { name: "work".into(), state: "resting", running: 2 }];
        watch_accounts(&mut registry, Box::new(ask));
        Refusals::new(&mut registry).count();
        name_instance(&mut registry, "tabproxy-0");
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "tabproxy_account_state{account=\"work\",state=\"ready\"} 0",
            "tabproxy_account_state{account=\"work\",state=\"resting\"} 1",
            "tabproxy_account_running{account=\"work\"} 2",
            "tabproxy_keys_refused_total 1",
            "tabproxy_instance_info{name=\"tabproxy-0\"} 1",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }
}
