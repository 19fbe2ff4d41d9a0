//! The line of one pair, on either side.

use std::sync::Arc;

use prometheus::proto::MetricFamily;
use prometheus::{Gauge, IntCounter};

use super::define::{Set, count};
use super::labels::{ByLabel, FrameRejection};
use crate::api::types::PairState;
use crate::ids::Seq;

/// Handle for one pair of a group. Cheap to clone, no lock.
#[derive(Debug, Clone)]
pub struct PairMetrics(pub(super) Arc<Inner>);

#[derive(Debug)]
pub(super) struct Inner {
    set: Set,
    connections: IntCounter,
    packets_sent: IntCounter,
    packets_lost: IntCounter,
    ship_frames: IntCounter,
    ship_bytes: IntCounter,
    ship_coalesced: IntCounter,
    shipped_seq: Gauge,
    receive_frames: IntCounter,
    receive_bytes: IntCounter,
    received_seq: Gauge,
    permitted_seq: Gauge,
    rejected: ByLabel<FrameRejection, IntCounter>,
    changes: Vec<(PairState, IntCounter)>,
}

impl Inner {
    pub(super) fn new(group: &str, peer: &str) -> Self {
        let set = Set::new(&[("group", group), ("peer", peer)]);
        let position = |stage| {
            set.with(&[("stage", stage)])
                .gauge("tidemark_pair_position_seq", "Newest sequence number past this stage of the pair.")
        };
        let change = |state: &'static str| {
            set.with(&[("state", state)])
                .counter("tidemark_pair_state_changes_total", "Changes of the pair's state, by the state it came into.")
        };
        Self {
            connections: set.counter("tidemark_link_connections_total", "Connections made with the other side."),
            packets_sent: set.counter("tidemark_link_packets_sent_total", "QUIC packets sent to the other side."),
            packets_lost: set
                .counter("tidemark_link_packets_lost_total", "QUIC packets lost on the way and sent again."),
            ship_frames: set.counter("tidemark_ship_frames_total", "Frames handed to the link."),
            ship_coalesced: set.counter(
                "tidemark_ship_coalesced_bytes_total",
                "Bytes of data not sent because hosts overwrote them within their interval.",
            ),
            ship_bytes: set.counter("tidemark_ship_bytes_total", "Bytes of frames handed to the link."),
            shipped_seq: position("shipped"),
            receive_frames: set.counter("tidemark_receive_frames_total", "Frames received and verified."),
            receive_bytes: set.counter("tidemark_receive_bytes_total", "Bytes of frames received and verified."),
            received_seq: position("received"),
            permitted_seq: position("permitted"),
            rejected: ByLabel::new(|reason: FrameRejection| {
                set.with(&[("reason", reason.as_str())])
                    .counter("tidemark_receive_rejected_frames_total", "Frames received that were not taken.")
            }),
            changes: PairState::ALL.into_iter().map(|state| (state, change(state.name()))).collect(),
            set,
        }
    }
}

impl PairMetrics {
    /// A connection with the other side came up.
    pub fn connected(&self) {
        self.0.connections.inc();
    }

    /// Counts the packets of a connection that begins.
    #[must_use]
    pub fn packets(&self) -> PacketCount {
        PacketCount { pair: self.clone(), sent: 0, lost: 0 }
    }

    /// A frame of this size, ending with this sequence number, was handed to the link.
    pub fn shipped(&self, frame_bytes: usize, last: Seq) {
        self.0.ship_frames.inc();
        self.0.ship_bytes.inc_by(count(frame_bytes));
        self.shipped_seq(last);
    }

    /// So many bytes of data were overwritten within their interval, and not sent because of that.
    pub fn coalesced(&self, raw_bytes: u64) {
        self.0.ship_coalesced.inc_by(raw_bytes);
    }

    /// Shipping goes on behind here.
    pub fn shipped_seq(&self, last: Seq) {
        self.0.shipped_seq.set(last.0 as f64);
    }

    /// A frame of this size came in and is as it should be.
    pub fn received(&self, frame_bytes: usize) {
        self.0.receive_frames.inc();
        self.0.receive_bytes.inc_by(count(frame_bytes));
    }

    /// A frame came in and was not taken.
    pub fn frame_rejected(&self, reason: FrameRejection) {
        self.0.rejected.at(reason, IntCounter::inc);
    }

    /// All frames up to here are durable on the secondary.
    pub fn received_seq(&self, durable: Seq) {
        self.0.received_seq.set(durable.0 as f64);
    }

    /// Everything up to here may be applied.
    pub fn permitted_seq(&self, permitted: Seq) {
        self.0.permitted_seq.set(permitted.0 as f64);
    }

    /// The pair came into this state.
    pub fn state_changed(&self, to: PairState) {
        if let Some((_, counter)) = self.0.changes.iter().find(|(state, _)| *state == to) {
            counter.inc();
        }
    }

    pub(super) fn gather(&self) -> Vec<MetricFamily> {
        self.0.set.gather()
    }
}

/// Makes what is added out of the totals of one connection.
#[derive(Debug)]
pub struct PacketCount {
    pair: PairMetrics,
    sent: u64,
    lost: u64,
}

impl PacketCount {
    /// The connection has sent and lost so many packets by now.
    pub fn now(&mut self, sent: u64, lost: u64) {
        self.pair.0.packets_sent.inc_by(sent.saturating_sub(self.sent));
        self.pair.0.packets_lost.inc_by(lost.saturating_sub(self.lost));
        (self.sent, self.lost) = (sent, lost);
    }
}
