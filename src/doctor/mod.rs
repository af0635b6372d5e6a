//! `tabproxy doctor`: everything that a server here would need is looked at, and each fault has a remedy.
//!
//! ```text
//! settings ─┬─ shm  open files ─────────────────── the machine
//!           ├─ memory ──┐
//!           ├─ instance ┼─ launch ─ chromium ───── the browser
//!           ├─ way out ─ dns ─ origin ─ clock ──── the site
//!           ├─ profile  files  port ────────────── what is written and taken
//!           └─ nginx ───────────────────────────── in front
//! ```
//!
//! All looks run at once, each with a deadline, and are told in order as they come. What two checks need is looked
//! at once. Looking and judging are apart: a `judge…` function is pure. It sends the site nothing but a `HEAD` of
//! its page, and says nothing that is secret. `tabproxy check` shares the looks at settings, files and port.

mod asking;
pub mod chromium;
pub mod files;
pub mod finding;
mod front;
pub mod instance;
mod machine;
pub mod shared;
mod site;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt, Shared};
use futures::stream::{self, StreamExt};
use tokio::time::{Instant, timeout_at};
use url::Url;

use self::finding::{Finding, Light, Report};
use self::instance::Running;
use crate::config::{Config, Problem, Settings};

/// How long a check may take, from the beginning of all.
const SHORT: Duration = Duration::from_secs(12);
/// The same for those that wait for others, or for a browser.
const LONG: Duration = Duration::from_secs(27);

type Check = BoxFuture<'static, Vec<Finding>>;

/// Looks at everything, and hands each finding to `tell` as it comes. Over within thirty seconds.
///
/// `front` is nginx's address, if that is to be looked at too. Makes the profile directory if it is missing.
pub async fn examine(
    settings: Settings,
    front: Option<Url>,
    env: &impl Fn(&str) -> Option<String>,
    mut tell: impl FnMut(&Finding),
) -> Report {
    let (config, problems) = settings.examine(env);
    let begun = Instant::now();
    let all = checks(Arc::new(config), problems, front);
    let count = all.len();
    let limited = all.into_iter().map(|(name, limit, check)| async move {
        let late = || {
            let text = format!("no result within {limit:?}");
            vec![Finding::red(name, text, "look again; if it stays so, what is looked at here hangs")]
        };
        timeout_at(begun + limit, check).await.unwrap_or_else(|_| late())
    });
    let mut running = stream::iter(limited).buffered(count);
    let mut found = Vec::new();
    while let Some(findings) = running.next().await {
        findings.iter().for_each(&mut tell);
        found.extend(findings);
    }
    Report::new(found)
}

/// What is computed elsewhere, so that a disk or a resolver that hangs does not hold up the others.
fn blocking<T: Clone + Send + Sync + 'static>(
    look: impl FnOnce() -> T + Send + 'static,
) -> Shared<BoxFuture<'static, Option<T>>> {
    async move { tokio::task::spawn_blocking(look).await.ok() }.boxed().shared()
}

