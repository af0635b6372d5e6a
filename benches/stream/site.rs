//! The practice site, on a thread and a runtime of its own in this process.

use std::sync::Arc;
use std::thread::JoinHandle;

use tabproxy::practice::{Practice, PracticeArgs};
use tokio::sync::oneshot;

use super::load::Fail;

/// A running site; stops when dropped.
pub struct Site {
    practice: Option<Arc<Practice>>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Site {
    /// Starts it; it can be reached when this returns.
    pub async fn start() -> Result<Site, Fail> {
        let (started, site) = oneshot::channel();
        let (stop, stopped) = oneshot::channel();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("site")
            .enable_all()
            .build()?;
        let thread = std::thread::Builder::new().name("site-main".into()).spawn(move || {
            runtime.block_on(async {
                let _ = started.send(Practice::start(PracticeArgs::default()).await);
                let _ = stopped.await;
            });
        })?;
        let practice = Some(Arc::new(site.await??));
        Ok(Site { practice, stop: Some(stop), thread: Some(thread) })
    }

    /// The site itself.
    pub fn practice(&self) -> Result<&Arc<Practice>, Fail> {
        self.practice.as_ref().ok_or_else(|| "the site is stopped".into())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.practice = None;
        self.stop = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
