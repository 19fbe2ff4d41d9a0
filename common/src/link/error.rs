//! What can go wrong between two appliances.

use std::io;
use std::time::Duration;

use quinn::ConnectionError;

use super::reorder::OrderError;
use crate::ids::ApplianceId;
use crate::limits::FRAME_STORED_BYTES_MAX;
use crate::wire::codec::{DecodeError, EncodeError};

/// Application error codes on the wire.
pub(super) mod code {
    use quinn::VarInt;

    /// Closed on purpose; the reason is for people.
    pub(in crate::link) const CLOSED: VarInt = VarInt::from_u32(0);
    /// The peer broke the protocol.
    pub(in crate::link) const VIOLATION: VarInt = VarInt::from_u32(1);
    /// A sender was dropped in the middle.
    pub(in crate::link) const ABANDONED: VarInt = VarInt::from_u32(2);
    /// A handshake was not followed by what must follow in time.
    pub(in crate::link) const TOO_SLOW: VarInt = VarInt::from_u32(3);
    /// As `CLOSED`: the operator has suspended the pair.
    pub(in crate::link) const SUSPENDED: VarInt = VarInt::from_u32(4);
    /// As `CLOSED`: nothing can be sent until a person has done something.
    pub(in crate::link) const SENDS_NOTHING: VarInt = VarInt::from_u32(5);
}

/// What it means that an appliance closes a connection on purpose. Beside it goes a reason, for people.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parting {
    /// No more than the reason says.
    Over,
    /// Its operator has suspended the pair.
    Suspended,
    /// It has called, and can send nothing until a person has done something.
    SendsNothing,
}

impl Parting {
    pub(super) const fn code(self) -> quinn::VarInt {
        match self {
            Self::Over => code::CLOSED,
            Self::Suspended => code::SUSPENDED,
            Self::SendsNothing => code::SENDS_NOTHING,
        }
    }

    /// A code that a later version gives is a close on purpose with a reason, too.
    fn of(code: quinn::VarInt) -> Self {
        let special = [Self::Suspended, Self::SendsNothing].into_iter().find(|parting| parting.code() == code);
        special.unwrap_or(Self::Over)
    }
}

/// Why a connection or one of its streams is of no use any more. The remedy for all but a violation is to dial again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer closed the connection.
    #[error("the peer closed the connection: {reason}")]
    PeerClosed {
        /// Its reason, for people.
        reason: String,
        /// What that means.
        parting: Parting,
    },
    /// The peer says that this side broke the protocol.
    #[error("the peer closed the connection because this side broke the protocol: {reason}")]
    PeerAccuses {
        /// What it says.
        reason: String,
    },
    /// This side closed the connection.
    #[error("the connection was closed here")]
    LocallyClosed,
    /// Nothing was heard for the idle time-out.
    #[error("nothing was heard from the peer for too long: the link or the peer is down")]
    TimedOut,
    /// The peer does not know the connection: it was restarted.
    #[error("the peer was restarted")]
    Restarted,
    /// QUIC failed.
    #[error("the transport failed: {reason}")]
    Transport {
        /// What quinn says.
        reason: String,
    },
    /// The peer did not open its streams in time.
    #[error("the peer did not open its {what} within {waited:?}")]
    TooSlow {
        /// What was waited for.
        what: &'static str,
        /// How long.
        waited: Duration,
    },
    /// The peer dropped its end of a stream in the middle.
    #[error("the peer abandoned a stream")]
    Abandoned,
    /// The peer broke the protocol; the connection was closed.
    #[error("the peer broke the protocol, and the connection was closed: {0}")]
    Violation(#[from] Violation),
    /// A frame that no receiver would take.
    #[error("a frame of {bytes} bytes: 1 to {FRAME_STORED_BYTES_MAX} can be sent")]
    FrameSize {
        /// Its length.
        bytes: usize,
    },
    /// A message that no receiver would take.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// Data streams were asked for in a number that is not allowed.
    #[error("{streams} data streams: 1 to {} can be opened", crate::limits::DATA_STREAMS)]
    StreamCount {
        /// How many.
        streams: usize,
    },
}

