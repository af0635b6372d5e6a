//! Keeps the session saved while a browser runs: when it is looked at, what is saved, and whether somebody is
//! signed in with it.
//!
//! Part of the supervisor, which performs the work that this gives out and reports back what came of it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::child::Child;
use super::link::{Link, Tab};
use super::session::{Keeps, Session, SessionFile};
use crate::telemetry::process;

/// How often the session is looked at for something to save. A sign-in that was just renewed must survive
/// a browser that is killed two seconds later.
pub(super) const SAVE: Duration = Duration::from_secs(1);

/// What is saved now, and why it is not what it should be, if so.
pub(super) struct Saved {
    session: Arc<Session>,
    fault: Option<String>,
}

pub(super) struct Keeper {
    file: SessionFile,
    /// What is saved; `None` while it must not be saved, or is being saved.
    saved: Option<Arc<Session>>,
    /// Whether the last attempt to save failed: that is worth one line, not one a second.
    failed: bool,
    /// Whether the profile has somebody's sign-in, once that is known.
    signed_in: Option<bool>,
    /// The site's local storage may have changed since it was last saved.
    storage_changed: bool,
    /// The process that holds the browser's newest cookies, once it is known.
    network: Option<i32>,
}

impl Keeper {
    /// Of the session that belongs to `profile`.
    pub fn of(profile: &Path) -> Keeper {
        let file = SessionFile::beside(profile);
        Keeper { file, saved: None, failed: false, signed_in: None, storage_changed: false, network: None }
    }

    /// A browser is up that knows `session`; without one, what is saved is left as it is. `network` is the process
    /// of its network service.
    pub fn begin(&mut self, session: Option<Arc<Session>>, signed_in: bool, network: Option<i32>) {
        (self.saved, self.network, self.storage_changed) = (session, network, false);
        self.note_sign_in(signed_in);
    }

    /// The browser is gone.
    pub fn pause(&mut self) {
        self.saved = None;
    }

    /// The site's local storage may have changed.
    pub fn storage_changed(&mut self) {
        self.storage_changed = true;
    }

    /// Whether the profile has somebody's sign-in, once that is known.
    pub fn is_signed_in(&self) -> Option<bool> {
        self.signed_in
    }

    /// Saves what has changed, or puts it back where the browser has lost it; `None` while that is under way.
    /// `site` is the site's tab and origin, and only what `keeps` says is saved.
    pub fn save(
        &mut self,
        link: Link,
        site: Option<(Tab, String)>,
        keeps: Keeps,
        child: Option<&Child>,
    ) -> Option<impl Future<Output = Saved> + Send + use<>> {
        let before = self.saved.take()?;
        let is_lost = self.network.is_some_and(|pid| !process::is_alive(pid));
        if is_lost {
            tracing::warn!("the browser's network service died: the cookies that went with it are put back");
            self.network = child.and_then(Child::network_service);
        }
        let site = site.filter(|_| !is_lost && std::mem::take(&mut self.storage_changed));
        let (file, network) = (self.file.clone(), self.network);
        Some(async move {
            if is_lost {
                file.mend(&link, &before).await;
                return Saved { session: before, fault: None };
            }
            match file.save(&link, site, &keeps, network, before.clone()).await {
                Ok(session) => Saved { session, fault: None },
                Err(fault) => Saved { session: before, fault: Some(fault) },
            }
        })
    }

    /// What came of [`Keeper::save`].
    pub fn saved(&mut self, Saved { session, fault }: Saved) {
        if let Some(cause) = &fault {
            if !self.failed {
                tracing::warn!(cause, "the session could not be saved; this is tried on");
            }
            // It was taken for saved.
            self.storage_changed = true;
        } else {
            self.note_sign_in(session.is_signed_in());
        }
        self.failed = fault.is_some();
        self.saved = Some(session);
    }

    /// Saves for the last time, before the browser is closed; to be told to [`Keeper::close`].
    pub async fn last(
        &mut self,
        link: &Link,
        site: Option<(Tab, String)>,
        keeps: Keeps,
    ) -> Option<Arc<Session>> {
        let before = self.saved.take()?;
        let site = site.filter(|_| self.storage_changed);
        let saving = self.file.save(link, site, &keeps, self.network, before);
        tokio::time::timeout(SAVE, saving).await.ok()?.ok()
    }

    /// Notes that the browser has ended in peace with this session.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn close(&self, session: &Session) -> io::Result<()> {
        self.file.close(session)
    }

    fn note_sign_in(&mut self, is: bool) {
        let before = self.signed_in.replace(is);
        if is && before != Some(true) {
            tracing::info!(
                "the profile is signed in: whoever goes through the page needs an access key \
                 (`tabproxy key new`, TABPROXY_KEYS_FILE)"
            );
        } else if !is && before == Some(true) {
            tracing::info!("the profile is no longer signed in");
        }
    }
}
