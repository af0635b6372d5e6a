//! What an answer says, and whether it says all of it: pure.

use serde_json::Value;
use tabproxy::practice::answer_text;

use super::ledger::End;

/// What comes of a conversation when nothing is wrong with the proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// The whole answer.
    Whole,
    /// The site breaks off: a body that never looks like an end.
    Broken,
    /// The site refuses with this status.
    Status(u16),
}

/// How a client's reading of an answer went.
#[derive(Debug)]
pub struct Reading {
    /// The status of the answer.
    pub status: u16,
    /// What came of the body.
    pub body: Vec<u8>,
    /// Whether the body ended cleanly, or was cut.
    pub ended: bool,
}

/// Judges what came as the answer to `prompt`.
pub fn judge(prompt: &str, expect: Expect, reading: &Reading) -> End {
    if reading.status != 200 {
        return refused(expect, reading);
    }
    let whole = answer_text(prompt);
    let said = match said(&reading.body) {
        Ok(said) => said,
        Err(why) => return End::Lost(why.into()),
    };
    let done = reading.body.ends_with(b"data: [DONE]\n\n");
    if !whole.starts_with(&said) {
        End::Lost("wrong bytes".into())
    } else if expect == Expect::Whole && done && said == whole {
        End::Completed
    } else if !reading.ended {
        End::Failed("cut".into())
    } else {
        End::Lost(format!("a clean end after {} of {} bytes, [DONE]: {done}", said.len(), whole.len()))
    }
}

/// Judges an answer that is an error: the site's own, or the proxy's with its code.
fn refused(expect: Expect, reading: &Reading) -> End {
    let json = serde_json::from_slice::<Value>(&reading.body).ok();
    let code = json.as_ref().and_then(|it| it.pointer("/error/code")?.as_str());
    if let Some(status) = of_nginx(reading) {
        return End::Failed(format!("nginx {status}"));
    }
    match (code, expect) {
        (Some(code), _) => End::Failed(code.to_owned()),
        (None, _) if reading.status < 400 => End::Lost(format!("status {}", reading.status)),
        (None, Expect::Status(status)) if status != reading.status => {
            End::Lost(format!("status {} where the site said {status}", reading.status))
        }
        (None, _) => End::Failed(format!("site {}", reading.status)),
    }
}

/// The status of an answer that is nginx's own, whole, and the page of this project.
fn of_nginx(reading: &Reading) -> Option<u16> {
    let page: &[u8] = match reading.status {
        502 => include_bytes!("../../nginx/pages/502.txt"),
        504 => include_bytes!("../../nginx/pages/504.txt"),
        _ => return None,
    };
    (reading.ended && reading.body == page).then_some(reading.status)
}

/// What the bot plugin's user reads instead of an answer, or after a part of one.
pub const WARNING: &str = "⚠️ ";

/// Judges what came as the answer to a turn of the bot plugin, which is told of faults in a message; `Ok` is an
/// end as everywhere else, `Err` such a message.
pub fn judge_plugin(prompt: &str, reading: &Reading) -> Result<End, String> {
    let told = said(&reading.body).ok().and_then(|it| {
        let (before, text) = it.split_once(WARNING)?;
        answer_text(prompt).starts_with(before.trim_end()).then(|| text.to_owned())
    });
    let is_whole = reading.status == 200 && reading.ended && reading.body.ends_with(b"data: [DONE]\n\n");
    match told {
        Some(text) if is_whole => Err(text),
        _ => Ok(judge(prompt, Expect::Whole, reading)),
    }
}

/// The conversation of an answer in snapshots, and the message that the next turn follows.
pub fn place(body: &[u8]) -> Option<(String, String)> {
    let body = std::str::from_utf8(body).ok()?;
    let parsed = |it: &str| serde_json::from_str::<Value>(it.strip_prefix("data: ")?).ok();
    let mut events = body.lines().filter_map(parsed);
    let text = |event: &Value, at: &str| event.pointer(at).and_then(Value::as_str).map(str::to_owned);
    let is_assistant = |it: &Value| it.pointer("/message/author/role").is_some_and(|it| it == "assistant");
    let last = events.rfind(is_assistant)?;
    Some((text(&last, "/conversation_id")?, text(&last, "/message/id")?))
}

/// The text that the whole events of an answer hold, in either of the site's formats.
fn said(body: &[u8]) -> Result<String, &'static str> {
    // The last event may be cut in the middle of a character.
    let end = body.windows(2).rposition(|it| it == b"\n\n").map_or(0, |at| at + 2);
    let body = std::str::from_utf8(&body[..end]).map_err(|_| "not UTF-8")?;
    let mut text = String::new();
    for event in body.split("\n\n") {
        let Some(data) = event.lines().find_map(|line| line.strip_prefix("data: ")) else { continue };
        if !data.starts_with('{') {
            continue;
        }
        let event: Value = serde_json::from_str(data).map_err(|_| "an event that is no JSON")?;
        if let Some(snapshot) = event.pointer("/message/content/parts/0").and_then(Value::as_str) {
            if !snapshot.starts_with(&text) {
                return Err("a snapshot that takes words back");
            }
            snapshot.clone_into(&mut text);
        } else {
            append(&event, &mut text);
        }
    }
    Ok(text)
}

/// The words that a delta adds: plainly, or as one of several changes.
fn append(event: &Value, text: &mut String) {
    match &event["v"] {
        Value::String(piece) => text.push_str(piece),
        Value::Array(changes) => {
            let to_text = |it: &&Value| it["p"] == "/message/content/parts/0" && it["o"] == "append";
            changes.iter().filter(to_text).filter_map(|it| it["v"].as_str()).for_each(|it| text.push_str(it));
        }
        _ => {}
    }
}
