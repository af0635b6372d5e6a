//! The sign-in survives: a browser that is killed right after the site renewed it, and a profile that can no
//! longer be opened.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::time::Duration;

use axum::http::{HeaderMap, HeaderName};
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tabproxy::access;
use tabproxy::config::Config;
use tabproxy::practice::PracticeArgs;
use tokio_util::sync::CancellationToken;

use crate::rig::{PATIENCE, Rig, config_for, eventually};
use crate::shared::procfs::{kill, of_kind};

/// Lets the sign-in be reached through the proxy; returns a key, without which nothing is served after it.
pub fn open_sign_in(config: &mut Config) -> SecretString {
    config.allow_paths.push("/auth/".into());
    let keys = config.profile.with_file_name("keys.json");
    let (_, key) = access::add(&keys, None, Vec::new()).unwrap();
    config.keys_file = Some(keys);
    key
}

/// A client that shows this key.
pub fn holder(key: &SecretString) -> reqwest::Client {
    let headers = [(HeaderName::from_static("x-api-key"), key.expose_secret().parse().unwrap())];
    reqwest::Client::builder().no_proxy().default_headers(HeaderMap::from_iter(headers)).build().unwrap()
}

fn saved(rig: &Rig) -> PathBuf {
    rig.profile.path().join("profile.session.json")
}

/// A proxy whose browser is signed in, which the site wants from now on.
async fn signed_in() -> Rig {
    let mut key = None;
    let mut rig = Rig::with(PracticeArgs::default(), |config| key = Some(open_sign_in(config))).await;
    rig.client = holder(&key.unwrap());
    let done = rig.client.post(rig.url("/auth/login")).send().await.unwrap();
    assert!(done.status().is_success() || done.status().is_redirection(), "{}", done.status());
    rig.site.set_sign_in(true);
    assert_eq!(rig.ask("signed-in", "hello count=1").await.status(), 200);
    rig
}

/// Has the site renew the sign-in, and waits the two seconds that the issue gives us to save it. That they pass
/// is seen by the file; no more than they are waited for.
async fn renewed(rig: &Rig) {
    let answer = rig.get("/backend-api/practice/cookie-rotate").await;
    let value: Value = answer.json().await.unwrap();
    let value = value["value"].as_str().unwrap().to_owned();
    let look = || fs::read_to_string(saved(rig)).unwrap_or_default().contains(&value);
    let seen = tokio::time::timeout(Duration::from_secs(2), eventually(look, |it| *it)).await;
    seen.expect("saved within two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_sign_in_survives_a_browser_that_is_killed_two_seconds_later() {
    let rig = signed_in().await;
    renewed(&rig).await;
    assert_eq!(fs::metadata(saved(&rig)).unwrap().permissions().mode() & 0o777, 0o600);
    kill(rig.server.browser().status().pid.unwrap());
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.browsers == 2 && it.is_ready()).await.unwrap();
    assert_eq!(rig.ask("after", "hello count=1").await.status(), 200, "still signed in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_sign_in_survives_the_death_of_the_browsers_network_service() {
    let rig = signed_in().await;
    renewed(&rig).await;
    let browser = rig.server.browser().status().pid.unwrap();
    of_kind(browser, "utility").into_iter().for_each(kill);
    let mut status = rig.server.browser().watch();
    status.wait_for(|it| it.is_ready()).await.unwrap();
    // What comes in the moment of the death may fail, with an error; then all is as it was.
    let served = async {
        for n in 0.. {
            if rig.ask(&format!("after-{n}"), "hello count=1").await.status() == 200 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, served).await.expect("still signed in");
    assert_eq!(rig.server.browser().status().browsers, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_profile_that_cannot_be_opened_is_set_aside_and_the_sign_in_kept() {
    let rig = signed_in().await;
    renewed(&rig).await;
    let (site, profile) = rig.stop().await;
    // A directory where Chromium keeps a file: it ends at once, every time.
    let dir = profile.path().join("profile");
    fs::remove_dir_all(dir.join("Default")).unwrap();
    fs::write(dir.join("Default"), "no directory").unwrap();
    let mut config = config_for(&site, &profile);
    let key = open_sign_in(&mut config);
    let stop = CancellationToken::new();
    let server = tabproxy::Server::start(config, stop.clone()).await.unwrap();
    let mut status = server.browser().watch();
    let ready = tokio::time::timeout(PATIENCE, status.wait_for(|it| it.is_ready())).await;
    ready.expect("a new profile takes its place").unwrap();
    let aside = fs::read_dir(profile.path()).unwrap().flatten();
    let aside: Vec<_> = aside.map(|it| it.file_name().into_string().unwrap()).collect();
    assert!(aside.iter().any(|it| it.starts_with("profile.damaged-")), "{aside:?}");
    let url = format!("http://{}/backend-api/me", server.addr());
    assert_eq!(holder(&key).get(url).send().await.unwrap().status(), 200, "still signed in");
    stop.cancel();
    server.finished().await.unwrap();
}
