//! Who may open the console: the admin password or a link that counts once, and then a session.
//!
//! ```text
//! password set ──────────────> login ──┐
//! none, on loopback only ────> link ───┴──> session (cookie) ── idle, old, or signed out ──> gone
//! none, reachable elsewhere ─> closed
//! ```
//!
//! A session's id is 256 random bits, kept as a digest and in memory only. Its cookie is never sent by pages of
//! other sites (`SameSite=Strict`) and never read by scripts (`HttpOnly`). Since browsers do not tell apart the
//! ports of one host by cookies, whatever changes something must also show the session's token, which only the
//! console's own page can read. Knows nothing of HTTP but the text of a cookie.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use subtle::ConstantTimeEq;
use tokio_util::sync::CancellationToken;

use crate::access::digest;

/// The cookie's name.
const COOKIE: &str = "tabproxy_console";
/// A session that nobody uses for this long is over,
const IDLE: Duration = Duration::from_secs(12 * 3600);
/// and one of this age anyway.
const OLD: Duration = Duration::from_secs(7 * 24 * 3600);
/// Sessions that there are at once; one more ends the one that was used least recently.
const MOST: usize = 32;
/// A link can be opened for so long.
const LINK_LIFE: Duration = Duration::from_secs(3600);

/// Somebody who has come in.
#[derive(Debug)]
pub struct Session {
    /// What its page shows with everything that changes something.
    token: String,
    begun: Instant,
    used: Mutex<Instant>,
    /// Cancelled when the session is over.
    over: CancellationToken,
}

impl Session {
    /// What its page shows with everything that changes something.
    pub fn token(&self) -> &str {
        &self.token
    }

    /// Whether `shown` is its token; takes as long for every wrong one.
    pub fn has_token(&self, shown: &str) -> bool {
        digest(&self.token).ct_eq(&digest(shown)).into()
    }

    /// Cancelled when it is over.
    pub fn over(&self) -> &CancellationToken {
        &self.over
    }

    fn used(&self) -> MutexGuard<'_, Instant> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.begun) >= OLD
            || now.saturating_duration_since(*self.used()) >= IDLE
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.over.cancel();
    }
}

/// All sessions, and the link that begins one.
#[derive(Debug, Default)]
pub struct Sessions {
    /// By the digest of their id.
    all: Mutex<HashMap<[u8; 32], Arc<Session>>>,
    /// The digest of the link's secret, and until when it counts.
    link: Mutex<Option<([u8; 32], Instant)>>,
}

impl Sessions {
    fn all(&self) -> MutexGuard<'_, HashMap<[u8; 32], Arc<Session>>> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a session; its id, for the cookie.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn begin(&self, now: Instant) -> Result<String, getrandom::Error> {
        let (id, token) = (secret()?, secret()?);
        let session = Session { token, begun: now, used: Mutex::new(now), over: CancellationToken::new() };
        let mut all = self.all();
        forget_old(&mut all, now);
        if all.len() >= MOST
            && let Some(oldest) = all.iter().min_by_key(|(_, it)| *it.used()).map(|(id, _)| *id)
        {
            end(&mut all, &oldest);
        }
        all.insert(digest(&id), Arc::new(session));
        Ok(id)
    }

    /// The session of these cookies; it counts as used now.
    pub fn find<'a>(&self, cookies: impl Iterator<Item = &'a str>, now: Instant) -> Option<Arc<Session>> {
        let mut all = self.all();
        forget_old(&mut all, now);
        let session = ids(cookies).find_map(|id| all.get(&digest(id)))?;
        *session.used() = now;
        Some(session.clone())
    }

    /// Ends the session of these cookies.
    pub fn end<'a>(&self, cookies: impl Iterator<Item = &'a str>) {
        let mut all = self.all();
        ids(cookies).for_each(|id| end(&mut all, &digest(id)));
    }

    /// Ends all of them, and the link: the password is another one.
    pub fn end_all(&self) {
        self.all().drain().for_each(|(_, it)| it.over.cancel());
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    /// The secret of a new link, which takes the place of the one before.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new_link(&self, now: Instant) -> Result<String, getrandom::Error> {
        let secret = secret()?;
        let kept = (digest(&secret), now + LINK_LIFE);
        *self.link.lock().unwrap_or_else(PoisonError::into_inner) = Some(kept);
        Ok(secret)
    }

    /// Whether `shown` is the link's secret. It is once.
    pub fn open_link(&self, shown: &str, now: Instant) -> bool {
        let mut link = self.link.lock().unwrap_or_else(PoisonError::into_inner);
        let is_right =
            link.as_ref().is_some_and(|(kept, until)| bool::from(kept.ct_eq(&digest(shown))) && now < *until);
        if is_right {
            *link = None;
        }
        is_right
    }
}

