//! A connection to one trusted appliance.

use std::net::SocketAddr;
use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::OwnedSemaphorePermit;

use super::config::LinkConfig;
use super::congestion::filled_and_starved;
use super::control::{ControlReceiver, ControlSender};
use super::error::{LinkError, Parting, Violation, code};
use super::precedence::{CONTROL_PRIORITY, lanes_for};
use super::receive::DataReceiver;
use super::send::DataSender;
use crate::ids::ApplianceId;
use crate::limits::DATA_STREAMS;

/// The close of a connection follows the end of its streams at once, if it comes at all.
const LAST_WORD_TIMEOUT: Duration = Duration::from_secs(2);

/// A connection whose peer has proved who it is. Clones are the same connection; it is closed by [`close`](Self::close)
/// or when the last clone and stream are dropped.
///
/// The primary opens one control stream and, after the secondary's welcome, the data streams; the secondary accepts
/// them.
#[derive(Debug, Clone)]
pub struct Connection {
    quinn: quinn::Connection,
    peer: ApplianceId,
    config: Arc<LinkConfig>,
    /// Among those that its peer may have, when it was accepted.
    _place: Option<Arc<OwnedSemaphorePermit>>,
}

/// What a connection has done so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Stats {
    /// Round trip time, as estimated now.
    pub round_trip: Duration,
    /// UDP bytes sent.
    pub sent_bytes: u64,
    /// UDP bytes received.
    pub received_bytes: u64,
    /// Packets lost on the way to the peer, and sent again.
    pub lost_packets: u64,
    /// Packets sent.
    pub sent_packets: u64,
    /// Bytes that may be under way now.
    pub congestion_window_bytes: u64,
    /// How often frames waited here because more than the windows of the peer's streams was handed over.
    pub blocked: u64,
    /// Bytes a second that frames are held to.
    pub rate_limit: Option<NonZeroU64>,
}

impl Connection {
    pub(super) fn new(
        quinn: quinn::Connection,
        peer: ApplianceId,
        config: Arc<LinkConfig>,
        place: Option<OwnedSemaphorePermit>,
    ) -> Self {
        Self { quinn, peer, config, _place: place.map(Arc::new) }
    }

    /// Who is at the other end.
    #[must_use]
    pub fn peer(&self) -> ApplianceId {
        self.peer
    }

