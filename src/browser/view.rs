//! What the operator sees of the browser: a tab's picture, shared by all who look, and one hand on it.
//!
//! ```text
//! viewer ──> View ──┐                   ┌── pictures (watch: only the newest, the others are dropped)
//! viewer ──> View ──┴──> one task ──cast┴─> the tab that is there now
//! ```
//!
//! The task begins with the first who looks and ends with the last: in between nothing is captured. When the
//! tab is replaced, by a repair or a new browser, the task goes on with the one that is there then. It knows
//! nothing of who may look.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::link::{Cast, Input, Picture, Seen, Tab};

/// Input that waits for the task; more is dropped.
const WAITING: usize = 256;
/// From one picture to the next, at least, while somebody acts: some 30 a second.
const PACE: Duration = Duration::from_millis(30);
/// The same while all only look: some 15 a second. A picture costs the browser 30 ms of a core, which a page that
/// is always in motion must not take from the streams.
const LOOKING_PACE: Duration = Duration::from_millis(65);
/// Somebody acts until so long after the last input.
const ACTS: Duration = Duration::from_secs(1);
/// From one picture of a tab behind the others to the next.
const STILLS: Duration = Duration::from_secs(1);
/// From a tab that could not be shown to the next attempt.
const PAUSE: Duration = Duration::from_millis(300);

/// Which tab is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Which {
    /// The site's.
    Site,
    /// A carrier, which has an empty page and can only be looked at.
    Carrier,
}

/// The tabs that there are now, as the supervisor publishes them.
#[derive(Clone, Default)]
pub(super) struct Stage {
    pub site: Option<Tab>,
    pub carrier: Option<Tab>,
}

impl Stage {
    fn tab(&self, which: Which) -> Option<&Tab> {
        match which {
            Which::Site => self.site.as_ref(),
            Which::Carrier => self.carrier.as_ref(),
        }
    }

    /// Whether these are the same tabs, over the same link.
    pub fn is(&self, other: &Stage) -> bool {
        let same = |a: &Option<Tab>, b: &Option<Tab>| match (a, b) {
            (Some(a), Some(b)) => a.is(b),
            (None, None) => true,
            _ => false,
        };
        same(&self.site, &other.site) && same(&self.carrier, &other.carrier)
    }
}

/// What is to be seen.
#[derive(Clone, Debug, Default)]
pub struct Scene {
    /// The newest picture; `None` while there is no tab.
    pub picture: Option<Arc<Picture>>,
    /// What the page asks, if it asks something.
    pub question: Option<String>,
}

/// A look at a tab. Clones are looks at the same picture; it is captured as long as there is one.
#[derive(Clone)]
pub struct View {
    shared: Arc<Shared>,
}

struct Shared {
    scene: watch::Receiver<Scene>,
    input: mpsc::Sender<Input>,
    _end: DropGuard,
}

impl View {
    /// Follows what is to be seen; whoever is slow gets only the newest.
    pub fn scene(&self) -> watch::Receiver<Scene> {
        self.shared.scene.clone()
    }

    /// Does what a person does. Where too much waits already, it is dropped.
    pub fn put(&self, input: Input) {
        let _ = self.shared.input.try_send(input);
    }
}

/// All views of one browser.
pub(super) struct Views {
    stage: watch::Receiver<Stage>,
    open: Mutex<HashMap<Which, Weak<Shared>>>,
    captured: Arc<AtomicU64>,
}

impl Views {
    pub fn new(stage: watch::Receiver<Stage>) -> Views {
        Views { stage, open: Mutex::default(), captured: Arc::default() }
    }

    /// A look at that tab.
    pub fn view(&self, which: Which) -> View {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = open.get(&which).and_then(Weak::upgrade) {
            return View { shared };
        }
        let (scenes, scene) = watch::channel(Scene::default());
        let (input, inputs) = mpsc::channel(WAITING);
        let end = CancellationToken::new();
        let task = Task {
            which,
            stage: self.stage.clone(),
            scenes,
            inputs,
            captured: self.captured.clone(),
            end: end.clone(),
        };
        tokio::spawn(task.run());
        let shared = Arc::new(Shared { scene, input, _end: end.drop_guard() });
        open.insert(which, Arc::downgrade(&shared));
        View { shared }
    }

