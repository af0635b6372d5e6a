//! The live view: the browser's pictures to those who look, and the input of the one who drives.
//!
//! A WebSocket each. Pictures go out as binary messages, a JPEG each, and never more than two that the page has
//! not acknowledged: on a slow line there are fewer of them, and they are as new. One person drives, the first
//! who came or the last who took over; the others look on, and their input is dropped. Input is never logged.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket, WebSocketUpgrade};
use axum::extract::{FromRequestParts, Request, State};
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use futures::SinkExt;
use futures::stream::{SplitSink, StreamExt};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::watch;

use super::access::Session;
use super::{first, one, session_of};
use crate::browser::view::{Scene, View, Which};
use crate::browser::{Input, Phase};
use crate::error::{Fault, FaultKind};
use crate::http::App;
use crate::http::reply::{self, Asked};

/// What is spoken on the socket. A second name in the list shows the session's token: there are no other headers
/// that a page could set.
const PROTOCOL: &str = "tabproxy-console";
const SHOWS_TOKEN: &str = "token.";
/// The largest message of a viewer, in bytes.
const LARGEST: usize = 80 * 1024;
/// Pictures on their way.
const AHEAD: u32 = 2;
/// A viewer that takes nothing for this long is gone.
const PATIENCE: Duration = Duration::from_secs(20);
/// From one sign of life to the next.
const PING: Duration = Duration::from_secs(15);

/// Who looks, and who drives.
#[derive(Debug)]
pub(super) struct Desk {
    roles: watch::Sender<Roles>,
    next: AtomicU64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Roles {
    driver: Option<u64>,
    viewers: Vec<u64>,
}

impl Default for Desk {
    fn default() -> Self {
        Desk { roles: watch::Sender::new(Roles::default()), next: AtomicU64::new(1) }
    }
}

impl Desk {
    /// How many look, and whether one of them drives.
    pub fn count(&self) -> (usize, bool) {
        let roles = self.roles.borrow();
        (roles.viewers.len(), roles.driver.is_some())
    }

    /// Another one looks; drives if nobody does.
    fn sit(&self) -> Seat<'_> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        self.roles.send_modify(|it| {
            it.viewers.push(id);
            it.driver.get_or_insert(id);
        });
        Seat { desk: self, id }
    }
}

/// A viewer's place; dropping it is leaving.
struct Seat<'a> {
    desk: &'a Desk,
    id: u64,
}

impl Seat<'_> {
    fn take_over(&self) {
        self.desk.roles.send_modify(|it| it.driver = Some(self.id));
    }

    fn drives(&self) -> bool {
        self.desk.roles.borrow().driver == Some(self.id)
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.desk.roles.send_modify(|it| {
            it.viewers.retain(|other| *other != self.id);
            if it.driver == Some(self.id) {
                // Whoever has looked on for longest goes on.
                it.driver = it.viewers.first().copied();
            }
        });
    }
}

/// `GET /console/live`.
pub(super) async fn handle(State(app): State<Arc<App>>, request: Request) -> Response {
    let asked = Asked::of(&request);
    let session = match admit(&app, request.headers()) {
        Ok(session) => session,
        Err(fault) => return reply::refuse(&fault, &asked),
    };
    let (mut parts, _) = request.into_parts();
    match WebSocketUpgrade::from_request_parts(&mut parts, &app).await {
        Ok(upgrade) => upgrade
            .protocols([PROTOCOL])
            .max_message_size(LARGEST)
            .on_upgrade(move |socket| async move { serve(&app, socket, &session).await }),
        Err(refusal) => refusal.into_response(),
    }
}

fn admit(app: &App, headers: &HeaderMap) -> Result<Arc<Session>, Fault> {
    let session = session_of(app, headers)?;
    let offered =
        headers.get_all(header::SEC_WEBSOCKET_PROTOCOL).into_iter().filter_map(|it| it.to_str().ok());
    let mut tokens =
        offered.flat_map(|it| it.split(',')).filter_map(|it| it.trim().strip_prefix(SHOWS_TOKEN));
    if tokens.next().is_some_and(|it| session.has_token(it)) {
        return Ok(session);
    }
    Err(Fault::new(FaultKind::AdminRefused, "The request does not show the console's token."))
}

/// What a viewer says besides what it puts into the page.
#[derive(Deserialize)]
#[serde(tag = "t", rename_all = "lowercase")]
enum Wish {
    /// A picture was drawn.
    Seen,
    /// It wants to drive.
    Take,
    /// It wants to see another tab, or another browser's.
    Look {
        at: At,
        #[serde(default = "first")]
        of: usize,
    },
}

#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "lowercase")]
enum At {
    Site,
    Carrier,
}

/// What a viewer sends: a wish, or input.
#[derive(Deserialize)]
#[serde(untagged)]
enum Said {
    Wish(Wish),
    Input(Input),
}

struct Viewer<'a> {
    app: &'a App,
    seat: Seat<'a>,
    view: View,
    scene: watch::Receiver<Scene>,
    out: SplitSink<WebSocket, Message>,
    /// Pictures that the page has not acknowledged.
    ahead: u32,
    /// The question that it knows of.
    question: Option<String>,
    had_picture: bool,
}

