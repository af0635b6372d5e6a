//! Lists of models, in the API's forms.

use serde_json::{Value, json};

/// When the models were made, which the site does not say.
const CREATED: u64 = 1_700_000_000;

/// One model of `/v1/models`.
pub fn model(name: &str) -> Value {
    json!({"id": name, "object": "model", "created": CREATED, "owned_by": "openai"})
}

/// `/v1/models`.
pub fn models(names: &[String]) -> Value {
    json!({"object": "list", "data": names.iter().map(|it| model(it)).collect::<Vec<_>>()})
}

/// `/v1/engines`, which is older than models.
pub fn engines(names: &[String]) -> Value {
    let engine = |name: &String| json!({"id": name, "object": "engine", "owner": "openai", "ready": true});
    json!({"object": "list", "data": names.iter().map(engine).collect::<Vec<_>>()})
}
