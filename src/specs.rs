//! The browsers that a configuration asks for: one [`BrowserSpec`] each.

use std::path::PathBuf;

use crate::browser::channel::BufferLimits;
use crate::browser::gateway::WayOut;
use crate::browser::launch::{LaunchSpec, Sandbox};
use crate::browser::{BrowserSpec, Timing, Upkeep};
use crate::config::{Config, SandboxMode};

/// One for each profile. All run the same program, keep the same page open, and go the same way out.
pub(crate) fn of(config: &Config, binary: PathBuf, way_out: &WayOut) -> Vec<BrowserSpec> {
    let launch = |profile| LaunchSpec {
        binary: binary.clone(),
        profile,
        headless: config.headless,
        sandbox: match config.sandbox {
            SandboxMode::Auto => Sandbox::Auto,
            SandboxMode::On => Sandbox::On,
            SandboxMode::Off => Sandbox::Off,
        },
        extra: config.chromium_args.clone(),
        resolve: config.resolve.clone(),
        pins: config.pins.clone(),
        proxy_server: way_out.server.clone(),
        proxy_bypass: way_out.bypass.clone(),
    };
    let spec = |profile| BrowserSpec {
        launch: launch(profile),
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
