//! The control stream: messages in both directions.

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream};
use tokio::io::AsyncReadExt;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::connection::Connection;
use super::error::{LinkError, Violation};
use super::lane::{self, Parcel};
use crate::limits::CONTROL_MESSAGE_BYTES_MAX;
use crate::wire::codec;
use crate::wire::message::Message;

/// Messages handed over and not yet taken by QUIC.
const QUEUE_MESSAGES: usize = 8;

/// Sends messages. Dropping it in the middle tells the peer that the stream was abandoned.
#[derive(Debug)]
pub struct ControlSender {
    queue: mpsc::Sender<Parcel>,
    task: JoinHandle<Result<(), LinkError>>,
    connection: Connection,
}

impl ControlSender {
    pub(super) fn start(stream: SendStream, connection: Connection) -> Self {
        let (queue, task) = lane::start(stream, QUEUE_MESSAGES, None);
        Self { queue, task, connection }
    }

    /// Hands a message over; waits while the peer does not take earlier ones.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the message is not sent. Resolved, it is sent without further help.
    ///
    /// # Errors
    /// When the connection is over, or the message is longer than a peer accepts.
    pub async fn send(&self, message: &Message) -> Result<(), LinkError> {
        let pieces = [codec::encode(message)?, Bytes::new()];
        let parcel = Parcel::Write { pieces, permit: None };
        self.queue.send(parcel).await.map_err(|_| self.connection.stream_error())
    }

    /// Ends the stream in good order; resolves when the peer has acknowledged every message.
    ///
    /// # Errors
    /// When it did not.
    pub async fn finish(self) -> Result<(), LinkError> {
        // A queue that is closed already belongs to a task that failed, and says why.
        let _ = self.queue.send(Parcel::End).await;
        lane::outcome(self.task).await
    }
}

/// Receives messages.
#[derive(Debug)]
pub struct ControlReceiver {
    stream: RecvStream,
    buffer: BytesMut,
    connection: Connection,
}

impl ControlReceiver {
    pub(super) fn new(stream: RecvStream, connection: Connection) -> Self {
        Self { stream, buffer: BytesMut::new(), connection }
    }

    /// The next message; `None` when the peer ended the stream in good order. A peer that sends anything else than
    /// messages has its connection closed.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, nothing is lost.
    ///
    /// # Errors
    /// When the connection is over, or was closed because of what the peer sent.
    pub async fn recv(&mut self) -> Result<Option<Message>, LinkError> {
        loop {
            let decoded = codec::decode(&mut self.buffer);
            if let Some(message) = decoded.map_err(|error| self.connection.accuse(error.into()))? {
                return Ok(Some(message));
            }
            // The decoder wants more, so what is here is less than one message.
            let room = CONTROL_MESSAGE_BYTES_MAX.saturating_sub(self.buffer.len());
            let mut limited = bytes::BufMut::limit(&mut self.buffer, room);
            match self.stream.read_buf(&mut limited).await {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => return Err(self.connection.accuse(Violation::ControlCut)),
                Ok(_) => {}
                Err(_) => return Err(self.connection.stream_error()),
            }
        }
    }
}
