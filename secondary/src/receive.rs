//! One connection of the primary: frames to the intake, heartbeats to the state, acknowledgements back.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tidemark_common::catalog::CatalogError;
use tidemark_common::journal::COMPANY_BYTES;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, LinkError};
use tidemark_common::metrics::PairMetrics;
use tidemark_common::record::{FrameHeader, FrameKind, HEADER_BYTES};
use tidemark_common::wire::message::Message;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::group::Secondary;
use crate::intake::IntakeError;
use crate::state::{Concern, CopyState};

/// Batches between the network and the intake; each is one frame at most beyond [`COMPANY_BYTES`].
pub const QUEUE: usize = 8;
/// What the primary is told of a problem here, bytes at most.
const TROUBLE_BYTES_MAX: usize = 1 << 10;
/// A frame waits this long at most for others, because making it durable costs more than its bytes do.
const COMPANY: Duration = Duration::from_millis(2);

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The link.
    #[error(transparent)]
    Link(#[from] LinkError),
    /// What came over it.
    #[error(transparent)]
    Intake(#[from] IntakeError),
    /// What it asked for could not be recorded.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The primary ended it.
    #[error("the primary ended the conversation")]
    Ended,
    /// The primary sent what does not belong here.
    #[error("the primary sent a message that does not belong here")]
    Unexpected,
    /// The updater cannot read the journal: the primary hears it when it comes again.
    #[error("{0}")]
    Damaged(String),
    /// A newer connection, or the group stops.
    #[error("stopped")]
    Stopped,
}

/// Moves frames from the link to the intake until either ends.
///
/// # Errors
/// [`ReceiveError`].
pub async fn frames(
    connection: &Connection,
    queue: mpsc::Sender<Vec<Bytes>>,
    stop: CancellationToken,
) -> Result<(), ReceiveError> {
    let mut data = connection.accept_data(DATA_STREAMS).await?;
    let mut batch = Batch::default();
    loop {
        let frame = tokio::select! {
            frame = data.recv() => Some(frame?.ok_or(ReceiveError::Ended)?),
            () = batch.is_due() => None,
            () = stop.cancelled() => return Err(ReceiveError::Stopped),
            // The intake ended: it says why.
            () = queue.closed() => return Ok(()),
        };
        if batch.add(frame) && queue.send(batch.take()).await.is_err() {
            return Ok(());
        }
    }
}

/// Frames that become durable together.
#[derive(Debug, Default)]
struct Batch {
    frames: Vec<Bytes>,
    bytes: u64,
    due: Option<Instant>,
}

impl Batch {
    /// Adds a frame, none when it is due; whether it goes to the intake now. A marker is waited for by permission, so it
    /// never waits itself, and neither does any other control record.
    fn add(&mut self, frame: Option<Bytes>) -> bool {
        let Some(frame) = frame else { return true };
        self.due.get_or_insert_with(|| Instant::now() + COMPANY);
        self.bytes += frame.len() as u64;
        let header = FrameHeader::decode(frame.get(..HEADER_BYTES).unwrap_or_default());
        self.frames.push(frame);
        // One that is not sound is the intake's to refuse.
        self.bytes >= COMPANY_BYTES || header.is_ok_and(|header| header.kind == FrameKind::Control)
    }

    fn take(&mut self) -> Vec<Bytes> {
        std::mem::take(self).frames
    }

    /// Never, while there is nothing in it.
    async fn is_due(&self) {
        match self.due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    }
}

/// Listens to heartbeats, and to what is to be kept.
///
/// # Errors
/// [`ReceiveError`].
pub async fn listen(
    connection: &Connection,
    mut control: ControlReceiver,
    secondary: &Secondary,
    line: &PairMetrics,
) -> Result<(), ReceiveError> {
    let mut packets = line.packets();
    loop {
        match control.recv().await?.ok_or(ReceiveError::Ended)? {
            Message::Heartbeat { number, as_of_ms, captured_seq, .. } => {
                secondary.state().heartbeat(number, as_of_ms, captured_seq, secondary.clock().monotonic());
                let stats = connection.stats();
                packets.now(stats.sent_packets, stats.lost_packets);
            }
            Message::History(asked) => block_in_place(|| secondary.ask_history(asked))?,
            Message::OnFull { throttles } => block_in_place(|| secondary.hear_on_full(throttles))?,
            Message::Goodbye { message } => {
                tracing::info!(%message, "the primary says goodbye");
                return Err(ReceiveError::Ended);
            }
            _ => return Err(ReceiveError::Unexpected),
        }
    }
}

/// Acknowledges whatever changes, cumulatively.
///
/// # Errors
/// [`ReceiveError`].
pub async fn acknowledge(
    control: &ControlSender,
    state: &Arc<CopyState>,
    journal_free_bytes: impl Fn() -> u64,
) -> Result<(), ReceiveError> {
    let mut changes = state.watch();
    let mut told = String::new();
    loop {
        changes.borrow_and_update();
        let mut trouble = state.problem_of(Concern::Updater).unwrap_or_default();
        if trouble != told {
            told.clone_from(&trouble);
            trouble.truncate(trouble.floor_char_boundary(TROUBLE_BYTES_MAX));
            control.send(&Message::Trouble(trouble)).await?;
        }
        control.send(&state.acknowledgement(journal_free_bytes())).await?;
        changes.changed().await.map_err(|_| ReceiveError::Stopped)?;
    }
}
