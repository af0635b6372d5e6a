//! `docs/soak-scale.md`.

use std::fmt::Write as _;

use super::super::report::{Run, clients, codes, faults};
use super::super::shared::about::facts;
use super::Blow;
use super::tally::Tally;

/// On what the run was made.
pub struct About {
    /// The browser's name and version.
    pub browser: String,
    /// The command that repeats it.
    pub command: String,
    /// How many instances there were.
    pub instances: usize,
    /// Whether they shared a Redis.
    pub redis: bool,
    /// What the instances told.
    pub tally: Tally,
}

/// What the tables do not say: which errors there were, and how often instances knew of each other's turns.
pub fn notes(run: &Run<Blow>, tally: &Tally) -> String {
    let mut out = format!("Explicit errors, by fault:\n\n{}\nTurns:\n\n", codes(run));
    for (what, times) in run.ledger.notes() {
        let _ = writeln!(out, "- {what}: {times}");
    }
    for (what, times) in tally.sums() {
        let _ = writeln!(out, "- {what}: {times:.0}");
    }
    out
}

/// The whole document.
pub fn document(run: &Run<Blow>, about: &About) -> String {
    let mut out = format!("# Soak of several instances\n\nWritten by `{}`; do not edit.\n\n", about.command);
    out.push_str(&facts(&about.browser, &format!("`{}`", about.command)));
    let shared = if about.redis { "one Redis" } else { "no Redis" };
    let held = if run.broken.is_empty() {
        "All held: lost without a trace 0, sent twice 0."
    } else {
        "**Broken**; see below."
    };
    let _ = writeln!(out, "\n{} instances, {shared}, one nginx. {held}\n\n{}", about.instances, faults(run));
    let _ = writeln!(out, "{}\n{}", clients(run), notes(run, &about.tally));
    if !run.broken.is_empty() {
        out.push_str("What did not hold:\n\n");
        run.broken.iter().for_each(|what| out += &format!("- {what}\n"));
    }
    out.push_str(EXPLANATION);
    out
}

const EXPLANATION: &str = "
## What was done

The practice site and the clients run in one process; each instance with its browser, Redis and nginx (with the files of
`nginx/`) in others; all share the cores. Every client speaks to nginx, on a connection of its own for each request, and
goes on all the while. One fault at a time is injected, in random order. A killed or stopped instance is started again
half a second after its end, on its port and its profile, as Kubernetes or systemd would do it.

What **completed**, **failed**, **lost**, **refused** and **sent twice** mean is said in [soak.md](soak.md). Through nginx
an instance that is gone is a 502 or a 504 with this project's page (`nginx 502`), or a stream that is cut, never one that
ends: errors that nobody can take for an answer. The clients that **ask again** do what the bot plugin does: when they are
cut or turned away, or have left by themselves, they ask the same turn again, with other ids, at whichever instance nginx
chooses. The site may see one POST of all these attempts together, and another only for each time that a message told the
user of the failure and the user asked anew. **Two turns at once** go into one conversation, as a rule at two instances:
one waits for the other. What the instances tell of that was read before each fault and at the end.

**Recovered** is the time until a fresh request through nginx was served; **back** the time until what was struck was
there again itself. Both are the median and the worst.
";
