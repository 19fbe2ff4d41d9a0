//! Whom this appliance talks to.

use std::net::SocketAddr;

use crate::ids::ApplianceId;

/// The appliances this one trusts, and who wants to know when another one tries. Asked during each handshake, so a
/// peer added or removed counts from the next connection on.
pub trait Trust: Send + Sync + 'static {
    /// The name of a trusted appliance; `None` refuses it.
    fn peer_name(&self, id: &ApplianceId) -> Option<String>;
    /// A connection from there was refused, or one to there, because another appliance answered than the one called. `id` is what it
    /// presented, if it came so far; nothing proves that it holds the key of an id that is not trusted. Whether that is logged is up to
    /// who is told. Called from a handshake: must not block.
    fn refused(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str);
    /// A connection from there was begun and not completed, by the other side or not in time, as when this one hung meanwhile: nothing says that a
    /// stranger called. As [`Trust::refused`] otherwise.
    fn unfinished(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.refused(remote, id, why);
    }
    /// A connection from there was refused because the caller, or all callers together, have as many as they may: it may be a peer's. As
    /// [`Trust::refused`] otherwise.
    fn crowded(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.refused(remote, id, why);
    }
}