/// Every check with its deadline, in order.
fn checks(
    config: Arc<Config>,
    problems: Vec<Problem>,
    front: Option<Url>,
) -> Vec<(&'static str, Duration, Check)> {
    let wrong: Arc<[&'static str]> = problems.iter().map(|it| it.variable).collect();
    // What depends on a setting that is wrong: the default in its place is not what the operator meant.
    let unless = |name: &'static str, variables: &[&'static str], check: Check| -> Check {
        match variables.iter().find(|it| wrong.contains(it)) {
            None => check,
            Some(variable) => {
                let text = format!("not looked at: {variable} is wrong");
                let remedy = "correct it first, and look again";
                std::future::ready(vec![Finding::yellow(name, text, remedy)]).boxed()
            }
        }
    };
    let one = |check: BoxFuture<'static, Finding>| -> Check { check.map(|it| vec![it]).boxed() };

    let listen = config.listen;
    let running = async move { Running::look(listen).await }.boxed().shared();
    let memory = blocking(machine::memory);
    let looked = config.clone();
    let found = blocking(move || chromium::find(&looked));
    let looked = config.clone();
    let way = async move { site::way_out(&looked).await }.boxed().shared();
    let (looked, open) = (config.clone(), way.clone());
    let visit = async move {
        // What is behind a closed door cannot be seen.
        if open.await.state == Light::Red { None } else { Some(site::visit(&looked).await) }
    };
    let visit = visit.boxed().shared();
    let unseen = |name| Finding::yellow(name, "not looked at", "see the check named way out");

    let settings = judge_settings(&config, &problems);
    let shm = one(blocking(machine::shm).map(|it| it.unwrap_or_else(|| failed("shm"))).boxed());
    let limits = machine::descriptors(&config);
    let memory_check = {
        let (memory, running) = (memory.clone(), running.clone());
        async move { vec![machine::judge_memory(memory.await.flatten(), &running.await)] }.boxed()
    };
    let chromium = {
        let found = found.clone();
        async move { vec![found.await.map_or_else(|| failed("chromium"), |it| chromium::judge(&it))] }.boxed()
    };
    let launch = {
        let (config, running) = (config.clone(), running.clone());
        let launch = async move {
            let (found, memory, running) = tokio::join!(found, memory, running);
            match found {
                Some(found) => vec![chromium::launch(&config, &found, memory.flatten(), &running).await],
                None => vec![failed("launch")],
            }
        };
        launch.boxed()
    };
    let dns = {
        let config = config.clone();
        async move { vec![site::dns(&config).await] }.boxed()
    };
    let origin = {
        let visit = visit.clone();
        async move { vec![visit.await.map_or_else(|| unseen("origin"), |it| site::judge_origin(&it))] }
            .boxed()
    };
    let clock =
        async move { vec![visit.await.map_or_else(|| unseen("clock"), |it| site::clock(&it))] }.boxed();
    let profile = after(&config, &running, "profile", files::lock);
    let port = after(&config, &running, "port", instance::port);
    let phase = after(&config, &running, "instance", instance::judge);
    let (looked, is_wrong) = (config.clone(), wrong.clone());
    let files = blocking(move || files::writing(&looked, |it| is_wrong.contains(&it)));
    let files = files.map(|it| it.unwrap_or_else(|| vec![failed("files")])).boxed();

    let ways = ["TABPROXY_ORIGIN", "HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY", "TABPROXY_RESOLVE"];
    let site = [&ways[..], &["TABPROXY_TRUST_CERT"]].concat();
    let browser = ["TABPROXY_CHROMIUM", "TABPROXY_CHROMIUM_ARGS", "TABPROXY_HEADLESS", "TABPROXY_SANDBOX"];
    let listen = ["TABPROXY_LISTEN"];
    let mut all = vec![
        ("settings", SHORT, std::future::ready(settings).boxed()),
        ("shm", SHORT, shm),
        ("memory", SHORT, memory_check),
        ("open files", SHORT, std::future::ready(vec![limits]).boxed()),
        ("chromium", SHORT, unless("chromium", &browser[..1], chromium)),
        ("launch", LONG, unless("launch", &browser, launch)),
        ("way out", LONG, unless("way out", &ways, one(way.boxed()))),
        ("dns", SHORT, unless("dns", &ways, dns)),
        ("origin", LONG, unless("origin", &site, origin)),
        ("clock", LONG, unless("clock", &ways, clock)),
        ("profile", SHORT, unless("profile", &["TABPROXY_PROFILE"], profile)),
        ("files", SHORT, files),
        ("port", SHORT, unless("port", &listen, port)),
        ("instance", SHORT, unless("instance", &listen, phase)),
    ];
    if config.redis.is_some() {
        let looked = config.clone();
        let look = blocking(move || shared::look(&looked));
        let look = look.map(|it| it.unwrap_or_else(|| vec![failed("redis")])).boxed();
        all.push(("redis", SHORT, unless("redis", &["TABPROXY_REDIS", "TABPROXY_REDIS_CA"], look)));
    }
    if let Some(front) = front {
        let look = async move {
            let running = running.await;
            front::look(&front, &config, &running).await
        };
        all.push(("nginx", LONG, look.boxed()));
    }
    all
}

/// A look at the disk or a port that wants to know who runs.
fn after(
    config: &Arc<Config>,
    running: &Shared<BoxFuture<'static, Running>>,
    name: &'static str,
    look: impl Fn(&Config, &Running) -> Finding + Send + 'static,
) -> Check {
    let (config, running) = (config.clone(), running.clone());
    let check = async move {
        let running = running.await;
        vec![blocking(move || look(&config, &running)).await.unwrap_or_else(|| failed(name))]
    };
    check.boxed()
}

/// A look that broke.
fn failed(name: &'static str) -> Finding {
    Finding::red(name, "the look itself failed", "look again, and report it")
}

fn judge_settings(config: &Config, problems: &[Problem]) -> Vec<Finding> {
    const NAME: &str = "settings";
    if !problems.is_empty() {
        return problems.iter().map(|it| Finding::of(NAME, it)).collect();
    }
    if let Some(profile) = crate::open_to_all(config) {
        let text = format!(
            "the profile {} is signed in, and {} can be reached from elsewhere",
            profile.display(),
            config.listen
        );
        let remedy = "make an access key with `tabproxy key new --keys-file FILE` and set TABPROXY_KEYS_FILE=FILE, or \
                      listen on 127.0.0.1";
        return vec![Finding::red(NAME, text, remedy)];
    }
    vec![Finding::green(NAME, format!("every value can be used; the site is {}", config.origin))]
}
