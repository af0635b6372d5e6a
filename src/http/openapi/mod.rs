//! `/openapi.json`, which says what is served here, and `/docs`, a page that shows it to people.
//!
//! The document is made once, from the table in `routes` and from the types that the requests are read into. The
//! page is one file without anything from elsewhere; it asks for the document beside it, so that it works below
//! `/k/KEY/` too.

mod bodies;
mod routes;
#[cfg(test)]
mod tests;

use std::sync::LazyLock;

use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use utoipa::OpenApi;
use utoipa::openapi::path::{HttpMethod, OperationBuilder, ParameterBuilder, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::schema::{AnyOfBuilder, ObjectBuilder, Schema, empty};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Content, OpenApi as Document, Ref, Required, Response as Told, ResponseBuilder, SecurityRequirement,
};

use crate::openai::{responses_types, types};
use routes::{Answer, Body, ROUTES, Route, TAGS, Whose};

/// The types that requests are read into, and those of errors.
#[derive(OpenApi)]
#[openapi(
    info(
        title = "tabproxy",
        description = "A reverse proxy whose outbound leg is a browser tab. Every path may also be asked for \
                       below `/k/KEY/`, by clients that can only be given a URL. What is called `rest` in a path may \
                       have slashes."
    ),
    components(schemas(
        types::Request,
        responses_types::Request,
        bodies::Turn,
        bodies::Change,
        bodies::ChangeAll,
        bodies::GenTitle,
        bodies::Feedback,
        bodies::Tokens,
        bodies::NewPassword,
        bodies::Puid,
        bodies::Fault,
        bodies::OfficialError,
        bodies::EarlierError,
    ))
)]
struct Types;

/// What is served, as a document.
fn document() -> Document {
    let mut document = Types::openapi();
    document.info.version = env!("CARGO_PKG_VERSION").to_owned();
    document.info.contact = None;
    let tag = |(name, about): &(&str, &str)| TagBuilder::new().name(*name).description(Some(*about)).build();
    document.tags = Some(TAGS.iter().map(tag).collect());
    if let Some(components) = &mut document.components {
        for (name, scheme) in [
            (
                KEY,
                bearer(
                    "An access key of this proxy, a token of the site's, or for the relay a key of the API.",
                ),
            ),
            (X_KEY, in_header("X-Api-Key", "An access key; a token may then stand in `Authorization`.")),
            (PASSWORD, in_header("Authorization", "The admin password, alone.")),
        ] {
            components.security_schemes.insert(name.to_owned(), scheme.into());
        }
    }
    for route in ROUTES {
        for method in route.methods {
            let operation = operation(route, method);
            document.paths.add_path_operation(route.path, vec![method.clone()], operation);
        }
    }
    document
}

const KEY: &str = "key";
const X_KEY: &str = "x-api-key";
const PASSWORD: &str = "admin password";

fn bearer(about: &str) -> SecurityScheme {
    SecurityScheme::Http(HttpBuilder::new().scheme(HttpAuthScheme::Bearer).description(Some(about)).build())
}

fn in_header(name: &str, about: &str) -> SecurityScheme {
    SecurityScheme::ApiKey(ApiKey::Header(ApiKeyValue::with_description(name, about)))
}