fn forget_old(all: &mut HashMap<[u8; 32], Arc<Session>>, now: Instant) {
    all.retain(|_, it| {
        let is_over = it.is_over(now);
        if is_over {
            it.over.cancel();
        }
        !is_over
    });
}

fn end(all: &mut HashMap<[u8; 32], Arc<Session>>, id: &[u8; 32]) {
    if let Some(session) = all.remove(id) {
        session.over.cancel();
    }
}

/// The ids in some `Cookie` headers.
fn ids<'a>(cookies: impl Iterator<Item = &'a str>) -> impl Iterator<Item = &'a str> {
    cookies
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().strip_prefix(COOKIE)?.strip_prefix('='))
        .take(8)
}

/// `Set-Cookie` for the session of this id. `secure`: only over TLS, where the browser came that way.
pub fn cookie(id: &str, secure: bool) -> String {
    let (age, secure) = (OLD.as_secs(), if secure { "; Secure" } else { "" });
    format!("{COOKIE}={id}; Path=/console; Max-Age={age}; HttpOnly; SameSite=Strict{secure}")
}

/// `Set-Cookie` that takes it back.
pub fn no_cookie(secure: bool) -> String {
    let secure = if secure { "; Secure" } else { "" };
    format!("{COOKIE}=; Path=/console; Max-Age=0; HttpOnly; SameSite=Strict{secure}")
}

/// 256 random bits that fit into a cookie and an address.
fn secret() -> Result<String, getrandom::Error> {
    let mut bytes = [0; 32];
    getrandom::fill(&mut bytes)?;
    Ok(URL_SAFE_NO_PAD.encode(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(all: &Sessions, id: &str, now: Instant) -> Option<Arc<Session>> {
        let cookie = format!("other=1; {COOKIE}={id}");
        all.find(std::iter::once(cookie.as_str()), now)
    }

    #[test]
    fn a_session_is_known_by_its_cookie_until_it_is_over() {
        let (all, now) = (Sessions::default(), Instant::now());
        let (a, b) = (all.begin(now).unwrap(), all.begin(now).unwrap());
        assert!(a.len() == 43 && a != b);
        let session = found(&all, &a, now).unwrap();
        assert!(session.has_token(session.token()));
        assert!(!session.has_token("") && !session.has_token(found(&all, &b, now).unwrap().token()));
        for wrong in ["", &a[..42], &format!("{a}A"), session.token()] {
            assert!(found(&all, wrong, now).is_none(), "{wrong}");
        }
        let cookie = format!("{COOKIE}={a}");
        all.end(std::iter::once(cookie.as_str()));
        assert!(found(&all, &a, now).is_none() && session.over().is_cancelled());
        assert!(found(&all, &b, now).is_some());
        all.end_all();
        assert!(found(&all, &b, now).is_none());
    }

    #[test]
    fn a_session_ends_when_it_is_idle_and_when_it_is_old() {
        let (all, mut now) = (Sessions::default(), Instant::now());
        let (idle, used) = (all.begin(now).unwrap(), all.begin(now).unwrap());
        let begun = now;
        while now - begun < OLD - IDLE {
            now += IDLE / 2;
            assert!(found(&all, &used, now).is_some());
        }
        assert!(found(&all, &idle, now).is_none());
        assert!(found(&all, &used, begun + OLD).is_none());
    }

    #[test]
    fn there_are_only_so_many_sessions() {
        let (all, now) = (Sessions::default(), Instant::now());
        let first = all.begin(now).unwrap();
        let later = now + Duration::from_secs(1);
        let others: Vec<_> = (0..MOST).map(|_| all.begin(later).unwrap()).collect();
        assert!(found(&all, &first, later).is_none());
        assert!(others.iter().all(|it| found(&all, it, later).is_some()));
    }

    #[test]
    fn a_link_counts_once_and_for_an_hour() {
        let (all, now) = (Sessions::default(), Instant::now());
        assert!(!all.open_link("", now));
        let link = all.new_link(now).unwrap();
        assert!(!all.open_link(&link[1..], now));
        assert!(all.open_link(&link, now) && !all.open_link(&link, now));
        let old = all.new_link(now).unwrap();
        let link = all.new_link(now).unwrap();
        assert!(!all.open_link(&old, now) && !all.open_link(&link, now + LINK_LIFE));
    }

    #[test]
    fn the_cookie_is_for_the_console_and_for_no_script() {
        let cookie = cookie("abc", true);
        for part in ["Path=/console;", "HttpOnly", "SameSite=Strict", "Secure"] {
            assert!(cookie.contains(part), "{cookie}");
        }
        assert!(!super::cookie("abc", false).contains("Secure") && no_cookie(false).contains("Max-Age=0"));
    }
}
