//! The browsers that a configuration asks for: one [`BrowserSpec`] each.

use std::path::PathBuf;

use crate::browser::attach::AttachSpec;
use crate::browser::channel::BufferLimits;
use crate::browser::gateway::WayOut;
use crate::browser::launch::LaunchSpec;
use crate::browser::{BrowserSpec, Source, Timing, Upkeep};
use crate::config::Config;

/// One for each profile. All run the same program and go the same way out, or run elsewhere, one at each address; and
/// all keep the same page open.
pub(crate) fn of(config: &Config, binary: PathBuf, way_out: &WayOut) -> Vec<BrowserSpec> {
    let launch = LaunchSpec::new(config, binary, way_out);
    let source = |(n, profile): (usize, PathBuf)| match config.browser_ws.get(n).cloned() {
        Some(address) => Source::Attach(AttachSpec { address, profile }),
        None => Source::Launch(LaunchSpec { profile, ..launch.clone() }),
    };
    let spec = |source| BrowserSpec {
        source,
        url: config.origin.clone(),
        timing: Timing::default(),
        upkeep: Upkeep {
            carriers: config.carriers,
            exchanges: config.page_exchanges,
            age: config.page_age,
            memory: config.page_memory as u64,
        },
        buffers: BufferLimits::default(),
    };
    config.profiles().into_iter().enumerate().map(source).map(spec).collect()
}
