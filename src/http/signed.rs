//! The browser's own sign-in, as the site's page uses it: cookies alone are not enough for the site's API, so the
//! page asks the site for its access token, and so do we, in the page, for callers whose key opens that.
//!
//! The token is kept for minutes, in memory only, and forgotten when the site refuses it. One caller at a time
//! asks; the others wait for what it gets.

use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use tokio::sync::Mutex;

use super::path::SESSION;
use crate::accounts;
use crate::browser::{Miss, Seat};
use crate::error::Fault;
use crate::exchange::{Leaves, PageRequest};

/// How long a token is used before the site is asked again.
const KEEP: Duration = Duration::from_secs(300);
/// How long it is remembered that there is none: a sign-in may come any time.
const KEEP_NONE: Duration = Duration::from_secs(5);
/// A longer answer is none.
const LARGEST: usize = 256 * 1024;

/// What the site said, and when; `None` in the pair: it gave no token.
type Kept = Mutex<Option<(Option<SecretString>, Instant)>>;

/// The access token of whoever is signed in in each browser.
#[derive(Debug)]
pub struct SignedIn {
    kept: Vec<Kept>,
}

impl SignedIn {
    /// For so many browsers.
    pub fn new(browsers: usize) -> SignedIn {
        SignedIn { kept: (0..browsers).map(|_| Kept::default()).collect() }
    }

    /// Adds the token to a request that goes to the site's API with the own sign-in of the browser that was
    /// chosen for it.
    ///
    /// # Errors
    /// Why the site could not be asked. The request itself has not left.
    pub async fn authorize(
        &self,
        request: &mut PageRequest,
        seat: &Seat,
        deadline: Instant,
    ) -> Result<(), Miss> {
        let Some(kept) = self.kept.get(seat.number()) else { return Ok(()) };
        if !request.path.starts_with("/backend-api/") {
            return Ok(());
        }
        // One of another browser, where the request has been tried in vain.
        request.headers.retain(|(name, _)| name != "authorization");
        let mut kept = kept.lock().await;
        let is_old = |token: &Option<_>, since: &Instant| {
            since.elapsed() > if token.is_some() { KEEP } else { KEEP_NONE }
        };
        if kept.as_ref().is_none_or(|(token, since)| is_old(token, since)) {
            *kept = Some((ask(seat, deadline).await?, Instant::now()));
        }
        if let Some((Some(token), _)) = &*kept {
            let value = format!("Bearer {}", token.expose_secret());
            request.headers.push(("authorization".into(), value));
        }
        Ok(())
    }

    /// The site has refused the token of this browser.
    pub async fn forget(&self, browser: usize) {
        if let Some(kept) = self.kept.get(browser) {
            *kept.lock().await = None;
        }
    }
}

async fn ask(seat: &Seat, deadline: Instant) -> Result<Option<SecretString>, Miss> {
    let request = PageRequest {
        method: "GET".into(),
        path: SESSION.into(),
        headers: vec![("accept".into(), "application/json".into())],
        body: Vec::new(),
        keyed: true,
        leaves: Leaves::default(),
    };
    // Whether this was sent does not matter to what is asked next.
    let unsent = |fault: Fault| {
        let own = Fault::new(fault.kind(), fault.public().to_owned());
        let own =
            own.because(format_args!("while asking who is signed in: {}", fault.cause().unwrap_or("-")));
        fault.wait().map_or(own.clone(), |wait| own.retry_after(wait))
    };
    let asked = seat.ask(&request, deadline).await.map_err(|miss| match miss {
        Miss::Fault(fault) => Miss::Fault(unsent(fault)),
        missed => missed,
    });
    let (head, mut exchange) = asked?;
    let mut body = Vec::new();
    while let Some(chunk) = exchange.chunk().await {
        body.extend_from_slice(&chunk.map_err(|fault| Miss::Fault(unsent(fault)))?.bytes);
        if body.len() > LARGEST {
            return Ok(None);
        }
    }
    let token = serde_json::from_slice::<Value>(&body).ok().filter(|_| head.status == 200);
    let token = token.as_ref().and_then(|it| it["accessToken"].as_str());
    Ok(token.filter(|it| accounts::is_token(it)).map(SecretString::from))
}
