//! Who asks, and with which upstream authorization: decided here, once, for every request.
//!
//! ```text
//! shown key ──> known? ── no ──> 401, the same for all; after many, 429
//!                 │ yes
//!                 v
//! own token? ── yes ──────────────────────────> it goes on as it came
//!      │ no
//!      ├── holder: an account is lent ────────> its token           (none can be: 429, 503)
//!      │           or the browser's sign-in ──> nothing: the page's cookies are enough
//!      └── nobody: not while a key is needed ─> nothing: the site's anonymous routes
//! ```
//!
//! The result is a [`Caller`] among the request's extensions, and the request's own `Authorization`: what
//! comes later passes that header on and need not know where it comes from. A key never goes further than this.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Uri, header};
use axum::middleware::Next;
use axum::response::Response;
use secrecy::{ExposeSecret, SecretString};

use super::board::Mark;
use super::compat::Alias;
use super::reply::Asked;
use super::throttle::Throttle;
use super::{App, home, path, peer, plugin, relay, shape};
use crate::access::{self, AccessKeys, Holder};
use crate::accounts::{AccountLease, Accounts, NoAccount, PAGE};
use crate::error::{Fault, FaultKind};
use crate::exchange::{Head, PageRequest};
use crate::store::Tallies;
use crate::telemetry::figures::Refusals;

const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
const API_KEY: HeaderName = HeaderName::from_static("api-key");

/// Everything that callers are judged by.
pub struct Gate {
    /// The access keys.
    pub keys: AccessKeys,
    /// The stored accounts.
    pub accounts: Arc<Accounts>,
    /// Whether a caller with a token of its own needs a key too.
    pub require_key: bool,
    /// Where refusals are counted.
    pub refusals: Refusals,
    /// Who showed wrong keys.
    wrong_keys: Throttle,
    /// Who tried to administer.
    pub attempts: Throttle,
    tallies: Arc<dyn Tallies>,
}

impl Gate {
    /// With these keys and accounts.
    pub fn new(
        keys: AccessKeys,
        accounts: Arc<Accounts>,
        tallies: Arc<dyn Tallies>,
        require_key: bool,
        refusals: Refusals,
    ) -> Gate {
        let throttle = |name| Throttle::new(name, tallies.clone());
        let (wrong_keys, attempts) = (throttle("key"), throttle("password"));
        Gate { keys, accounts, require_key, refusals, wrong_keys, attempts, tallies }
    }

    /// Reads what has changed in the files, and forgets old mistakes. Reads files: not for a thread that
    /// streams wait for.
    pub fn look(&self) {
        self.keys.look();
        self.accounts.look();
        self.tallies.tidy();
    }

    /// Who shows this key, if any is shown. A right key is never throttled: 256 bits cannot be guessed, and its
    /// holder may share an address with somebody who tries.
    async fn holder(
        &self,
        shown: Option<&SecretString>,
        from: Option<IpAddr>,
    ) -> Result<Option<Holder>, Fault> {
        let Some(shown) = shown else { return Ok(None) };
        let holder = self.keys.find(shown.expose_secret());
        if holder.is_none() {
            self.refusals.count();
            self.wrong_keys.count(from).await?;
            return Err(Fault::key_required());
        }
        Ok(holder)
    }

    /// Whether this holder's key opens the browser's own sign-in.
    fn opens_page(&self, holder: &Holder) -> bool {
        holder.accounts.iter().any(|it| it == PAGE) || holder.accounts.is_empty() && self.accounts.is_empty()
    }

    /// The account that serves this holder; `None` for the browser's own sign-in.
    async fn lend(&self, holder: &Holder) -> Result<Option<AccountLease>, NoAccount> {
        match self.accounts.lease(&holder.accounts).await {
            Ok(lease) => Ok(Some(lease)),
            Err(_) if self.opens_page(holder) => Ok(None),
            Err(why) => Err(why),
        }
    }
}

/// Who asks.
#[derive(Clone, Debug, Default)]
pub struct Caller {
    /// The same for the same caller, and no secret.
    pub id: Arc<str>,
    /// Whether it holds an access key, and so may use what is signed in.
    pub keyed: bool,
    /// Whether its key opens the browser's own sign-in: then it may read who is signed in.
    pub opens_page: bool,
    /// Whether that is what serves it now, if there is one: it has no token of its own, and no account was lent to it.
    pub uses_page: bool,
    lease: Option<Arc<AccountLease>>,
    mark: Option<Mark>,
    /// The accounts that its key opens; empty for all of them.
    accounts: Arc<[String]>,
}

