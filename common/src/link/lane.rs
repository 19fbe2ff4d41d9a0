//! The task that writes one stream.
//!
//! In: parcels through a bounded queue. Out: bytes in QUIC, in the order of the queue. Callers hand a parcel over in full or not
//! at all, so that their futures can be dropped at any time; a parcel handed over is written without further help.
//! A lane whose owner goes away before [`Parcel::End`] is acknowledged stops at once and resets its stream, so that the
//! receiver never takes an interrupted sender for a finished one, and a peer that does not read keeps nothing alive here.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{SendStream, WriteError};
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};
use tokio::time::{Instant, sleep_until};
use tokio_util::task::AbortOnDropHandle;

use super::error::{LinkError, code};
use super::pace::{PIECE_BYTES, TokenBucket};
use super::precedence::in_pieces;

/// What a lane is given.
#[derive(Debug)]
pub(super) enum Parcel {
    /// Write these one after the other. The permit is given back when QUIC has taken all of it.
    Write { pieces: [Bytes; 2], permit: Option<OwnedSemaphorePermit> },
    /// Finish the stream.
    End,
}

/// Keeps several lanes together at one rate. Lanes take turns for whole frames: at a limited rate, frames side by side
/// would all arrive late.
#[derive(Debug)]
pub(super) struct Pace {
    start: Instant,
    bucket: Mutex<TokenBucket>,
}

impl Pace {
    pub(super) fn new(rate: NonZeroU64) -> Arc<Self> {
        Arc::new(Self { start: Instant::now(), bucket: Mutex::new(TokenBucket::new(rate)) })
    }
}

/// A lane's task: stops when dropped.
pub(super) type LaneTask = AbortOnDropHandle<Result<(), LinkError>>;

/// Resets its stream when dropped before the peer has acknowledged its end.
struct Resetting(SendStream);

impl Drop for Resetting {
    fn drop(&mut self) {
        // A stream that is complete or lost needs no reset.
        let _ = self.0.reset(code::ABANDONED);
    }
}

/// Starts a lane. The task ends when the stream does: `Ok` when the peer has acknowledged everything up to
/// [`Parcel::End`].
pub(super) fn start(
    stream: SendStream,
    queue_parcels: usize,
    pace: Option<Arc<Pace>>,
) -> (mpsc::Sender<Parcel>, LaneTask) {
    let (queue, parcels) = mpsc::channel(queue_parcels);
    (queue, AbortOnDropHandle::new(tokio::spawn(run(Resetting(stream), parcels, pace))))
}

async fn run(
    mut stream: Resetting,
    mut parcels: mpsc::Receiver<Parcel>,
    pace: Option<Arc<Pace>>,
) -> Result<(), LinkError> {
    while let Some(parcel) = parcels.recv().await {
        match parcel {
            Parcel::Write { pieces, permit } => {
                match &pace {
                    Some(pace) => write_paced(&mut stream.0, pieces, pace).await?,
                    None => write(&mut stream.0, pieces).await?,
                }
                drop(permit);
            }
            Parcel::End => return end(&mut stream.0).await,
        }
    }
    Err(LinkError::LocallyClosed)
}

async fn write(stream: &mut SendStream, pieces: [Bytes; 2]) -> Result<(), LinkError> {
    let mut pieces: Vec<Bytes> = pieces.into_iter().flat_map(in_pieces).collect();
    stream.write_all_chunks(&mut pieces).await.map_err(write_error)
}

async fn write_paced(stream: &mut SendStream, pieces: [Bytes; 2], pace: &Pace) -> Result<(), LinkError> {
    let mut bucket = pace.bucket.lock().await;
    for mut rest in pieces {
        while !rest.is_empty() {
            let piece = rest.split_to(rest.len().min(PIECE_BYTES));
            let due = bucket.take(pace.start.elapsed(), piece.len());
            sleep_until(pace.start + due).await;
            stream.write_chunk(piece).await.map_err(write_error)?;
        }
    }
    Ok(())
}

async fn end(stream: &mut SendStream) -> Result<(), LinkError> {
    stream.finish().map_err(|_| LinkError::LocallyClosed)?;
    match stream.stopped().await {
        Ok(None) => Ok(()),
        Ok(Some(_)) => Err(LinkError::Abandoned),
        Err(quinn::StoppedError::ConnectionLost(error)) => Err(error.into()),
        Err(quinn::StoppedError::ZeroRttRejected) => Err(LinkError::Abandoned),
    }
}

fn write_error(error: WriteError) -> LinkError {
    match error {
        WriteError::ConnectionLost(error) => error.into(),
        WriteError::ClosedStream => LinkError::LocallyClosed,
        WriteError::Stopped(_) | WriteError::ZeroRttRejected => LinkError::Abandoned,
    }
}

/// The outcome of a lane's task.
pub(super) async fn outcome(task: LaneTask) -> Result<(), LinkError> {
    // A task that was cancelled with its runtime, or panicked.
    task.await.unwrap_or_else(|error| Err(LinkError::Transport { reason: error.to_string() }))
}
