//! How the link behaves, and what quinn is told about it.

use std::num::NonZeroU64;
use std::sync::Arc;
use std::time::Duration;

use quinn::congestion::{BbrConfig, ControllerFactory, CubicConfig};
use quinn::{EndpointConfig, IdleTimeout, MtuDiscoveryConfig, TransportConfig, VarInt};
use serde::{Deserialize, Serialize};

use crate::limits::{DATA_STREAMS, LINK_CONNECTIONS_MAX, LINK_HANDSHAKES_MAX};

/// Data streams, and the greeting.
const UNI_STREAMS: u32 = DATA_STREAMS as u32 + 1;
/// The control stream.
const BIDI_STREAMS: u32 = 1;
/// Largest UDP payload over IPv4.
const UDP_PAYLOAD_BYTES_MAX: usize = 65_507;
/// Smallest MTU QUIC works with.
const MTU_MIN: u16 = 1200;
/// Control messages overtake data that waits to be sent.
pub(super) const CONTROL_PRIORITY: i32 = 1;

/// What decides how fast to send.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// Models the path; keeps its rate when packets are lost at random.
    #[default]
    Bbr,
    /// Backs off at every loss: friendlier on a clean shared link, slow on a lossy one.
    Cubic,
}

/// Figures of the link. The defaults fit a link of 1 Gbit/s at 100 ms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkConfig {
    /// A connection that hears nothing for so long is lost.
    pub idle_timeout: Duration,
    /// A handshake, and the opening of streams after it, is given up after so long.
    pub setup_timeout: Duration,
    /// Bytes a peer may have under way on one stream: with the data streams together, more than rate times round trip.
    pub stream_window_bytes: u32,
    /// Bytes kept until the peer has acknowledged them, per connection.
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
        }
    }
}

impl LinkConfig {
    /// Datagrams that one send may hold. quinn puts ten into one buffer for the kernel to cut up; above an MTU of 6,550
    /// that is more than UDP carries at once, the send fails, and MTU discovery falls back to its minimum.
    pub(super) fn segments_max(&self) -> usize {
        UDP_PAYLOAD_BYTES_MAX / usize::from(self.mtu_max.max(MTU_MIN))
    }

    pub(super) fn endpoint(&self) -> EndpointConfig {
        let mut endpoint = EndpointConfig::default();
        if let Err(error) = endpoint.max_udp_payload_size(self.mtu_max.max(MTU_MIN)) {
            tracing::warn!(mtu_max = self.mtu_max, %error, "receiving datagrams of the default size");
        }
        endpoint
    }

    pub(super) fn transport(&self) -> Arc<TransportConfig> {
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
            .receive_window(self.receive_window())
            .send_window(self.send_window_bytes)
            // Frames are needed in the order in which they were written, so they are sent in that order.
            .send_fairness(false)
            .datagram_receive_buffer_size(None)
            .mtu_discovery_config(Some(discovery))
            .congestion_controller_factory(self.controller());
        Arc::new(transport)
    }

    /// All streams at their limit together: otherwise streams that nobody reads, because the next frame comes on
    /// another one, could use up the connection's window, and that frame would never come.
    fn receive_window(&self) -> VarInt {
        let all = u64::from(self.stream_window_bytes).saturating_mul(u64::from(UNI_STREAMS + BIDI_STREAMS));
        VarInt::from_u64(all).unwrap_or(VarInt::MAX)
    }

    fn idle_millis(&self) -> VarInt {
        VarInt::from_u32(u32::try_from(self.idle_timeout.as_millis()).unwrap_or(u32::MAX))
    }

    fn controller(&self) -> Arc<dyn ControllerFactory + Send + Sync> {
        match self.congestion {
            Congestion::Bbr => Arc::new(BbrConfig::default()),
            Congestion::Cubic => Arc::new(CubicConfig::default()),
        }
    }
}