impl Caller {
    /// The caller of a request that this module has let pass; nobody in particular for another one.
    pub fn of(extensions: &axum::http::Extensions) -> Caller {
        let caller = extensions.get::<Caller>().cloned().unwrap_or_default();
        Caller { mark: extensions.get().cloned(), ..caller }
    }

    /// Its request goes to a page now.
    pub fn asks(&self) {
        self.mark.iter().for_each(Mark::asked);
    }

    /// The operator in the console, who needs no key: served by the browser's sign-in, or else by a stored
    /// account, if there is one.
    pub(super) async fn operator(app: &App, headers: &mut HeaderMap) -> Result<Caller, Fault> {
        headers.remove(header::AUTHORIZATION);
        let mut caller = Caller { id: "operator".into(), keyed: true, opens_page: true, ..Caller::default() };
        caller.uses_page = app.browser.watch().borrow().signed_in == Some(true);
        if !caller.uses_page && !app.gate.accounts.is_empty() {
            let lease = app.gate.accounts.lease(&[]).await?;
            headers.insert(header::AUTHORIZATION, bearer_of(&lease)?);
            caller.lease = Some(Arc::new(lease));
        }
        Ok(caller)
    }

    /// The paths that it may use: those of everybody, and who is signed in, if its key opens that.
    pub fn paths<'a>(&self, everybody: &'a [String]) -> Cow<'a, [String]> {
        if !self.opens_page {
            return everybody.into();
        }
        everybody.iter().cloned().chain([path::SESSION.to_owned()]).collect()
    }

    /// The loan that its request runs with, to be held as long as that goes on.
    pub fn lease(&self) -> Option<Arc<AccountLease>> {
        self.lease.clone()
    }

    /// Has a request that goes on with a conversation use the account that it was begun with.
    ///
    /// # Errors
    /// When that one cannot be lent now: another would not find the conversation.
    pub async fn settle(&mut self, gate: &Gate, request: &mut PageRequest) -> Result<(), Fault> {
        let Some(lease) = &self.lease else { return Ok(()) };
        let Some(conversation) = home::conversation_of(request) else { return Ok(()) };
        let Some(other) = gate.accounts.lease_in(&conversation, &self.accounts).await else {
            return Ok(());
        };
        let other = other?;
        if other.name() != lease.name() {
            let value = format!("Bearer {}", other.token().expose_secret());
            request.headers.retain(|(name, _)| name != "authorization");
            request.headers.push(("authorization".into(), value));
            self.lease = Some(Arc::new(other));
        }
        Ok(())
    }

    /// What notes that a conversation belongs to the account that was lent, if one was.
    pub fn note(&self, gate: &Gate) -> Option<impl Fn(&str) + Send + 'static> {
        let accounts = gate.accounts.clone();
        // The name alone: the loan ends with the exchange.
        let name = self.lease.as_ref()?.name().to_owned();
        Some(move |conversation: &str| accounts.remember(conversation, &name))
    }

    /// The site has answered: an account that it wants no more of rests, one that it does not know is marked.
    pub fn answered(&self, head: &Head) {
        let Some(lease) = &self.lease else { return };
        match head.status {
            401 => lease.refuse(),
            429 => {
                let named = head.headers.iter().find(|(name, _)| name == "retry-after");
                lease.rest(named.and_then(|(_, value)| wait_of(value, SystemTime::now())));
            }
            _ => {}
        }
    }
}

/// What `Retry-After` says: seconds, or a date.
fn wait_of(value: &str, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    let seconds = value.parse().map(Duration::from_secs).ok();
    seconds.or_else(|| httpdate::parse_http_date(value).ok()?.duration_since(now).ok())
}

/// The key that stood in the path.
#[derive(Clone)]
struct KeyInPath(SecretString);

/// Takes `/k/<key>` off the path, so that everything later sees the path alone. To be run before the routes
/// are chosen.
pub(super) async fn unwrap_path(mut request: Request, next: Next) -> Response {
    if let Some((key, rest)) = split(request.uri()) {
        *request.uri_mut() = rest;
        request.extensions_mut().insert(KeyInPath(key));
    }
    next.run(request).await
}

