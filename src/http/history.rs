//! The bot plugin's other routes: history in both shapes, and speech by the one type that it takes.
//!
//! For every other caller they are the plain pass-through.

use std::collections::VecDeque;
use std::error::Error as _;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, header};
use axum::response::Response;
use http_body::Frame;
use http_body_util::BodyExt;

use super::body::Cut;
use super::reply::{self, Asked};
use super::{App, caller, page};
use crate::site::history::{LARGEST, in_both_shapes};

/// `conversations` and `conversation/{id}`.
pub(super) async fn handle(state: State<Arc<App>>, request: Request) -> Response {
    let is_read = [Method::GET, Method::PATCH].contains(request.method());
    let is_wanted = is_read && caller::is_plugin(request.headers());
    let mut asked = Asked::of(&request);
    asked.unread = false;
    let response = page::handle(state, request).await;
    if !is_wanted || !response.status().is_success() || !is_of(response.headers(), "application/json") {
        return response;
    }
    let (parts, mut body) = response.into_parts();
    let (mut held, mut length) = (VecDeque::new(), 0);
    while length <= LARGEST {
        match body.frame().await {
            Some(Ok(frame)) => {
                let Ok(piece) = frame.into_data() else { continue };
                length += piece.len();
                held.push_back(piece);
            }
            // The client has no head yet, so it can be told.
            Some(Err(error)) => {
                let Some(cut) = cut_behind(&error) else { return Response::from_parts(parts, Body::empty()) };
                return reply::refuse(&cut.fault, &asked);
            }
            None => {
                let whole = Bytes::from(held.make_contiguous().concat());
                let pieces = in_both_shapes(&whole).map_or_else(|| vec![whole.clone()], Vec::from);
                let resumed = Resumed { held: pieces.into(), rest: Body::empty() };
                return Response::from_parts(parts, Body::new(resumed));
            }
        }
    }
    Response::from_parts(parts, Body::new(Resumed { held, rest: body }))
}

/// `synthesize`: the plugin compares the whole header.
pub(super) async fn speech(state: State<Arc<App>>, request: Request) -> Response {
    let is_plugin = caller::is_plugin(request.headers());
    let mut response = page::handle(state, request).await;
    if is_plugin && is_of(response.headers(), "audio/mpeg") {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("audio/mpeg"));
    }
    response
}

/// Whether the content is of this type, whatever its parameters.
fn is_of(headers: &HeaderMap, kind: &str) -> bool {
    let named = headers.get(header::CONTENT_TYPE).and_then(|it| it.to_str().ok());
    named.and_then(|it| it.split(';').next()).is_some_and(|it| it.trim().eq_ignore_ascii_case(kind))
}

/// The cut that is the reason for a body's error.
pub(super) fn cut_behind(error: &axum::Error) -> Option<&Cut> {
    let mut next = error.source();
    while let Some(reason) = next {
        if let Some(cut) = reason.downcast_ref::<Cut>() {
            return Some(cut);
        }
        next = reason.source();
    }
    None
}

/// A body of which some has been read already.
struct Resumed {
    held: VecDeque<Bytes>,
    rest: Body,
}

impl http_body::Body for Resumed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        match self.held.pop_front() {
            Some(piece) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.held.is_empty() && self.rest.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_whatever_their_parameters() {
        let of = |value: &str| HeaderMap::from_iter([(header::CONTENT_TYPE, value.parse().unwrap())]);
        assert!(is_of(&of("Audio/MPEG; rate=1"), "audio/mpeg") && is_of(&of("audio/mpeg"), "audio/mpeg"));
        assert!(!is_of(&of("audio/mpegurl"), "audio/mpeg") && !is_of(&HeaderMap::new(), "audio/mpeg"));
    }
}
