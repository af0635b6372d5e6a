//! What the machine, or the container, gives: shared memory, memory, descriptors.

use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use super::finding::Finding;
use super::instance::Running;
use crate::browser::shm::{self, Room};
use crate::config::Config;

const MIB: u64 = 1 << 20;
/// A browser at rest uses 385 MB, with 100 streams 455 MB (measured): with less, it is killed sooner or later.
const LITTLE: u64 = 450 * MIB;
/// With some room for a site that needs more.
const ENOUGH: u64 = 768 * MIB;
/// What should be left where the browser runs already.
const BESIDE: u64 = 200 * MIB;

/// Shared memory.
pub fn shm() -> Finding {
    judge_shm(&shm::room(), is_container())
}

fn judge_shm(room: &Result<Room, String>, in_container: bool) -> Finding {
    match (shm::complaint_about(room), room) {
        (None, Ok(room)) => Finding::green(
            "shm",
            format!("/dev/shm has {} MiB, {} MiB free", room.size / MIB, room.free / MIB),
        ),
        (complaint, room) => {
            let size = room.as_ref().map(|it| format!(" of {} MiB", it.size / MIB)).unwrap_or_default();
            let text = complaint.unwrap_or_default();
            let remedy = if in_container {
                "give the container more: docker run --shm-size=1gb, or shm_size: 1gb in compose"
            } else {
                "make it larger: mount -o remount,size=1g /dev/shm"
            };
            Finding::yellow(
                "shm",
                format!("{text}{size}: the browser uses files instead, which is slower"),
                remedy,
            )
        }
    }
}

/// Whether this is a container.
fn is_container() -> bool {
    ["/.dockerenv", "/run/.containerenv"].iter().any(|it| Path::new(it).exists())
        || std::env::var_os("container").is_some()
}

/// Memory that can still be had, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Memory {
    /// Of the machine.
    pub machine: u64,
    /// Within the limit of our control group, if there is one.
    pub group: Option<u64>,
}

impl Memory {
    /// What may really be used.
    pub fn available(self) -> u64 {
        self.group.map_or(self.machine, |it| it.min(self.machine))
    }

    /// Whether there is room for another browser, for a moment, beside one that runs.
    pub fn fits_another(self) -> bool {
        self.available() >= ENOUGH
    }
}

/// Looks how much there is; `None` where the system does not tell.
pub fn memory() -> Option<Memory> {
    let machine = kib(&fs::read_to_string("/proc/meminfo").ok()?, "MemAvailable:")?;
    Some(Memory { machine, group: group_rest() })
}

/// A `Name:  123 kB` line, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib * 1024)
}

/// What is left in the tightest of the control groups that we are in, version 2 or 1.
fn group_rest() -> Option<u64> {
    let ours = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let path = |controller: &str| {
        let line = ours.lines().find_map(|line| {
            let (_, rest) = line.split_once(':')?;
            let (named, path) = rest.split_once(':')?;
            named.split(',').any(|it| it == controller).then(|| path.to_owned())
        });
        line.unwrap_or_else(|| "/".into())
    };
    let two = ("/sys/fs/cgroup", path(""), "memory.max", "memory.current", "inactive_file ");
    let one = (
        "/sys/fs/cgroup/memory",
        path("memory"),
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        "total_inactive_file ",
    );
    [two, one].into_iter().find_map(|(root, path, limit, usage, inactive)| {
        let inner = PathBuf::from(format!("{root}{path}"));
        // Within a container the path may be one of the world outside, and the root is ours.
        let dirs = inner.ancestors().take_while(|it| it.starts_with(root));
        let rest = |dir: &Path| {
            let read = |name: &str| fs::read_to_string(dir.join(name)).ok();
            let number = |name: &str| read(name)?.trim().parse::<u64>().ok();
            let stat = read("memory.stat").unwrap_or_default();
            let cache = stat.lines().find_map(|it| it.strip_prefix(inactive)?.parse::<u64>().ok());
            // The kernel gives file pages up before it kills anybody.
            let used = number(usage)?.saturating_sub(cache.unwrap_or(0));
            Some(number(limit)?.saturating_sub(used))
        };
        dirs.filter_map(rest).min()
    })
}

