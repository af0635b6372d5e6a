//! A fault as an assistant's message in the site's classic format: for a client that shows its user nothing
//! else. Pure.

use serde_json::{Value, json};

use crate::error::{Fault, FaultKind};

/// What the site says when a model's messages are used up. Clients look for these very words.
pub const TOO_MANY: &str = "You have sent too many messages to the model. Please try again later.";

/// Where a message stands.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// The conversation, if there is one.
    pub conversation: Option<&'a str>,
    /// The message that the client's next turn is to follow.
    pub id: &'a str,
}

/// The event that says `fault` at `place`, after the text that there was so far.
pub fn event(fault: &Fault, place: Place<'_>, so_far: &str) -> String {
    let text = match so_far {
        "" => text(fault),
        _ => format!("{so_far}\n\n{}", text(fault)),
    };
    let snapshot: Value = json!({
        "message": {
            "id": place.id,
            "author": {"role": "assistant", "name": null, "metadata": {}},
            "content": {"content_type": "text", "parts": [text]},
            "status": "finished_successfully",
            "end_turn": true,
            "weight": 1.0,
            "metadata": {"message_type": "next", "finish_details": {"type": "stop"}},
            "recipient": "all",
        },
        "conversation_id": place.conversation,
        "error": null,
    });
    format!("data: {snapshot}\n\n")
}

/// One short message in Chinese and in English.
fn text(fault: &Fault) -> String {
    let status = fault.site().map(|it| it.status);
    let chinese = match (status, fault.kind()) {
        (Some(401), _) => "登录已失效或没有登录，请管理员重新登录或更换 access token。",
        (Some(403), _) => "网站拒绝了这个请求。",
        (Some(404), _) => "网站上没有这个会话，请结束当前对话后重新开始。",
        (Some(413), _) | (_, FaultKind::TooLarge) => "内容太长，请缩短后再发。",
        (Some(422), _) => "网站不接受这个请求的格式。",
        (Some(429), _) => "发送的消息太多，请稍后再试。",
        (Some(500..), _) => "网站暂时出错，请稍后再试。",
        (Some(_), _) => "网站没有正常回答。",
        (None, FaultKind::KeyRequired | FaultKind::NoAccount) => {
            "没有可用的密钥或账号，请管理员检查代理的设置。"
        }
        (None, FaultKind::AccountsResting) => "账号的额度已用完，请稍后再试。",
        (None, FaultKind::QueueFull | FaultKind::QueueTimeout) => "当前请求太多，请稍后再试。",
        (None, FaultKind::Busy) => "上一个问题还在回答，请等它结束后再发。",
        (None, FaultKind::SharedStateLost) => "各实例共享的状态暂时连不上，请稍后再试。",
        (None, FaultKind::NotReady | FaultKind::Draining) => "代理正在准备，请十秒后再试。",
        (None, FaultKind::NeedsOperator | FaultKind::Challenged | FaultKind::SignInRequired) => {
            "需要管理员在浏览器里完成验证或登录。"
        }
        (
            None,
            FaultKind::PageLost
            | FaultKind::FetchFailed
            | FaultKind::RedirectedAway
            | FaultKind::AnswerIncomplete,
        ) => "回答中断了。问题可能已经送达，需要时请再发一次。",
        (None, FaultKind::NotKept) => "这个问题已经回答过，但回答没有保存，需要时请再发一次。",
        (None, _) => "代理没能完成这个请求。",
    };
    let english = match status {
        Some(429) => TOO_MANY,
        _ => fault.public(),
    };
    format!("⚠️ {chinese}\n{english}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::SiteError;

    fn said(fault: &Fault, so_far: &str) -> Value {
        let place = Place { conversation: Some("c"), id: "p" };
        let event = event(fault, place, so_far);
        serde_json::from_str(event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap()).unwrap()
    }

    #[test]
    fn every_fault_is_a_whole_message_with_a_sentence_in_both_languages() {
        for kind in FaultKind::ALL {
            let event = said(&Fault::new(kind, "A \"sentence\"."), "");
            assert_eq!((&event["conversation_id"], &event["message"]["id"]), (&json!("c"), &json!("p")));
            assert_eq!(event["message"]["author"]["role"], "assistant");
            assert_eq!(event["message"]["end_turn"], true);
            let text = event["message"]["content"]["parts"][0].as_str().unwrap();
            assert!(text.contains("A \"sentence\".") && text.chars().any(|it| it > '\u{4e00}'), "{text}");
            assert!(text.chars().count() < 120, "{text}");
        }
    }

    #[test]
    fn the_sites_own_429_keeps_its_words_and_what_was_there_stays() {
        let fault = Fault::of_site(SiteError { status: 429, sentence: None });
        let event = said(&fault, "half of it");
        let text = event["message"]["content"]["parts"][0].as_str().unwrap();
        assert!(text.starts_with("half of it\n\n") && text.ends_with(TOO_MANY), "{text}");
    }
}
