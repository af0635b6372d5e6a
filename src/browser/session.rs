//! The saved session: cookies and local storage, kept in a file beside the profile.
//!
//! A browser that is killed loses what it had not written yet, up to half a minute of it, and with that a
//! sign-in whose cookie was just rotated. So the session is saved whenever it has changed, and put back
//! when a browser starts after one that did not end in peace, or on a profile that has lost its cookies.
//! The file is as secret as the profile: only its owner may read it, and nothing of it is ever logged.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use tempfile::NamedTempFile;

use super::link::{Link, LinkError, Tab};
use crate::site::signin;
use crate::telemetry::process;

/// A larger local storage is not saved: browsers stop at 10 MB of text.
const LARGEST: usize = 24 << 20;

/// How often, and how far apart, cookies are put back into a browser whose network service died.
const MEND_TRIES: u32 = 20;
const MEND_PAUSE: Duration = Duration::from_millis(250);

/// What a site would have to be told again for it to know its user.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Session {
    /// Whether the browser it comes from has ended in peace, and so has written all of it down itself.
    closed: bool,
    /// The profile's cookies, as [`Link::cookies`] gives them.
    cookies: Vec<Value>,
    /// The local storage of the site's origin.
    storage: Option<Storage>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Storage {
    origin: String,
    items: Vec<(String, String)>,
}

/// Whose cookies are kept: a browser that somebody else owns has many that are none of our business.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Keeps {
    /// All that there are.
    All,
    /// Those that these hosts, or names below them, get to see.
    Of(Vec<String>),
}

impl Keeps {
    /// Whether this cookie is one of them.
    fn has(&self, cookie: &Value) -> bool {
        let Keeps::Of(hosts) = self else { return true };
        let Some(at) = place(cookie) else { return false };
        let below = |name: &str, of: &str| name.strip_suffix(of).is_some_and(|it| it.ends_with('.'));
        hosts.iter().any(|host| *host == at || below(host, &at) || below(&at, host))
    }
}

/// The host, or the domain without its leading dot, that a cookie belongs to.
fn place(cookie: &Value) -> Option<String> {
    let text = |key: &str| cookie.get(key)?.as_str();
    match text("domain") {
        Some(domain) => Some(domain.trim_start_matches('.').to_owned()),
        None => url::Url::parse(text("url")?).ok()?.host_str().map(str::to_owned),
    }
}

/// Where the session is kept.
#[derive(Clone, Debug)]
pub(super) struct SessionFile {
    path: PathBuf,
}

impl Session {
    /// Whether somebody is signed in with it.
    pub fn is_signed_in(&self) -> bool {
        let names = self.cookies.iter().filter_map(|it| it.get("name")?.as_str());
        names.into_iter().any(signin::is_session)
    }
}

/// Whether the session that is saved beside `profile` is somebody's sign-in.
pub fn is_signed_in(profile: &Path) -> bool {
    SessionFile::beside(profile).read().is_some_and(|it| it.is_signed_in())
}

impl SessionFile {
    /// The one that belongs to `profile`: beside it, so that it outlives it.
    pub fn beside(profile: &Path) -> SessionFile {
        let mut name = profile.file_name().unwrap_or_default().to_owned();
        name.push(".session.json");
        SessionFile { path: profile.with_file_name(name) }
    }

    /// Puts the saved session into a browser that has just started, as far as it has lost it. What it
    /// returns is what is saved, and whether the browser has somebody's sign-in now.
    pub async fn restore(&self, link: &Link) -> Result<(Arc<Session>, bool), LinkError> {
        let jar = link.cookies().await?;
        let has_own = Session { cookies: jar.clone(), ..Session::default() }.is_signed_in();
        let Some(mut session) = self.read() else { return Ok((Arc::default(), has_own)) };
        // Only a browser that has ended in peace has written everything down, except what it forgets on
        // purpose: cookies that last as long as a browser runs. For the site this is the same browser.
        let whole = session.closed && !jar.is_empty();
        let lost: Vec<_> = if whole {
            session.cookies.iter().filter(|it| is_brief(it) && !has(&jar, it, &[])).cloned().collect()
        } else {
            link.clear_cookies().await?;
            session.cookies.clone()
        };
        let refused = link.set_cookies(&lost).await?;
        if let (Some(storage), false) = (&session.storage, whole) {
            link.set_local_storage(&storage.origin, &storage.items).await?;
        }
        if !lost.is_empty() {
            let (cookies, file) = (lost.len() - refused, self.path.display());
            tracing::info!(cookies, refused, "the session was restored from {file}");
        }
        session.closed = false;
        let signed_in = has_own || session.is_signed_in();
        Ok((Arc::new(session), signed_in))
    }