/// Memory, for a browser that is to be started, or beside one that runs.
pub fn judge_memory(memory: Option<Memory>, running: &Running) -> Finding {
    let Some(memory) = memory else {
        return Finding::yellow(
            "memory",
            "the system does not say how much is free",
            format!("see that there are {} MiB for the browser", ENOUGH / MIB),
        );
    };
    let (available, limited) = (memory.available(), memory.group.is_some_and(|it| it < memory.machine));
    let whose = if limited { " within the container's or service's limit" } else { "" };
    let text = format!("{} MiB can be had{whose}", available / MIB);
    let remedy = if limited {
        "raise the limit (docker run --memory=2g, mem_limit in compose, MemoryMax= of the unit)"
    } else {
        "end other programs, or take a machine with more memory"
    };
    if running.is_tabproxy() {
        let text = format!("{text}, beside the browser that runs");
        return if available < BESIDE {
            Finding::yellow("memory", text, remedy)
        } else {
            Finding::green("memory", text)
        };
    }
    if available < LITTLE {
        Finding::red("memory", format!("{text}; the browser needs {} MiB", LITTLE / MIB), remedy)
    } else if available < ENOUGH {
        Finding::yellow("memory", format!("{text}; {} MiB leave some room", ENOUGH / MIB), remedy)
    } else {
        Finding::green("memory", text)
    }
}

/// Open files.
pub fn descriptors(config: &Config) -> Finding {
    judge_descriptors(getrlimit(Resource::Nofile).current, config.max_inflight, config.queue)
}

/// Each exchange takes a connection of its caller's, and so does each that waits; the rest is for the browser's
/// channel, files and the health checks.
fn judge_descriptors(limit: Option<u64>, inflight: usize, queue: usize) -> Finding {
    let wanted = (inflight + queue + 150) as u64;
    let remedy = "raise it: ulimit -n 4096, LimitNOFILE=4096 in the unit, or docker run --ulimit nofile=4096";
    match limit {
        None => Finding::green("open files", "no limit"),
        // The browser alone holds some hundreds in its busiest process.
        Some(limit) if limit < 256 => {
            Finding::red("open files", format!("{limit} may be open at once, too few for a browser"), remedy)
        }
        Some(limit) if limit < wanted => Finding::yellow(
            "open files",
            format!(
                "{limit} may be open at once; {inflight} requests and {queue} that wait take up to {wanted}"
            ),
            remedy,
        ),
        Some(limit) => Finding::green("open files", format!("{limit} may be open at once")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::finding::Light::{Green, Red, Yellow};
    use super::*;

    #[test]
    fn docker_gives_too_little_shared_memory() {
        let room = |size: u64, free: u64| Ok(Room { size: size * MIB, free: free * MIB });
        let docker = judge_shm(&room(64, 64), true);
        assert_eq!(docker.state, Yellow);
        assert!(docker.text.contains("64 MiB") && docker.remedy.unwrap().contains("--shm-size=1gb"));
        assert_eq!(judge_shm(&room(1024, 1000), true).state, Green);
        assert_eq!(judge_shm(&room(1024, 200), false).state, Yellow);
        let unusable = judge_shm(&Err("/dev/shm cannot be used: no".into()), false);
        assert!(unusable.state == Yellow && unusable.text.contains("cannot be used"), "{unusable:?}");
    }

    #[test]
    fn the_tighter_limit_counts_and_a_browser_that_runs_has_its_memory() {
        let of = |machine: u64, group: Option<u64>| {
            Some(Memory { machine: machine * MIB, group: group.map(|it| it * MIB) })
        };
        let judge = |memory, running: &Running| judge_memory(memory, running);
        assert_eq!(judge(of(8000, None), &Running::Nobody).state, Green);
        assert_eq!(judge(of(600, None), &Running::Nobody).state, Yellow);
        let small = judge(of(8000, Some(300)), &Running::Nobody);
        assert!(small.state == Red && small.remedy.unwrap().contains("--memory"), "{}", small.text);
        assert_eq!(judge(of(8000, Some(300)), &Running::ready_for_tests()).state, Green);
        assert_eq!(judge(of(100, None), &Running::ready_for_tests()).state, Yellow);
        assert_eq!(judge(None, &Running::Nobody).state, Yellow);
        assert!(memory().is_some_and(|it| it.available() > 0));
    }

    #[test]
    fn descriptors_for_every_request_and_every_one_that_waits() {
        let state = |limit| judge_descriptors(limit, 90, 256).state;
        assert_eq!(state(Some(64)), Red);
        assert_eq!(state(Some(400)), Yellow);
        assert_eq!(state(Some(1024)), Green);
        assert_eq!(state(None), Green);
        assert_eq!(judge_descriptors(Some(1024), 90, 5000).state, Yellow);
    }
}
