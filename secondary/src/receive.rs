//! One connection of the primary: frames to the intake, heartbeats to the state, acknowledgements back.

use std::sync::Arc;

use tidemark_common::catalog::CatalogError;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, LinkError};
use tidemark_common::metrics::PairMetrics;
use tidemark_common::wire::message::Message;
use tokio::sync::mpsc;
use tokio::task::block_in_place;
use tokio_util::sync::CancellationToken;

use crate::group::Secondary;
use crate::intake::IntakeError;
use crate::state::CopyState;

/// Frames between the network and the intake.
pub const QUEUE: usize = 8;

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
    queue: mpsc::Sender<bytes::Bytes>,
    stop: CancellationToken,
) -> Result<(), ReceiveError> {
    let mut data = connection.accept_data(DATA_STREAMS).await?;
    loop {
        let frame = tokio::select! {
            frame = data.recv() => frame?.ok_or(ReceiveError::Ended)?,
            () = stop.cancelled() => return Err(ReceiveError::Stopped),
            // The intake ended: it says why.
            () = queue.closed() => return Ok(()),
        };
        if queue.send(frame).await.is_err() {
            return Ok(());
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
    loop {
        changes.borrow_and_update();
        control.send(&state.acknowledgement(journal_free_bytes())).await?;
        changes.changed().await.map_err(|_| ReceiveError::Stopped)?;
    }
}
