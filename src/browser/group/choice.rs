//! Which browser a request goes to: the choice itself, pure.
//!
//! Of those that may have it the least busy one, and of equally busy ones that which has waited longest. It knows
//! neither carriers nor time.

/// How a browser stands, as far as the choice goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// Whether it would serve a request now.
    pub ready: bool,
    /// Requests that run in it,
    pub running: usize,
    /// and how many may.
    pub limit: usize,
    /// The number of the request that it got last: lower has waited longer.
    pub last: u64,
    /// Whether somebody is signed in in it.
    pub signed_in: bool,
}

/// What a request wants of the browser that it goes to. Browsers are counted from 0.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    /// The one that its conversation was begun in: it waits for a place there, as long as that one is ready.
    pub home: Option<usize>,
    /// Whether it relies on the browser's own sign-in: then only those that have one are asked, if there are any.
    pub signed_in: bool,
    /// Where it was missed the last time: another one is better, if there is one.
    pub missed: Option<Missed>,
}

/// Where a request was tried in vain, without leaving.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Missed {
    /// The browser.
    pub(super) browser: usize,
    /// The carrier in it that did not take the request, if there was one.
    pub(super) carrier: Option<u64>,
}

/// What comes of the choice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Choice {
    /// This one.
    Take(usize),
    /// Those that are ready have as many as they may.
    Full,
    /// None of them is ready.
    NotReady,
}

/// Whether a browser may have a request with this wish at all.
pub(super) fn may_have(all: &[Standing], wish: &Wish, one: usize) -> bool {
    !wish.signed_in || all[one].signed_in || !all.iter().any(|it| it.signed_in)
}

/// The one that gets the request.
pub(super) fn choose(all: &[Standing], wish: &Wish) -> Choice {
    let missed = wish.missed.map(|it| it.browser);
    let ready = (0..all.len()).filter(|it| all[*it].ready && may_have(all, wish, *it));
    let home = wish.home.filter(|it| Some(*it) != missed && ready.clone().any(|one| one == *it));
    let ready = ready.filter(|it| home.is_none_or(|home| home == *it));
    let free = ready.clone().filter(|it| all[*it].running < all[*it].limit);
    let best = free.min_by_key(|it| (Some(*it) == missed, all[*it].running, all[*it].last));
    match best {
        Some(best) => Choice::Take(best),
        None if ready.count() > 0 => Choice::Full,
        None => Choice::NotReady,
    }
}

/// How many requests may run at once: as many as those take that are ready, and what runs in the others already.
/// Where none is ready, what all of them take: who waits for the first of them has a place.
pub(super) fn room(all: &[Standing]) -> usize {
    let none_ready = !all.iter().any(|it| it.ready);
    all.iter().map(|it| if it.ready || none_ready { it.limit } else { it.running }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ready(running: usize) -> Standing {
        Standing { ready: true, running, limit: 4, last: 0, signed_in: false }
    }

    fn lost(running: usize) -> Standing {
        Standing { ready: false, ..ready(running) }
    }

    fn at(home: usize) -> Wish {
        Wish { home: Some(home), ..Wish::default() }
    }

    #[test]
    fn the_least_busy_ready_one_is_taken_and_of_equals_the_one_that_has_waited_longest() {
        let any = Wish::default();
        assert_eq!(choose(&[ready(2), ready(1), lost(0)], &any), Choice::Take(1));
        let rested = Standing { last: 3, ..ready(1) };
        let tired = Standing { last: 9, ..ready(1) };
        assert_eq!(choose(&[tired, rested], &any), Choice::Take(1));
        assert_eq!(choose(&[lost(0), ready(3)], &any), Choice::Take(1));
    }

    #[test]
    fn none_gets_more_than_it_may() {
        let any = Wish::default();
        let few = Standing { limit: 1, ..ready(1) };
        assert_eq!(choose(&[few, ready(3)], &any), Choice::Take(1));
        assert_eq!(choose(&[few, ready(4)], &any), Choice::Full);
        assert_eq!(choose(&[few, lost(0)], &any), Choice::Full);
        assert_eq!(choose(&[lost(0), lost(0)], &any), Choice::NotReady);
        assert_eq!(choose(&[], &any), Choice::NotReady);
    }

    #[test]
    fn a_conversation_goes_on_at_home_while_that_is_ready_even_if_it_has_to_wait_there() {
        assert_eq!(choose(&[ready(0), ready(3)], &at(1)), Choice::Take(1));
        assert_eq!(choose(&[ready(0), ready(4)], &at(1)), Choice::Full);
        assert_eq!(choose(&[ready(0), lost(1)], &at(1)), Choice::Take(0));
        assert_eq!(choose(&[ready(0)], &at(7)), Choice::Take(0), "no such browser");
    }

    #[test]
    fn where_it_was_missed_is_the_last_resort() {
        let missed = Missed { browser: 0, carrier: Some(3) };
        let wish = Wish { missed: Some(missed), ..at(0) };
        assert_eq!(choose(&[ready(0), ready(3)], &wish), Choice::Take(1));
        assert_eq!(choose(&[ready(0), ready(4)], &wish), Choice::Take(0));
        assert_eq!(choose(&[ready(0), lost(0)], &wish), Choice::Take(0));
    }

    #[test]
    fn what_relies_on_a_sign_in_waits_for_a_browser_that_has_one() {
        let wish = Wish { signed_in: true, ..Wish::default() };
        let person = Standing { signed_in: true, ..ready(3) };
        assert_eq!(choose(&[ready(0), person], &wish), Choice::Take(1));
        let away = Standing { ready: false, ..person };
        assert_eq!(choose(&[ready(0), away], &wish), Choice::NotReady);
        assert_eq!(choose(&[ready(0), ready(1)], &wish), Choice::Take(0), "nobody is signed in anywhere");
        assert_eq!(choose(&[ready(0), person], &Wish { home: Some(0), ..wish }), Choice::Take(1));
    }

    #[test]
    fn there_is_room_for_what_the_ready_ones_take_and_what_still_runs_in_the_others() {
        assert_eq!(room(&[ready(1), ready(0)]), 8);
        assert_eq!(room(&[ready(1), lost(3)]), 7);
        assert_eq!(room(&[ready(1), lost(0)]), 4);
        assert_eq!(room(&[lost(0), lost(0)]), 8, "they are waited for");
    }
}
