//! The reading side of a connection in transmission: bytes of the socket in, whole requests out.
//!
//! One read takes in many small requests; a large payload is read straight into the buffer it stays in. Owns the bytes that
//! have come and are not yet requests. A request whose data are refused is consumed without being stored. Never more than
//! one request is partly here, and nothing is allocated by what a client merely claims beyond the largest request.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, ReadBuf};

use super::Bounds;
use super::buffers::Buffer;
use super::check::check;
use super::protocol::command;
use super::request::{BadMagic, Refusal, Request, RequestHeader, Style, Terms, parse_request};
use crate::limits::{NBD_DIRECT_PAYLOAD_BYTES, NBD_INPUT_BYTES, NBD_REQUEST_BYTES_MAX};

/// What has come from the client.
#[derive(Debug)]
pub(super) enum Arrived {
    /// A request which an export may do, with its payload or with room for what is read.
    Request { header: RequestHeader, request: Request, buffer: Buffer },
    /// A request to answer with an error; its payload, if it had one, is consumed.
    Refused { header: RequestHeader, refusal: Refusal },
    /// The client says goodbye.
    Disconnect,
    /// Nothing whole: read more.
    Incomplete,
    /// The next request would go over a limit: come back when others are done.
    Held,
}

/// Why a connection cannot go on: what follows on the wire cannot be understood, or must not be read.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum InputError {
    /// The two sides have lost each other.
    #[error("the client and this server have lost each other: {0}")]
    BadMagic(#[from] BadMagic),
    /// Longer than a client that agreed to extended headers may send.
    #[error("a payload of {bytes} bytes, where {NBD_REQUEST_BYTES_MAX} was advertised as the most")]
    PayloadTooLarge {
        /// Bytes claimed.
        bytes: u64,
    },
}

/// A request that is partly here.
#[derive(Debug)]
enum Partial {
    /// Its payload is being read into place.
    Payload { header: RequestHeader, request: Request, payload: Buffer, filled: usize },
    /// Its payload is being thrown away.
    Skip { header: RequestHeader, refusal: Refusal, left: u64 },
}

/// Bytes that have come and are not yet requests.
#[derive(Debug)]
pub(super) struct Input {
    terms: Terms,
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    partial: Option<Partial>,
}

impl Input {
    pub(super) fn new(terms: Terms) -> Self {
        Self { terms, buffer: Box::default(), start: 0, end: 0, partial: None }
    }

    /// Takes the next request out of what has come. `admit` gives the buffer of a request with this many bytes of data, if it may
    /// be begun now.
    pub(super) fn next(
        &mut self,
        bounds: impl FnOnce() -> Bounds,
        admit: impl FnOnce(usize) -> Option<Buffer>,
    ) -> Result<Arrived, InputError> {
        if self.partial.is_some() {
            return Ok(self.resume());
        }
        let style = self.terms.style;
        let Some(header) = parse_request(self.here(), style)? else { return Ok(Arrived::Incomplete) };
        if header.command == command::DISC {
            return Ok(Arrived::Disconnect);
        }
        match check(&header, self.terms, bounds()) {
            Ok(request) => Ok(self.accept(header, request, admit)),
            Err(refusal) => {
                let left = header.payload_bytes(style);
                if style == Style::Extended && left > NBD_REQUEST_BYTES_MAX.into() {
                    return Err(InputError::PayloadTooLarge { bytes: left });
                }
                // Its reply waits in memory as any other, for a client that may never take it.
                if admit(0).is_none() {
                    return Ok(Arrived::Held);
                }
                self.start += style.request_bytes();
                self.partial = Some(Partial::Skip { header, refusal, left });
                Ok(self.resume())
            }
        }
    }

    fn accept(
        &mut self,
        header: RequestHeader,
        request: Request,
        admit: impl FnOnce(usize) -> Option<Buffer>,
    ) -> Arrived {
        let (data, payload) = match request {
            Request::Read { bytes, .. } => (bytes, 0),
            Request::Write { bytes, .. } => (bytes, bytes),
            _ => (0, 0),
        };
        let head = self.terms.style.request_bytes();
        if payload < NBD_DIRECT_PAYLOAD_BYTES && self.here().len() < head + payload {
            return Arrived::Incomplete;
        }
        let Some(buffer) = admit(data) else { return Arrived::Held };
        self.start += head;
        if payload == 0 {
            return Arrived::Request { header, request, buffer };
        }
        self.partial = Some(Partial::Payload { header, request, payload: buffer, filled: 0 });
        self.resume()
    }

    /// Moves what is here into the request that is partly here.
    fn resume(&mut self) -> Arrived {
        let here = self.buffer.get(self.start..self.end).unwrap_or_default();
        let whole = match &mut self.partial {
            Some(Partial::Payload { payload, filled, .. }) => {
                let missing = payload.get_mut(*filled..).unwrap_or_default();
                let length = missing.len().min(here.len());
                if let (Some(to), Some(from)) = (missing.get_mut(..length), here.get(..length)) {
                    to.copy_from_slice(from);
                }
                *filled += length;
                self.start += length;
                *filled == payload.len()
            }
            Some(Partial::Skip { left, .. }) => {
                let length = usize::try_from(*left).unwrap_or(usize::MAX).min(here.len());
                *left -= length as u64;
                self.start += length;
                *left == 0
            }
            None => false,
        };
        match self.partial.take_if(|_| whole) {
            Some(Partial::Payload { header, request, payload: buffer, .. }) => {
                Arrived::Request { header, request, buffer }
            }
            Some(Partial::Skip { header, refusal, .. }) => Arrived::Refused { header, refusal },
            None => Arrived::Incomplete,
        }
    }

    /// Reads once from the socket; 0 is its end. Only after [`Arrived::Incomplete`], when there is room for sure.
    pub(super) fn poll_read<S: AsyncRead + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        if let Some(Partial::Payload { payload, filled, .. }) = &mut self.partial {
            let length = ready!(poll_into(stream, context, payload.get_mut(*filled..).unwrap_or_default()))?;
            *filled += length;
            return Poll::Ready(Ok(length));
        }
        self.make_room();
        let length = ready!(poll_into(stream, context, self.buffer.get_mut(self.end..).unwrap_or_default()))?;
        self.end += length;
        Poll::Ready(Ok(length))
    }

    fn make_room(&mut self) {
        if self.buffer.is_empty() {
            self.buffer = vec![0; NBD_INPUT_BYTES].into_boxed_slice();
        }
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < 2 * NBD_DIRECT_PAYLOAD_BYTES {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
    }

    /// Whether a request is partly here.
    pub(super) const fn is_mid_request(&self) -> bool {
        self.partial.is_some() || self.start != self.end
    }

    /// Gives memory back while nothing is here.
    pub(super) fn release(&mut self) {
        if !self.is_mid_request() {
            (self.buffer, self.start, self.end) = (Box::default(), 0, 0);
        }
    }

    fn here(&self) -> &[u8] {
        self.buffer.get(self.start..self.end).unwrap_or_default()
    }
}

fn poll_into<S: AsyncRead + Unpin>(
    stream: &mut S,
    context: &mut Context<'_>,
    into: &mut [u8],
) -> Poll<io::Result<usize>> {
    debug_assert!(!into.is_empty(), "a read of nothing looks like the end");
    let mut into = ReadBuf::new(into);
    ready!(Pin::new(stream).poll_read(context, &mut into))?;
    Poll::Ready(Ok(into.filled().len()))
}
