//! Who may do what: keys, stored accounts, and a browser that is signed in.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use reqwest::RequestBuilder;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use tabproxy::access;
use tabproxy::config::Config;
use tabproxy::practice::PracticeArgs;
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use crate::rig::{PATIENCE, Rig, code_of, config_for, eventually, turn};

const ECHO: &str = "/backend-api/practice/echo";

/// A directory with the files of keys and accounts.
pub struct Desk {
    dir: TempDir,
}

impl Desk {
    pub fn new() -> Desk {
        let desk = Desk { dir: TempDir::new().unwrap() };
        fs::write(desk.keys(), r#"{"keys": []}"#).unwrap();
        desk
    }

    pub fn keys(&self) -> PathBuf {
        self.dir.path().join("keys.json")
    }

    pub fn accounts(&self) -> PathBuf {
        self.dir.path().join("accounts.json")
    }

    /// Another key, which opens these accounts.
    pub fn key(&self, accounts: &[&str]) -> String {
        let accounts = accounts.iter().map(|it| it.to_string()).collect();
        access::add(&self.keys(), None, accounts).unwrap().1.expose_secret().to_owned()
    }

    pub fn store(&self, accounts: &[(&str, &str)]) {
        let stored: Vec<_> =
            accounts.iter().map(|(name, token)| json!({"name": name, "token": token})).collect();
        let beside = self.dir.path().join("new");
        fs::write(&beside, json!({ "accounts": stored }).to_string()).unwrap();
        fs::rename(beside, self.accounts()).unwrap();
    }
}

async fn ask(request: RequestBuilder) -> (u16, String) {
    let answer = request.send().await.unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

/// The `Authorization` that the site saw.
async fn authorization(request: RequestBuilder) -> Option<String> {
    let (status, text) = ask(request).await;
    assert_eq!(status, 200, "{text}");
    let told: Value = serde_json::from_str(&text).unwrap();
    told["headers"]["authorization"][0].as_str().map(str::to_owned)
}

async fn metrics(rig: &Rig) -> String {
    rig.get("/metrics").await.text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_keys_are_all_refused_alike_and_soon_rarely_answered_at_all() {
    let desk = Desk::new();
    let (key, revoked) = (desk.key(&[]), desk.key(&[]));
    access::revoke(&desk.keys(), "key-2").unwrap();
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.keys_file = Some(desk.keys());
        config.require_key = true;
    })
    .await;
    let get = || rig.client.get(rig.url(ECHO));
    let almost = format!("{}{}", &key[..45], if key.ends_with('A') { "B" } else { "A" });
    let mut answers = vec![ask(get()).await, ask(get().bearer_auth("eyJ-their-own")).await];
    for wrong in [&revoked, &almost, "tp-", "tp-x"] {
        answers.push(ask(get().bearer_auth(wrong)).await);
        answers.push(ask(get().header("x-api-key", wrong)).await);
    }
    answers.push(ask(rig.client.get(rig.url(&format!("/k/{almost}{ECHO}")))).await);
    answers.push(ask(get().header("x-api-key", "no-key-at-all")).await);
    let (status, text) = answers[0].clone();
    assert!(status == 401 && text.contains("key_required") && text.contains("tabproxy key new"), "{text}");
    assert!(answers.iter().all(|it| *it == answers[0]), "{answers:#?}");

    // Ten wrong ones were shown, and one more is too many, or soon is; a right one is served all the same.
    let mut shown = 10;
    let tired = loop {
        shown += 1;
        let tired = get().bearer_auth(&revoked).send().await.unwrap();
        if tired.status() == 429 {
            break tired;
        }
        assert!(shown < 50, "never");
    };
    let wait: u64 = tired.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((1..=6).contains(&wait), "{wait}");
    assert_eq!(code_of(tired).await, "too_many_attempts");
    assert_eq!(authorization(get().bearer_auth(&key)).await, None, "the key goes no further");
    let other = get().header("x-forwarded-for", "10.9.8.7").bearer_auth(&revoked).send().await.unwrap();
    assert_eq!(other.status(), 401, "another address is not to blame");
    let count = metrics(&rig).await;
    let refused = shown + 3; // two showed none, and one came from elsewhere
    assert!(count.contains(&format!("tabproxy_keys_refused_total {refused}\n")), "{count}");
    assert_eq!(rig.counters().posts_arrived, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_comes_in_three_ways_and_a_token_of_ones_own_goes_before_stored_ones() {
    let desk = Desk::new();
    desk.store(&[("a", "eyJ-a")]);
    let key = desk.key(&[]);
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.keys_file = Some(desk.keys());
        config.accounts_file = Some(desk.accounts());
    })
    .await;
    let get = |path: &str| rig.client.get(rig.url(path));
    let in_path = format!("/k/{key}{ECHO}?a=/k/b");
    let stored = Some("Bearer eyJ-a".to_owned());
    let own = Some("Bearer eyJ-own".to_owned());
    assert_eq!(authorization(get(ECHO).bearer_auth(&key)).await, stored);
    assert_eq!(authorization(get(ECHO).header("authorization", &key)).await, stored);
    assert_eq!(authorization(get(ECHO).header("x-api-key", &key)).await, stored);
    assert_eq!(authorization(get(&in_path)).await, stored);
    assert_eq!(authorization(get(&in_path).header("authorization", "")).await, stored);
    assert_eq!(authorization(get(ECHO).header("x-api-key", &key).bearer_auth("eyJ-own")).await, own);
    assert_eq!(authorization(get(&in_path).bearer_auth("eyJ-own")).await, own);
    // Without a key, only what is one's own, or nothing.
    assert_eq!(authorization(get(ECHO).bearer_auth("eyJ-own")).await, own);
    assert_eq!(authorization(get(ECHO)).await, None);
    let (_, text) = ask(get(&in_path)).await;
    let told: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((&told["path"], &told["query"]), (&ECHO.into(), &"a=/k/b".into()));
    assert!(!text.contains(&key[3..]), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn accounts_take_turns_rest_when_told_to_and_are_marked_when_refused() {
    let desk = Desk::new();
    desk.store(&[("a", "eyJ-a"), ("b", "eyJ-b"), ("c", "eyJ-c")]);
    let (some, one) = (desk.key(&["a", "b"]), desk.key(&["c"]));
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.keys_file = Some(desk.keys());
        config.accounts_file = Some(desk.accounts());
    })
    .await;
    let echo = |key: &str| authorization(rig.client.get(rig.url(ECHO)).bearer_auth(key));
    let converse = |key: &str, id: &str, prompt: &str| {
        rig.client.post(rig.url("/backend-api/conversation")).bearer_auth(key).json(&turn(id, prompt)).send()
    };
    let mut turns = [echo(&some).await, echo(&some).await, echo(&some).await].map(Option::unwrap);
    assert!(turns[0] == turns[2] && turns[0] != turns[1], "{turns:?}");
    turns.sort();
    assert!(turns[0] == "Bearer eyJ-a" && turns[2] == "Bearer eyJ-b", "and never c: {turns:?}");

    // A conversation goes on with the account that it was begun with: the site shows it to no other.
    let body = converse(&some, "begins", "hello count=1").await.unwrap().text().await.unwrap();
    let id = body.split("\"conversation_id\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    let about = format!("{ECHO}?conversation_id={id}");
    let about = || authorization(rig.client.get(rig.url(&about)).bearer_auth(&some));
    let home = about().await;
    for _ in 0..3 {
        assert_eq!(about().await, home);
    }

    // One that is busy is passed over, as long as its answer streams.
    let mut busy = converse(&some, "busy", "hello count=100000 interval=20").await.unwrap();
    busy.chunk().await.unwrap().unwrap();
    let free = echo(&some).await;
    for _ in 0..3 {
        assert_eq!(echo(&some).await, free);
    }
    drop(busy);
    eventually(|| rig.counters().active, |it| *it == 0).await;

    // The site wants no more of either for a while.
    for n in 0..2 {
        let answer = converse(&some, &format!("enough-{n}"), "hello status=429 retry=300").await.unwrap();
        assert_eq!(answer.status(), 429, "the site's own answer");
    }
    let refused = converse(&some, "refused", "hello").await.unwrap();
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!(refused.status() == 429 && (200..=300).contains(&wait), "{wait}");
    let body = refused.text().await.unwrap();
    // By these words the plugin knows what it is.
    assert!(body.contains("You have sent too many messages to the model. Please try again later."), "{body}");
    assert_eq!(rig.counters().posts_by_message_id.get("refused"), None);

    // A token that the site does not know is not tried again, until there is another.
    assert_eq!(converse(&one, "unknown", "hello status=401").await.unwrap().status(), 401);
    let refused = converse(&one, "not-sent", "hello").await.unwrap();
    assert_eq!((refused.status().as_u16(), code_of(refused).await.as_str()), (503, "no_account"));
    let text = metrics(&rig).await;
    for line in [
        "tabproxy_account_state{account=\"a\",state=\"resting\"} 1",
        "tabproxy_account_state{account=\"b\",state=\"resting\"} 1",
        "tabproxy_account_state{account=\"c\",state=\"refused\"} 1",
        "tabproxy_account_running{account=\"a\"} 0",
    ] {
        assert!(text.lines().any(|it| it == line), "{line} is not in\n{text}");
    }
    assert!(!text.contains("eyJ"), "{text}");
    desk.store(&[("a", "eyJ-a"), ("c", "eyJ-new")]);
    let renewed = async {
        loop {
            let (status, text) = ask(rig.client.get(rig.url(ECHO)).bearer_auth(&one)).await;
            if status == 200 {
                return text;
            }
        }
    };
    let text = tokio::time::timeout(PATIENCE, renewed).await.expect("the file is read again");
    assert!(text.contains("Bearer eyJ-new"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_come_and_go_without_a_restart_and_a_damaged_file_changes_nothing() {
    let desk = Desk::new();
    let first = desk.key(&["page"]);
    desk.store(&[]);
    let rig = Rig::with(PracticeArgs::default(), |config| {
        config.keys_file = Some(desk.keys());
        config.accounts_file = Some(desk.accounts());
        config.require_key = true;
    })
    .await;
    let status = async |key: &str| {
        rig.client.get(rig.url(ECHO)).header("x-api-key", key).send().await.unwrap().status().as_u16()
    };
    let until = async |key: &str, wanted: u16| {
        let seen = async { while status(key).await != wanted {} };
        tokio::time::timeout(PATIENCE, seen).await.unwrap_or_else(|_| panic!("never {wanted}"));
    };
    assert_eq!(status(&first).await, 200);
    let second = desk.key(&["page"]);
    until(&second, 200).await;
    let whole = fs::read_to_string(desk.keys()).unwrap();
    fs::write(desk.keys(), &whole[..whole.len() / 2]).unwrap();
    // Keys are looked at before accounts: when this change is seen, the damage has been.
    desk.store(&[("later", "eyJ")]);
    let seen = async { while !metrics(&rig).await.contains("later") {} };
    tokio::time::timeout(PATIENCE, seen).await.expect("seen in time");
    assert_eq!((status(&first).await, status(&second).await), (200, 200));
    fs::write(desk.keys(), whole).unwrap();
    access::revoke(&desk.keys(), "key-1").unwrap();
    until(&first, 401).await;
    assert_eq!(status(&second).await, 200);
}

fn open_sign_in(config: &mut Config) {
    config.allow_paths.push("/auth/".into());
}

/// Signs in in the browser, and waits until that is known.
async fn sign_in(rig: &Rig) {
    let done = rig.client.post(rig.url("/auth/login")).send().await.unwrap();
    assert!(done.status().is_success() || done.status().is_redirection(), "{}", done.status());
    let mut status = rig.server.browser().watch();
    let known = status.wait_for(|it| it.signed_in == Some(true));
    tokio::time::timeout(PATIENCE, known).await.expect("known in time").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn once_somebody_is_signed_in_every_caller_needs_a_key_also_without_any_keys() {
    let rig = Rig::with(PracticeArgs::default(), open_sign_in).await;
    assert_eq!(rig.server.browser().status().signed_in, Some(false));
    assert_eq!(rig.get(ECHO).await.status(), 200);
    sign_in(&rig).await;
    for request in [
        rig.client.get(rig.url(ECHO)),
        rig.client.get(rig.url(ECHO)).bearer_auth("eyJ-own"),
        rig.client.get(rig.url("/backend-anon/models")),
        rig.client.post(rig.url("/backend-api/conversation")).json(&turn("refused", "hello")),
        rig.client.get(rig.url("/chatgpt/models")),
    ] {
        let (status, text) = ask(request).await;
        assert!(status == 401 && text.contains("tabproxy key new"), "{status} {text}");
    }
    assert_eq!(rig.get("/readyz").await.status(), 200);
    // Another start on this profile: it is known before anything is served.
    let posts = rig.counters().posts_arrived;
    assert_eq!(posts, 0);
    let (site, profile) = rig.stop().await;
    let mut config = config_for(&site, &profile);
    config.listen = "127.0.0.1:0".parse().unwrap();
    let stop = CancellationToken::new();
    let server = tabproxy::Server::start(config.clone(), stop.clone()).await.unwrap();
    // It comes before anybody knows, and waits.
    let url = format!("http://{}{ECHO}", server.addr());
    let early = crate::rig::client().get(url).send().await.unwrap();
    assert_eq!((early.status().as_u16(), code_of(early).await.as_str()), (401, "key_required"));
    stop.cancel();
    server.finished().await.unwrap();
    // And where strangers could come, there is no start at all.
    config.listen = "0.0.0.0:0".parse().unwrap();
    let open = tabproxy::Server::start(config.clone(), CancellationToken::new()).await;
    let error = open.err().expect("refused").to_string();
    assert!(error.contains("tabproxy key new") && error.contains("TABPROXY_KEYS_FILE"), "{error}");
    let desk = Desk::new();
    config.keys_file = Some(desk.keys());
    let stop = CancellationToken::new();
    let server = tabproxy::Server::start(config, stop.clone()).await.expect("with keys it starts");
    stop.cancel();
    server.finished().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_signed_in_is_told_to_holders_of_a_key_that_opens_it() {
    let desk = Desk::new();
    desk.store(&[("a", "eyJ-a")]);
    let (page, other) = (desk.key(&["page"]), desk.key(&["a"]));
    let rig = Rig::with(PracticeArgs::default(), |config| {
        open_sign_in(config);
        config.keys_file = Some(desk.keys());
        config.accounts_file = Some(desk.accounts());
    })
    .await;
    const SESSION: &str = "/api/auth/session";
    assert_eq!(rig.get(SESSION).await.status(), 403);
    sign_in(&rig).await;
    rig.site.set_sign_in(true);
    let (status, text) = ask(rig.client.get(rig.url(SESSION)).bearer_auth(&page)).await;
    assert!(status == 200 && text.contains("practice-access-token"), "{status} {text}");
    for request in [
        rig.client.get(rig.url(SESSION)),
        rig.client.get(rig.url(SESSION)).bearer_auth("eyJ-own"),
        rig.client.get(rig.url(SESSION)).bearer_auth(&other),
        rig.client.get(rig.url("/API/auth/session")).bearer_auth(&other),
    ] {
        let (status, text) = ask(request).await;
        assert!(matches!(status, 401 | 403) && !text.contains("practice-access-token"), "{status} {text}");
    }
    let get = |key: &str| rig.client.get(rig.url(ECHO)).bearer_auth(key);
    let own = authorization(get(&page)).await;
    assert_eq!(own.as_deref(), Some("Bearer practice-access-token"), "as the site's page does it");
    let guest = rig.client.get(rig.url("/backend-anon/practice/echo")).bearer_auth(&page);
    assert_eq!(authorization(guest).await, None);
    assert_eq!(authorization(get(&other)).await.as_deref(), Some("Bearer eyJ-a"));
}

/// The program with these arguments and nothing else around it.
fn tabproxy(args: &[&str], stdin: &str) -> (i32, String, String) {
    use std::io::Write;
    let mut command = Command::new(env!("CARGO_BIN_EXE_tabproxy"));
    command.args(args).env_clear().stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

#[test]
fn keys_are_made_listed_and_revoked_on_the_command_line() {
    let home = TempDir::new().unwrap();
    let path = home.path().join("new/keys.json");
    let file = path.to_str().unwrap();
    let (code, key, told) =
        tabproxy(&["key", "new", "--keys-file", file, "--name", "bot", "--accounts", "a,b"], "");
    assert!(code == 0 && told.contains("bot"), "{told}");
    let key = key.trim();
    assert!(key.starts_with("tp-") && key.len() == 46 && !told.contains(key), "{key}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(tabproxy(&["key", "new", "--keys-file", file, "--account", "c"], "").0, 0);
    let (code, list, _) = tabproxy(&["key", "list", "--keys-file", file], "");
    assert!(code == 0 && list.lines().count() == 2, "{list}");
    assert!(
        list.contains("bot") && list.contains("a,b") && list.contains("key-1") && !list.contains("tp-"),
        "{list}"
    );
    let (code, _, told) = tabproxy(&["key", "new", "--keys-file", file, "--name", "bot"], "");
    assert!(code == 1 && told.contains("already"), "{told}");
    assert_eq!(tabproxy(&["key", "revoke", "--keys-file", file, "bot"], "").0, 0);
    let (code, _, told) = tabproxy(&["key", "revoke", "--keys-file", file, "bot"], "");
    assert!(code == 1 && told.contains("no key bot"), "{told}");
    let (code, hash, _) = tabproxy(&["password"], "hunter2\n");
    assert!(code == 0 && hash.starts_with("$argon2id$") && !hash.contains("hunter2"), "{hash}");
    assert_eq!(tabproxy(&["password"], "").0, 1);
    // A file that is damaged is told at the start, in one line.
    fs::write(&path, "{").unwrap();
    let profile = home.path().join("profile");
    let args =
        ["serve", "--keys-file", file, "--profile", profile.to_str().unwrap(), "--chromium", "/bin/true"];
    let (code, _, told) = tabproxy(&args, "");
    assert!(code == 1 && told.contains("keys.json") && told.contains("tabproxy key new"), "{told}");
}
