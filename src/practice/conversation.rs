//! `POST /conversation`: reads the prompt, remembers the conversation, starts the answer.
//!
//! What an answer consists of and when it is written is not its business: see `events.rs`, `answer.rs`.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Deserialize;
use serde_json::{Value, json};

use super::answer::{Answer, unix_micros};
use super::events::{Events, Subject};
use super::home;
use super::knobs::Knobs;
use super::reply::{Refusal, asked_error, coded, new_id, with_type};
use super::routes::{Site, whole_body};

/// Conversations remembered; the oldest is forgotten first.
const MAX_CONVERSATIONS: usize = 10_000;
/// Of a prompt, so many characters are remembered.
const MAX_REMEMBERED_CHARS: usize = 1_000;

/// Of a conversation, so many prompts are remembered, the first ones.
const MAX_TURNS: usize = 50;

/// One conversation: its latest turn, and what was asked in it.
#[derive(Clone, Debug)]
pub(super) struct Conversation {
    /// The id by which the client goes on with it.
    pub id: String,
    /// Empty until it is named.
    pub title: String,
    /// Hidden from the list when false.
    pub visible: bool,
    /// Unix microseconds.
    pub created: u64,
    /// The user's latest message: id and the beginning of its text.
    pub prompt: (String, String),
    /// The id of the answer to it.
    pub answer: String,
    /// The beginnings of all prompts, as far as they are remembered.
    pub turns: Vec<String>,
    /// Turns that did not answer the latest message.
    pub strays: u64,
}

/// A bounded memory of conversations.
#[derive(Debug, Default)]
pub(super) struct Conversations(Mutex<Memory>);

#[derive(Debug, Default)]
struct Memory {
    known: HashMap<String, Conversation>,
    order: VecDeque<String>,
    /// The ones that are being answered.
    spoken: HashSet<String>,
}

/// The one turn that a conversation has at a time; over when this is dropped.
#[derive(Debug)]
pub(super) struct Speaking {
    site: Arc<Site>,
    id: String,
}

impl Speaking {
    fn begin(site: &Arc<Site>, id: &str) -> Result<Self, Refusal> {
        let is_free = site.conversations.lock().spoken.insert(id.to_owned());
        if !is_free {
            return Err(Refusal::OneAtATime);
        }
        Ok(Self { site: Arc::clone(site), id: id.to_owned() })
    }
}

impl Drop for Speaking {
    fn drop(&mut self) {
        self.site.conversations.lock().spoken.remove(&self.id);
    }
}

impl Conversations {
    /// A copy of one conversation.
    pub fn get(&self, id: &str) -> Option<Conversation> {
        self.lock().known.get(id).cloned()
    }

    /// Changes one conversation; false when there is none of that id.
    pub fn change(&self, id: &str, change: impl FnOnce(&mut Conversation)) -> bool {
        self.lock().known.get_mut(id).map(change).is_some()
    }

    /// Forgets all of them.
    pub fn forget_all(&self) {
        *self.lock() = Memory::default();
    }

    /// Hides all of them from the list.
    pub fn hide_all(&self) {
        self.lock().known.values_mut().for_each(|conversation| conversation.visible = false);
    }

    /// How many are visible, and a page of them, the newest first.
    pub fn page(&self, offset: usize, limit: usize) -> (usize, Vec<Conversation>) {
        let memory = self.lock();
        let visible =
            || memory.order.iter().rev().filter_map(|id| memory.known.get(id)).filter(|c| c.visible);
        (visible().count(), visible().skip(offset).take(limit).cloned().collect())
    }

    fn begin(&self, conversation: Conversation) {
        let mut memory = self.lock();
        if memory.order.len() >= MAX_CONVERSATIONS
            && let Some(oldest) = memory.order.pop_front()
        {
            memory.known.remove(&oldest);
        }
        memory.order.push_back(conversation.id.clone());
        memory.known.insert(conversation.id.clone(), conversation);
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Deserialize)]
struct Asked {
    #[serde(default)]
    messages: Vec<Message>,
    conversation_id: Option<String>,
    parent_message_id: Option<String>,
    model: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
struct Message {
    id: Option<String>,
    author: Option<Author>,
    content: Option<Content>,
}

#[derive(Debug, Deserialize)]
struct Author {
    role: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Content {
    #[serde(default)]
    parts: Vec<Value>,
}

impl Asked {
    /// The first thing that the real site would complain about.
    fn complaint(&self) -> Option<Refusal> {
        let missing = |loc: Value| Some(Refusal::invalid(loc, "field required"));
        if self.messages.is_empty() {
            return missing(json!(["body", "messages"]));
        }
        self.messages.iter().enumerate().find_map(|(at, message)| {
            if message.id.is_none() {
                missing(json!(["body", "messages", at, "id"]))
            } else if message.author.as_ref().and_then(|author| author.role.as_ref()).is_none() {
                missing(json!(["body", "messages", at, "author", "role"]))
            } else if message.content.as_ref().is_none_or(|content| content.parts.is_empty()) {
                missing(json!(["body", "messages", at, "content", "parts", 0]))
            } else {
                None
            }
        })
    }

