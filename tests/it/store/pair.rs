//! Two instances on one Redis: what one learns or begins, the other knows.

use reqwest::RequestBuilder;
use serde_json::{Value, json};
use tabproxy::Server;
use tabproxy::practice::{Practice, PracticeArgs};
use tempfile::TempDir;
use tokio_util::sync::CancellationToken;

use super::server::RedisProgram;
use crate::access::Desk;
use crate::rig::{PATIENCE, client, code_of, config_for, eventually, turn};

/// Two servers with a browser each, before one site, with the same keys and accounts.
struct Pair {
    site: Practice,
    servers: Vec<Server>,
    client: reqwest::Client,
    stop: CancellationToken,
    _redis: RedisProgram,
    _profiles: Vec<TempDir>,
}

impl Pair {
    async fn new(desk: &Desk) -> Pair {
        let (redis, site) =
            (RedisProgram::start().await, Practice::start(PracticeArgs::default()).await.unwrap());
        let (stop, client) = (CancellationToken::new(), client());
        let (mut servers, mut profiles) = (Vec::new(), Vec::new());
        for _ in 0..2 {
            let profile = TempDir::new().unwrap();
            let mut config = config_for(&site, &profile);
            config.redis = Some(redis.server());
            config.keys_file = Some(desk.keys());
            config.accounts_file = Some(desk.accounts());
            servers.push(Server::start(config, stop.clone()).await.unwrap());
            profiles.push(profile);
        }
        let pair = Pair { site, servers, client, stop, _redis: redis, _profiles: profiles };
        for at in 0..2 {
            let ready = async { while pair.get(at, "/readyz").send().await.unwrap().status() != 200 {} };
            tokio::time::timeout(PATIENCE, ready).await.expect("ready in time");
        }
        pair
    }

    fn url(&self, at: usize, path: &str) -> String {
        format!("http://{}{path}", self.servers[at].addr())
    }

    fn get(&self, at: usize, path: &str) -> RequestBuilder {
        self.client.get(self.url(at, path))
    }

    async fn ask(&self, at: usize, key: &str, id: &str, prompt: &str) -> reqwest::Response {
        let request = self.client.post(self.url(at, "/backend-api/conversation")).bearer_auth(key);
        request.json(&turn(id, prompt)).send().await.unwrap()
    }

    /// With which account this instance asks the site, about this conversation if there is one.
    async fn account(&self, at: usize, key: &str, conversation: Option<&str>) -> String {
        let query = conversation.map(|id| format!("?conversation_id={id}")).unwrap_or_default();
        let path = format!("/backend-api/practice/echo{query}");
        let text = self.get(at, &path).bearer_auth(key).send().await.unwrap().text().await.unwrap();
        let shown = text.split("Bearer ").nth(1).unwrap_or_else(|| panic!("{text}"));
        shown.split('"').next().unwrap().to_owned()
    }

    /// The answer to a chat of the official API's form.
    async fn said(&self, at: usize, key: &str, messages: &[Value]) -> String {
        let request = self.client.post(self.url(at, "/v1/chat/completions")).bearer_auth(key);
        let answer = request.json(&json!({"model": "auto", "messages": messages})).send().await.unwrap();
        let answer: Value = answer.json().await.unwrap();
        answer["choices"][0]["message"]["content"].as_str().unwrap_or_else(|| panic!("{answer}")).to_owned()
    }

    async fn stop(self) {
        self.stop.cancel();
        for server in self.servers {
            server.finished().await.unwrap();
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_share_loans_rests_homes_conversations_and_throttles() {
    let desk = Desk::new();
    desk.store(&[("a", "eyJ-a"), ("b", "eyJ-b")]);
    let key = desk.key(&["a", "b"]);
    let pair = Pair::new(&desk).await;

    // A conversation that one begins, the other goes on with: as the same account, and in the same place.
    let hello = json!({"role": "user", "content": "hello count=3"});
    let one = pair.said(0, &key, std::slice::from_ref(&hello)).await;
    let messages = [
        hello,
        json!({"role": "assistant", "content": one}),
        json!({"role": "user", "content": "again count=2"}),
    ];
    pair.said(1, &key, &messages).await;
    // The practice site shows every conversation to every account.
    let list = pair.get(0, "/backend-api/conversations?limit=10").bearer_auth(&key).send().await.unwrap();
    let list: Value = list.json().await.unwrap();
    assert_eq!(list["total"], 1, "{list}");
    let body = pair.ask(0, &key, "begins", "hello count=1").await.text().await.unwrap();
    let id = body.split("\"conversation_id\":\"").nth(1).unwrap().split('"').next().unwrap();
    let home = pair.account(0, &key, Some(id)).await;
    for _ in 0..3 {
        assert_eq!(pair.account(1, &key, Some(id)).await, home);
    }

    // An account that is busy with one is passed over by the other.
    let mut busy = pair.ask(0, &key, "busy", "hello count=100000 interval=20").await;
    busy.chunk().await.unwrap().unwrap();
    let free = pair.account(1, &key, None).await;
    for _ in 0..3 {
        assert_eq!(pair.account(1, &key, None).await, free);
    }
    drop(busy);
    eventually(|| pair.site.counters().active, |it| *it == 0).await;

    // One is told that the site wants no more of either; the other does not try.
    for n in 0..2 {
        assert_eq!(
            pair.ask(0, &key, &format!("enough-{n}"), "hello status=429 retry=300").await.status(),
            429
        );
    }
    let heard = async {
        loop {
            let answer = pair.get(1, "/backend-api/practice/echo").bearer_auth(&key).send().await.unwrap();
            if answer.status() == 429 {
                return answer;
            }
        }
    };
    let refused = tokio::time::timeout(PATIENCE, heard).await.expect("heard in time");
    let wait: u64 = refused.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    assert!((200..=300).contains(&wait), "{wait}");
    assert_eq!(code_of(refused).await, "accounts_resting");

    // Wrong keys are counted together: ten at once, and soon one too many wherever it is shown.
    let wrong = async |at: usize| {
        let answer = pair.get(at, "/backend-api/practice/echo").bearer_auth("tp-wrong").send().await.unwrap();
        answer.status().as_u16()
    };
    let mut shown = 0;
    while wrong(0).await == 401 {
        shown += 1;
        assert!(shown < 50, "never");
    }
    assert!(shown >= 10, "{shown}");
    assert_eq!(wrong(1).await, 429, "its first one");
    pair.stop().await;
}
