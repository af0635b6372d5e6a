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
use crate::browser::Browser;
use crate::error::Fault;
use crate::exchange::{Leaves, PageRequest};

/// How long a token is used before the site is asked again.
const KEEP: Duration = Duration::from_secs(300);
/// How long it is remembered that there is none: a sign-in may come any time.
const KEEP_NONE: Duration = Duration::from_secs(5);
/// A longer answer is none.
const LARGEST: usize = 256 * 1024;

/// The access token of whoever is signed in in the browser.
#[derive(Debug, Default)]
pub struct SignedIn {
    /// `None` in the pair: the site gave none.
    kept: Mutex<Option<(Option<SecretString>, Instant)>>,
}

impl SignedIn {
    /// Adds the token to a request that goes to the site's API with the browser's own sign-in.
    ///
    /// # Errors
    /// Why the site could not be asked. The request itself has not left.
    pub async fn authorize(
        &self,
        request: &mut PageRequest,
        browser: &Browser,
        deadline: Instant,
    ) -> Result<(), Fault> {
        if !request.path.starts_with("/backend-api/") {
            return Ok(());
        }
        let mut kept = self.kept.lock().await;
        let is_old = |token: &Option<_>, since: &Instant| {
            since.elapsed() > if token.is_some() { KEEP } else { KEEP_NONE }
        };
        if kept.as_ref().is_none_or(|(token, since)| is_old(token, since)) {
            *kept = Some((ask(browser, deadline).await?, Instant::now()));
        }
        if let Some((Some(token), _)) = &*kept {
            let value = format!("Bearer {}", token.expose_secret());
            request.headers.push(("authorization".into(), value));
        }
        Ok(())
    }

    /// The site has refused the token.
    pub async fn forget(&self) {
        *self.kept.lock().await = None;
    }
}

async fn ask(browser: &Browser, deadline: Instant) -> Result<Option<SecretString>, Fault> {
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
    let (head, mut exchange) = browser.fetch(request, deadline).await.map_err(unsent)?;
    let mut body = Vec::new();
    while let Some(chunk) = exchange.chunk().await {
        body.extend_from_slice(&chunk.map_err(unsent)?.bytes);
        if body.len() > LARGEST {
            return Ok(None);
        }
    }
    let token = serde_json::from_slice::<Value>(&body).ok().filter(|_| head.status == 200);
    let token = token.as_ref().and_then(|it| it["accessToken"].as_str());
    Ok(token.filter(|it| accounts::is_token(it)).map(SecretString::from))
}
