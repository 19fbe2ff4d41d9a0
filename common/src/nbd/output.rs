//! The writing side of a connection in transmission: finished replies in, bytes of the socket out, many with one call.
//!
//! Owns the replies that are finished and not yet with the socket, in the order in which they were finished. Small replies
//! lie together; data go to the socket from the buffer they were read into.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::AsyncWrite;

use super::buffers::{Buffer, Spares};

/// Parts handed to one vectored write.
const SLICES: usize = 128;
/// Bytes of small replies kept together.
const HEAD_BYTES: usize = 16 << 10;

/// Small replies, and data behind the last of them.
#[derive(Debug, Default)]
struct Piece {
    head: Vec<u8>,
    body: Buffer,
    replies: usize,
}

impl Piece {
    fn len(&self) -> usize {
        self.head.len() + self.body.len()
    }
}

/// Replies on their way to the socket.
#[derive(Debug, Default)]
pub(super) struct Output {
    pieces: VecDeque<Piece>,
    /// Bytes of the first piece that the socket has.
    sent: usize,
    bytes: usize,
    replies: usize,
    spare_heads: Vec<Vec<u8>>,
    is_abandoned: bool,
}

impl Output {
    /// Appends a reply: what `encode` writes, then the data.
    pub(super) fn push(&mut self, encode: impl FnOnce(&mut Vec<u8>), body: Buffer) {
        if self.is_abandoned {
            return;
        }
        let open = self.pieces.back().is_some_and(|last| last.body.is_empty() && last.head.len() < HEAD_BYTES);
        if !open {
            let head = self.spare_heads.pop().unwrap_or_default();
            self.pieces.push_back(Piece { head, ..Piece::default() });
        }
        let Some(last) = self.pieces.back_mut() else { return };
        let before = last.len();
        encode(&mut last.head);
        last.body = body;
        last.replies += 1;
        self.bytes += last.len() - before;
        self.replies += 1;
    }

    /// Writes once to the socket. Only when there is something to write.
    pub(super) fn poll_write<S: AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
        spares: &mut Spares,
    ) -> Poll<io::Result<()>> {
        let mut slices = [IoSlice::new(&[]); SLICES];
        let count = fill(&mut slices, self.pieces.iter(), self.sent);
        let slices = slices.get(..count).unwrap_or_default();
        match ready!(Pin::new(stream).poll_write_vectored(context, slices))? {
            0 => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            length => {
                self.advance(length, spares);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn advance(&mut self, length: usize, spares: &mut Spares) {
        self.bytes -= length;
        self.sent += length;
        while let Some(first) = self.pieces.pop_front_if(|first| first.len() <= self.sent) {
            self.sent -= first.len();
            self.replies -= first.replies;
            spares.put(first.body);
            self.keep(first.head);
        }
    }

    fn keep(&mut self, mut head: Vec<u8>) {
        if self.spare_heads.len() < SLICES && head.capacity() <= 2 * HEAD_BYTES {
            head.clear();
            self.spare_heads.push(head);
        }
    }

    /// Throws away what was not sent, and all replies to come: the client may have a part of one, and would take what follows for its rest.
    pub(super) fn abandon(&mut self) {
        *self = Self { is_abandoned: true, ..Self::default() };
    }

    /// Gives memory back that is not needed now.
    pub(super) fn release(&mut self) {
        self.spare_heads = Vec::new();
    }

    pub(super) fn is_empty(&self) -> bool {
        self.pieces.is_empty()
    }

    /// Bytes not yet with the socket.
    pub(super) const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Replies not yet with the socket.
    pub(super) const fn replies(&self) -> usize {
        self.replies
    }
}

/// Points slices at what is to be sent, but for the first `skip` bytes; says how many are used.
fn fill<'a>(slices: &mut [IoSlice<'a>], pieces: impl Iterator<Item = &'a Piece>, mut skip: usize) -> usize {
    let parts = pieces.flat_map(|piece| [&*piece.head, &*piece.body]).filter_map(|part| {
        let skipped = skip.min(part.len());
        skip -= skipped;
        part.get(skipped..).filter(|rest| !rest.is_empty())
    });
    slices.iter_mut().zip(parts).map(|(slice, part)| *slice = IoSlice::new(part)).count()
}