fn operation(route: &Route, method: &HttpMethod) -> OperationBuilder {
    let mut operation = OperationBuilder::new().tag(route.tag).summary(Some(route.summary));
    let in_path = route.path.split('{').skip(1).filter_map(|it| it.split('}').next());
    for (name, place, about) in in_path
        .map(|name| (name, ParameterIn::Path, None))
        .chain(route.query.iter().map(|(name, about)| (*name, ParameterIn::Query, Some(*about))))
    {
        let required = if place == ParameterIn::Path { Required::True } else { Required::False };
        let text = ObjectBuilder::new().schema_type(utoipa::openapi::Type::String);
        let text = if required == Required::True { text.min_length(Some(1)) } else { text };
        operation = operation.parameter(
            ParameterBuilder::new()
                .name(name)
                .parameter_in(place)
                .required(required)
                .description(about)
                .schema(Some(text)),
        );
    }
    let takes_body = !matches!(method, HttpMethod::Get | HttpMethod::Head);
    let body = match route.body {
        Body::None => None,
        Body::Json(name) => Some(
            RequestBodyBuilder::new()
                .required(Some(Required::True))
                .content("application/json", Content::new(Some(Ref::from_schema_name(name)))),
        ),
        Body::Any => Some(RequestBodyBuilder::new().content("*/*", Content::default())),
    };
    operation = operation.request_body(body.filter(|_| takes_body).map(RequestBodyBuilder::build));
    let securities = match route.whose {
        Whose::Everybody => vec![SecurityRequirement::default()],
        Whose::Callers => {
            [SecurityRequirement::default()].into_iter().chain([KEY, X_KEY].map(required)).collect()
        }
        Whose::Admin => vec![required(PASSWORD)],
    };
    operation
        .securities(Some(securities))
        .response("200", good(&route.answer))
        .response("default", bad(route))
}

fn required(name: &str) -> SecurityRequirement {
    SecurityRequirement::new(name, [""; 0])
}

fn good(answer: &Answer) -> Told {
    let told = |about: &str, kinds: &[&str]| {
        kinds.iter().fold(ResponseBuilder::new().description(about), |told, kind| {
            told.content(*kind, Content::default())
        })
    };
    match answer {
        Answer::Text(kind) => told("Text.", &[kind]),
        Answer::Json => told("What was asked for.", &["application/json"]),
        Answer::JsonOrStream => {
            told("The answer, as one object or as events.", &["application/json", "text/event-stream"])
        }
        Answer::Stream => told("The answer, as events.", &["text/event-stream"]),
        Answer::Site => {
            told("What the site answers, as it is; other statuses of the site's pass too.", &["*/*"])
        }
    }
    .build()
}

/// Everything else that an answer may be.
fn bad(route: &Route) -> Told {
    let told = |name: &str| Content::new(Some(Ref::from_schema_name(name)));
    let about = "What went wrong, in one sentence. A 429 or 503 says in `Retry-After` when to come again; \
                 `x-should-retry: false` that the site may have seen the request.";
    let response = ResponseBuilder::new().description(about);
    let json = "application/json";
    match (&route.answer, &route.whose) {
        _ if matches!(route.tag, routes::CHAT) => response.content(json, told("OfficialError")),
        // Errors of the site, and of the official API, pass as they are beside our own.
        (Answer::Site | Answer::Stream, _) => {
            let ours = match route.tag {
                routes::API => "OfficialError",
                routes::EARLIER => "EarlierError",
                _ => "Fault",
            };
            let any = AnyOfBuilder::new().item(Ref::from_schema_name(ours)).item(empty());
            response
                .content(json, Content::new(Some(Schema::from(any.build()))))
                .content("*/*", Content::default())
        }
        _ => response.content(json, told("Fault")),
    }
    .build()
}

static DOCUMENT: LazyLock<Bytes> = LazyLock::new(|| document().to_json().unwrap_or_default().into());

/// `GET /openapi.json`.
pub(super) async fn json() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], DOCUMENT.clone()).into_response()
}

const PAGE: &str = include_str!("page.html");

/// The page's one script may run, and fetch from here; nothing else may do anything.
static POLICY: LazyLock<HeaderValue> = LazyLock::new(|| {
    let script =
        PAGE.split("<script>").nth(1).and_then(|it| it.split("</script>").next()).unwrap_or_default();
    let hash = BASE64_STANDARD.encode(Sha256::digest(script));
    let policy = format!(
        "default-src 'none'; script-src 'sha256-{hash}'; style-src 'unsafe-inline'; connect-src 'self'; \
         base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    );
    HeaderValue::try_from(policy).unwrap_or_else(|_| HeaderValue::from_static("default-src 'none'"))
});

/// `GET /docs`.
pub(super) async fn page() -> Response {
    let html = HeaderValue::from_static("text/html; charset=utf-8");
    ([(header::CONTENT_TYPE, html), (header::CONTENT_SECURITY_POLICY, POLICY.clone())], PAGE).into_response()
}
