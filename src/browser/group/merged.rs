//! Several browsers seen as one: their statuses in one, for all who ask only whether requests are served.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::watch;

use crate::browser::{Phase, Status};

/// Follows all of them, until they have ended.
pub(super) fn follow(all: Vec<watch::Receiver<Status>>) -> watch::Receiver<Status> {
    let look = |all: &[watch::Receiver<Status>]| {
        let all: Vec<_> = all.iter().map(|it| it.borrow().clone()).collect();
        merge(&all)
    };
    let (sender, merged) = watch::channel(look(&all));
    let sender = Arc::new(sender);
    for mut one in all.clone() {
        let (sender, all) = (sender.clone(), all.clone());
        tokio::spawn(async move {
            while one.changed().await.is_ok() {
                // Looked at under the lock, so that nothing older is put in place of something newer.
                sender.send_modify(|before| {
                    let since = before.since;
                    let is_same = before.phase.name();
                    *before = look(&all);
                    if before.phase.name() == is_same {
                        before.since = since;
                    }
                });
            }
        });
    }
    merged
}

/// From the best to the worst: how near a phase is to serving requests.
fn rank(phase: &Phase) -> u8 {
    match phase {
        Phase::Ready => 0,
        Phase::Suspect => 1,
        Phase::Warming { .. } => 2,
        Phase::Starting => 3,
        Phase::Backoff { .. } => 4,
        Phase::NeedsOperator(_) => 5,
        Phase::Draining => 6,
        Phase::Stopped => 7,
    }
}

/// The one that is nearest to serving requests; `all` are not none.
pub(super) fn best(all: &[Status]) -> &Status {
    let best = all.iter().min_by_key(|it| (!it.is_ready(), rank(&it.phase)));
    best.unwrap_or(&all[0])
}

/// All of them as one: it serves requests if any does, and says which do not, and why.
pub(super) fn merge(all: &[Status]) -> Status {
    let best = best(all);
    let away: Vec<_> = (1..).zip(all).filter(|(_, it)| !it.is_ready()).collect();
    let reason = match away.is_empty() {
        true => best.reason.clone(),
        false => {
            let told = |(n, it): &(usize, &Status)| format!("browser {n} is not ready: {}", it.reason);
            away.iter().map(told).collect::<Vec<_>>().join("; ")
        }
    };
    let knows = |known: bool| all.iter().any(|it| it.signed_in == Some(known));
    Status {
        phase: best.phase.clone(),
        reason,
        since: best.since.min(Instant::now()),
        origin: best.origin.clone().or_else(|| all.iter().find_map(|it| it.origin.clone())),
        carriers: all.iter().flat_map(|it| it.carriers.iter().cloned()).collect(),
        version: all.iter().find_map(|it| it.version.clone()),
        pid: all.iter().find_map(|it| it.pid),
        browsers: all.iter().map(|it| it.browsers).sum(),
        pages: all.iter().map(|it| it.pages).sum(),
        failed_starts: best.failed_starts,
        links: all.iter().map(|it| it.links).sum(),
        buffered: all.iter().map(|it| it.buffered).sum(),
        lanes: all.iter().map(|it| it.lanes).sum(),
        // One sign-in is enough to ask everybody for a key.
        signed_in: if knows(true) { Some(true) } else { knows(false).then_some(false) },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::browser::Repair;
    use crate::site::challenge::Wall;

    fn status(phase: Phase, reason: &str, signed_in: Option<bool>) -> Status {
        Status {
            phase,
            reason: reason.into(),
            since: Instant::now(),
            origin: None,
            carriers: Vec::new(),
            version: None,
            pid: None,
            browsers: 1,
            pages: 2,
            failed_starts: 0,
            links: 1,
            buffered: 10,
            lanes: Some(4),
            signed_in,
        }
    }

    #[test]
    fn the_one_nearest_to_serving_speaks_for_all_and_each_that_does_not_is_named() {
        let wall = status(Phase::NeedsOperator(Wall::SignIn), "it wants a person", Some(false));
        let pause = Phase::Backoff { until: Instant::now(), next: Repair::Browser };
        let all = merge(&[wall.clone(), status(pause, "it died", None)]);
        assert_eq!(all.phase.name(), "backoff");
        assert_eq!(all.reason, "browser 1 is not ready: it wants a person; browser 2 is not ready: it died");
        assert_eq!((all.browsers, all.pages, all.buffered, all.lanes), (2, 4, 20, Some(8)));
        assert!(!all.is_ready());
        assert_eq!(merge(&[status(Phase::Starting, "s", None), wall]).phase, Phase::Starting);
    }

    #[test]
    fn one_sign_in_counts_for_all_and_one_that_is_not_known_yet_for_nothing() {
        let of = |a, b| merge(&[status(Phase::Ready, "", a), status(Phase::Ready, "", b)]).signed_in;
        assert_eq!(of(Some(false), Some(true)), Some(true));
        assert_eq!(of(None, Some(true)), Some(true));
        assert_eq!(of(None, Some(false)), Some(false));
        assert_eq!(of(None, None), None);
    }
}
