//! `/v1/models`, one of them, and `/v1/engines`: the site's own list in the official API's forms.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use serde_json::Value;

use super::super::access::Caller;
use super::super::page::{self, Prepared};
use super::super::reply::Asked;
use super::super::{App, headers, refused, shape};
use crate::error::{Fault, FaultKind};
use crate::exchange::{Leaves, PageRequest};
use crate::openai::{Invalid, models as lists};
use crate::site::request;
use crate::telemetry::metrics::Outcome;

/// The longest list that is read, in bytes.
const LONGEST: usize = 1 << 20;

/// `GET /v1/models`.
pub(in crate::http) async fn models(State(app): State<Arc<App>>, request: Request) -> Response {
    list(app, request, |names| Ok(lists::models(&names))).await
}

/// `GET /v1/engines`.
pub(in crate::http) async fn engines(State(app): State<Arc<App>>, request: Request) -> Response {
    list(app, request, |names| Ok(lists::engines(&names))).await
}

/// `GET /v1/models/{name}`.
pub(in crate::http) async fn model(
    State(app): State<Arc<App>>,
    name: Result<Path<String>, PathRejection>,
    request: Request,
) -> Response {
    // What is no text is the name of no model.
    let name = name.map_or_else(|_| String::new(), |it| it.0);
    let find = move |names: Vec<String>| {
        if names.contains(&name) { Ok(lists::model(&name)) } else { Err(Invalid::model(&name)) }
    };
    list(app, request, find).await
}

/// Answers with what `show` makes of the names of the site's models.
async fn list(
    app: Arc<App>,
    request: Request,
    show: impl FnOnce(Vec<String>) -> Result<Value, Invalid>,
) -> Response {
    let asked = Asked::of(&request);
    let ending = app.metrics.begin();
    let caller = Caller::of(request.extensions());
    // The body, if there is one, says nothing; and of the request only its parts can wait with others.
    let (parts, _) = request.into_parts();
    match names(&app, caller, &parts.headers).await {
        Ok(names) => {
            ending.end(Outcome::Complete);
            match show(names) {
                Ok(list) => ([(header::CACHE_CONTROL, "no-store")], Json(list)).into_response(),
                Err(invalid) => shape::refuse_invalid(&invalid, &asked),
            }
        }
        Err(fault) => {
            ending.end(Outcome::Fault(fault.kind()));
            shape::refuse(&fault, &asked, parts.uri.path())
        }
    }
}

async fn names(app: &Arc<App>, caller: Caller, given: &HeaderMap) -> Result<Vec<String>, Fault> {
    let headers = super::for_turns(headers::to_page(given, &app.policy.allow_headers));
    let request = PageRequest {
        method: "GET".into(),
        path: format!("{}/models", super::base(app, &caller, &headers)),
        headers,
        body: Vec::new(),
        keyed: caller.keyed,
        leaves: Leaves::default(),
    };
    let prepared = Prepared { request, permit: None, caller };
    let mut answer = page::perform(app.clone(), prepared, Instant::now()).await?;
    if !answer.status.is_success() {
        return Err(refused::read(answer).await);
    }
    let mut body = Vec::new();
    while let Some(chunk) = answer.exchange.chunk().await {
        body.extend_from_slice(&chunk?.bytes);
        if body.len() > LONGEST {
            return Err(unknown("it is too long"));
        }
    }
    request::models(&body).ok_or_else(|| unknown("it is no list of models"))
}

fn unknown(cause: &str) -> Fault {
    Fault::new(FaultKind::SiteError, "The site's list of models is in a form that this proxy does not know.")
        .because(cause)
        .maybe_sent()
}
