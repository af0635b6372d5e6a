//! The table of everything that is served: what the document is made of. `tests` holds it against the router.

use utoipa::openapi::path::HttpMethod::{self, Delete, Get, Patch, Post, Put};

/// A path, and what may be done with it.
pub(super) struct Route {
    pub path: &'static str,
    pub methods: &'static [HttpMethod],
    pub tag: &'static str,
    pub summary: &'static str,
    /// Parameters of the query, with what they say.
    pub query: &'static [(&'static str, &'static str)],
    pub body: Body,
    pub answer: Answer,
    pub whose: Whose,
}

/// What a request carries.
pub(super) enum Body {
    None,
    /// JSON of the schema of this name.
    Json(&'static str),
    /// Whatever it is, it passes as it is.
    Any,
}

/// What a success carries.
pub(super) enum Answer {
    /// Text of this type.
    Text(&'static str),
    Json,
    JsonOrStream,
    Stream,
    /// Whatever the site says.
    Site,
}

/// Who may ask.
pub(super) enum Whose {
    Everybody,
    /// Whoever has a key, where one is needed.
    Callers,
    Admin,
}

pub(super) const CHAT: &str = "OpenAI";
const SITE: &str = "the site";
pub(super) const EARLIER: &str = "earlier names";
pub(super) const API: &str = "official API";
const ADMIN: &str = "administration";
const ABOUT: &str = "this proxy";

/// The groups of routes.
pub(super) const TAGS: [(&str, &str); 6] = [
    (CHAT, "The site's chat in the forms of the official API, for its SDKs."),
    (SITE, "The site's own routes, through the page of the browser."),
    (EARLIER, "The same under the names of earlier systems. Every PATCH may be a POST."),
    (API, "The official API itself, relayed without the page for callers with a key of theirs."),
    (ADMIN, "What an operator may change from afar. Closed without an admin password."),
    (ABOUT, "What monitors ask, and what people read."),
];

const ALL: &[HttpMethod] = &[Get, Post, Put, Patch, Delete];

/// A route of `tag`'s for callers; the rest is changed where it differs.
const fn route(
    tag: &'static str,
    methods: &'static [HttpMethod],
    path: &'static str,
    summary: &'static str,
) -> Route {
    Route {
        path,
        methods,
        tag,
        summary,
        query: &[],
        body: Body::None,
        answer: Answer::Json,
        whose: Whose::Callers,
    }
}

const fn json(route: Route, schema: &'static str) -> Route {
    Route { body: Body::Json(schema), ..route }
}

const fn site(route: Route, body: Body) -> Route {
    Route { body, answer: Answer::Site, ..route }
}

const fn about(path: &'static str, kind: &'static str, summary: &'static str) -> Route {
    Route { answer: Answer::Text(kind), whose: Whose::Everybody, ..route(ABOUT, &[Get], path, summary) }
}

const fn admin(path: &'static str, schema: &'static str, summary: &'static str) -> Route {
    Route { whose: Whose::Admin, ..json(route(ADMIN, &[Patch], path, summary), schema) }
}

const PAGE: &[(&str, &str)] =
    &[("offset", "How many are left out."), ("limit", "How many there are at most.")];
const SPEECH: &[(&str, &str)] = &[
    ("message_id", "Which answer is read."),
    ("conversation_id", "In which conversation it is."),
    ("voice", "By which voice."),
    ("format", "`mp3` or `aac`."),
];

const TURN: &str = "Says something and streams the answer";
const HISTORY: &str = "The conversations, the newest first";
const HIDE_ALL: &str = "Hides all conversations";
const READ: &str = "One conversation";
const CHANGE: &str = "Names or hides a conversation";
const TITLE: &str = "Has the site find a title";
const FEEDBACK: &str = "Rates an answer";
const MODELS: &str = "The site's models";
const ACCOUNT: &str = "The account's plan";
const EVERYTHING: &str = "Everything else of the site's, as it is";

/// Everything that is served.
pub(super) const ROUTES: &[Route] = &[
    Route {
        answer: Answer::JsonOrStream,
        ..json(route(CHAT, &[Post], "/v1/chat/completions", "Answers a chat"), "ChatRequest")
    },
    Route {
        answer: Answer::JsonOrStream,
        ..json(route(CHAT, &[Post], "/v1/responses", "Answers a turn"), "ResponsesRequest")
    },
    route(CHAT, &[Get], "/v1/models", "The models that there are"),
    route(CHAT, &[Get], "/v1/models/{model}", "One model"),
    route(CHAT, &[Get], "/v1/engines", "The same models, under their older name"),
    Route { answer: Answer::Stream, ..json(route(SITE, &[Post], "/backend-api/conversation", TURN), "Turn") },
    Route {
        answer: Answer::Stream,
        ..json(route(SITE, &[Post], "/backend-anon/conversation", "The same without a sign-in"), "Turn")
    },
    Route { query: PAGE, ..site(route(SITE, &[Get], "/backend-api/conversations", HISTORY), Body::None) },
    site(route(SITE, &[Patch], "/backend-api/conversations", HIDE_ALL), Body::Json("ChangeAll")),
    site(route(SITE, &[Get], "/backend-api/conversation/{id}", READ), Body::None),
    site(route(SITE, &[Patch], "/backend-api/conversation/{id}", CHANGE), Body::Json("Change")),
    site(route(SITE, &[Post], "/backend-api/conversation/gen_title/{id}", TITLE), Body::Json("GenTitle")),
    site(
        route(SITE, &[Post], "/backend-api/conversation/message_feedback", FEEDBACK),
        Body::Json("Feedback"),
    ),
    site(route(SITE, &[Get], "/backend-api/models", MODELS), Body::None),
    site(route(SITE, &[Get], "/backend-api/accounts/check", ACCOUNT), Body::None),
    Route {
        query: SPEECH,
        ..site(route(SITE, &[Get], "/backend-api/synthesize", "An answer, spoken"), Body::None)
    },
    site(route(SITE, ALL, "/backend-api/{rest}", EVERYTHING), Body::Any),
    site(route(SITE, ALL, "/backend-anon/{rest}", EVERYTHING), Body::Any),
    site(route(SITE, &[Get], "/api/auth/session", "Who is signed in; for holders of keys only"), Body::None),
    Route { answer: Answer::Stream, ..json(route(EARLIER, &[Post], "/chatgpt/conversation", TURN), "Turn") },
    Route { query: PAGE, ..site(route(EARLIER, &[Get], "/chatgpt/conversations", HISTORY), Body::None) },
    site(route(EARLIER, &[Patch, Post], "/chatgpt/conversations", HIDE_ALL), Body::Json("ChangeAll")),
    site(route(EARLIER, &[Get], "/chatgpt/conversation/{id}", READ), Body::None),
    site(route(EARLIER, &[Patch, Post], "/chatgpt/conversation/{id}", CHANGE), Body::Json("Change")),
    site(route(EARLIER, &[Post], "/chatgpt/conversation/gen_title/{id}", TITLE), Body::Json("GenTitle")),
    site(route(EARLIER, &[Post], "/chatgpt/conversation/message_feedback", FEEDBACK), Body::Json("Feedback")),
    site(route(EARLIER, &[Get], "/chatgpt/models", MODELS), Body::None),
    site(route(EARLIER, &[Get], "/chatgpt/accounts/check", ACCOUNT), Body::None),
    site(route(EARLIER, ALL, "/chatgpt/backend-api/{rest}", EVERYTHING), Body::Any),
    site(route(API, ALL, "/v1/{rest}", "Everything else, with a key of the API's"), Body::Any),
    site(route(API, ALL, "/platform/v1/{rest}", "The same under an earlier name"), Body::Any),
    site(route(API, &[Get], "/platform/dashboard/{rest}", "Bills and keys"), Body::None),
    admin("/admin/tokens", "Tokens", "Replaces the accounts that have no names"),
    admin("/admin/password", "NewPassword", "Changes the admin password, until the process ends"),
    admin("/admin/puid", "Puid", "Changes nothing: the browser keeps the site's cookies"),
    admin("/admin/openai", "Puid", "Refused: no password of the site is handled here"),
    about("/healthz", "text/plain", "Whether the process is alive"),
    Route {
        answer: Answer::Stream,
        ..about(
            "/healthz/stream",
            "",
            "Ticks for some seconds, to see whether something in front collects them",
        )
    },
    Route {
        answer: Answer::Json,
        ..about("/readyz", "", "Whether a request would be served now; 503 with the reason if not")
    },
    about("/metrics", "application/openmetrics-text", "The figures"),
    Route { answer: Answer::Json, ..about("/ping", "", "Whether it is there") },
    Route { answer: Answer::Json, whose: Whose::Callers, ..about("/openapi.json", "", "This document") },
    Route { whose: Whose::Callers, ..about("/docs", "text/html", "A page that shows this document") },
];
