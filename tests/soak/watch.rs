//! What proxy and browser need over time, as the kernel says it. Nothing of the load is in it.

use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use super::proxy::browser_of;
use super::shared::procfs;

/// One look. Memory is in MB of 2^20 bytes.
#[derive(Clone, Copy, Debug)]
pub struct Sample {
    /// Since the start of the soak, in seconds.
    pub at: f64,
    /// Resident memory of the proxy.
    pub proxy_memory: f64,
    /// Its open descriptors.
    pub proxy_descriptors: f64,
    /// Its memory mappings.
    pub proxy_mappings: f64,
    /// Memory of all the browser's processes; what they share counts once.
    pub browser_memory: f64,
    /// Their open descriptors.
    pub browser_descriptors: f64,
    /// Their memory mappings.
    pub browser_mappings: f64,
    /// How many they are.
    pub browser_processes: f64,
}

/// Looks at regular intervals, on a thread of its own, until it is ended.
pub struct Watch {
    samples: Arc<Mutex<Vec<Sample>>>,
    end: Sender<()>,
    thread: JoinHandle<()>,
}

impl Watch {
    /// Watches the proxy whose process id stands in `proxy`.
    pub fn start(proxy: Arc<Mutex<i32>>, start: Instant, interval: Duration) -> Watch {
        let samples = Arc::new(Mutex::new(Vec::new()));
        let (end, ended) = mpsc::channel();
        let into = samples.clone();
        let thread = std::thread::spawn(move || {
            while ended.recv_timeout(interval) == Err(RecvTimeoutError::Timeout) {
                let pid = *proxy.lock().unwrap_or_else(PoisonError::into_inner);
                if let Some(sample) = look(pid, start.elapsed().as_secs_f64()) {
                    into.lock().unwrap_or_else(PoisonError::into_inner).push(sample);
                }
            }
        });
        Watch { samples, end, thread }
    }

    /// Ends it; all that was seen.
    pub fn end(self) -> Vec<Sample> {
        let _ = self.end.send(());
        let _ = self.thread.join();
        std::mem::take(&mut *self.samples.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn look(proxy: i32, at: f64) -> Option<Sample> {
    let group = browser_of(proxy);
    let browser: Vec<_> =
        procfs::processes().into_iter().filter(|it| Some(it.group) == group).map(|it| it.pid).collect();
    let sum =
        |count: fn(i32) -> Option<usize>| browser.iter().filter_map(|pid| count(*pid)).sum::<usize>() as f64;
    Some(Sample {
        at,
        proxy_memory: procfs::resident(proxy) as f64 / procfs::MB,
        proxy_descriptors: procfs::descriptors(proxy)? as f64,
        proxy_mappings: procfs::mappings(proxy)? as f64,
        browser_memory: group.map_or(0.0, procfs::shared_memory_of_group),
        browser_descriptors: sum(procfs::descriptors),
        browser_mappings: sum(procfs::mappings),
        browser_processes: browser.len() as f64,
    })
}
