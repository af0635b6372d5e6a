//! The machine against scripts, and against any sequence of events.

use super::*;
use crate::site::challenge::{Landing, Verdict};
use proptest::prelude::*;

const ORIGIN: &str = "https://chat.example";

struct Run {
    state: State,
    now: Instant,
    todo: Vec<Action>,
}

impl Run {
    fn new() -> Run {
        let now = Instant::now();
        let (state, todo) = State::new(Timing::default(), upkeep(), 7, now);
        Run { state, now, todo }
    }

    fn on(&mut self, event: Event) -> &[Action] {
        let (state, todo) = self.state.clone().on(event, self.now);
        self.state = state;
        self.todo = todo;
        &self.todo
    }

    fn wait(&mut self, seconds: f64) -> &[Action] {
        self.now += Duration::from_secs_f64(seconds);
        self.on(Event::Tick)
    }

    fn ready() -> Run {
        let mut run = Run::new();
        assert_eq!(run.todo, [Action::Launch]);
        assert_eq!(run.on(Event::BrowserUp), [Action::OpenSite]);
        run.on(Event::SiteLanded(ORIGIN.into(), Landing::Site));
        assert_eq!(run.todo, [Action::OpenCarrier(1, ORIGIN.into())]);
        assert_eq!(run.on(Event::CarrierUp(1)), [Action::Probe(1)]);
        run.on(Event::Probed(1, Verdict::Passed));
        assert_eq!(run.state.phase, Phase::Ready);
        run
    }

    fn usable(&self) -> Vec<u64> {
        self.state.usable(self.now).collect()
    }
}

const PROMPT: Duration = Duration::from_millis(3);

/// One carrier, so that the scripts stay short; the spare has its own.
fn upkeep() -> Upkeep {
    Upkeep { carriers: 1, exchanges: 100, age: Duration::from_secs(3600), memory: 1000 }
}

fn beat(generation: u64) -> Event {
    Event::CarrierBeat(generation, Wear::default())
}

fn lost() -> Event {
    Event::BrowserLost("killed".into())
}

#[test]
fn the_ordinary_way_to_ready() {
    assert_eq!(Run::ready().usable(), [1]);
}

#[test]
fn a_check_is_waited_for_and_then_a_person_is_asked_and_nothing_is_reloaded() {
    let mut run = Run::new();
    run.on(Event::BrowserUp);
    run.on(Event::SiteLanded(ORIGIN.into(), Landing::Site));
    run.on(Event::CarrierUp(1));
    let check = Event::Probed(1, Verdict::Wall(Wall::Check));
    assert_eq!(run.on(check.clone()), []);
    run.now = run.state.wake_at();
    assert!(run.on(Event::Tick).contains(&Action::Probe(1)));
    run.on(check.clone());
    run.on(beat(1));
    run.on(Event::BrowserBeat(PROMPT));
    for _ in 0..100 {
        run.wait(1.0);
        run.on(beat(1));
        run.on(Event::BrowserBeat(PROMPT));
        assert!(!run.todo.contains(&Action::OpenSite));
        run.on(check.clone());
    }
    assert_eq!(run.state.phase, Phase::NeedsOperator(Wall::Check));
    assert!(run.usable().is_empty());
    // The person is done: the page navigates, which is looked at at once.
    run.on(Event::SiteLanded(ORIGIN.into(), Landing::Site));
    assert_eq!(run.todo, [Action::Probe(1)]);
    run.on(Event::Probed(1, Verdict::Passed));
    assert_eq!(run.state.phase, Phase::Ready);
}

#[test]
fn a_lost_carrier_is_replaced_without_touching_the_browser() {
    let mut run = Run::ready();
    assert_eq!(run.on(Event::CarrierLost(1, "crash".into())), [Action::OpenCarrier(2, ORIGIN.into())]);
    assert!(matches!(run.state.phase, Phase::Warming { .. }));
    assert_eq!(run.on(Event::CarrierUp(2)), [Action::Probe(2)]);
    run.on(Event::Probed(2, Verdict::Passed));
    assert_eq!(run.usable(), [2]);
}