async fn serve(app: &App, socket: WebSocket, session: &Session) {
    let (out, mut said) = socket.split();
    let mut roles = app.console.desk.roles.subscribe();
    let Ok(browser) = one(app, first()) else { return };
    let view = browser.view(Which::Site);
    let mut scene = view.scene();
    scene.mark_changed();
    let seat = app.console.desk.sit();
    let mut viewer = Viewer { app, seat, view, scene, out, ahead: 0, question: None, had_picture: false };
    roles.mark_changed();
    let mut ping = tokio::time::interval(PING);
    let mut status = app.browser.watch();
    let stopping =
        async { status.wait_for(|it| matches!(it.phase, Phase::Draining | Phase::Stopped)).await.is_ok() };
    tokio::pin!(stopping);
    loop {
        let room = viewer.ahead < AHEAD;
        let went_on = tokio::select! {
            () = session.over().cancelled() => false,
            // The server waits for nobody who only looks.
            _ = &mut stopping => false,
            message = said.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    viewer.hear(&text);
                    true
                }
                Some(Ok(Message::Close(_)) | Err(_)) | None => false,
                Some(Ok(_)) => true,
            },
            changed = roles.changed() => match changed {
                Ok(()) => {
                    let (viewers, driven) = app.console.desk.count();
                    roles.borrow_and_update();
                    let drives = viewer.seat.drives();
                    viewer.tell(json!({"kind": "role", "drives": drives, "driven": driven, "viewers": viewers})).await
                }
                Err(_) => false,
            },
            changed = viewer.scene.changed(), if room => match changed {
                Ok(()) => viewer.show().await,
                Err(_) => false,
            },
            _ = ping.tick() => viewer.send(Message::Ping(Default::default())).await,
        };
        if !went_on {
            break;
        }
    }
    let _ = tokio::time::timeout(Duration::from_secs(1), viewer.out.close()).await;
}

impl Viewer<'_> {
    fn hear(&mut self, text: &Utf8Bytes) {
        match serde_json::from_str(text) {
            Ok(Said::Wish(Wish::Seen)) => self.ahead = self.ahead.saturating_sub(1),
            Ok(Said::Wish(Wish::Take)) => self.seat.take_over(),
            Ok(Said::Wish(Wish::Look { at, of })) => {
                let which = match at {
                    At::Site => Which::Site,
                    At::Carrier => Which::Carrier,
                };
                let Ok(browser) = one(self.app, of) else { return };
                self.view = browser.view(which);
                self.scene = self.view.scene();
                self.scene.mark_changed();
            }
            Ok(Said::Input(input)) if self.seat.drives() => self.view.put(input),
            // What it was is nobody's business: it may be a key.
            Ok(Said::Input(_)) | Err(_) => {}
        }
    }

    /// Sends what is to be seen now; whether the viewer is still there.
    async fn show(&mut self) -> bool {
        let now = self.scene.borrow_and_update().clone();
        if now.question != self.question {
            self.question.clone_from(&now.question);
            if !self.tell(json!({"kind": "question", "text": now.question})).await {
                return false;
            }
        }
        match now.picture {
            Some(picture) => {
                self.had_picture = true;
                self.ahead += 1;
                self.send(Message::Binary(picture.jpeg.clone())).await
            }
            None if std::mem::take(&mut self.had_picture) => self.tell(json!({"kind": "gone"})).await,
            None => true,
        }
    }

    async fn tell(&mut self, what: serde_json::Value) -> bool {
        self.send(Message::text(what.to_string())).await
    }

    async fn send(&mut self, message: Message) -> bool {
        matches!(tokio::time::timeout(PATIENCE, self.out.send(message)).await, Ok(Ok(())))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_drives_and_the_next_goes_on_when_it_leaves() {
        let desk = Desk::default();
        assert_eq!(desk.count(), (0, false));
        let (a, b) = (desk.sit(), desk.sit());
        assert!(a.drives() && !b.drives());
        let c = desk.sit();
        c.take_over();
        assert!(c.drives() && !a.drives());
        drop(c);
        assert!(a.drives() && desk.count() == (2, true));
        drop(a);
        assert!(b.drives());
        drop(b);
        assert_eq!(desk.count(), (0, false));
    }

    #[test]
    fn wishes_and_input_are_told_apart() {
        let said = |text: &str| serde_json::from_str::<Said>(text);
        assert!(matches!(said(r#"{"t":"seen"}"#), Ok(Said::Wish(Wish::Seen))));
        assert!(matches!(
            said(r#"{"t":"look","at":"carrier"}"#),
            Ok(Said::Wish(Wish::Look { at: At::Carrier, of: 1 }))
        ));
        assert!(matches!(said(r#"{"t":"reload"}"#), Ok(Said::Input(Input::Reload))));
        assert!(said(r#"{"t":"navigate","url":"file:///etc/passwd"}"#).is_err());
    }
}
