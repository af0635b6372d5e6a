//! The bot plugin, imitated to the letter: what it sends, how long it waits, when it asks again, what it reads.

use std::time::Duration;

use futures::StreamExt;
use futures::future::join_all;
use serde_json::{Value, json};
use tabproxy::config::Config;
use tabproxy::practice::answer_text;

use crate::rig::{PATIENCE, Rig, eventually};

const TOO_MANY: &str = "You have sent too many messages to the model. Please try again later.";

/// The plugin, with one user's conversation in it.
#[derive(Clone)]
struct Plugin {
    client: reqwest::Client,
    base: String,
    /// How long its socket may be silent.
    inactivity: Duration,
    token: &'static str,
    conversation: Option<String>,
    parent: Option<String>,
    model: &'static str,
}

/// What it makes of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Said {
    text: String,
    conversation: Option<String>,
    id: String,
    attempts: usize,
}

impl Plugin {
    fn of(rig: &Rig) -> Plugin {
        Plugin {
            client: rig.client.clone(),
            base: rig.url("/backend-api"),
            inactivity: Duration::from_secs(10),
            token: "",
            conversation: None,
            parent: None,
            model: "auto",
        }
    }

    /// One that gives up after so little that a test need not wait.
    fn hasty(rig: &Rig) -> Plugin {
        Plugin { inactivity: Duration::from_millis(700), ..Plugin::of(rig) }
    }

    fn body(&self, prompt: &str, model: &str) -> Value {
        let id = || format!("{:032x}", fastrand::u128(..));
        let mut body = json!({
            "action": "next",
            "messages": [{"id": id(), "role": "user",
                          "content": {"content_type": "text", "parts": [prompt]}, "metadata": {}}],
            "model": model,
            // For a new conversation, another one at each attempt.
            "parent_message_id": self.parent.clone().unwrap_or_else(id),
            "timezone_offset_min": -480,
            "history_and_training_disabled": false,
        });
        if let Some(conversation) = &self.conversation {
            body["conversation_id"] = json!(conversation);
        }
        body
    }

    fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base));
        let request = request.header("accept", "text/event-stream").header("library", "chatgpt-plugin");
        let request = request.header("authorization", self.token).header("x-openai-assistant-app-id", "");
        request.header("referer", "https://chat.openai.com/chat")
    }

    /// One attempt; an error is what it would see.
    async fn attempt(&self, body: &Value) -> Result<Said, String> {
        let request = self.request(reqwest::Method::POST, "/conversation").json(body).send();
        let answer = tokio::time::timeout(self.inactivity, request).await;
        let answer = answer.map_err(|_| "Request time out")?.map_err(|it| it.to_string())?;
        let status = answer.status();
        let mut said = Said {
            text: String::new(),
            conversation: self.conversation.clone(),
            id: body["messages"][0]["id"].as_str().unwrap().to_owned(),
            attempts: 1,
        };
        let (mut stream, mut all, mut from) = (answer.bytes_stream(), String::new(), 0);
        loop {
            let next = tokio::time::timeout(self.inactivity, stream.next()).await;
            match next.map_err(|_| "Request time out")? {
                Some(Ok(piece)) => all += std::str::from_utf8(&piece).expect("whole characters"),
                // The plugin would wait for ever.
                Some(Err(error)) => panic!("cut: {error}"),
                None => return Err(all),
            }
            while let Some(length) = all[from..].find("\n\n").filter(|_| status == 200) {
                let event = &all[from..from + length];
                from += length + 2;
                let Some(data) = event.lines().find_map(|it| it.strip_prefix("data: ")) else { continue };
                if data == "[DONE]" {
                    return Ok(said);
                }
                let Ok(event) = serde_json::from_str::<Value>(data) else { continue };
                if let Some(id) = event["conversation_id"].as_str() {
                    said.conversation = Some(id.to_owned());
                }
                if let Some(id) = event["message"]["id"].as_str() {
                    id.clone_into(&mut said.id);
                }
                match &event["message"]["content"]["parts"][0] {
                    Value::Null => {}
                    part => {
                        let part = part.as_str().expect("a string");
                        if !part.is_empty() {
                            part.clone_into(&mut said.text);
                        }
                    }
                }
            }
        }
    }

    /// Asks, and again up to three times; goes on from there next time.
    async fn send(&mut self, prompt: &str) -> Result<Said, String> {
        let mut error = String::new();
        for attempts in 1..=4 {
            match self.attempt(&self.body(prompt, self.model)).await {
                Ok(said) => {
                    self.conversation.clone_from(&said.conversation);
                    self.parent = Some(said.id.clone());
                    return Ok(Said { attempts, ..said });
                }
                Err(seen) => error = seen,
            }
        }
        Err(error)
    }
}

