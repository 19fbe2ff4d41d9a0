//! The task that writes one stream.
//!
//! In: parcels through a bounded queue. Out: bytes in QUIC, in the order of the queue. Callers hand a parcel over in full or not
//! at all, so that their futures can be dropped at any time; a parcel handed over is written without further help.
//! A lane whose owner goes away without [`Parcel::End`] resets its stream, so that the receiver never takes an
//! interrupted sender for a finished one.

use std::num::NonZeroU64;
use std::sync::Arc;

use bytes::Bytes;
use quinn::{SendStream, WriteError};
use tokio::sync::{Mutex, OwnedSemaphorePermit, mpsc};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

use super::error::{LinkError, code};
use super::pace::{PIECE_BYTES, TokenBucket};

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

/// Starts a lane. The task ends when the stream does: `Ok` when the peer has acknowledged everything up to
/// [`Parcel::End`].
pub(super) fn start(
    stream: SendStream,
    queue_parcels: usize,
    pace: Option<Arc<Pace>>,
) -> (mpsc::Sender<Parcel>, JoinHandle<Result<(), LinkError>>) {
    let (queue, parcels) = mpsc::channel(queue_parcels);
    (queue, tokio::spawn(run(stream, parcels, pace)))
}

async fn run(
    mut stream: SendStream,
    mut parcels: mpsc::Receiver<Parcel>,
    pace: Option<Arc<Pace>>,
) -> Result<(), LinkError> {
    while let Some(parcel) = parcels.recv().await {
        match parcel {
            Parcel::Write { mut pieces, permit } => {
                match &pace {
                    Some(pace) => write_paced(&mut stream, pieces, pace).await?,
                    None => stream.write_all_chunks(&mut pieces).await.map_err(write_error)?,
                }
                drop(permit);
            }
            Parcel::End => return end(stream).await,
        }
    }
    // A stream that is gone already needs no reset.
    let _ = stream.reset(code::ABANDONED);
    Err(LinkError::LocallyClosed)
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

async fn end(mut stream: SendStream) -> Result<(), LinkError> {
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
pub(super) async fn outcome(task: JoinHandle<Result<(), LinkError>>) -> Result<(), LinkError> {
    // A task that was cancelled with its runtime, or panicked.
    task.await.unwrap_or_else(|error| Err(LinkError::Transport { reason: error.to_string() }))
}
