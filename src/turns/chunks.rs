//! The chunks of an answer that are kept: cut at the ends of events, so that the oldest can be dropped there.

use std::collections::VecDeque;

use bytes::{Bytes, BytesMut};

/// Pieces below this size are copied together: each would keep alive the message that it came in.
const SMALL: usize = 4 * 1024;
/// How much is taken for that at once.
const BLOCK: usize = 16 * 1024;
/// So much of a stream's beginning says what its events are.
const BEGINNING: usize = 1024;

#[derive(Debug)]
pub(super) struct Chunk {
    pub bytes: Bytes,
    /// Whether an event begins with it.
    pub begins: bool,
    /// Whether an event ends with it.
    pub ends: bool,
}

/// What is kept of an answer's bytes.
#[derive(Debug)]
pub(super) struct Chunks {
    queue: VecDeque<Chunk>,
    /// The number of the first chunk that is kept.
    pub first: u64,
    /// Bytes kept.
    pub kept: usize,
    /// Bytes that came.
    pub total: u64,
    block: BytesMut,
    /// The last bytes that came: an event's end may be split.
    last: [u8; 2],
    beginning: Vec<u8>,
}

impl Chunks {
    pub fn new() -> Chunks {
        Chunks {
            queue: VecDeque::new(),
            first: 0,
            kept: 0,
            total: 0,
            block: BytesMut::new(),
            last: [b'\n'; 2],
            beginning: Vec::new(),
        }
    }

    /// The chunk of this number, if it is here.
    pub fn get(&self, number: u64) -> Option<&Chunk> {
        self.queue.get(number.checked_sub(self.first)? as usize)
    }

    /// The number that the next chunk will have.
    pub fn next(&self) -> u64 {
        self.first + self.queue.len() as u64
    }

    /// Whether what came so far ends with an event.
    pub fn is_between(&self) -> bool {
        self.queue.back().map_or(self.first == 0, |it| it.ends)
    }

    /// Nothing comes any more.
    pub fn close(&mut self) {
        self.block = BytesMut::new();
    }

    /// A piece came.
    pub fn push(&mut self, piece: Bytes) {
        if self.beginning.len() < BEGINNING {
            let some = &piece[..piece.len().min(BEGINNING - self.beginning.len())];
            self.beginning.extend_from_slice(some);
        }
        // Cut at the last end of an event, so that the log can be cut there.
        match self.end_in(&piece) {
            Some(at) => {
                self.keep(piece.slice(..at), true);
                self.keep(piece.slice(at..), false);
            }
            None => self.keep(piece, false),
        }
    }

    /// After which byte of `piece` its last event ends.
    fn end_in(&self, piece: &Bytes) -> Option<usize> {
        let before = |at: usize| match at {
            0 => self.last,
            1 => [self.last[1], piece[0]],
            _ => [piece[at - 2], piece[at - 1]],
        };
        let is_blank = |&at: &usize| matches!(before(at), [_, b'\n'] | [b'\n', b'\r']);
        memchr::memrchr_iter(b'\n', piece).find(is_blank).map(|at| at + 1)
    }

    fn keep(&mut self, piece: Bytes, ends: bool) {
        if piece.is_empty() {
            return;
        }
        self.last = match *piece {
            [.., a, b] => [a, b],
            [b] => [self.last[1], b],
            [] => self.last,
        };
        self.total += piece.len() as u64;
        self.kept += piece.len();
        let begins = self.is_between();
        let bytes = if piece.len() < SMALL {
            if self.block.capacity() < piece.len() {
                self.block = BytesMut::with_capacity(BLOCK);
            }
            self.block.extend_from_slice(&piece);
            self.block.split().freeze()
        } else {
            piece
        };
        self.queue.push_back(Chunk { bytes, begins, ends });
    }

    /// Drops the oldest until no more than `most` bytes are left, and up to the beginning of an event.
    pub fn trim(&mut self, most: usize) {
        if self.kept <= most {
            return;
        }
        while self.queue.front().is_some_and(|it| self.kept > most || !it.begins) {
            // The one that is being written cannot be made up for: its end decides what comes next.
            if self.queue.len() == 1 && most > 0 {
                break;
            }
            let Some(chunk) = self.queue.pop_front() else { break };
            self.kept -= chunk.bytes.len();
            self.first += 1;
        }
    }

    /// Whether every event is a whole message. The site says at the beginning if it writes changes.
    pub fn is_of_snapshots(&self) -> bool {
        let first = self.beginning.split(|&it| it == b'\n').map(<[u8]>::trim_ascii_end);
        let first = first.into_iter().find(|it| !it.is_empty() && !it.starts_with(b":"));
        first.is_some_and(|it| {
            it.starts_with(b"data: {") && memchr::memmem::find(it, b"\"message\"").is_some()
        })
    }

    /// Whether a reader that has missed something can go on with what is kept.
    pub fn has_begun_at_first(&self) -> bool {
        self.is_of_snapshots() && self.queue.front().is_some_and(|it| it.begins)
    }
}
