//! An answer's parts as the store keeps them: its head, its bytes, and how it ended.

use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::error::{Fault, FaultKind, Sent, SiteError};
use crate::store::answers::Piece;

/// The head comes first.
pub(super) const HEAD: u8 = 1;
/// Some bytes of the answer.
pub(super) const DATA: u8 = 2;
/// How it ended; nothing comes after it.
pub(super) const END: u8 = 3;

/// The head of an answer, as something that can be given to another instance.
pub trait Head: Clone + Send + Sync + 'static {
    /// Written down.
    fn to_bytes(&self) -> Bytes;
    /// Read again; `None` if that was not written by [`Head::to_bytes`].
    fn from_bytes(bytes: &[u8]) -> Option<Self>;
}

impl Head for () {
    fn to_bytes(&self) -> Bytes {
        Bytes::new()
    }

    fn from_bytes(_: &[u8]) -> Option<()> {
        Some(())
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Failure<'a> {
    code: &'a str,
    sent: bool,
    text: String,
    wait: Option<Duration>,
    site: Option<(u16, Option<String>)>,
}

/// How an answer ended. The private cause stays here.
pub(super) fn end(end: &Result<(), Fault>) -> Piece {
    let bytes = match end {
        Ok(()) => Vec::new(),
        Err(fault) => {
            let failure = Failure {
                code: fault.kind().code(),
                sent: fault.sent() == Sent::Maybe,
                text: fault.public().to_owned(),
                wait: fault.wait(),
                site: fault.site().map(|it| (it.status, it.sentence.clone())),
            };
            serde_json::to_vec(&failure).unwrap_or_else(|_| b"?".to_vec())
        }
    };
    Piece { kind: END, begins: true, bytes: bytes.into() }
}

/// Reads what [`end`] has written.
pub(super) fn read_end(bytes: &[u8]) -> Result<(), Fault> {
    if bytes.is_empty() {
        return Ok(());
    }
    let Ok(failure) = serde_json::from_slice::<Failure<'_>>(bytes) else {
        let text = "Another instance had this answer, and says of its end what this one does not understand.";
        return Err(Fault::new(FaultKind::Internal, text).maybe_sent());
    };
    if let Some((status, sentence)) = failure.site {
        return Err(Fault::of_site(SiteError { status, sentence }));
    }
    let kind = FaultKind::ALL.into_iter().find(|it| it.code() == failure.code);
    let mut fault = Fault::new(kind.unwrap_or(FaultKind::Internal), failure.text);
    if failure.sent {
        fault = fault.maybe_sent();
    }
    Err(match failure.wait {
        Some(wait) => fault.retry_after(wait),
        None => fault,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_read_as_it_was_written_but_for_its_cause() {
        assert!(read_end(&end(&Ok(())).bytes).is_ok());
        for kind in FaultKind::ALL {
            let fault = Fault::new(kind, "A \"text\".").because("secret").retry_after(Duration::from_secs(7));
            for fault in [fault.clone(), fault.maybe_sent()] {
                let read = read_end(&end(&Err(fault.clone())).bytes).unwrap_err();
                assert_eq!((read.kind(), read.sent(), read.wait()), (kind, fault.sent(), fault.wait()));
                assert_eq!((read.public(), read.cause()), ("A \"text\".", None));
            }
        }
        let site = Fault::of_site(SiteError { status: 429, sentence: Some("Slow".into()) });
        let read = read_end(&end(&Err(site.clone())).bytes).unwrap_err();
        assert_eq!((read.site(), read.public()), (site.site(), site.public()));
        assert_eq!(read_end(b"nonsense").unwrap_err().sent(), Sent::Maybe);
    }
}
