//! The gate: the bot check and the sign-in wall, as pure judgements over cookies, proofs and time.
//!
//! A clearance is bound to the User-Agent that earned it and to an epoch, so that all of them can be
//! revoked at once. Knows nothing of routes. Its secrets protect nothing, but it is as strict as a real
//! gate: a proxy that slips past this one by accident would not be known to pass a real one.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use axum::http::{HeaderMap, header};
use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::reply::{hex, new_id};

/// The cookie that a passed check earns.
pub(super) const CLEARANCE: &str = "practice_clearance";
/// The cookie of a signed-in browser.
pub(super) const SESSION: &str = "practice_session";
/// How often a check's nonce is hashed, over and over.
const ROUNDS: usize = 64;
/// A check has to be finished within this time.
const NONCE_LIFE_MS: u64 = 300_000;
/// Nonces remembered as spent; beyond that the oldest answers are forgotten with their validity.
const MAX_SPENT: usize = 100_000;

/// What the bot check asks for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
#[repr(u8)]
pub enum Check {
    /// A browser passes by itself, in a moment.
    #[default]
    Auto,
    /// Someone has to press a button.
    Click,
    /// Nobody passes.
    Never,
    /// There is no check.
    Off,
}

impl Check {
    /// The word that the check page's script knows it by.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Click => "click",
            Self::Never => "never",
            Self::Off => "off",
        }
    }

    fn from_u8(value: u8) -> Self {
        [Self::Auto, Self::Click, Self::Never].into_iter().find(|c| *c as u8 == value).unwrap_or(Self::Off)
    }
}

/// What the check page's script sends back.
#[derive(Debug, Deserialize)]
pub(super) struct Proof {
    nonce: String,
    proof: String,
    #[serde(default)]
    clicked: bool,
    webdriver: bool,
}

/// The site's gate keeper. All times are Unix milliseconds.
#[derive(Debug)]
pub(super) struct Gate {
    key: String,
    epoch: AtomicU64,
    /// Sessions are sealed with this: a rotation makes all older ones invalid.
    session: AtomicU64,
    check: AtomicU8,
    sign_in: AtomicBool,
    least: Duration,
    ttl: Duration,
    /// Nonces already used, with the time at which they would have expired anyway.
    spent: Mutex<HashMap<String, u64>>,
}

impl Gate {
    /// A gate with a key of its own. A check takes at least `least`, a clearance lasts `ttl`.
    pub fn new(check: Check, sign_in: bool, least: Duration, ttl: Duration) -> Self {
        Self {
            key: new_id() + &new_id(),
            epoch: AtomicU64::new(0),
            session: AtomicU64::new(0),
            check: AtomicU8::new(check as u8),
            sign_in: AtomicBool::new(sign_in),
            least,
            ttl,
            spent: Mutex::default(),
        }
    }

    /// What is asked for now.
    pub fn check(&self) -> Check {
        Check::from_u8(self.check.load(Ordering::Relaxed))
    }

    /// From now on ask for this.
    pub fn set_check(&self, check: Check) {
        self.check.store(check as u8, Ordering::Relaxed);
    }

    /// Whether the site wants a sign-in.
    pub fn wants_sign_in(&self) -> bool {
        self.sign_in.load(Ordering::Relaxed)
    }

    /// From now on want a sign-in, or none.
    pub fn set_sign_in(&self, wanted: bool) {
        self.sign_in.store(wanted, Ordering::Relaxed);
    }

    /// Revokes every clearance given so far.
    pub fn expire_clearance(&self) {
        self.epoch.fetch_add(1, Ordering::Relaxed);
    }

    /// The least time that the page's script shall take, in ms.
    pub fn least_ms(&self) -> u128 {
        self.least.as_millis()
    }

    /// The value of a new clearance cookie.
    pub fn clearance(&self, user_agent: &str, now: u64) -> String {
        let expiry = now.saturating_add(as_ms(self.ttl));
        format!("{expiry}.{}", self.clearance_seal(expiry, user_agent))
    }

