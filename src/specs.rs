//! The browsers that a configuration asks for: one [`BrowserSpec`] each.

use std::path::PathBuf;

use crate::browser::channel::BufferLimits;
use crate::browser::gateway::WayOut;
use crate::browser::launch::LaunchSpec;
use crate::browser::{BrowserSpec, Timing, Upkeep};
use crate::config::Config;

/// One for each profile. All run the same program, keep the same page open, and go the same way out.
pub(crate) fn of(config: &Config, binary: PathBuf, way_out: &WayOut) -> Vec<BrowserSpec> {
    let launch = LaunchSpec::new(config, binary, way_out);
    let spec = |profile| BrowserSpec {
        launch: LaunchSpec { profile, ..launch.clone() },
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
    config.profiles().into_iter().map(spec).collect()
}