#[test]
fn carriers_that_cannot_be_opened_cost_the_browser_at_last() {
    let mut run = Run::ready();
    run.on(Event::CarrierLost(1, "crash".into()));
    run.on(Event::CarrierLost(2, "no".into()));
    run.on(Event::CarrierLost(3, "no".into()));
    assert_eq!(run.on(Event::CarrierLost(4, "no".into())), [Action::Kill, Action::Launch]);
}

#[test]
fn a_silent_carrier_is_suspected_first_and_replaced_later() {
    let mut run = Run::ready();
    run.wait(3.0);
    run.on(Event::BrowserBeat(PROMPT));
    assert_eq!(run.state.phase, Phase::Ready);
    run.wait(2.0);
    assert_eq!(run.state.phase, Phase::Suspect);
    assert!(run.usable().is_empty());
    run.on(beat(1));
    assert_eq!((run.usable(), &run.state.phase), (vec![1], &Phase::Ready));
    run.wait(5.0);
    run.on(Event::BrowserBeat(PROMPT));
    assert_eq!(run.state.phase, Phase::Suspect);
    run.wait(4.0);
    assert!(run.todo.contains(&Action::CloseCarrier(1)));
    assert!(run.todo.contains(&Action::OpenCarrier(2, ORIGIN.into())));
}

#[test]
fn a_silent_browser_is_killed_and_started_again() {
    let mut run = Run::ready();
    run.wait(11.0);
    run.on(beat(1));
    assert!(!run.todo.contains(&Action::Kill));
    assert_eq!(run.wait(2.0), [Action::Kill, Action::Launch]);
}

#[test]
fn a_browser_that_ends_at_once_is_started_ever_more_rarely() {
    let mut run = Run::new();
    let mut pauses = Vec::new();
    for _ in 0..12 {
        run.on(lost());
        let before = run.now;
        while run.state.phase != Phase::Starting {
            run.now = run.state.wake_at();
            run.on(Event::Tick);
        }
        pauses.push(run.now - before);
    }
    assert_eq!(pauses[0], Duration::ZERO);
    assert!(pauses[1..7].windows(2).all(|it| it[0] < it[1]), "{pauses:?}");
    assert!(pauses[8..].iter().all(|it| (45.0..=60.0).contains(&it.as_secs_f64())), "{pauses:?}");
}

#[test]
fn only_a_stable_time_forgives_failures() {
    let mut run = Run::ready();
    assert_eq!(run.on(lost()), [Action::Kill, Action::Launch]);
    let again = |run: &mut Run, generation| {
        run.on(Event::BrowserUp);
        run.on(Event::SiteLanded(ORIGIN.into(), Landing::Site));
        run.on(Event::CarrierUp(generation));
        run.on(Event::Probed(generation, Verdict::Passed));
    };
    again(&mut run, 2);
    assert_eq!(run.on(lost()), [Action::Kill], "the second loss in a row waits");
    run.now = run.state.wake_at();
    assert_eq!(run.on(Event::Tick), [Action::Launch]);
    again(&mut run, 3);
    for _ in 0..40 {
        run.on(beat(3));
        run.on(Event::BrowserBeat(PROMPT));
        run.wait(2.0);
    }
    assert_eq!(run.on(lost()), [Action::Kill, Action::Launch]);
}

#[test]
fn an_operator_who_signs_in_through_a_third_party_keeps_the_origin() {
    let mut run = Run::ready();
    run.on(Event::SiteLanded("https://id.elsewhere".into(), Landing::Elsewhere));
    run.on(Event::SiteLanded("https://auth.chat.example".into(), Landing::Wall(Wall::SignIn)));
    assert_eq!((run.state.origin(), run.usable()), (Some(ORIGIN), vec![1]));
}

