//! The link seam: what two appliances are connected by.
//!
//! In: the appliance's [`Identity`](crate::identity::Identity) and whom it trusts. Out: an [`Endpoint`] that dials and
//! accepts [`Connection`]s to trusted appliances only. Each connection carries one control stream (messages in both
//! directions) and a few data streams (frames from primary to secondary, delivered strictly in order).
//!
//! ```text
//!   DataSender ──▶ lane ─┐                                   ┌─ lane ──▶ reorder ──▶ DataReceiver
//!                  lane ─┼─ one QUIC connection, mutual TLS ─┼─ lane ──┘
//!   ControlSender ▶ lane ┘                                   └─ ControlReceiver
//! ```
//!
//! Bounds, so that no peer grows memory (invariant 10): QUIC's windows, the reorder buffer, the send queue, and the
//! number of handshakes and connections. Simulation replaces [`Network`], the sockets underneath, and tokio's clock;
//! everything else here runs unchanged.

mod accept;
mod chunk;
mod config;
mod congestion;
mod connection;
mod control;
mod dial;
mod endpoint;
mod error;
mod lane;
mod network;
mod pace;
mod precedence;
mod receive;
mod reorder;
mod send;
mod tls;
mod trust;

pub use config::LinkConfig;
pub use connection::{Connection, Stats};
pub use control::{ControlReceiver, ControlSender};
pub use endpoint::{BindError, Endpoint};
pub use error::{DialError, LinkError, Parting, Violation};
pub use network::{Network, UdpNetwork};
pub use precedence::{CONTROL_PRIORITY, in_pieces, lanes_for};
pub use receive::DataReceiver;
pub use reorder::{Admission, OrderError, Reorder};
pub use send::DataSender;
pub use trust::Trust;

pub use crate::config::Congestion;

#[cfg(test)]
mod tests;
