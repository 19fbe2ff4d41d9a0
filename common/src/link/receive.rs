//! The receiving end of the data streams.
//!
//! In: bytes of several streams. Out: frames, strictly in the order in which they were sent, each once. All state is in
//! [`DataReceiver`], which does its work when it is asked for a frame: a reader that does not ask fills QUIC's windows,
//! and the sender waits. Held at most: the reorder buffer and QUIC's windows.

use std::future::poll_fn;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::RecvStream;

use super::chunk::{self, ChunkHeader, HEADER_BYTES, PREAMBLE_BYTES};
use super::connection::Connection;
use super::error::{LinkError, Violation};
use super::reorder::{Admission, Reorder};
use crate::storage::pool::Room;

/// Bytes read at once, so that one stream does not hold the connection's lock for long.
const READ_BYTES_MAX: usize = 256 << 10;

/// Where a lane is in its stream.
enum Stage {
    /// Reading a header.
    Header([u8; HEADER_BYTES], usize),
    /// Has a header, and no room for the frame yet.
    Waiting(ChunkHeader),
    /// Reading a frame.
    Frame(ChunkHeader, Room, usize),
    /// The stream has ended.
    Ended,
}

struct Lane {
    number: usize,
    stream: RecvStream,
    stage: Stage,
}

/// Receives frames.
pub struct DataReceiver {
    lanes: Vec<Lane>,
    reorder: Reorder,
    failed: Option<LinkError>,
    connection: Connection,
}

impl DataReceiver {
    /// Reads the preambles; streams may come in any order.
    pub(super) async fn start(
        mut streams: Vec<RecvStream>,
        count: u16,
        connection: Connection,
    ) -> Result<Self, LinkError> {
        let mut lanes = Vec::with_capacity(streams.len());
        for mut stream in streams.drain(..) {
            let mut bytes = [0; PREAMBLE_BYTES];
            if let Err(error) = stream.read_exact(&mut bytes).await {
                return Err(match error {
                    quinn::ReadExactError::FinishedEarly(_) => connection.accuse(Violation::Preamble { found: bytes }),
                    quinn::ReadExactError::ReadError(_) => connection.stream_error(),
                });
            }
            let number = chunk::read_preamble(bytes).filter(|(lane, lanes)| *lanes == count && lane < lanes);
            let number = number.map(|(lane, _)| usize::from(lane));
            let fresh = number.filter(|number| lanes.iter().all(|lane: &Lane| lane.number != *number));
            let number = fresh.ok_or_else(|| connection.accuse(Violation::Preamble { found: bytes }))?;
            lanes.push(Lane { number, stream, stage: Stage::header() });
        }
        let reorder = Reorder::new(lanes.len());
        Ok(Self { lanes, reorder, failed: None, connection })
    }

    /// The next frame; `None` when the peer ended the streams in good order and everything was delivered. A peer that
    /// breaks the rules has its connection closed.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, nothing is lost.
    ///
    /// # Errors
    /// When the connection is over, or was closed because of what the peer sent; the same again when asked again.
    pub async fn recv(&mut self) -> Result<Option<Bytes>, LinkError> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    fn poll_recv(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        if let Some(error) = &self.failed {
            return Poll::Ready(Err(error.clone()));
        }
        let polled = self.poll_lanes(context);
        if let Poll::Ready(Err(error)) = &polled {
            self.failed = Some(error.clone());
        }
        polled
    }

    fn poll_lanes(&mut self, context: &mut Context<'_>) -> Poll<Result<Option<Bytes>, LinkError>> {
        loop {
            let popped = self.reorder.pop().map_err(|error| self.connection.accuse(error.into()))?;
            if let Some(frame) = popped {
                return Poll::Ready(Ok(Some(frame)));
            }
            if self.reorder.is_finished() {
                return Poll::Ready(Ok(None));
            }
            let mut moved = false;
            for lane in &mut self.lanes {
                moved |= lane.advance(context, &mut self.reorder, &self.connection)?;
            }
            if !moved {
                return Poll::Pending;
            }
        }
    }
}