#[test]
fn draining_opens_nothing_and_closes_the_browser_at_the_end() {
    let mut run = Run::ready();
    run.on(Event::Drain);
    assert!(run.usable().is_empty());
    assert_eq!(run.on(Event::CarrierLost(1, "crash".into())), []);
    assert_eq!(run.on(Event::Drained), [Action::Close]);
    assert_eq!(run.state.phase, Phase::Stopped);
    assert_eq!(run.on(lost()), []);
}

/// Ready, with a second carrier in reserve.
fn with_spare() -> Run {
    let now = Instant::now();
    let (state, todo) = State::new(Timing::default(), Upkeep { carriers: 2, ..upkeep() }, 7, now);
    let mut run = Run { state, now, todo };
    run.on(Event::BrowserUp);
    run.on(Event::SiteLanded(ORIGIN.into(), Landing::Site));
    run.on(Event::CarrierUp(1));
    assert_eq!(run.on(Event::Probed(1, Verdict::Passed)), [Action::OpenCarrier(2, ORIGIN.into())]);
    run.on(Event::CarrierUp(2));
    assert_eq!(run.usable(), [1, 2]);
    run
}

#[test]
fn a_spare_takes_over_without_a_gap_and_is_replaced() {
    let mut run = with_spare();
    assert_eq!(run.on(Event::CarrierLost(1, "crash".into())), [Action::OpenCarrier(3, ORIGIN.into())]);
    assert_eq!((&run.state.phase, run.usable()), (&Phase::Ready, vec![2]));
}

#[test]
fn a_spare_that_cannot_be_opened_costs_no_browser() {
    let mut run = with_spare();
    run.on(Event::CarrierLost(1, "crash".into()));
    for generation in 3..20 {
        run.on(beat(2));
        run.on(Event::CarrierLost(generation, "no".into()));
        assert!(!run.todo.contains(&Action::Kill));
        for _ in 0..40 {
            run.on(beat(2));
            run.on(Event::BrowserBeat(PROMPT));
            run.on(Event::SiteBeat(0));
            if run.wait(2.0).iter().any(|it| matches!(it, Action::OpenCarrier(..))) {
                break;
            }
        }
    }
    assert_eq!(run.state.phase, Phase::Ready);
}

#[test]
fn a_worn_carrier_retires_when_another_can_take_over_and_closes_when_it_is_idle() {
    let mut run = Run::ready();
    let worn = |running| Event::CarrierBeat(1, Wear { started: 100, running, quiet: Duration::ZERO });
    assert_eq!(run.on(worn(2)), [Action::OpenCarrier(2, ORIGIN.into())]);
    assert_eq!(run.usable(), [1], "it works until there is another");
    run.on(Event::CarrierUp(2));
    assert_eq!(run.usable(), [2]);
    assert_eq!(run.on(worn(1)), []);
    assert_eq!(run.on(worn(0)), [Action::CloseCarrier(1)]);
}

#[test]
fn a_silent_link_is_made_anew_before_the_browser_is_given_up() {
    let mut run = Run::ready();
    run.on(beat(1));
    run.wait(4.5);
    assert!(run.todo.contains(&Action::Relink) && !run.todo.contains(&Action::Kill));
    run.on(Event::Relinked(Ok(())));
    for _ in 0..5 {
        run.on(beat(1));
        run.on(Event::SiteBeat(0));
        run.on(Event::BrowserBeat(PROMPT));
        run.wait(2.0);
        assert!(!run.todo.contains(&Action::Relink) && !run.todo.contains(&Action::Kill));
    }
}

#[test]
fn a_browser_that_works_but_answers_late_is_given_time() {
    let mut run = Run::ready();
    for _ in 0..14 {
        run.on(Event::BrowserPulse(true));
        assert!(!run.wait(4.0).contains(&Action::Kill));
        run.on(Event::Relinked(Err("late".into())));
    }
    run.on(Event::BrowserPulse(true));
    assert!(run.wait(6.0).contains(&Action::Kill), "but not for ever");
}