    /// The last message's text; a part that is no text says nothing.
    fn prompt(&self) -> &str {
        let content = self.messages.last().and_then(|message| message.content.as_ref());
        content.and_then(|content| content.parts.first()?.as_str()).unwrap_or_default()
    }
}

/// Answers a prompt as its knobs say.
pub(super) async fn converse(
    State(site): State<Arc<Site>>,
    headers: HeaderMap,
    request: Request,
) -> Result<Response, Refusal> {
    let body = whole_body(request).await?;
    let asked = serde_json::from_slice::<Asked>(&body);
    let ids = asked.iter().flat_map(|asked| &asked.messages).filter_map(|message| message.id.as_deref());
    site.tally.post(ids);
    let asked = asked.map_err(|error| Refusal::invalid(json!(["body"]), error.to_string()))?;
    if let Some(refusal) = asked.complaint() {
        return Err(refusal);
    }
    let prompt = asked.prompt();
    let mut knobs = Knobs::parse(prompt, site.format).map_err(|bad| {
        Refusal::invalid(json!(["body", "messages", 0, "content", "parts", 0]), bad.to_string())
    })?;
    knobs.settle(prompt);

    let mut running = site.tally.begin();
    if !knobs.first.is_zero() {
        tokio::time::sleep(knobs.first).await;
    }
    let outcome = match knobs.status {
        Some(403) => Err(home::challenge(&site)),
        Some(status) => Err(asked_error(status, knobs.retry)),
        None if !is_known(asked.model.as_deref()) => {
            Err(coded(StatusCode::BAD_REQUEST, "The requested model does not exist", "model_not_found"))
        }
        None if knobs.auth_required && is_blank(&headers) => Err(Refusal::Unauthorized.into_response()),
        None => remember(&site, &asked).map_err(IntoResponse::into_response),
    };
    Ok(match outcome {
        Ok((subject, speaking)) => {
            let events = Events::new(subject, &knobs, prompt);
            let body = Body::new(Answer::new(events, knobs, running, speaking));
            with_type(StatusCode::OK, "text/event-stream; charset=utf-8", body)
        }
        Err(response) => {
            running.finish();
            response
        }
    })
}

/// Whether there could be a model of this name.
fn is_known(model: Option<&str>) -> bool {
    model.is_none_or(|it| {
        it == "auto" || ["gpt-", "o1", "o3", "o4", "text-"].iter().any(|name| it.starts_with(name))
    })
}

fn is_blank(headers: &HeaderMap) -> bool {
    headers.get(header::AUTHORIZATION).is_none_or(|value| value.as_bytes().trim_ascii().is_empty())
}

/// Begins a conversation, or goes on with the one that the client names.
fn remember(site: &Arc<Site>, asked: &Asked) -> Result<(Subject, Speaking), Refusal> {
    let began = unix_micros();
    let answer = new_id();
    let asker = asked.messages.last().and_then(|message| message.id.clone()).unwrap_or_default();
    let turn = (asker, asked.prompt().chars().take(MAX_REMEMBERED_CHARS).collect::<String>());
    let (conversation, speaking) = match asked.conversation_id.as_deref().filter(|id| !id.is_empty()) {
        Some(id) => {
            let speaking = Speaking::begin(site, id)?;
            let known = site.conversations.change(id, |conversation| {
                let is_stray = asked.parent_message_id.as_ref() != Some(&conversation.answer);
                conversation.strays += u64::from(is_stray);
                if conversation.turns.len() < MAX_TURNS {
                    conversation.turns.push(turn.1.clone());
                }
                conversation.prompt = turn;
                conversation.answer.clone_from(&answer);
            });
            if !known {
                return Err(Refusal::UnknownConversation);
            }
            (id.to_owned(), speaking)
        }
        None => {
            let id = new_id();
            site.conversations.begin(Conversation {
                id: id.clone(),
                title: String::new(),
                visible: true,
                created: began,
                turns: vec![turn.1.clone()],
                prompt: turn,
                answer: answer.clone(),
                strays: 0,
            });
            let speaking = Speaking::begin(site, &id)?;
            (id, speaking)
        }
    };
    let model = asked.model.clone().unwrap_or_else(|| "auto".to_owned());
    Ok((Subject { conversation, message: answer, model, began }, speaking))
}