fn split(uri: &Uri) -> Option<(SecretString, Uri)> {
    let whole = uri.path_and_query()?.as_str();
    let after = whole.strip_prefix("/k/")?;
    let end = after.find(['/', '?']).unwrap_or(after.len());
    let (key, rest) = after.split_at(end);
    let rest = if rest.starts_with('/') { rest.to_owned() } else { format!("/{rest}") };
    Some((key.into(), path::with_path(uri, &rest)?))
}

/// Decides who asks, and lets only pass who may.
pub(super) async fn layer(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    if is_for_everybody(request.uri().path()) {
        return next.run(request).await;
    }
    match admit(&app, &mut request).await {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(fault) => plugin::turned_away(&fault, &request)
            .unwrap_or_else(|| shape::refuse(&fault, &Asked::of(&request), request.uri().path())),
    }
}

/// What monitors ask, the description of the routes, and those of the admin and the console, which have a password
/// of their own.
fn is_for_everybody(path: &str) -> bool {
    let own = ["/admin/", "/console/"];
    let about =
        ["/healthz", "/healthz/stream", "/readyz", "/metrics", "/ping", "/openapi.json", "/docs", "/console"];
    about.contains(&path) || own.iter().any(|it| path.starts_with(it))
}

async fn admit(app: &App, request: &mut Request) -> Result<Caller, Fault> {
    let gate = &app.gate;
    let from = peer::of(request.extensions());
    let in_path = request.extensions_mut().remove::<KeyInPath>();
    let shown = take_key(request.headers_mut(), gate.keys.are_kept());
    let shown = in_path.map(|it| it.0).or(shown);
    let holder = gate.holder(shown.as_ref(), from).await?;

    let official = relay::is_relayed(request.uri().path(), request.headers());
    let gives_tokens = path::gives_tokens(request.uri().path());
    // Where no prefix names them, these paths are refused as any other.
    let serves_tokens = gives_tokens && path::is_under(request.uri().path(), &app.policy.allow_paths);
    let signed_in = app.browser.watch().borrow().signed_in == Some(true);
    let needs_key = gate.require_key || !official && (signed_in || serves_tokens);
    if needs_key && holder.is_none() {
        gate.refusals.count();
        return Err(Fault::key_required());
    }

    let token = token_of(request.headers());
    let own = token.map(|it| format!("token-{}", short(&access::digest(it))));
    let id = match (&holder, &own) {
        (Some(holder), Some(own)) => format!("{} {own}", holder.id),
        (Some(holder), None) => holder.id.to_string(),
        (None, Some(own)) => own.clone(),
        (None, None) => from.map_or_else(String::new, |it| format!("peer-{it}")),
    };
    let mut caller = Caller { id: id.into(), keyed: holder.is_some(), ..Caller::default() };
    if official {
        return Ok(caller);
    }
    let mut lease = None;
    if let Some(holder) = &holder {
        caller.opens_page = gate.opens_page(holder);
        caller.accounts = holder.accounts.clone();
        if own.is_none() && !gives_tokens {
            lease = gate.lend(holder).await?;
        }
    }
    if let Some(lease) = lease {
        request.headers_mut().insert(header::AUTHORIZATION, bearer_of(&lease)?);
        caller.lease = Some(Arc::new(lease));
    } else if own.is_none() {
        request.headers_mut().remove(header::AUTHORIZATION);
    }
    caller.uses_page = caller.opens_page && own.is_none() && caller.lease.is_none();
    if serves_tokens && !caller.opens_page {
        return Err(Fault::new(
            FaultKind::PathNotAllowed,
            "Only a key that opens the browser's own sign-in may read who is signed in.",
        ));
    }
    let is_served = request.headers().contains_key(header::AUTHORIZATION) || caller.uses_page && signed_in;
    if !is_served && request.extensions().get::<Alias>().is_some() {
        return Err(Fault::new(FaultKind::KeyRequired, "Missing accessToken."));
    }
    Ok(caller)
}

/// The key that the headers show; nothing of it is left in them. Where keys are kept, `X-Api-Key` is ours
/// whatever it holds; elsewhere it may be somebody else's.
fn take_key(headers: &mut HeaderMap, are_kept: bool) -> Option<SecretString> {
    let mut shown: Option<SecretString> = None;
    for name in [X_API_KEY, header::AUTHORIZATION, API_KEY] {
        let value = headers.get(&name).map(|it| String::from_utf8_lossy(it.as_bytes()).into_owned());
        let Some(value) = value else { continue };
        let value = bearer(&value);
        if value.starts_with(access::PREFIX) || name == X_API_KEY && are_kept && !value.is_empty() {
            shown.get_or_insert_with(|| value.into());
            headers.remove(&name);
        }
    }
    shown
}

