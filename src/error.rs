//! Faults: every way in which a request can end without the site's own answer.
//!
//! A [`Fault`] keeps two texts apart: what the caller may read and what only the log may hold. It knows
//! nothing of HTTP; `http/reply.rs` alone turns a [`FaultKind`] into a status code.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

/// What went wrong, by name. [`FaultKind::code`] is the stable word that callers see.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FaultKind {
    /// The request is malformed: a path that could mean another host, a GET with a body, a bad header.
    BadRequest,
    /// `Host` names a site that this server was not told to answer for.
    ForeignHost,
    /// The request comes from a page of another origin.
    ForeignOrigin,
    /// The path is outside the allow-list.
    PathNotAllowed,
    /// A method that a browser's `fetch` cannot send.
    MethodNotAllowed,
    /// The caller needs an access key and has shown none that is known.
    KeyRequired,
    /// Too many wrong keys or passwords came from there.
    TooManyAttempts,
    /// Every stored account that would serve the caller rests.
    AccountsResting,
    /// No stored account can serve the caller until the operator does something.
    NoAccount,
    /// There is no admin password, so nobody may administer.
    AdminClosed,
    /// The admin password is wrong.
    AdminRefused,
    /// Only the official API has this route, and the caller has shown no key of it.
    OfficialKeyRequired,
    /// The request body is over the limit.
    TooLarge,
    /// The caller stopped sending its body.
    BodyTimeout,
    /// Every place in the queue is taken.
    QueueFull,
    /// A place in the queue was not reached in time.
    QueueTimeout,
    /// The browser or its page is not ready (yet).
    NotReady,
    /// The site wants a person: its check or its sign-in.
    NeedsOperator,
    /// The site answered with its check instead of what was asked for.
    Challenged,
    /// The site answered with its sign-in instead of what was asked for.
    SignInRequired,
    /// The state that several instances share cannot be reached, and this could not be done without it.
    SharedStateLost,
    /// The server is stopping.
    Draining,
    /// The operator has stopped the request.
    Stopped,
    /// The page or the browser was lost while the exchange was in it.
    PageLost,
    /// The browser could not complete the fetch: the network, DNS, TLS, or the site cut it.
    FetchFailed,
    /// The site redirected to another origin, where requests never go.
    RedirectedAway,
    /// The site answered with an error of its own, in place of a stream (see [`Fault::site`]) or in it.
    SiteError,
    /// The conversation is being answered, and its next turn could not wait for that.
    Busy,
    /// The site has answered this turn before, and the answer is not kept any more.
    NotKept,
    /// The site ended an answer before it was finished.
    AnswerIncomplete,
    /// The client took nothing while its buffer was full.
    SlowReader,
    /// The official API could not be reached, or broke off.
    ApiUnreachable,
    /// The official API was silent for too long.
    ApiTimeout,
    /// Something that must not happen; the cause is in the log.
    Internal,
}

impl FaultKind {
    /// Every kind, in the order of their declaration: metrics make their series from it.
    pub const ALL: [FaultKind; 34] = [
        FaultKind::BadRequest,
        FaultKind::ForeignHost,
        FaultKind::ForeignOrigin,
        FaultKind::PathNotAllowed,
        FaultKind::MethodNotAllowed,
        FaultKind::KeyRequired,
        FaultKind::TooManyAttempts,
        FaultKind::AccountsResting,
        FaultKind::NoAccount,
        FaultKind::AdminClosed,
        FaultKind::AdminRefused,
        FaultKind::OfficialKeyRequired,
        FaultKind::TooLarge,
        FaultKind::BodyTimeout,
        FaultKind::QueueFull,
        FaultKind::QueueTimeout,
        FaultKind::NotReady,
        FaultKind::NeedsOperator,
        FaultKind::Challenged,
        FaultKind::SignInRequired,
        FaultKind::SharedStateLost,
        FaultKind::Draining,
        FaultKind::Stopped,
        FaultKind::PageLost,
        FaultKind::FetchFailed,
        FaultKind::RedirectedAway,
        FaultKind::SiteError,
        FaultKind::Busy,
        FaultKind::NotKept,
        FaultKind::AnswerIncomplete,
        FaultKind::SlowReader,
        FaultKind::ApiUnreachable,
        FaultKind::ApiTimeout,
        FaultKind::Internal,
    ];