fn silent(config: &mut Config) {
    config.ping = None;
}

async fn metric(rig: &Rig, name: &str) -> u64 {
    let text = rig.get("/metrics").await.text().await.unwrap();
    let line = text.lines().find_map(|it| it.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("{name} is not in {text}")).parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_of_the_plugin_goes_on_with_the_author_filled_in() {
    let rig = Rig::ready().await;
    let mut plugin = Plugin::of(&rig);
    let first = plugin.send("你好 count=4 text=mixed").await.unwrap();
    assert_eq!((first.text.as_str(), first.attempts), (answer_text("你好 count=4 text=mixed").as_str(), 1));
    let second = plugin.send("and count=3 ping=1").await.unwrap();
    assert_eq!(second.conversation, first.conversation);
    assert_ne!(second.id, first.id);
    let counters = rig.counters();
    assert_eq!(
        (counters.posts, counters.posts_of_guests),
        (2, 2),
        "a page that nobody signed in is a guest's"
    );
    // A token of its own goes the way of the signed in, and so does whoever writes that path by himself.
    Plugin { token: "Bearer x", ..Plugin::of(&rig) }.send("count=1 auth=required").await.unwrap();
    assert_eq!(rig.ask("raw", "count=1").await.status(), 200);
    assert_eq!(rig.counters().posts_of_guests, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn once_somebody_is_signed_in_a_plugin_without_a_key_is_told_so_and_nothing_is_sent() {
    let rig = Rig::with(Default::default(), |config| config.allow_paths.push("/auth/".into())).await;
    let done = rig.client.post(rig.url("/auth/login")).send().await.unwrap();
    assert!(done.status().is_success() || done.status().is_redirection(), "{}", done.status());
    eventually(|| rig.server.browser().status().signed_in, |it| *it == Some(true)).await;
    let said = Plugin::of(&rig).send("count=2").await.unwrap();
    assert!(said.text.contains("密钥") && said.text.contains("key"), "{said:?}");
    assert_eq!((said.attempts, rig.counters().posts), (1, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn pings_keep_it_from_asking_again() {
    let rig = Rig::ready().await;
    // Longer than its patience, before the head and within the answer.
    let prompt = "hello first=11000 stall=1:11000 count=3";
    let said = Plugin::of(&rig).send(prompt).await.unwrap();
    assert_eq!((said.text, said.attempts), (answer_text(prompt), 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn four_attempts_at_one_turn_are_one_post_and_a_whole_answer() {
    let rig = Rig::with(Default::default(), silent).await;
    let mut plugin = Plugin::hasty(&rig);
    // Silent for longer than three attempts take.
    let prompt = "hello first=2500 count=5";
    let first = plugin.send(prompt).await.unwrap();
    assert_eq!(first.text, answer_text(prompt));
    assert!(first.attempts > 2, "{first:?}");
    assert_eq!(rig.counters().posts, 1, "in a new conversation");
    let prompt = "again stall=2:2500 count=5";
    let second = plugin.send(prompt).await.unwrap();
    assert_eq!(second.text, answer_text(prompt));
    assert!(second.attempts > 1 && second.conversation == first.conversation, "{second:?}");
    assert_eq!(rig.counters().posts, 2, "in one that goes on");
    assert!(metric(&rig, "tabproxy_turns_joined_total").await >= 3);
    assert_eq!(rig.counters().aborted, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_turn_at_once_or_a_little_later_is_answered_once_and_another_model_is_another_turn() {
    let rig = Rig::ready().await;
    let mut plugin = Plugin::of(&rig);
    plugin.send("hello count=1").await.unwrap();
    let prompt = "same count=20 interval=30";
    let same =
        join_all((0..5).map(|_| plugin.clone()).map(async |mut it| it.send(prompt).await.unwrap())).await;
    assert!(same.iter().all(|it| it == &same[0] && it.text == answer_text(prompt)), "{same:?}");
    assert_eq!(plugin.clone().send(prompt).await.unwrap(), same[0], "after its end too");
    assert_eq!(rig.counters().posts, 2);
    assert_eq!(metric(&rig, "tabproxy_turns_replayed_total").await, 1);
    let other = Plugin { model: "gpt-4o", ..plugin.clone() }.send(prompt).await.unwrap();
    assert_ne!(other.id, same[0].id);
    // Two users who begin with the same words do not end up in one conversation.
    let words = "hello there count=20 interval=30";
    let both =
        join_all((0..2).map(|_| Plugin::of(&rig)).map(async |mut it| it.send(words).await.unwrap())).await;
    assert_ne!(both[0].conversation, both[1].conversation);
    let third = Plugin::of(&rig).send(words).await.unwrap();
    assert!(both.iter().all(|it| it.conversation != third.conversation));
}

#[tokio::test(flavor = "multi_thread")]
async fn switched_off_each_attempt_is_sent() {
    let rig = Rig::with(Default::default(), |config| (config.ping, config.join) = (None, None)).await;
    let error = Plugin::hasty(&rig).send("hello first=60000").await.unwrap_err();
    assert_eq!(error, "Request time out");
    assert_eq!(rig.counters().posts, 4);
    eventually(|| rig.counters(), |it| it.aborted == 4 && it.active == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_and_comes_back_finds_its_answer_and_everyone_elses_is_aborted() {
    let rig = Rig::with(Default::default(), silent).await;
    let mut plugin = Plugin::of(&rig);
    plugin.send("hello count=1").await.unwrap();
    let prompt = "long count=60 interval=50";
    let body = plugin.body(prompt, "auto");
    let mut begun = plugin.request(reqwest::Method::POST, "/conversation").json(&body).send().await.unwrap();
    assert!(begun.chunk().await.unwrap().is_some());
    drop(begun);
    let mut raw = rig.ask("raw", "hello count=100000 interval=20").await;
    assert!(raw.chunk().await.unwrap().is_some());
    drop(raw);
    let left = std::time::Instant::now();
    eventually(|| rig.counters(), |it| it.aborted == 1 && it.active == 1).await;
    assert!(left.elapsed() < Duration::from_secs(2), "{:?}", left.elapsed());
    assert_eq!(plugin.send(prompt).await.unwrap().text, answer_text(prompt));
    assert_eq!((rig.counters().posts, rig.counters().aborted), (3, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_that_leaves_while_it_waits_for_a_place_is_never_sent() {
    let rig = Rig::with(Default::default(), |config| {
        silent(config);
        config.max_inflight = 1;
    })
    .await;
    let taken = rig.ask("taken", "hello count=100000 interval=20").await;
    let plugin = Plugin::hasty(&rig);
    let body = plugin.body("never count=1", "auto");
    assert_eq!(plugin.attempt(&body).await.unwrap_err(), "Request time out");
    while metric(&rig, "tabproxy_queued").await > 0 {}
    drop(taken);
    assert_eq!(rig.ask("after", "hello count=1").await.status(), 200);
    assert_eq!(rig.counters().posts, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_fault_is_a_message_that_its_user_can_read() {
    for join in [true, false] {
        let rig = Rig::with(Default::default(), |config| {
            if !join {
                config.join = None;
            }
            (config.ping, config.max_body) = (Some(Duration::from_millis(300)), 100_000);
        })
        .await;
        let mut plugin = Plugin::of(&rig);
        let good = plugin.send("hello count=2").await.unwrap();
        for (knobs, words) in [
            ("status=401", "Unauthorized"),
            ("status=403", "check"),
            ("status=404", "does not exist"),
            ("status=413", "Entity Too Large"),
            ("status=422", "was asked to refuse this"),
            ("status=429", TOO_MANY),
            ("status=500", "status 500"),
            ("status=503 first=1000", "status 503"),
            ("status=429 first=1000", TOO_MANY),
            ("cut=3", "ended its answer before it was whole"),
            ("reset=3", ""),
        ] {
            rig.wait_ready().await;
            let mut asks = plugin.clone();
            let prompt = format!("hello {knobs}");
            let said = tokio::time::timeout(PATIENCE, asks.send(&prompt)).await.unwrap().unwrap();
            assert!(said.text.contains(words), "{knobs}: {said:?}");
            assert!(said.text.contains("⚠️") && said.text.chars().any(|it| it > '\u{4e00}'), "{said:?}");
            assert_eq!((said.attempts, &said.conversation), (1, &good.conversation), "{knobs}");
            assert_eq!(said.id, good.id, "the next turn follows the last good message");
        }
        let half = plugin.clone().send("half cut=3 count=9").await.unwrap();
        assert!(half.text.starts_with(&answer_text("half cut=3 count=9")), "what there was stays: {half:?}");
        // Its user, who has read that, may ask the same again.
        let posts = rig.counters().posts;
        plugin.clone().send("half cut=3 count=9").await.unwrap();
        assert_eq!(rig.counters().posts, posts + 1);
        let next = plugin.send("hello count=2").await.unwrap();
        assert_eq!((next.conversation, next.text), (good.conversation, answer_text("hello count=2")));
        // What does not fit is said too, and what is no turn gets the site's own words.
        let large = plugin.body(&"x".repeat(120_000), "auto");
        assert!(plugin.attempt(&large).await.unwrap().text.contains("100000 bytes"));
        let mut broken = plugin.body("hello", "auto");
        broken["messages"] = json!([{"id": "a"}]);
        assert!(plugin.attempt(&broken).await.unwrap().text.contains("field required"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_model_that_is_used_up_is_told_in_the_sites_own_words_and_asked_once() {
    let rig = Rig::ready().await;
    let mut plugin = Plugin { model: "gpt-4o", ..Plugin::of(&rig) };
    let said = plugin.send("hello status=429").await.unwrap();
    assert!(said.attempts == 1 && said.text.contains(TOO_MANY), "{said:?}");
    assert_eq!(rig.counters().posts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn turns_of_one_conversation_wait_for_one_another_or_are_refused() {
    for waits in [true, false] {
        let rig = Rig::with(Default::default(), |config| config.busy_waits = waits).await;
        let mut plugin = Plugin::of(&rig);
        let first = plugin.send("hello count=1").await.unwrap();
        let ask = |id: &str, prompt: &str| {
            let mut turn = crate::rig::turn(id, prompt);
            turn["conversation_id"] = json!(first.conversation);
            rig.client.post(rig.url("/backend-api/conversation")).json(&turn).send()
        };
        let long = ask("long", "hello count=50 interval=30").await.unwrap();
        let (raw, mut other) = (ask("raw", "hello count=1"), plugin.clone());
        if waits {
            let (raw, said, long) = tokio::join!(raw, other.send("hello count=2"), long.text());
            assert!(
                long.unwrap().contains("[DONE]") && raw.unwrap().text().await.unwrap().contains("[DONE]")
            );
            assert_eq!(said.unwrap().text, answer_text("hello count=2"));
            assert_eq!(metric(&rig, "tabproxy_turns_waited_total").await, 2);
            assert_eq!(rig.counters().max_active, 1);
        } else {
            let raw = raw.await.unwrap();
            assert_eq!(raw.status(), 409);
            assert!(raw.headers().contains_key("retry-after"));
            assert_eq!(crate::rig::code_of(raw).await, "conversation_busy");
            assert!(other.send("hello count=2").await.unwrap().text.contains("still being answered"));
            assert_eq!(rig.counters().posts, 2);
            drop(long);
            eventually(|| rig.counters(), |it| it.active == 0).await;
            let mut tick = tokio::time::interval(Duration::from_millis(20));
            while ask("later", "hello count=1").await.unwrap().status() == 409 {
                tick.tick().await;
            }
        }
        assert_eq!(metric(&rig, "tabproxy_turns_waiting").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn history_has_both_shapes_and_speech_the_type_that_it_takes() {
    let rig = Rig::ready().await;
    let mut plugin = Plugin::of(&rig);
    let id = plugin.send("hello count=1").await.unwrap().conversation.unwrap();
    let get = reqwest::Method::GET;
    for path in ["/conversations?offset=0&limit=20".to_owned(), format!("/conversation/{id}")] {
        let raw: Value = rig.get(&format!("/backend-api{path}")).await.json().await.unwrap();
        let both = plugin.request(get.clone(), &path).send().await.unwrap();
        assert_eq!(both.headers()["content-type"], "application/json");
        let mut both: Value = both.json().await.unwrap();
        assert_eq!(both["body"].take(), raw);
        both.as_object_mut().unwrap().remove("body");
        assert_eq!(both, raw);
    }
    let gone = plugin.request(reqwest::Method::PATCH, &format!("/conversation/{id}"));
    let gone: Value = gone.json(&json!({"is_visible": false})).send().await.unwrap().json().await.unwrap();
    assert_eq!(gone, json!({"success": true, "body": {"success": true}}));
    let unknown = plugin.request(get.clone(), "/conversation/none").send().await.unwrap();
    assert_eq!(unknown.status(), 404);
    assert!(unknown.json::<Value>().await.unwrap().get("body").is_none());

    let speech = "/synthesize?message_id=1&conversation_id=2&voice=typed&format=mp3";
    let speech = plugin.request(get, speech).send().await.unwrap();
    assert_eq!(speech.headers()["content-type"], "audio/mpeg");
    assert_eq!(speech.bytes().await.unwrap().len(), 64 * 1024);
    let raw = rig.get("/backend-api/synthesize?voice=typed").await;
    assert_eq!(raw.headers()["content-type"], "audio/mpeg; rate=24000");
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_site_streams_deltas_snapshots_are_for_those_who_read_them() {
    for snapshots in [false, true] {
        let rig = Rig::with(Default::default(), |config| config.snapshots = snapshots).await;
        let prompt = "hello count=30 text=mixed format=delta";
        let said = Plugin::of(&rig).send(prompt).await.unwrap();
        assert_eq!((said.text, said.attempts), (answer_text(prompt), 1));
        let half = Plugin::of(&rig).send("hello cut=3 format=delta").await.unwrap();
        assert!(half.text.starts_with(&answer_text("hello cut=3 format=delta")) && half.text.contains("⚠️"));
        for (header, encodings, expected) in [
            (None, None, snapshots),
            (None, Some("v1"), false),
            (Some("classic"), Some("v1"), true),
            (Some("raw"), None, false),
        ] {
            let mut turn = crate::rig::turn(&format!("{header:?} {encodings:?}"), prompt);
            if let Some(encoding) = encodings {
                turn["supported_encodings"] = json!([encoding]);
            }
            let mut request = rig.client.post(rig.url("/backend-api/conversation")).json(&turn);
            if let Some(header) = header {
                request = request.header("x-tabproxy-format", header);
            }
            let stream = request.send().await.unwrap().bytes().await.unwrap();
            let text = std::str::from_utf8(&stream).unwrap();
            assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
            assert_eq!(!text.contains("event: delta"), expected, "{header:?} {encodings:?}");
            if expected {
                assert_eq!(crate::rig::last_text(&stream), answer_text(prompt));
            }
        }
    }
}