    /// Pictures captured so far.
    pub fn captured(&self) -> u64 {
        self.captured.load(Ordering::Relaxed)
    }
}

struct Task {
    which: Which,
    stage: watch::Receiver<Stage>,
    scenes: watch::Sender<Scene>,
    inputs: mpsc::Receiver<Input>,
    captured: Arc<AtomicU64>,
    end: CancellationToken,
}

impl Task {
    async fn run(mut self) {
        let end = self.end.clone();
        loop {
            let tab = self.stage.borrow_and_update().tab(self.which).cloned();
            let cast = match &tab {
                Some(tab) if self.which == Which::Site => tokio::select! {
                    cast = tab.cast() => cast.ok(),
                    () = end.cancelled() => return,
                },
                _ => None,
            };
            let went_on = match (cast, tab) {
                (Some(cast), Some(tab)) => self.show(cast, tab).await,
                (None, Some(tab)) if self.which == Which::Carrier => self.show_stills(tab).await,
                _ => {
                    // A tab that has gone is no longer to be seen.
                    self.scenes.send_replace(Scene::default());
                    tokio::select! {
                        changed = self.stage.changed() => changed.is_ok(),
                        () = tokio::time::sleep(PAUSE) => true,
                        () = end.cancelled() => false,
                    }
                }
            };
            if !went_on {
                return;
            }
        }
    }

    /// The same for a tab behind the others, which the browser makes no pictures of unless it is asked for each.
    async fn show_stills(&mut self, tab: Tab) -> bool {
        let end = self.end.clone();
        let mut tick = tokio::time::interval(STILLS);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = end.cancelled() => return false,
                changed = self.stage.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    if !self.stage.borrow_and_update().tab(self.which).is_some_and(|it| it.is(&tab)) {
                        return true;
                    }
                }
                still = async { tick.tick().await; tab.still().await } => {
                    let picture = still.ok().map(Arc::new);
                    self.captured.fetch_add(u64::from(picture.is_some()), Ordering::Relaxed);
                    self.scenes.send_modify(|it| it.picture = picture);
                }
            }
        }
    }

    /// Shows `tab` until it is gone (`true`) or nobody looks any more.
    async fn show(&mut self, mut cast: Cast, tab: Tab) -> bool {
        let end = self.end.clone();
        let mut last = Instant::now() - LOOKING_PACE;
        let mut acted: Option<Instant> = None;
        loop {
            let pace = if acted.is_some_and(|it| it.elapsed() < ACTS) { PACE } else { LOOKING_PACE };
            tokio::select! {
                () = end.cancelled() => {
                    cast.stop().await;
                    return false;
                }
                changed = self.stage.changed() => {
                    if changed.is_err() {
                        return false;
                    }
                    let is_here = self.stage.borrow_and_update().tab(self.which).is_some_and(|it| it.is(&tab));
                    if !is_here {
                        return true;
                    }
                }
                Some(input) = self.inputs.recv() => {
                    acted = Some(Instant::now());
                    cast.put(input);
                }
                // What is not taken is not made: that is the pace.
                seen = async { tokio::time::sleep_until(last + pace).await; cast.next().await } => match seen {
                    None => return true,
                    Some(Seen::Picture(picture)) => {
                        last = Instant::now();
                        self.captured.fetch_add(1, Ordering::Relaxed);
                        self.scenes.send_modify(|it| it.picture = Some(Arc::new(picture)));
                    }
                    Some(Seen::Question(text)) => self.scenes.send_modify(|it| it.question = Some(text)),
                    Some(Seen::Answered) => self.scenes.send_modify(|it| it.question = None),
                }
            }
        }
    }
}