#[test]
fn a_wall_in_the_middle_of_the_work_is_tried_once_and_then_a_persons_business() {
    let mut run = with_spare();
    assert_eq!(run.on(Event::Walled(1, Wall::Check)), [Action::OpenSite]);
    assert!(matches!(run.state.phase, Phase::Warming { .. }) && run.usable().is_empty());
    assert_eq!(run.on(Event::Walled(2, Wall::Check)), [], "one is enough");
    run.on(Event::SiteLanded(ORIGIN.into(), Landing::Site));
    run.on(Event::Probed(2, Verdict::Passed));
    assert_eq!(run.state.phase, Phase::Ready);
    assert_eq!(run.on(Event::Walled(1, Wall::Check)), []);
    assert_eq!(run.state.phase, Phase::NeedsOperator(Wall::Check));
}

#[test]
fn a_check_that_comes_with_the_loss_of_all_pages_is_passed_in_the_sites_page() {
    let mut run = Run::ready();
    run.now += Duration::from_secs(1);
    run.on(Event::CarrierLost(1, "crash".into()));
    run.on(Event::CarrierUp(2));
    assert_eq!(run.on(Event::Probed(2, Verdict::Wall(Wall::Check))), [Action::OpenSite]);
    assert_eq!(run.on(Event::Probed(2, Verdict::Wall(Wall::Check))), [], "once");
}

#[test]
fn a_profile_is_suspected_only_when_browsers_do_not_even_start() {
    let mut run = Run::new();
    let mut launches = Vec::new();
    for _ in 0..4 {
        launches.extend(run.todo.iter().filter(|it| **it != Action::Kill).cloned());
        run.on(lost());
        while run.state.phase != Phase::Starting {
            run.now = run.state.wake_at();
            run.on(Event::Tick);
        }
    }
    assert_eq!(launches, [Action::Launch, Action::Launch, Action::Launch, Action::LaunchAnew]);
}

#[test]
fn a_site_that_uses_too_much_memory_is_renewed_but_not_at_once_and_ever_more_rarely() {
    let mut run = Run::ready();
    let mut renewed = Vec::new();
    let began = run.now;
    for _ in 0..600 {
        run.on(beat(1));
        run.on(Event::BrowserBeat(PROMPT));
        if run.on(Event::SiteBeat(5000)).contains(&Action::RenewSite) {
            renewed.push((run.now - began).as_secs());
        }
        run.wait(1.0);
    }
    assert!(renewed[0] >= 15, "{renewed:?}");
    let pauses: Vec<_> = renewed.windows(2).map(|it| it[1] - it[0]).collect();
    assert!(pauses.len() < 12 && pauses.last() > pauses.first(), "{pauses:?}");
}

