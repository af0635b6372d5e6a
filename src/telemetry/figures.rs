//! The figures of keys, accounts and several browsers, for the registry that all figures are in.
//!
//! How the accounts and browsers are is asked for when somebody looks. Labels are the names that the operator gave; no key
//! and no token is ever one.

use std::fmt;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::info::Info;
use prometheus_client::registry::Registry;

use super::metrics::PHASES;

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

/// One of several browsers as it is at the moment of a scrape.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserFigure {
    /// Its number, from 1.
    pub number: usize,
    /// One of [`PHASES`].
    pub phase: &'static str,
    /// Whether it serves requests.
    pub up: bool,
    /// Requests that run in it.
    pub running: usize,
    /// How often it was started.
    pub starts: u64,
}

/// Registers the figures of each of several browsers; `ask` says how they are. For a single one the figures
/// without a label say all of it.
pub fn watch_browsers(registry: &mut Registry, ask: impl Fn() -> Vec<BrowserFigure> + Send + Sync + 'static) {
    registry.register_collector(Box::new(Each(Box::new(ask))));
}

struct Each(Box<dyn Fn() -> Vec<BrowserFigure> + Send + Sync>);

impl fmt::Debug for Each {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Each")
    }
}

impl Collector for Each {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let browsers = (self.0)();
        let gauge = ConstGauge::<i64>::new(0).metric_type();
        let help = "1 for the phase that each browser is in";
        let mut family = encoder.encode_descriptor("tabproxy_browser_phase", help, None, gauge)?;
        for it in &browsers {
            let number = it.number.to_string();
            for phase in PHASES {
                let labels = [("browser", number.as_str()), ("phase", phase)];
                let value = ConstGauge::<i64>::new(i64::from(phase == it.phase));
                value.encode(family.encode_family(&labels)?)?;
            }
        }
        let help = "1 if the browser serves requests";
        let mut family = encoder.encode_descriptor("tabproxy_browser_up", help, None, gauge)?;
        for it in &browsers {
            let value = ConstGauge::<i64>::new(i64::from(it.up));
            value.encode(family.encode_family(&[("browser", it.number.to_string().as_str())])?)?;
        }
        let help = "Requests that run in the browser";
        let mut family = encoder.encode_descriptor("tabproxy_browser_running", help, None, gauge)?;
        for it in &browsers {
            let value = ConstGauge::<i64>::new(it.running as i64);
            value.encode(family.encode_family(&[("browser", it.number.to_string().as_str())])?)?;
        }
        let counter = ConstCounter::new(0u64).metric_type();
        let help = "How often the browser was started again";
        let mut family = encoder.encode_descriptor("tabproxy_browser_restarts", help, None, counter)?;
        for it in &browsers {
            let value = ConstCounter::new(it.starts.saturating_sub(1));
            value.encode(family.encode_family(&[("browser", it.number.to_string().as_str())])?)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_of_several_browsers_is_shown_by_its_number() {
        let mut registry = Registry::default();
        let one = BrowserFigure { number: 1, phase: "ready", up: true, running: 3, starts: 1 };
        let two = BrowserFigure { number: 2, phase: "backoff", up: false, running: 0, starts: 4 };
        watch_browsers(&mut registry, move || vec![one.clone(), two.clone()]);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        for line in [
            "tabproxy_browser_phase{browser=\"1\",phase=\"ready\"} 1",
            "tabproxy_browser_phase{browser=\"2\",phase=\"ready\"} 0",
            "tabproxy_browser_phase{browser=\"2\",phase=\"backoff\"} 1",
            "tabproxy_browser_up{browser=\"1\"} 1",
            "tabproxy_browser_up{browser=\"2\"} 0",
            "tabproxy_browser_running{browser=\"1\"} 3",
            "tabproxy_browser_restarts_total{browser=\"2\"} 3",
        ] {
            assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
        }
    }

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
