//! The sending end of the data streams.
//!
//! In: frames. Out: chunks striped over as many lanes as the line needs, each frame whole on one of them, numbered densely from 0. The
//! payload is never copied: QUIC keeps a reference until it is acknowledged. Held at most: [`SEND_QUEUE_BYTES_MAX`] here, and the send
//! window in QUIC.

use std::future::poll_fn;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use quinn::SendStream;
use tokio::sync::Semaphore;
use tokio_util::sync::PollSender;

use super::chunk::{self, ChunkHeader};
use super::connection::Connection;
use super::error::LinkError;
use super::lane::{self, LaneTask, Pace, Parcel};
use crate::limits::{FRAME_STORED_BYTES_MAX, SEND_QUEUE_BYTES_MAX};

/// Frames waiting in a lane, beside the one it writes.
const QUEUE_FRAMES: usize = 1;

struct Lane {
    queue: PollSender<Parcel>,
    task: LaneTask,
}

/// Sends frames. Dropped before [`finish`](Self::finish) has resolved, it gives up what the peer has not acknowledged
/// and tells it that the streams were abandoned.
pub struct DataSender {
    lanes: Vec<Lane>,
    /// The lane to try first.
    turn: usize,
    next_ordinal: u64,
    budget: Arc<Semaphore>,
    connection: Connection,
}

impl DataSender {
    pub(super) async fn start(
        streams: Vec<(u16, SendStream)>,
        count: u16,
        connection: Connection,
        rate_limit: Option<NonZeroU64>,
    ) -> Result<Self, LinkError> {
        let pace = rate_limit.map(Pace::new);
        let mut lanes = Vec::with_capacity(streams.len());
        for (number, mut stream) in streams {
            let preamble = chunk::preamble(number, count);
            stream.write_chunk(preamble).await.map_err(|_| connection.stream_error())?;
            let (queue, task) = lane::start(stream, QUEUE_FRAMES, pace.clone());
            lanes.push(Lane { queue: PollSender::new(queue), task });
        }
        let budget = Arc::new(Semaphore::new(SEND_QUEUE_BYTES_MAX));
        Ok(Self { lanes, turn: 0, next_ordinal: 0, budget, connection })
    }

    /// Hands a frame over to a lane that can take it; waits while none can. Frames arrive in the order of these calls.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the frame is not sent and takes no place in the order. Resolved, it is sent without
    /// further help, as long as the sender lives.
    ///
    /// # Errors
    /// When the connection is over, or the frame is empty or longer than [`FRAME_STORED_BYTES_MAX`].
    pub async fn send(&mut self, frame: Bytes) -> Result<(), LinkError> {
        let bytes = frame.len();
        let length = u32::try_from(bytes).ok().filter(|_| (1..=FRAME_STORED_BYTES_MAX).contains(&bytes));
        let length = length.ok_or(LinkError::FrameSize { bytes })?;
        // The semaphore is never closed; an error would mean the same as a lost connection.
        let permit = Arc::clone(&self.budget).acquire_many_owned(length).await;
        let permit = Some(permit.map_err(|_| self.connection.stream_error())?);
        let taker = poll_fn(|context| self.poll_lane(context)).await?;

        // Nothing is awaited from here on: number and frame leave together.
        let header = ChunkHeader { ordinal: self.next_ordinal, length };
        let parcel = Parcel::Write { pieces: [header.write(), frame], permit };
        let sent = self.lanes.get_mut(taker).is_some_and(|lane| lane.queue.send_item(parcel).is_ok());
        if !sent {
            return Err(self.connection.stream_error());
        }
        self.next_ordinal = self.next_ordinal.saturating_add(1);
        self.turn = (taker + 1) % self.lanes.len();
        Ok(())
    }

    /// Ends the streams in good order; resolves when the peer has acknowledged every frame. Acknowledged means that its QUIC has
    /// them, not that anything was done with them.
    ///
    /// # Errors
    /// When it did not.
    pub async fn finish(mut self) -> Result<(), LinkError> {
        for lane in &mut self.lanes {
            // A queue that is closed already belongs to a task that failed, and says why.
            if poll_fn(|context| lane.queue.poll_reserve(context)).await.is_ok() {
                let _ = lane.queue.send_item(Parcel::End);
            }
        }
        for lane in self.lanes {
            lane::outcome(lane.task).await?;
        }
        Ok(())
    }

    /// A lane with room, of those that the line needs now, tried in turn. A place reserved stays reserved if the caller goes away.
    fn poll_lane(&mut self, context: &mut Context<'_>) -> Poll<Result<usize, LinkError>> {
        let count = self.connection.lanes_for(self.lanes.len());
        for step in 0..count {
            let number = (self.turn + step) % count;
            let Some(lane) = self.lanes.get_mut(number) else { continue };
            match lane.queue.poll_reserve(context) {
                Poll::Ready(Ok(())) => return Poll::Ready(Ok(number)),
                Poll::Ready(Err(_)) => return Poll::Ready(Err(self.connection.stream_error())),
                Poll::Pending => {}
            }
        }
        Poll::Pending
    }
}

impl std::fmt::Debug for DataSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DataSender")
            .field("lanes", &self.lanes.len())
            .field("next_ordinal", &self.next_ordinal)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
