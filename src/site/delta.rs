//! The site's delta encoding "v1": changes to JSON trees, one tree for each channel.
//!
//! A delta is `{"c","p","o","v"}`: channel, JSON Pointer, operation, value. Whichever of the first three is
//! missing is that of the delta before. Changes are made in place, so an answer of any length costs what its
//! deltas cost; the sum of all values is bounded. Knows nothing of what the trees mean, except which part of
//! one is text.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::error::{Fault, FaultKind};

/// Trees that one answer may have; the site uses a handful.
const MOST_CHANNELS: usize = 32;
/// Segments that a path may have: deeper trees could not be dropped without a deep stack.
const MOST_DEPTH: usize = 32;
/// Patches within patches.
const MOST_NESTED: usize = 4;
/// What a value that is no text takes in memory, for each of its bytes.
const WEIGHT: usize = 8;
/// Where the text of a message is.
const PARTS: &str = "/message/content/parts/";

/// What a delta did to its tree, the strongest of its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Something beside the text, or nothing.
    Aside,
    /// The message's text became longer, and nothing else of it changed.
    Grown,
    /// The message's text may be any other.
    Rewritten,
    /// The tree is another one.
    Replaced,
}

/// All trees of one answer.
#[derive(Debug)]
pub struct Deltas {
    trees: Vec<(i64, Value)>,
    channel: i64,
    path: String,
    op: String,
    /// How much more may come.
    room: usize,
}

#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

#[derive(Deserialize)]
struct Delta<'a> {
    c: Option<i64>,
    #[serde(borrow)]
    p: Option<Text<'a>>,
    #[serde(borrow)]
    o: Option<Text<'a>>,
    #[serde(borrow)]
    v: Option<&'a RawValue>,
}

impl Deltas {
    /// Takes values of `room` bytes in all; what is no text counts several times.
    pub fn new(room: usize) -> Deltas {
        Deltas { trees: Vec::new(), channel: 0, path: String::new(), op: "add".into(), room }
    }

    /// Makes one change; says to which tree, and what it came to.
    ///
    /// # Errors
    /// When it is no delta, when the message's text is not what it changes, or when there is no room for it.
    pub fn apply(&mut self, data: &str) -> Result<(usize, Change), Fault> {
        let delta: Delta<'_> = serde_json::from_str(data).map_err(unreadable)?;
        if let Some(channel) = delta.c {
            self.channel = channel;
        }
        if let Some(Text(path)) = delta.p {
            self.path.clear();
            self.path.push_str(&path);
        }
        if let Some(Text(op)) = delta.o {
            self.op.clear();
            self.op.push_str(&op);
        }
        let value = delta.v.map_or("null", RawValue::get);
        let weight = if value.starts_with('"') { value.len() } else { value.len().saturating_mul(WEIGHT) };
        self.room = self.room.checked_sub(weight).ok_or_else(|| {
            Fault::new(FaultKind::SiteError, "The site's answer is larger than any answer.").maybe_sent()
        })?;
        let at = self.tree()?;
        let tree = &mut self.trees[at].1;
        Ok((at, change(tree, &self.path, &self.op, Operand::Raw(value), 0)?))
    }

    /// The tree that [`Deltas::apply`] has named.
    pub fn get(&self, at: usize) -> &Value {
        &self.trees[at].1
    }

    fn tree(&mut self) -> Result<usize, Fault> {
        if let Some(at) = self.trees.iter().position(|(channel, _)| *channel == self.channel) {
            return Ok(at);
        }
        if self.trees.len() >= MOST_CHANNELS {
            return Err(unreadable("too many channels"));
        }
        self.trees.push((self.channel, Value::Null));
        Ok(self.trees.len() - 1)
    }
}

/// A value that may not have been read yet: of text that is appended no tree is made.
enum Operand<'a> {
    Raw(&'a str),
    Read(Value),
}

impl Operand<'_> {
    fn read(self) -> Result<Value, Fault> {
        match self {
            Operand::Raw(raw) => serde_json::from_str(raw).map_err(unreadable),
            Operand::Read(value) => Ok(value),
        }
    }
}

/// What a change at `path` means for the message's text.
fn meaning(path: &str, op: &str) -> Change {
    match path {
        "" | "/message" => Change::Replaced,
        _ if op == "append" && path.starts_with(PARTS) => Change::Grown,
        _ if path == "/message/content" || path.starts_with("/message/content/") => Change::Rewritten,
        _ => Change::Aside,
    }
}