/// How a peer broke the protocol.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// Control stream: not a message.
    #[error("control stream: {0}")]
    Message(#[from] DecodeError),
    /// Control stream: it ended within a message.
    #[error("the control stream ended within a message")]
    ControlCut,
    /// Data stream: it does not begin as one.
    #[error("a data stream begins with {found:02x?}")]
    Preamble {
        /// Its first bytes.
        found: [u8; 8],
    },
    /// Data stream: not a chunk header.
    #[error("data stream {lane}: a damaged chunk header")]
    Header {
        /// The stream.
        lane: usize,
    },
    /// Data stream: it ended within a chunk.
    #[error("data stream {lane} ended within a chunk")]
    ChunkCut {
        /// The stream.
        lane: usize,
    },
    /// Data streams: frames in an order that no sender makes.
    #[error(transparent)]
    Order(#[from] OrderError),
}

impl From<ConnectionError> for LinkError {
    fn from(error: ConnectionError) -> Self {
        match error {
            ConnectionError::ApplicationClosed(close) => {
                let reason = match close.reason.is_empty() {
                    true => "it gave no reason".into(),
                    false => String::from_utf8_lossy(&close.reason).into_owned(),
                };
                if close.error_code == code::VIOLATION {
                    Self::PeerAccuses { reason }
                } else {
                    Self::PeerClosed { reason, parting: Parting::of(close.error_code) }
                }
            }
            ConnectionError::LocallyClosed => Self::LocallyClosed,
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::Reset => Self::Restarted,
            other => Self::Transport { reason: other.to_string() },
        }
    }
}

/// Why dialing failed.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// The address is not HOST:PORT, or the host has no address.
    #[error("cannot find an address for '{address}': HOST:PORT is expected, with a host that resolves")]
    Resolve {
        /// As given.
        address: String,
        /// What the resolver says.
        #[source]
        source: io::Error,
    },
    /// No local socket.
    #[error("cannot open a local UDP socket to reach {address}")]
    Socket {
        /// As given.
        address: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another appliance answers there.
    #[error(
        "the appliance at {address} has the id {found} and {expected} was expected: either the address is another appliance's, \
         or the peer was made anew: then `tidemark pair delete` its pairs, `tidemark peer remove` it, and add it with its new id"
    )]
    WrongPeer {
        /// As given.
        address: String,
        /// Whom the caller wanted.
        expected: ApplianceId,
        /// Who answers.
        found: ApplianceId,
    },
    /// The address is this appliance's own.
    #[error(
        "the address {address} is this appliance's own: give the one where the other appliance listens (`tidemark status` there says which), with \
         `tidemark peer add NAME --id {expected} --addr HOST:PORT`"
    )]
    Itself {
        /// As given.
        address: String,
        /// Whom the caller wanted.
        expected: ApplianceId,
    },
    /// The peer does not trust this appliance.
    #[error(
        "the appliance at {address} refused this one ({reason}): over there, run `tidemark peer add` with the id {id} \
         of this appliance"
    )]
    Refused {
        /// As given.
        address: String,
        /// What it says.
        reason: String,
        /// This appliance.
        id: ApplianceId,
    },
    /// Nobody answers.
    #[error("nobody answered at {address} within {waited:?}: is the service running there, and is UDP let through?")]
    Silent {
        /// As given.
        address: String,
        /// How long was waited.
        waited: Duration,
    },
    /// Somebody answers who is no appliance, or something broke on the way.
    #[error("cannot connect to {address}: {reason}")]
    Failed {
        /// As given.
        address: String,
        /// What happened.
        reason: String,
    },
    /// The endpoint was closed.
    #[error("this side is stopping")]
    Closed,
}

/// TLS alerts come as QUIC error codes from 0x100 on.
const TLS_ALERT: u64 = 0x100;
/// The alerts by which a peer refuses a certificate: bad, revoked, expired or unknown certificate, unknown authority, access denied,
/// certificate required.
const REFUSING_ALERTS: [u64; 8] = [42, 43, 44, 45, 46, 48, 49, 116];

/// Whether a peer closed the connection because of the certificate it was shown.
pub(super) fn refuses_certificate(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::ConnectionClosed(close) => {
            let number = u64::from(close.error_code);
            REFUSING_ALERTS.iter().any(|alert| TLS_ALERT + alert == number)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An older build knows 0 to 3 only, and a later one may give more: neither loses the reason by that.
    #[test]
    fn a_code_that_is_not_known_is_a_close_on_purpose() {
        for parting in [Parting::Over, Parting::Suspended, Parting::SendsNothing] {
            assert_eq!(Parting::of(parting.code()), parting);
        }
        assert_eq!(Parting::of(quinn::VarInt::from_u32(77)), Parting::Over);
    }
}