fn any_event() -> impl Strategy<Value = Event> {
    let verdict = prop_oneof![
        Just(Verdict::Passed),
        Just(Verdict::Wall(Wall::Check)),
        Just(Verdict::Wall(Wall::SignIn)),
        Just(Verdict::Unwell("unwell".into())),
    ];
    let landing =
        prop_oneof![Just(Landing::Site), Just(Landing::Elsewhere), Just(Landing::Wall(Wall::SignIn))];
    prop_oneof![
        4 => Just(Event::Tick),
        3 => Just(Event::BrowserUp),
        1 => Just(lost()),
        3 => ("[ab]", landing).prop_map(|(host, it)| Event::SiteLanded(format!("https://{host}"), it)),
        1 => Just(Event::SiteFailed("net".into())),
        1 => Just(Event::SiteLost("crash".into())),
        4 => (1u64..9).prop_map(Event::CarrierUp),
        2 => (1u64..9).prop_map(|it| Event::CarrierLost(it, "crash".into())),
        4 => (1u64..9, verdict).prop_map(|(it, v)| Event::Probed(it, v)),
        3 => (1u64..9).prop_map(beat),
        3 => Just(Event::BrowserBeat(PROMPT)),
        2 => ((1u64..9), prop_oneof![Just(Wall::Check), Just(Wall::SignIn)]).prop_map(|(it, w)| Event::Walled(it, w)),
        1 => (1u64..9).prop_map(Event::Doubted),
        2 => (1u64..9, 0u64..2000).prop_map(|(it, bytes)| Event::CarrierWeighed(it, bytes)),
        2 => (0u64..2000).prop_map(Event::SiteBeat),
        1 => Just(Event::LinkLost("cut".into())),
        1 => any::<bool>().prop_map(|ok| Event::Relinked(if ok { Ok(()) } else { Err("no".into()) })),
        1 => any::<bool>().prop_map(Event::BrowserPulse),
        1 => prop_oneof![Just(Repair::Site), Just(Repair::Browser)].prop_map(Event::Restart),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    /// Whatever happens in whatever order.
    #[test]
    fn invariants(script in prop::collection::vec((any_event(), 0u64..20_000), 1..200), drain in any::<bool>()) {
        let mut run = Run::new();
        let mut newest = 0;
        for (event, millis) in script {
            run.now += Duration::from_millis(millis);
            let before = run.state.phase.clone();
            run.on(event);
            // Every generation is newer than all before it, and is opened on a known origin.
            for action in &run.todo {
                if let Action::OpenCarrier(generation, origin) = action {
                    prop_assert!(*generation > newest);
                    newest = *generation;
                    prop_assert_eq!(run.state.origin(), Some(origin.as_str()));
                }
            }
            // One browser at a time: a launch follows the start or the loss of the one before.
            let launches = run.todo.iter().filter(|it| **it == Action::Launch).count();
            prop_assert!(launches <= 1);
            if launches == 1 {
                prop_assert_eq!(&run.state.phase, &Phase::Starting);
            }
            // Nothing is reloaded because a person is wanted.
            if let (Phase::NeedsOperator(_), Phase::NeedsOperator(_)) = (&before, &run.state.phase) {
                prop_assert!(!run.todo.contains(&Action::Launch));
            }
            // Only what is open and fresh gets work, and only when ready.
            if run.state.phase != Phase::Ready {
                prop_assert!(run.usable().is_empty());
            }
            // The machine never sleeps past a beat.
            prop_assert!(run.state.wake_at() <= run.now + run.state.timing.beat);
        }
        if drain {
            run.on(Event::Drain);
            run.on(Event::Drained);
            prop_assert_eq!(&run.state.phase, &Phase::Stopped);
            prop_assert!(run.todo.contains(&Action::Close) || run.todo.contains(&Action::Kill));
            return Ok(());
        }
        // From wherever it is, a world that works leads to ready: there is no dead end.
        for _ in 0..50 {
            if run.state.phase == Phase::Ready && !run.usable().is_empty() { break; }
            let due: Vec<_> = std::mem::take(&mut run.todo);
            if due.is_empty() || !matches!(run.state.phase, Phase::Backoff { .. }) {
                // What was ordered before this point may have been answered already: answer it again.
                run.on(Event::BrowserUp);
            }
            run.on(Event::SiteLanded("https://a".into(), Landing::Site));
            let open: Vec<_> = run.state.fleet.all();
            for generation in open {
                run.on(Event::CarrierUp(generation));
                run.on(Event::BrowserBeat(PROMPT));
                run.on(Event::Probed(generation, Verdict::Passed));
                run.on(beat(generation));
            }
            if run.state.phase == Phase::Ready && !run.usable().is_empty() { break; }
            run.now = run.now.max(run.state.wake_at());
            run.on(Event::Tick);
        }
        prop_assert_eq!(&run.state.phase, &Phase::Ready);
    }
}