    /// The stable, machine-readable word for this kind.
    pub fn code(self) -> &'static str {
        match self {
            FaultKind::BadRequest => "bad_request",
            FaultKind::ForeignHost => "foreign_host",
            FaultKind::ForeignOrigin => "foreign_origin",
            FaultKind::PathNotAllowed => "path_not_allowed",
            FaultKind::MethodNotAllowed => "method_not_allowed",
            FaultKind::KeyRequired => "key_required",
            FaultKind::TooManyAttempts => "too_many_attempts",
            FaultKind::AccountsResting => "accounts_resting",
            FaultKind::NoAccount => "no_account",
            FaultKind::AdminClosed => "admin_closed",
            FaultKind::AdminRefused => "admin_refused",
            FaultKind::OfficialKeyRequired => "official_key_required",
            FaultKind::TooLarge => "body_too_large",
            FaultKind::BodyTimeout => "body_timeout",
            FaultKind::QueueFull => "queue_full",
            FaultKind::QueueTimeout => "queue_timeout",
            FaultKind::NotReady => "not_ready",
            FaultKind::NeedsOperator => "needs_operator",
            FaultKind::Challenged => "challenged",
            FaultKind::SignInRequired => "sign_in_required",
            FaultKind::SharedStateLost => "shared_state_unavailable",
            FaultKind::Draining => "draining",
            FaultKind::Stopped => "stopped",
            FaultKind::PageLost => "page_lost",
            FaultKind::FetchFailed => "fetch_failed",
            FaultKind::RedirectedAway => "redirected_away",
            FaultKind::SiteError => "site_error",
            FaultKind::Busy => "conversation_busy",
            FaultKind::NotKept => "answer_not_kept",
            FaultKind::AnswerIncomplete => "answer_incomplete",
            FaultKind::SlowReader => "slow_reader",
            FaultKind::ApiUnreachable => "api_unreachable",
            FaultKind::ApiTimeout => "api_timeout",
            FaultKind::Internal => "internal",
        }
    }
}

/// Whether the request may have reached the site when the fault happened.
///
/// This decides if it may be tried again: what may have been sent is never sent a second time by us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sent {
    /// It provably never left the page.
    No,
    /// It was handed to the browser; the site may have acted on it.
    Maybe,
}

/// An answer of the site's own that is not what was asked for, in its own words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SiteError {
    /// Its HTTP status; a success is one of the wrong kind.
    pub status: u16,
    /// What the site says in it, where it says something to a person: short, and never a page.
    pub sentence: Option<String>,
}

/// An error with a kind, a public text and a private cause.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: FaultKind,
    sent: Sent,
    public: Cow<'static, str>,
    cause: Option<String>,
    retry_after: Option<Duration>,
    /// In a box: faults are returned everywhere, and hardly any is the site's.
    site: Option<Box<SiteError>>,
}

impl Fault {
    /// A fault of a request that never left for the site. `public` is one sentence for the caller.
    pub fn new(kind: FaultKind, public: impl Into<Cow<'static, str>>) -> Self {
        Fault { kind, sent: Sent::No, public: public.into(), cause: None, retry_after: None, site: None }
    }

    /// The fault that an error of the site's own makes for a client that cannot read that. It was sent.
    pub fn of_site(error: SiteError) -> Self {
        let status = error.status;
        let public = match &error.sentence {
            Some(sentence) => format!("The site answered with status {status}: {sentence}"),
            None => format!("The site answered with status {status} and no stream."),
        };
        let mut fault = Fault::new(FaultKind::SiteError, public).maybe_sent();
        fault.site = Some(Box::new(error));
        fault
    }

    /// The one answer to every caller that needs an access key and has shown none, a wrong one, or a
    /// revoked one: it tells nobody which.
    pub fn key_required() -> Self {
        Fault::new(
            FaultKind::KeyRequired,
            "This proxy wants an access key: its operator makes one with `tabproxy key new`; send it as \
             `Authorization: Bearer KEY`, as `X-Api-Key: KEY`, or in the address as /k/KEY/….",
        )
    }

    /// Marks the request as one that the site may have seen.
    pub fn maybe_sent(mut self) -> Self {
        self.sent = Sent::Maybe;
        self
    }

    /// Adds what only the log may hold.
    pub fn because(mut self, cause: impl fmt::Display) -> Self {
        self.cause = Some(cause.to_string());
        self
    }

    /// Says when another try has a chance.
    pub fn retry_after(mut self, wait: Duration) -> Self {
        self.retry_after = Some(wait);
        self
    }

    /// What went wrong.
    pub fn kind(&self) -> FaultKind {
        self.kind
    }

    /// Whether the site may have seen the request.
    pub fn sent(&self) -> Sent {
        self.sent
    }

    /// The sentence for the caller: no secrets, no addresses of ours.
    pub fn public(&self) -> &str {
        &self.public
    }

    /// The private cause, for the log.
    pub fn cause(&self) -> Option<&str> {
        self.cause.as_deref()
    }

    /// The site's own error behind it, if it is one.
    pub fn site(&self) -> Option<&SiteError> {
        self.site.as_deref()
    }

    /// How long the caller should wait before it tries again, where waiting helps.
    pub fn wait(&self) -> Option<Duration> {
        self.retry_after
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.public)
    }
}

impl std::error::Error for Fault {}
