//! A relayed answer's body: as it comes, counted when it ends, and cut where it is cut.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::{Body, Bytes};
use http_body::Frame;
use tokio::sync::OwnedSemaphorePermit;

use super::fault_of;
use crate::error::{Fault, FaultKind};
use crate::http::body::Cut;
use crate::telemetry::metrics::{Ending, Outcome};

/// An answer's body on its way; dropping it drops the request.
pub(super) struct RelayBody {
    body: Body,
    ending: Option<Ending>,
    _place: OwnedSemaphorePermit,
}

impl RelayBody {
    /// `ending` counts how it ends; `place` is kept until then.
    pub fn new(body: Body, ending: Ending, place: OwnedSemaphorePermit) -> RelayBody {
        RelayBody { body, ending: Some(ending), _place: place }
    }

    fn end(&mut self, outcome: Outcome) {
        if let Some(ending) = self.ending.take() {
            ending.end(outcome);
        }
    }
}

impl http_body::Body for RelayBody {
    type Data = Bytes;
    type Error = Cut;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Cut>>> {
        let next = ready!(Pin::new(&mut self.body).poll_frame(cx));
        Poll::Ready(match next {
            Some(Ok(frame)) => {
                if self.body.is_end_stream() {
                    self.end(Outcome::Complete);
                }
                Some(Ok(frame))
            }
            Some(Err(error)) => {
                let source =
                    std::error::Error::source(&error).and_then(|it| it.downcast_ref::<reqwest::Error>());
                let fault = source.map_or_else(
                    || Fault::new(FaultKind::ApiUnreachable, "The official API broke off.").maybe_sent(),
                    fault_of,
                );
                self.end(Outcome::Fault(fault.kind()));
                Some(Err(Cut { code: fault.kind().code(), fault }))
            }
            None => {
                self.end(Outcome::Complete);
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> http_body::SizeHint {
        self.body.size_hint()
    }
}