fn change(
    tree: &mut Value,
    path: &str,
    op: &str,
    operand: Operand<'_>,
    depth: usize,
) -> Result<Change, Fault> {
    if op == "patch" {
        return patch(tree, path, operand.read()?, depth);
    }
    let mut meaning = meaning(path, op);
    if path.bytes().filter(|it| *it == b'/').count() > MOST_DEPTH {
        return Err(unreadable("too deep a path"));
    }
    let done = match op {
        "append" => tree.pointer_mut(path).map(|place| append(place, operand)).transpose()?.unwrap_or(false),
        "add" => insert(tree, path, operand.read()?, true),
        "replace" => insert(tree, path, operand.read()?, false),
        "remove" => remove(tree, path),
        "truncate" => {
            let length = operand.read()?.as_u64().and_then(|it| usize::try_from(it).ok());
            tree.pointer_mut(path).zip(length).is_some_and(|(place, length)| truncate(place, length))
        }
        _ => false,
    };
    if meaning == Change::Grown && !is_last(tree, path) {
        meaning = Change::Rewritten;
    }
    match done {
        true => Ok(meaning),
        // What is said beside the text may change as the site likes.
        false if meaning == Change::Aside => Ok(meaning),
        false => Err(unreadable(format_args!("{} at {}", shown(op), shown(path)))),
    }
}

/// Each operation of a patch stands for itself: nothing carries over in it.
fn patch(tree: &mut Value, path: &str, operations: Value, depth: usize) -> Result<Change, Fault> {
    let Value::Array(operations) = operations else { return Err(unreadable("a patch that is no list")) };
    if depth >= MOST_NESTED {
        return Err(unreadable("too many patches within patches"));
    }
    let mut strongest = Change::Aside;
    for mut operation in operations {
        let value = operation.get_mut("v").map(Value::take).unwrap_or_default();
        let word = |name: &str| operation.get(name).and_then(Value::as_str).unwrap_or_default();
        let inner = word("p");
        let whole = if path.is_empty() { Cow::Borrowed(inner) } else { Cow::Owned(format!("{path}{inner}")) };
        let did = change(tree, &whole, word("o"), Operand::Read(value), depth + 1)?;
        strongest = strongest.max(did);
    }
    Ok(strongest)
}

fn append(place: &mut Value, operand: Operand<'_>) -> Result<bool, Fault> {
    if let (Value::String(text), Operand::Raw(raw)) = (&mut *place, &operand) {
        let Ok(Text(more)) = serde_json::from_str(raw) else { return Ok(false) };
        text.push_str(&more);
        return Ok(true);
    }
    match (place, operand.read()?) {
        (Value::String(text), Value::String(more)) => text.push_str(&more),
        (Value::Array(list), Value::Array(more)) => list.extend(more),
        (Value::Object(members), Value::Object(more)) => members.extend(more),
        (Value::Array(list), more) => list.push(more),
        (place @ Value::Null, more) => *place = more,
        _ => return Ok(false),
    }
    Ok(true)
}

/// Sets what is at `path`; `add` puts it between the elements of a list.
fn insert(tree: &mut Value, path: &str, value: Value, add: bool) -> bool {
    let Some((parent, key)) = path.rsplit_once('/') else {
        let is_root = path.is_empty();
        if is_root {
            *tree = value;
        }
        return is_root;
    };
    match tree.pointer_mut(parent) {
        Some(Value::Object(members)) => {
            members.insert(unescaped(key), value);
        }
        Some(Value::Array(list)) => match key.parse::<usize>() {
            _ if key == "-" => list.push(value),
            Ok(at) if add && at <= list.len() => list.insert(at, value),
            Ok(at) if !add && at < list.len() => list[at] = value,
            _ => return false,
        },
        _ => return false,
    }
    true
}

fn remove(tree: &mut Value, path: &str) -> bool {
    let Some((parent, key)) = path.rsplit_once('/') else {
        *tree = Value::Null;
        return path.is_empty();
    };
    match tree.pointer_mut(parent) {
        Some(Value::Object(members)) => members.remove(&unescaped(key)).is_some(),
        Some(Value::Array(list)) => match key.parse::<usize>() {
            Ok(at) if at < list.len() => {
                list.remove(at);
                true
            }
            _ => false,
        },
        _ => false,
    }
}

/// Cuts a list or a text; the length of a text counts UTF-16 units, as in the site's own script.
fn truncate(place: &mut Value, length: usize) -> bool {
    match place {
        Value::Array(list) => list.truncate(length),
        Value::String(text) => {
            let mut units = 0;
            let end = text.char_indices().find(|(_, c)| {
                units += c.len_utf16();
                units > length
            });
            if let Some((end, _)) = end {
                text.truncate(end);
            }
        }
        _ => return false,
    }
    true
}

/// Whether the element at `path` is the last of its list.
fn is_last(tree: &Value, path: &str) -> bool {
    let Some((parent, key)) = path.rsplit_once('/') else { return false };
    let list = tree.pointer(parent).and_then(Value::as_array);
    list.is_some_and(|list| key.parse() == Ok(list.len().saturating_sub(1)))
}

/// A segment of a JSON Pointer (RFC 6901).
fn unescaped(segment: &str) -> String {
    segment.replace("~1", "/").replace("~0", "~")
}

fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

fn unreadable(cause: impl std::fmt::Display) -> Fault {
    Fault::new(FaultKind::SiteError, "The site's answer is in a form that this proxy does not know.")
        .because(cause)
        .maybe_sent()
}
