//! Lets trusted appliances in.
//!
//! In: datagrams of strangers. Out: connections of trusted peers, in the order in which their handshakes ended. Each
//! handshake runs in its own task, within a time and a number; when many are under way, a stranger must first show that it
//! receives at the address it sends from. One peer may have most of the connections and not all. A peer let in is told so by a greeting: in TLS 1.3
//! the dialer's side is complete before the acceptor has seen its certificate, so without it a dialer could not tell acceptance from a refusal on
//! its way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::{ConnectionError, Incoming, ServerConfig, TransportErrorCode};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;

use super::config::LinkConfig;
use super::connection::Connection;
use super::error::code;
use super::tls::{Presented, Tls, TlsError};
use super::trust::Trust;
use crate::ids::ApplianceId;

/// What an accepted dialer receives on its first stream.
pub(super) const GREETING: [u8; 4] = *b"TMKG";

/// Accepts for one endpoint.
pub(super) struct Acceptor {
    listener: quinn::Endpoint,
    tls: Arc<Tls>,
    trust: Arc<dyn Trust>,
    config: Arc<LinkConfig>,
    delivery: mpsc::Sender<Connection>,
    handshakes: Arc<Semaphore>,
    /// For each peer that has called, the connections that it may have besides those it has.
    places: Mutex<BTreeMap<ApplianceId, Arc<Semaphore>>>,
}

/// Why a stranger stays outside.
enum Refusal {
    Untrusted,
    /// Given up by the other side, or not ended in time.
    Unfinished(String),
    /// It has as many connections as it may.
    Crowded(String),
    Failed(String),
}

impl Acceptor {
    pub(super) fn new(
        listener: quinn::Endpoint,
        tls: Arc<Tls>,
        trust: Arc<dyn Trust>,
        config: Arc<LinkConfig>,
        delivery: mpsc::Sender<Connection>,
    ) -> Self {
        let handshakes = Arc::new(Semaphore::new(config.handshakes_max));
        Self { listener, tls, trust, config, delivery, handshakes, places: Mutex::default() }
    }

    /// What the listener answers first packets with; each handshake gets its own.
    pub(super) fn server_config(&self) -> Result<ServerConfig, TlsError> {
        self.fresh_config().map(|(config, _)| config)
    }

    pub(super) async fn run(self) {
        let acceptor = Arc::new(self);
        while let Some(incoming) = acceptor.listener.accept().await {
            acceptor.admit(incoming);
        }
    }

    fn admit(self: &Arc<Self>, incoming: Incoming) {
        let scarce = self.handshakes.available_permits() <= self.config.handshakes_max / 2;
        if scarce && incoming.may_retry() && !incoming.remote_address_validated() {
            // Cannot fail: retrying is allowed.
            let _ = incoming.retry();
            return;
        }
        let crowded = self.listener.open_connections() >= self.config.connections_max;
        match Arc::clone(&self.handshakes).try_acquire_owned() {
            Ok(permit) if !crowded => {
                tokio::spawn(Arc::clone(self).handshake(incoming, permit));
            }
            _ => {
                let remote = incoming.remote_address();
                incoming.refuse();
                self.trust.crowded(remote, None, "too many connections or handshakes at once");
            }
        }
    }

    async fn handshake(self: Arc<Self>, incoming: Incoming, permit: OwnedSemaphorePermit) {
        let remote = incoming.remote_address();
        let (server, presented) = match self.fresh_config() {
            Ok(fresh) => fresh,
            Err(error) => return self.report(remote, None, &error.to_string()),
        };
        let admitted = timeout(self.config.setup_timeout, self.let_in(incoming, server, &presented)).await;
        let admitted = admitted.unwrap_or_else(|_| Err(Refusal::Unfinished("the handshake took too long".into())));
        match admitted {
            Ok(connection) => {
                let peer = self.trust.peer_name(&connection.peer()).unwrap_or_default();
                // What it is for, and whether it is for something, says who takes it.
                tracing::debug!(%remote, peer, "accepted a connection");
                // Fails only when the endpoint is closing, which closes the connection too.
                let _ = self.delivery.send(connection).await;
            }
            Err(Refusal::Untrusted) => self.report(
                remote,
                presented.id(),
                "not a trusted peer: if it should be, run `tidemark peer add` here with that id",
            ),
            Err(Refusal::Unfinished(why)) => self.trust.unfinished(remote, presented.id(), &why),
            Err(Refusal::Crowded(why)) => self.trust.crowded(remote, presented.id(), &why),
            Err(Refusal::Failed(why)) => self.report(remote, presented.id(), &why),
        }
        drop(permit);
    }

    async fn let_in(
        &self,
        incoming: Incoming,
        server: ServerConfig,
        presented: &Presented,
    ) -> Result<Connection, Refusal> {
        let connecting = incoming.accept_with(Arc::new(server)).map_err(|error| self.refusal(&error, presented))?;
        let connection = connecting.await.map_err(|error| self.refusal(&error, presented))?;
        let failed = |why: String| Refusal::Failed(why);
        let peer = presented.id().ok_or_else(|| failed("no certificate".into()))?;
        let Some(place) = self.place(peer) else {
            let max = self.config.connections_of_peer_max;
            let why = format!("{max} connections are open, the most that one peer may have");
            connection.close(code::CLOSED, why.as_bytes());
            return Err(Refusal::Crowded(why));
        };
        let mut greeting = connection.open_uni().await.map_err(|error| failed(error.to_string()))?;
        greeting.write_all(&GREETING).await.map_err(|error| failed(error.to_string()))?;
        greeting.finish().map_err(|error| failed(error.to_string()))?;
        Ok(Connection::new(connection, peer, Arc::clone(&self.config), Some(place)))
    }

    /// One of those that the peer may have; `None` when it has them all.
    fn place(&self, peer: ApplianceId) -> Option<OwnedSemaphorePermit> {
        let max = self.config.connections_of_peer_max;
        let mut places = self.places.lock();
        let of_peer = places.entry(peer).or_insert_with(|| Arc::new(Semaphore::new(max)));
        Arc::clone(of_peer).try_acquire_owned().ok()
    }

    fn refusal(&self, error: &ConnectionError, presented: &Presented) -> Refusal {
        match presented.id() {
            Some(id) if self.trust.peer_name(&id).is_none() => Refusal::Untrusted,
            _ if is_unfinished(error) => Refusal::Unfinished(error.to_string()),
            _ => Refusal::Failed(error.to_string()),
        }
    }

    fn report(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.trust.refused(remote, id, why);
    }

    fn fresh_config(&self) -> Result<(ServerConfig, Presented), TlsError> {
        let (crypto, presented) = self.tls.server()?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(self.config.transport_of_callers()).max_incoming(self.config.handshakes_max);
        Ok((server, presented))
    }
}

/// Whether the other side gave up, as who calls a service that hangs, and not because of what either has shown.
fn is_unfinished(error: &ConnectionError) -> bool {
    match error {
        ConnectionError::TimedOut | ConnectionError::Reset => true,
        ConnectionError::ConnectionClosed(close) => close.error_code == TransportErrorCode::APPLICATION_ERROR,
        _ => false,
    }
}