/// The header that shows an account's token to the site.
fn bearer_of(lease: &AccountLease) -> Result<HeaderValue, Fault> {
    let value = HeaderValue::try_from(format!("Bearer {}", lease.token().expose_secret()));
    let mut value = value.map_err(|e| Fault::new(FaultKind::Internal, "A token is no header.").because(e))?;
    value.set_sensitive(true);
    Ok(value)
}

/// The caller's own token for what is behind us.
fn token_of(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(header::AUTHORIZATION)?.to_str().ok()?;
    Some(bearer(value)).filter(|it| !it.is_empty())
}

/// What follows `Bearer`, which some clients leave out.
pub(super) fn bearer(value: &str) -> &str {
    let value = value.trim();
    match value.split_at_checked(6) {
        Some((word, rest))
            if word.eq_ignore_ascii_case("bearer") && !rest.starts_with(|c: char| !c.is_whitespace()) =>
        {
            rest.trim()
        }
        _ => value,
    }
}

fn short(digest: &[u8; 32]) -> String {
    digest[..8].iter().map(|it| format!("{it:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_taken_from_wherever_it_stands_and_left_nowhere() {
        let headers = |all: &[(&'static str, &str)]| {
            let pair = |(name, value): &(&'static str, &str)| {
                (HeaderName::from_static(name), value.parse().unwrap())
            };
            HeaderMap::from_iter(all.iter().map(pair))
        };
        for (sent, are_kept, shown, left) in [
            (&[("authorization", "Bearer tp-a")][..], false, Some("tp-a"), &[][..]),
            (&[("authorization", "bearer  tp-a ")], true, Some("tp-a"), &[]),
            (&[("authorization", "tp-a")], true, Some("tp-a"), &[]),
            (
                &[("authorization", "Bearer eyJ"), ("x-api-key", "tp-a")],
                true,
                Some("tp-a"),
                &["authorization"],
            ),
            (&[("authorization", "Bearer tp-b"), ("x-api-key", "tp-a")], true, Some("tp-a"), &[]),
            (&[("x-api-key", "guess")], true, Some("guess"), &[]),
            (&[("x-api-key", "theirs")], false, None, &["x-api-key"]),
            (&[("authorization", "Bearer sk-a")], true, None, &["authorization"]),
            (&[("api-key", "tp-a")], true, Some("tp-a"), &[]),
            (&[("authorization", "Bearer ")], true, None, &["authorization"]),
        ] {
            let mut headers = headers(sent);
            let got = take_key(&mut headers, are_kept);
            assert_eq!(got.as_ref().map(|it| it.expose_secret()), shown, "{sent:?}");
            assert_eq!(headers.keys().map(HeaderName::as_str).collect::<Vec<_>>(), left, "{sent:?}");
        }
    }

    #[test]
    fn a_key_in_the_path_is_taken_off_it() {
        for (target, expected) in [
            ("/k/tp-a/backend-api/x?y=/k/z", Some(("tp-a", "/backend-api/x?y=/k/z"))),
            ("/k/tp-a", Some(("tp-a", "/"))),
            ("/k/tp-a?x", Some(("tp-a", "/?x"))),
            ("/k/tp-a//evil/x", Some(("tp-a", "//evil/x"))),
            ("/k/tp-a/k/tp-b/x", Some(("tp-a", "/k/tp-b/x"))),
            ("/k//x", Some(("", "/x"))),
            ("http://localhost/k/tp-a/x", Some(("tp-a", "http://localhost/x"))),
            ("/k", None),
            ("/kk/x/y", None),
            ("/v1/k/x", None),
        ] {
            let got = split(&target.parse().unwrap());
            let got = got.as_ref().map(|(key, rest)| (key.expose_secret(), rest.to_string()));
            assert_eq!(got, expected.map(|(key, rest)| (key, rest.to_owned())), "{target}");
        }
    }

    #[test]
    fn waits_are_seconds_or_dates() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let date = httpdate::fmt_http_date(now + Duration::from_secs(90));
        assert_eq!(wait_of(" 7 ", now), Some(Duration::from_secs(7)));
        assert_eq!(wait_of(&date, now), Some(Duration::from_secs(90)));
        assert_eq!((wait_of("soon", now), wait_of("-1", now)), (None, None));
    }
}