    /// Whether the other is this same connection.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        self.quinn.stable_id() == other.quinn.stable_id()
    }

    /// Where it is now.
    #[must_use]
    pub fn remote(&self) -> SocketAddr {
        self.quinn.remote_address()
    }

    /// Resolves when the connection is over, with the reason.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn closed(&self) -> LinkError {
        self.quinn.closed().await.into()
    }

    /// What ended it, for people. A peer that closes on purpose drops its streams, too, and whichever is seen first: its reason is waited
    /// for, as long as a word takes that is under way.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn reason_behind(&self, error: LinkError) -> LinkError {
        match error {
            LinkError::Abandoned => tokio::time::timeout(LAST_WORD_TIMEOUT, self.closed()).await.unwrap_or(error),
            told => told,
        }
    }

    /// Closes at once, telling the peer why, for people. What was not acknowledged is lost: to end in good order, finish the senders
    /// first.
    pub fn close(&self, reason: &str) {
        self.close_as(Parting::Over, reason);
    }

    /// [`close`](Self::close), with what the peer's program is to make of it.
    pub fn close_as(&self, parting: Parting, reason: &str) {
        self.quinn.close(parting.code(), reason.as_bytes());
    }

    /// What it has done so far.
    #[must_use]
    pub fn stats(&self) -> Stats {
        let stats = self.quinn.stats();
        Stats {
            round_trip: stats.path.rtt,
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packets: stats.path.lost_packets,
            sent_packets: stats.path.sent_packets,
            congestion_window_bytes: stats.path.cwnd,
            blocked: stats.frame_tx.data_blocked + stats.frame_tx.stream_data_blocked,
            rate_limit: self.config.rate_limit,
        }
    }

    /// Batches of acknowledgements while the congestion window kept data here, and while it did not: then nothing was to be sent, or the peer takes no
    /// more. `None`: not known. Copies the state of the congestion control: not for every frame.
    #[must_use]
    pub fn filled_and_starved(&self) -> Option<(u64, u64)> {
        filled_and_starved(self.quinn.congestion_state())
    }

    /// Primary: opens the control stream. The peer sees it with the first message.
    ///
    /// # Errors
    /// When the connection is over, or the peer still has a control stream open.
    pub async fn open_control(&self) -> Result<(ControlSender, ControlReceiver), LinkError> {
        let (send, receive) = self.in_time("room for a control stream", self.quinn.open_bi()).await?;
        Ok(self.control(send, receive))
    }

    /// Secondary: waits, as long as a handshake may take, for the control stream.
    ///
    /// # Errors
    /// When it does not come.
    pub async fn accept_control(&self) -> Result<(ControlSender, ControlReceiver), LinkError> {
        let (send, receive) = self.in_time("control stream", self.quinn.accept_bi()).await?;
        Ok(self.control(send, receive))
    }

    /// Primary: opens 1 to [`DATA_STREAMS`] data streams.
    ///
    /// # Errors
    /// When the connection is over, or that many are not allowed.
    pub async fn open_data(&self, streams: usize) -> Result<DataSender, LinkError> {
        let lanes = lane_count(streams)?;
        let mut opened = Vec::with_capacity(streams);
        for lane in 0..lanes {
            let stream = self.in_time("room for data streams", self.quinn.open_uni()).await?;
            opened.push((lane, stream));
        }
        DataSender::start(opened, lanes, self.clone(), self.config.rate_limit).await
    }

    /// Secondary: waits, as long as a handshake may take, for that many data streams. From here on the windows for them are open.
    ///
    /// # Errors
    /// When they do not come, or are not data streams.
    pub async fn accept_data(&self, streams: usize) -> Result<DataReceiver, LinkError> {
        let lanes = lane_count(streams)?;
        self.quinn.set_receive_window(self.config.receive_window());
        let mut accepted = Vec::with_capacity(streams);
        for _ in 0..lanes {
            accepted.push(self.in_time("data streams", self.quinn.accept_uni()).await?);
        }
        let receiver = DataReceiver::start(accepted, lanes, self.clone());
        match tokio::time::timeout(self.config.setup_timeout, receiver).await {
            Ok(receiver) => receiver,
            Err(_) => Err(self.too_slow("data streams")),
        }
    }

    /// Over how many of `lanes` frames go now.
    pub(super) fn lanes_for(&self, lanes: usize) -> usize {
        lanes_for(self.quinn.stats().path.cwnd, self.config.stream_window_bytes, lanes)
    }

    /// For tests that speak what no sender speaks.
    #[cfg(test)]
    pub(super) fn raw(&self) -> &quinn::Connection {
        &self.quinn
    }

    /// Closes the connection because the peer broke the protocol.
    pub(super) fn accuse(&self, violation: Violation) -> LinkError {
        tracing::warn!(peer = %self.peer, remote = %self.remote(), %violation, "closing a connection");
        self.quinn.close(code::VIOLATION, violation.to_string().as_bytes());
        LinkError::Violation(violation)
    }

    /// Why a stream failed: the connection's reason if it is over.
    pub(super) fn stream_error(&self) -> LinkError {
        self.quinn.close_reason().map_or(LinkError::Abandoned, LinkError::from)
    }

    fn control(&self, send: quinn::SendStream, receive: quinn::RecvStream) -> (ControlSender, ControlReceiver) {
        // Fails only for a stream that is closed already, which its first use will tell.
        let _ = send.set_priority(CONTROL_PRIORITY);
        (ControlSender::start(send, self.clone()), ControlReceiver::new(receive, self.clone()))
    }

    async fn in_time<T>(
        &self,
        what: &'static str,
        opening: impl Future<Output = Result<T, quinn::ConnectionError>>,
    ) -> Result<T, LinkError> {
        match tokio::time::timeout(self.config.setup_timeout, opening).await {
            Ok(opened) => Ok(opened?),
            Err(_) => Err(self.too_slow(what)),
        }
    }

    fn too_slow(&self, what: &'static str) -> LinkError {
        self.quinn.close(code::TOO_SLOW, what.as_bytes());
        LinkError::TooSlow { what, waited: self.config.setup_timeout }
    }
}

fn lane_count(streams: usize) -> Result<u16, LinkError> {
    let allowed = (1..=DATA_STREAMS).contains(&streams);
    u16::try_from(streams).ok().filter(|_| allowed).ok_or(LinkError::StreamCount { streams })
}