    /// `Set-Cookie` of a clearance.
    pub fn clearance_cookie(&self, user_agent: &str, now: u64) -> String {
        let (value, age) = (self.clearance(user_agent, now), self.ttl.as_secs());
        format!("{CLEARANCE}={value}; Path=/; Max-Age={age}; HttpOnly; Secure; SameSite=Lax")
    }

    /// Whether these headers carry a clearance that is valid now, or none is asked for.
    pub fn lets_in(&self, headers: &HeaderMap, now: u64) -> bool {
        self.check() == Check::Off
            || cookies(headers, CLEARANCE).any(|value| {
                value.split_once('.').is_some_and(|(expiry, seal)| {
                    expiry.parse().is_ok_and(|expiry: u64| {
                        expiry > now && seal == self.clearance_seal(expiry, user_agent(headers))
                    })
                })
            })
    }

    /// `Set-Cookie` of a signed-in browser: it lasts a month.
    pub fn session_cookie(&self) -> String {
        let value = self.session_seal();
        format!("{SESSION}={value}; Path=/; Max-Age=2592000; HttpOnly; Secure; SameSite=Lax")
    }

    /// Whether these headers come from a signed-in browser.
    pub fn is_signed_in(&self, headers: &HeaderMap) -> bool {
        cookies(headers, SESSION).any(|value| value == self.session_seal())
    }

    /// The next session cookie: the one before is worth nothing from now on.
    pub fn rotate_session(&self) -> String {
        self.session.fetch_add(1, Ordering::Relaxed);
        self.session_cookie()
    }

    /// A new nonce for a check page.
    pub fn nonce(&self, now: u64) -> String {
        let (issued, id) = (now.to_string(), new_id());
        format!("{issued}.{id}.{}", self.seal(&["nonce", &issued, &id]))
    }

    /// Judges a check. A nonce counts once, whatever comes of it.
    ///
    /// # Errors
    /// A word that says what was wrong with it.
    pub fn judge(&self, proof: &Proof, now: u64) -> Result<(), &'static str> {
        let issued = self.issued(&proof.nonce).ok_or("not a nonce of this site")?;
        if now > issued.saturating_add(NONCE_LIFE_MS) {
            return Err("too late");
        }
        let mut spent = self.spent.lock().unwrap_or_else(PoisonError::into_inner);
        if spent.len() >= MAX_SPENT {
            spent.retain(|_, until| *until > now);
        }
        if spent.insert(proof.nonce.clone(), issued + NONCE_LIFE_MS).is_some() {
            return Err("used before");
        }
        drop(spent);
        match self.check() {
            Check::Never => Err("nobody passes"),
            Check::Click if !proof.clicked => Err("nobody pressed the button"),
            _ if proof.webdriver => Err("an automated browser"),
            _ if now < issued + as_ms(self.least) => Err("too soon"),
            _ if proof.proof != chain(&proof.nonce) => Err("wrong proof"),
            _ => Ok(()),
        }
    }

    fn issued(&self, nonce: &str) -> Option<u64> {
        let (issued, rest) = nonce.split_once('.')?;
        let (id, seal) = rest.split_once('.')?;
        (seal == self.seal(&["nonce", issued, id])).then(|| issued.parse().ok())?
    }

    fn session_seal(&self) -> String {
        self.seal(&["session", &self.session.load(Ordering::Relaxed).to_string()])
    }

    fn clearance_seal(&self, expiry: u64, user_agent: &str) -> String {
        let epoch = self.epoch.load(Ordering::Relaxed);
        self.seal(&["clearance", &epoch.to_string(), &expiry.to_string(), user_agent])
    }

    /// A keyed hash. Nested, so that it cannot be extended; NUL keeps the parts apart.
    fn seal(&self, parts: &[&str]) -> String {
        let inner = Sha256::digest(format!("{}\0{}", self.key, parts.join("\0")));
        hex(&Sha256::new().chain_update(&self.key).chain_update(inner).finalize())
    }
}