    /// Puts the saved session into a browser that is somebody else's, if nobody is signed in at `site` there.
    /// Nothing that is there is changed. Returns what [`SessionFile::restore`] does.
    pub async fn lend(&self, link: &Link, site: &url::Url) -> Result<(Arc<Session>, bool), LinkError> {
        let saved = self.read().unwrap_or_default();
        let mut hosts: Vec<_> = saved.cookies.iter().filter_map(place).collect();
        hosts.extend(site.host_str().map(str::to_owned));
        let keeps = Keeps::Of(hosts);
        let jar: Vec<_> = link.cookies().await?.into_iter().filter(|it| keeps.has(it)).collect();
        let theirs = Session { cookies: jar, ..Session::default() };
        if theirs.is_signed_in() || !saved.is_signed_in() {
            return Ok((Arc::default(), theirs.is_signed_in()));
        }
        let missing: Vec<_> =
            saved.cookies.iter().filter(|it| !has(&theirs.cookies, it, &[])).cloned().collect();
        let refused = link.set_cookies(&missing).await?;
        if let Some(storage) = &saved.storage {
            link.add_local_storage(&storage.origin, &storage.items).await?;
        }
        let (cookies, file) = (missing.len() - refused, self.path.display());
        tracing::info!(cookies, refused, "nobody is signed in there: the session was taken from {file}");
        Ok((Arc::new(Session { closed: false, ..saved }), true))
    }

    /// Saves what has changed since `before`; `site` is the site's tab and origin, where its local storage
    /// has changed. Returns what is saved now: `before` where the process `network` has died meanwhile, because
    /// then the browser knows less than was saved.
    pub async fn save(
        &self,
        link: &Link,
        site: Option<(Tab, String)>,
        keeps: &Keeps,
        network: Option<i32>,
        before: Arc<Session>,
    ) -> Result<Arc<Session>, String> {
        let mut now = Session { closed: false, cookies: Vec::new(), storage: before.storage.clone() };
        now.cookies = link.cookies().await.map_err(|e| e.to_string())?;
        now.cookies.retain(|it| keeps.has(it));
        if network.is_some_and(|pid| !process::is_alive(pid)) {
            return Ok(before);
        }
        if let Some((tab, origin)) = site {
            let items = tab.local_storage(&origin).await.map_err(|e| e.to_string())?;
            let size: usize = items.iter().map(|(key, value)| key.len() + value.len()).sum();
            now.storage = (size <= LARGEST).then_some(Storage { origin, items });
        }
        if now == *before {
            return Ok(before);
        }
        let now = Arc::new(now);
        let (file, session) = (self.clone(), now.clone());
        let written = tokio::task::spawn_blocking(move || file.write(&session)).await;
        written.map_err(io::Error::other).flatten().map_err(|e| format!("{}: {e}", self.path.display()))?;
        Ok(now)
    }

    /// Puts back what a browser's helper has taken with it when it died: the newest cookies.
    pub async fn mend(&self, link: &Link, session: &Session) {
        // The helper's successor may not be there yet, and what is told meanwhile is lost without a word; it
        // reads what was last written down, which may be an older value.
        for _ in 0..MEND_TRIES {
            let _ = link.set_cookies(&session.cookies).await;
            let jar = link.cookies().await.unwrap_or_default();
            if session.cookies.iter().all(|it| has(&jar, it, &["value"])) {
                return;
            }
            tokio::time::sleep(MEND_PAUSE).await;
        }
        tracing::warn!("some cookies could not be put back: the site may want a sign-in");
    }

