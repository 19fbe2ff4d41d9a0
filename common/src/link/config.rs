//! How the link behaves, and what quinn is told about it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};

use super::congestion::SteadyConfig;
use super::precedence::CONTROL_ROOM_BYTES;
use crate::config::{Congestion, ReplicationConfig};
use crate::limits::{
    CONTROL_MESSAGE_BYTES_MAX, DATA_STREAMS, LINK_CONNECTIONS_MAX, LINK_CONNECTIONS_OF_PEER_MAX, LINK_HANDSHAKES_MAX,
};

/// Data streams, and the greeting.
#[expect(clippy::cast_possible_truncation, reason = "a constant, a handful")]
const UNI_STREAMS: u32 = DATA_STREAMS as u32 + 1;
/// The control stream.
const BIDI_STREAMS: u32 = 1;
/// Bytes that whoever has called may have under way as long as it may only talk: there may be a thousand connections, each with all windows full of
/// what nobody asked for.
#[expect(clippy::cast_possible_truncation, reason = "a constant, a MiB")]
const CALLER_WINDOW: VarInt = VarInt::from_u32(CONTROL_MESSAGE_BYTES_MAX as u32);
/// Largest UDP payload over IPv4, bytes.
const UDP_PAYLOAD_BYTES_MAX: usize = 65_507;
/// Smallest MTU QUIC works with.
const MTU_MIN: u16 = 1200;

/// A packet that others overtook is lost when it is late by a quarter of the round trip (RACK, RFC 8985, section 6.2), not when
/// three have overtaken it: links with several ways reorder, and at 1 Gbit/s three packets are 35 µs.
const LATE_ROUND_TRIPS: f32 = 1.25;
const OVERTAKEN_MAX: u32 = 10_000;

/// Figures of the link. The defaults fit a link of 1 Gbit/s with a round trip of 100 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// A connection that hears nothing for so long is lost.
    pub idle_timeout: Duration,
    /// A handshake, and the opening of streams after it, is given up after so long.
    pub setup_timeout: Duration,
    /// Bytes a peer may have under way on one stream: with the data streams together, more than twice rate times round trip,
    /// because what was sent after a loss waits for it.
    pub stream_window_bytes: u32,
    /// Bytes of data kept until the peer has acknowledged them, per connection.
    pub send_window_bytes: u64,
    /// Largest UDP payload that is tried, bytes; paths that carry less are found out.
    pub mtu_max: u16,
    /// What decides how fast to send.
    pub congestion: Congestion,
    /// Bytes per second that a connection's data may take; `None` for as fast as it goes.
    pub rate_limit: Option<NonZeroU64>,
    /// Buffers asked of the kernel for each socket, bytes.
    pub socket_buffer_bytes: usize,
    /// Handshakes of strangers under way at once.
    pub handshakes_max: usize,
    /// Accepted connections at once.
    pub connections_max: usize,
    /// Those of one peer.
    pub connections_of_peer_max: usize,
}

impl Default for LinkConfig {
    fn default() -> Self {
        Self {
            idle_timeout: Duration::from_secs(5),
            setup_timeout: Duration::from_secs(5),
            stream_window_bytes: 8 << 20,
            send_window_bytes: 32 << 20,
            // Ten segments of 6,500 are just below the largest UDP payload.
            mtu_max: 6500,
            congestion: Congestion::default(),
            rate_limit: None,
            socket_buffer_bytes: 4 << 20,
            handshakes_max: LINK_HANDSHAKES_MAX,
            connections_max: LINK_CONNECTIONS_MAX,
            connections_of_peer_max: LINK_CONNECTIONS_OF_PEER_MAX,
        }
    }
}

impl From<&ReplicationConfig> for LinkConfig {
    fn from(config: &ReplicationConfig) -> Self {
        Self {
            idle_timeout: config.idle_timeout,
            congestion: config.congestion,
            rate_limit: config.rate_limit_bytes_per_second.and_then(NonZeroU64::new),
            ..Self::default()
        }
    }
}