/// The work that a check asks for: the nonce, hashed over and over.
fn chain(nonce: &str) -> String {
    let first = Sha256::digest(nonce);
    let last =
        (1..ROUNDS).fold(first, |hash, _| Sha256::new().chain_update(hash).chain_update(nonce).finalize());
    hex(&last)
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The caller's User-Agent, or nothing.
pub(super) fn user_agent(headers: &HeaderMap) -> &str {
    headers.get(header::USER_AGENT).and_then(|value| value.to_str().ok()).unwrap_or_default()
}

/// The values of the cookies of this name; HTTP/2 may send each cookie in a header of its own.
fn cookies<'a>(headers: &'a HeaderMap, name: &'a str) -> impl Iterator<Item = &'a str> {
    headers
        .get_all(header::COOKIE)
        .into_iter()
        .filter_map(|line| line.to_str().ok())
        .flat_map(|line| line.split(';'))
        .filter_map(move |pair| pair.trim().strip_prefix(name)?.strip_prefix('='))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate(check: Check) -> Gate {
        Gate::new(check, false, Duration::from_millis(100), Duration::from_secs(10))
    }

    fn browser(user_agent: &str, cookie: &str) -> HeaderMap {
        let mut headers = HeaderMap::new();
        headers.insert(header::USER_AGENT, user_agent.parse().expect("a header"));
        headers.append(header::COOKIE, "other=1".parse().expect("a header"));
        headers.append(header::COOKIE, cookie.parse().expect("a header"));
        headers
    }

    #[test]
    fn a_clearance_is_bound_to_browser_time_and_epoch() {
        let gate = gate(Check::Auto);
        let cookie = format!("{CLEARANCE}={}", gate.clearance("Firefox", 1_000));
        assert!(gate.lets_in(&browser("Firefox", &cookie), 1_000));
        assert!(gate.lets_in(&browser("Firefox", &cookie), 10_999));
        assert!(!gate.lets_in(&browser("Firefox", &cookie), 11_000));
        assert!(!gate.lets_in(&browser("curl", &cookie), 1_000));
        assert!(!gate.lets_in(&browser("Firefox", &cookie.replace("=1", "=2")), 1_000));
        gate.expire_clearance();
        assert!(!gate.lets_in(&browser("Firefox", &cookie), 1_000));
        gate.set_check(Check::Off);
        assert!(gate.lets_in(&HeaderMap::new(), 1_000));
    }

    #[test]
    fn a_check_passes_once_and_not_too_soon() {
        let gate = gate(Check::Auto);
        let proof = |now| {
            let nonce = gate.nonce(now);
            Proof { proof: chain(&nonce), nonce, clicked: false, webdriver: false }
        };
        assert_eq!(gate.judge(&proof(0), 99), Err("too soon"));
        let good = proof(0);
        assert_eq!(gate.judge(&good, 100), Ok(()));
        assert_eq!(gate.judge(&good, 101), Err("used before"));
        assert_eq!(gate.judge(&proof(0), NONCE_LIFE_MS + 1), Err("too late"));
        assert_eq!(gate.judge(&Proof { webdriver: true, ..proof(0) }, 200), Err("an automated browser"));
        assert_eq!(gate.judge(&Proof { proof: "0".into(), ..proof(0) }, 200), Err("wrong proof"));
        let forged = Proof { nonce: "0.x.y".into(), ..proof(0) };
        assert_eq!(gate.judge(&forged, 200), Err("not a nonce of this site"));
        gate.set_check(Check::Click);
        assert_eq!(gate.judge(&proof(0), 200), Err("nobody pressed the button"));
        assert_eq!(gate.judge(&Proof { clicked: true, ..proof(0) }, 200), Ok(()));
        gate.set_check(Check::Never);
        assert_eq!(gate.judge(&proof(0), 200), Err("nobody passes"));
    }

    #[test]
    fn a_session_is_recognised() {
        let gate = gate(Check::Auto);
        let cookie = gate.session_cookie();
        let pair = cookie.split(';').next().expect("a pair");
        assert!(gate.is_signed_in(&browser("any", pair)));
        assert!(!gate.is_signed_in(&browser("any", &format!("{SESSION}=1"))));
        let next = gate.rotate_session();
        assert!(!gate.is_signed_in(&browser("any", pair)));
        assert!(gate.is_signed_in(&browser("any", next.split(';').next().expect("a pair"))));
    }
}