impl Stage {
    fn header() -> Self {
        Self::Header([0; HEADER_BYTES], 0)
    }

    fn frame(header: ChunkHeader) -> Self {
        Self::Frame(header, Room::new(header.bytes()), 0)
    }
}

impl Lane {
    /// One step; `false` when the lane has to wait, for the stream (the task is woken) or for room (which comes with the
    /// next frame delivered).
    fn advance(
        &mut self,
        context: &mut Context<'_>,
        reorder: &mut Reorder,
        connection: &Connection,
    ) -> Result<bool, LinkError> {
        match &mut self.stage {
            Stage::Ended => Ok(false),
            Stage::Header(bytes, filled) => match poll_fill(&mut self.stream, context, bytes, filled) {
                Poll::Pending => Ok(false),
                Poll::Ready(Fill::Full) => {
                    let header = ChunkHeader::read(bytes);
                    let header = header.ok_or_else(|| connection.accuse(Violation::Header { lane: self.number }))?;
                    self.announce(header, reorder, connection)
                }
                Poll::Ready(Fill::Some) => Ok(true),
                Poll::Ready(Fill::Ended) if *filled == 0 => {
                    self.stage = Stage::Ended;
                    reorder.end(self.number).map_err(|error| connection.accuse(error.into()))?;
                    Ok(true)
                }
                Poll::Ready(Fill::Ended) => Err(connection.accuse(Violation::ChunkCut { lane: self.number })),
                Poll::Ready(Fill::Failed) => Err(connection.stream_error()),
            },
            Stage::Waiting(header) => {
                let header = *header;
                let admitted = reorder.admit(header.ordinal, header.bytes()) == Admission::Read;
                if admitted {
                    self.stage = Stage::frame(header);
                }
                Ok(admitted)
            }
            Stage::Frame(header, room, filled) => match poll_fill(&mut self.stream, context, room, filled) {
                Poll::Pending => Ok(false),
                Poll::Ready(Fill::Full) => {
                    let ordinal = header.ordinal;
                    if let Stage::Frame(_, room, _) = std::mem::replace(&mut self.stage, Stage::header()) {
                        reorder.fill(ordinal, room.freeze());
                    }
                    Ok(true)
                }
                Poll::Ready(Fill::Some) => Ok(true),
                Poll::Ready(Fill::Ended) => Err(connection.accuse(Violation::ChunkCut { lane: self.number })),
                Poll::Ready(Fill::Failed) => Err(connection.stream_error()),
            },
        }
    }

    fn announce(
        &mut self,
        header: ChunkHeader,
        reorder: &mut Reorder,
        connection: &Connection,
    ) -> Result<bool, LinkError> {
        let admission = reorder.announce(self.number, header.ordinal, header.bytes());
        self.stage = match admission.map_err(|error| connection.accuse(error.into()))? {
            Admission::Read => Stage::frame(header),
            Admission::Wait => Stage::Waiting(header),
        };
        Ok(true)
    }
}

/// What filling a buffer came to.
enum Fill {
    Full,
    Some,
    Ended,
    Failed,
}

/// Reads into what is not yet filled.
fn poll_fill(stream: &mut RecvStream, context: &mut Context<'_>, buffer: &mut [u8], filled: &mut usize) -> Poll<Fill> {
    let wanted = buffer.len();
    let missing = buffer.get_mut(*filled..wanted.min(*filled + READ_BYTES_MAX)).unwrap_or_default();
    stream.poll_read(context, missing).map(|read| match read {
        Ok(0) => Fill::Ended,
        Ok(read) => {
            *filled += read;
            if *filled == wanted { Fill::Full } else { Fill::Some }
        }
        Err(_) => Fill::Failed,
    })
}

impl std::fmt::Debug for DataReceiver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataReceiver")
            .field("lanes", &self.lanes.len())
            .field("failed", &self.failed)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
