//! One appliance's end of all links: a listening socket, and sockets to dial from.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use quinn::TokioRuntime;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::accept::Acceptor;
use super::config::LinkConfig;
use super::connection::Connection;
use super::error::code;
use super::network::{Network, SegmentCap, UdpNetwork};
use super::tls::{Tls, TlsError};
use super::trust::Trust;
use crate::identity::Identity;
use crate::ids::ApplianceId;

/// Accepted connections that nobody has asked for yet.
const ACCEPTED_MAX: usize = 64;

/// Why an endpoint cannot be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen for replication on UDP {address}: is another service using it, or is it not this machine's?")]
pub struct BindError {
    /// The address asked for.
    address: SocketAddr,
    #[source]
    source: io::Error,
}

/// Sockets to dial from, made when first needed: a machine may lack one of the two families.
#[derive(Default)]
struct Dialers {
    v4: Option<quinn::Endpoint>,
    v6: Option<quinn::Endpoint>,
    closed: bool,
}

/// Listens and dials. Dropping it closes all its connections.
pub struct Endpoint {
    listener: quinn::Endpoint,
    acceptor: JoinHandle<()>,
    accepted: tokio::sync::Mutex<mpsc::Receiver<Connection>>,
    dialers: Mutex<Dialers>,
    network: Arc<dyn Network>,
    pub(super) id: ApplianceId,
    pub(super) tls: Arc<Tls>,
    pub(super) trust: Arc<dyn Trust>,
    pub(super) config: Arc<LinkConfig>,
}

impl Endpoint {
    /// Listens on `address` (port 0: any free one) as `identity`. Needs a tokio runtime around it.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub fn bind(
        address: SocketAddr,
        identity: &Identity,
        trust: Arc<dyn Trust>,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        Self::bind_in(Arc::new(UdpNetwork), address, identity, trust, config)
    }

    /// [`bind`](Self::bind) in a network that may be a simulated one.
    ///
    /// # Errors
    /// When the address cannot be had.
    pub(crate) fn bind_in(
        network: Arc<dyn Network>,
        address: SocketAddr,
        identity: &Identity,
        trust: Arc<dyn Trust>,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let config = Arc::new(config);
        let listener = open(&*network, address, &config).map_err(|source| BindError { address, source })?;
        let tls = Arc::new(Tls::new(identity, Arc::clone(&trust)));
        let (delivery, accepted) = mpsc::channel(ACCEPTED_MAX);
        let (of_acceptor, of_tls) = (Arc::clone(&trust), Arc::clone(&tls));
        let acceptor = Acceptor::new(listener.clone(), of_tls, of_acceptor, Arc::clone(&config), delivery);
        let server =
            acceptor.server_config().map_err(|error| BindError { address, source: io::Error::other(error) })?;
        listener.set_server_config(Some(server));
        Ok(Self {
            listener,
            acceptor: tokio::spawn(acceptor.run()),
            accepted: tokio::sync::Mutex::new(accepted),
            dialers: Mutex::default(),
            network,
            id: identity.id(),
            tls,
            trust,
            config,
        })
    }

    /// Where it listens, with the real port.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// The next connection of a trusted appliance; `None` when the endpoint was closed. Handshakes go on side by side
    /// in the background, so a slow stranger holds up nobody.
    ///
    /// # Cancel safety
    /// Yes.
    pub async fn accept(&self) -> Option<Connection> {
        self.accepted.lock().await.recv().await
    }

    /// Stops listening and closes every connection, telling the peers why. They see it at once;
    /// [`wait_idle`](Self::wait_idle) resolves when they have been told.
    pub fn close(&self, reason: &str) {
        self.acceptor.abort();
        self.dialers.lock().closed = true;
        for endpoint in self.endpoints() {
            endpoint.close(code::CLOSED, reason.as_bytes());
        }
    }

    /// Resolves when all connections are over and their peers have been told.
    pub async fn wait_idle(&self) {
        for endpoint in self.endpoints() {
            endpoint.wait_idle().await;
        }
    }

    fn endpoints(&self) -> Vec<quinn::Endpoint> {
        let dialers = self.dialers.lock();
        [&dialers.v4, &dialers.v6].into_iter().flatten().chain([&self.listener]).cloned().collect()
    }

    /// The socket to reach an address from; `None` when this endpoint was closed.
    pub(super) fn dialer(&self, remote: SocketAddr) -> io::Result<Option<quinn::Endpoint>> {
        let mut dialers = self.dialers.lock();
        if dialers.closed {
            return Ok(None);
        }
        let (dialer, unspecified) = match remote {
            SocketAddr::V4(_) => (&mut dialers.v4, SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0))),
            SocketAddr::V6(_) => (&mut dialers.v6, SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0))),
        };
        if dialer.is_none() {
            *dialer = Some(open(&*self.network, unspecified, &self.config)?);
        }
        Ok(dialer.clone())
    }
}

impl Drop for Endpoint {
    fn drop(&mut self) {
        self.close("the endpoint is gone");
    }
}

impl std::fmt::Debug for Endpoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Endpoint").field("id", &self.id).field("listener", &self.listener).finish_non_exhaustive()
    }
}

fn open(network: &dyn Network, address: SocketAddr, config: &LinkConfig) -> io::Result<quinn::Endpoint> {
    let socket = network.bind(address, config.socket_buffer_bytes)?;
    let capped = Arc::new(SegmentCap { socket, segments_max: config.segments_max() });
    quinn::Endpoint::new_with_abstract_socket(config.endpoint(), None, capped, Arc::new(TokioRuntime))
}

/// For configurations that only a broken TLS library refuses.
impl From<TlsError> for io::Error {
    fn from(error: TlsError) -> Self {
        Self::other(error)
    }
}
