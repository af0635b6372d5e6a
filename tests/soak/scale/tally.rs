//! What instances tell of the turns that they share, also those instances that are gone.

use std::collections::BTreeMap;

use super::super::shared::service::{Service, ask};

/// What is told: in words, and by which metric.
const TOLD: [(&str, &str); 7] = [
    ("turns that joined an answer under way", "tabproxy_turns_joined_total"),
    ("turns that got an answer that was over", "tabproxy_turns_replayed_total"),
    ("turns that joined an answer under way at another instance", "tabproxy_shared_turns_joined_total"),
    ("turns that got an answer that another instance had given", "tabproxy_shared_turns_replayed_total"),
    (
        "turns that waited for another instance's turn in their conversation",
        "tabproxy_shared_turns_waited_total",
    ),
    ("answers that the others could not have in whole", "tabproxy_shared_answers_given_up_total"),
    ("leases that were lost in use", "tabproxy_shared_leases_lost_total"),
];

/// The figures of each process, as they were last seen.
#[derive(Debug, Default)]
pub struct Tally(BTreeMap<i32, BTreeMap<&'static str, f64>>);

impl Tally {
    /// Looks at each instance that answers.
    pub async fn look(&mut self, service: &Service) {
        for instance in &service.instances {
            let Ok((200, metrics)) = ask::get(instance.addr, "/metrics").await else { continue };
            let of = |(_, metric)| Some((metric, ask::figure(&metrics, metric)?));
            self.0.entry(instance.pid()).or_default().extend(TOLD.into_iter().filter_map(of));
        }
    }

    /// Each figure in words, with its sum; those that nobody tells are left out.
    pub fn sums(&self) -> Vec<(&'static str, f64)> {
        let of = |metric: &str| {
            let values: Vec<f64> = self.0.values().filter_map(|it| it.get(metric)).copied().collect();
            (!values.is_empty()).then(|| values.iter().sum::<f64>())
        };
        TOLD.into_iter().filter_map(|(words, metric)| Some((words, of(metric)?))).collect()
    }
}