impl LinkConfig {
    /// Datagrams that one send may hold. quinn puts ten into one buffer for the kernel to cut up; above an MTU of 6,550
    /// that is more than UDP carries at once, the send fails, and MTU discovery falls back to its minimum.
    pub(super) fn segments_max(&self) -> usize {
        (UDP_PAYLOAD_BYTES_MAX / usize::from(self.mtu_max.max(MTU_MIN))).max(1)
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        if let Err(error) = endpoint.max_udp_payload_size(self.mtu_max.max(MTU_MIN)) {
            tracing::warn!(mtu_max = self.mtu_max, %error, "receiving datagrams of the default size");
        }
        endpoint
    }

    /// What quinn is told: for endpoints of one's own, as tests and measurements make them.
    #[must_use]
    pub fn transport(&self) -> Arc<TransportConfig> {
        self.transport_with(self.receive_window())
    }

    /// The same for who calls: of what comes before its data streams are accepted, only a message is held.
    pub(super) fn transport_of_callers(&self) -> Arc<TransportConfig> {
        self.transport_with(self.receive_window().min(CALLER_WINDOW))
    }

    fn transport_with(&self, receive_window: VarInt) -> Arc<TransportConfig> {
        let mut discovery = MtuDiscoveryConfig::default();
        discovery.upper_bound(self.mtu_max.max(MTU_MIN));
        let mut transport = TransportConfig::default();
        transport
            .max_concurrent_uni_streams(UNI_STREAMS.into())
            .max_concurrent_bidi_streams(BIDI_STREAMS.into())
            .max_idle_timeout(Some(IdleTimeout::from(self.idle_millis())))
            // Three chances to be heard before the peer gives up.
            .keep_alive_interval(Some(self.idle_timeout / 4))
            .stream_receive_window(self.stream_window_bytes.into())
            .receive_window(receive_window)
            .send_window(self.send_window_bytes.saturating_add(CONTROL_ROOM_BYTES))
            // Otherwise no message overtakes a stream that was begun: see `precedence`.
            .send_fairness(true)
            .packet_threshold(OVERTAKEN_MAX)
            .time_threshold(LATE_ROUND_TRIPS)
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(self.controller());
        Arc::new(transport)
    }

    /// All streams at their limit together: otherwise streams that nobody reads, because the next frame comes on
    /// another one, could use up the connection's window, and that frame would never come.
    pub(super) fn receive_window(&self) -> VarInt {
        let all = u64::from(self.stream_window_bytes).saturating_mul(u64::from(UNI_STREAMS + BIDI_STREAMS));
        VarInt::from_u64(all).unwrap_or(VarInt::MAX)
    }

    fn idle_millis(&self) -> VarInt {
        VarInt::from_u32(u32::try_from(self.idle_timeout.as_millis()).unwrap_or(u32::MAX))
    }

    fn controller(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self.congestion {
            Congestion::Steady => Arc::new(SteadyConfig),
            Congestion::Bbr => Arc::new(BbrConfig::default()),
            Congestion::Cubic => Arc::new(CubicConfig::default()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One send never exceeds what UDP carries, whatever MTU is set.
    #[test]
    fn a_send_fits_into_udp() {
        for mtu_max in 0..=u16::MAX {
            let config = LinkConfig { mtu_max, ..LinkConfig::default() };
            let segments = config.segments_max();
            assert!(segments >= 1 && segments * usize::from(mtu_max) <= UDP_PAYLOAD_BYTES_MAX.max(mtu_max.into()));
        }
        assert_eq!(LinkConfig::default().segments_max(), 10, "the default costs no batching");
    }

    #[test]
    fn settings_of_the_operator_count() {
        let mut settings = crate::config::Config::new("east").replication;
        settings.idle_timeout = Duration::from_secs(9);
        settings.congestion = Congestion::Cubic;
        settings.rate_limit_bytes_per_second = Some(1000);
        let config = LinkConfig::from(&settings);
        assert_eq!(config.idle_timeout, settings.idle_timeout);
        assert_eq!((config.congestion, config.rate_limit), (Congestion::Cubic, NonZeroU64::new(1000)));
    }
}