    /// Notes that the browser has ended in peace.
    pub fn close(&self, session: &Session) -> io::Result<()> {
        self.write(&Session { closed: true, ..session.clone() })
    }

    fn read(&self) -> Option<Session> {
        let file = self.path.display();
        let bytes = match fs::read(&self.path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(%error, "the saved session {file} cannot be read");
                return None;
            }
        };
        serde_json::from_slice(&bytes)
            .inspect_err(|_| tracing::warn!("the saved session {file} is damaged: it is not used"))
            .ok()
    }

    /// All or nothing, and for the owner's eyes only.
    fn write(&self, session: &Session) -> io::Result<()> {
        let dir = self.path.parent().unwrap_or(Path::new("/"));
        let mut file = NamedTempFile::new_in(dir)?; // made with mode 0600
        serde_json::to_writer(&mut file, session)?;
        file.flush()?;
        file.as_file().sync_all()?;
        file.persist(&self.path)?;
        fs::File::open(dir)?.sync_all()
    }
}

/// Whether a cookie lasts only as long as its browser runs.
fn is_brief(cookie: &Value) -> bool {
    cookie.get("expires").is_none()
}

/// Whether `jar` has this cookie, known by its name and place, with the same in `also`.
fn has(jar: &[Value], cookie: &Value, also: &[&str]) -> bool {
    let known_by = ["name", "url", "domain", "path", "partitionKey"];
    let same = |it: &Value| known_by.iter().chain(also).all(|key| it.get(key) == cookie.get(key));
    jar.iter().any(same)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::PermissionsExt;

    fn session() -> Session {
        let storage = Storage { origin: "https://a".into(), items: vec![("k".into(), "v\u{1F600}".into())] };
        let cookies = vec![json!({"name": "a", "value": "b", "domain": ".a", "path": "/"})];
        Session { closed: false, cookies, storage: Some(storage) }
    }

    #[test]
    fn it_lies_beside_the_profile_and_is_private_and_whole() {
        let dir = tempfile::tempdir().unwrap();
        let file = SessionFile::beside(&dir.path().join("profile"));
        assert_eq!(file.path, dir.path().join("profile.session.json"));
        assert_eq!(file.read(), None);
        file.write(&session()).unwrap();
        assert_eq!(file.read(), Some(session()));
        file.close(&session()).unwrap();
        assert_eq!(file.read(), Some(Session { closed: true, ..session() }));
        assert_eq!(fs::metadata(&file.path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing half written is left");
        fs::write(&file.path, "{\"closed\":").unwrap();
        assert_eq!(file.read(), None);
    }

    #[test]
    fn of_somebodys_browser_only_the_sites_cookies_are_kept() {
        let keeps = Keeps::Of(vec!["chat.example.com".into()]);
        let of = |domain: &str| keeps.has(&json!({"name": "a", "domain": domain}));
        assert!(of("chat.example.com") && of(".example.com") && of("api.chat.example.com"));
        assert!(!of("bank.example") && !of(".ample.com") && !of("notchat.example.com") && !of(""));
        assert!(keeps.has(&json!({"name": "a", "url": "https://chat.example.com/x"})));
        assert!(!keeps.has(&json!({"name": "a", "url": "https://bank.example/"})) && !keeps.has(&json!({})));
        assert!(Keeps::All.has(&json!({})));
    }

    #[test]
    fn a_cookie_is_known_by_its_name_and_place() {
        let jar = [json!({"name": "a", "value": "new", "domain": ".a", "path": "/", "expires": 5.0})];
        assert!(has(&jar, &session().cookies[0], &[]));
        assert!(!has(&jar, &session().cookies[0], &["value"]));
        assert!(!has(&jar, &json!({"name": "a", "value": "b", "url": "https://a/", "path": "/"}), &[]));
        assert!(is_brief(&session().cookies[0]) && !is_brief(&jar[0]));
    }
}
