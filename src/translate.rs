//! The seam between the site's stream and clients that read another format than the site's.
//!
//! A translation is pure: bytes in, bytes out. It knows neither time nor connections; the answer's body
//! (`http::body`) drives it, keeps the stream alive with pings between its events, and cuts it off.

use bytes::{Bytes, BytesMut};

use crate::error::Fault;

/// Whether more of the site's stream is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Go on.
    On,
    /// The client has all that it asked for: the answer ends cleanly here, and the fetch is aborted.
    Done,
}

/// How an answer ends that failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ending {
    /// As if it were whole: what was written says what happened, and the client can know no other way.
    Clean,
    /// The connection or the stream is cut, after what was written.
    Cut,
}

/// Turns the site's event stream into what one client reads.
///
/// Every method writes whole events only, so that a ping may follow whatever was written.
pub trait Translate: Send {
    /// A piece of the site's stream came: any bytes, split anywhere.
    ///
    /// # Errors
    /// When the stream cannot be what the site sends: [`Translate::fail`] is called with that fault next.
    fn pass(&mut self, piece: &Bytes, out: &mut BytesMut) -> Result<Flow, Fault>;

    /// The site's stream ended without a fault.
    ///
    /// # Errors
    /// When it was no whole answer: [`Translate::fail`] is called with that fault next.
    fn end(&mut self, out: &mut BytesMut) -> Result<(), Fault>;

    /// The answer failed; nothing is called after this.
    fn fail(&mut self, fault: &Fault, out: &mut BytesMut) -> Ending;
}
