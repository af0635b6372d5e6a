//! The figures of turns that several instances share.

use prometheus_client::metrics::counter::Counter;
use prometheus_client::registry::Registry;

/// Counts what happens between instances; clones count together. Without a registry nobody sees it.
#[derive(Clone, Debug, Default)]
pub struct SharedTurns {
    /// Turns that joined an answer under way at another instance.
    pub joined: Counter,
    /// Turns that got an answer that another instance had given.
    pub replayed: Counter,
    /// Turns that had to wait until another instance had answered the one before.
    pub waited: Counter,
    /// Answers that the other instances do not have in whole, because the store was too slow or gone.
    pub given_up: Counter,
    /// Leases that ran out while they were needed: this instance had slept, or the store has forgotten.
    pub leases_lost: Counter,
    /// Turns that this instance decided alone, because the store could not be reached.
    pub alone: Counter,
}

impl SharedTurns {
    /// Registers the figures in `registry`.
    pub fn new(registry: &mut Registry) -> SharedTurns {
        let figures = SharedTurns::default();
        let help = "Turns that joined an answer under way at another instance";
        registry.register("tabproxy_shared_turns_joined", help, figures.joined.clone());
        let help = "Turns that got an answer that another instance had given";
        registry.register("tabproxy_shared_turns_replayed", help, figures.replayed.clone());
        let help = "Turns that waited until another instance had answered the one before";
        registry.register("tabproxy_shared_turns_waited", help, figures.waited.clone());
        let help = "Answers that other instances do not have in whole: the shared store was too slow or gone";
        registry.register("tabproxy_shared_answers_given_up", help, figures.given_up.clone());
        let help = "Leases that ran out in use: this instance slept, or the shared store forgot";
        registry.register("tabproxy_shared_leases_lost", help, figures.leases_lost.clone());
        let help = "Turns decided by this instance alone: the shared store was gone";
        registry.register("tabproxy_shared_turns_alone", help, figures.alone.clone());
        figures
    }
}
