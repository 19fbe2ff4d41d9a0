//! The NBD server: listeners, and a task for each connection.
//!
//! Owns the listening sockets and the count of connections. A connection that fails is logged and forgotten; the others do
//! not notice. A stop ends listening first, then every connection when its requests under way are answered.

use std::io;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{debug, info, warn};

use super::Exports;
use super::connection::{ConnectionError, ConnectionOptions, serve};
use super::handshake::HandshakeError;
use super::left::{Answering, Left};
use super::listen::{BindError, Listener, tune};
use super::session::SessionError;
use super::socket::Socket;
use crate::config::Address;
use crate::limits::NBD_CONNECTIONS_MAX;

/// How long listening rests when the system cannot give it a socket (out of file descriptors).
const ACCEPT_REST: Duration = Duration::from_millis(100);

/// How the server serves.
#[derive(Clone)]
pub struct ServerOptions {
    /// Connections at once; more are turned away.
    pub connections_max: usize,
    /// Mode of Unix sockets' files.
    pub socket_mode: u32,
    /// How each connection is served.
    pub connection: ConnectionOptions,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self { connections_max: NBD_CONNECTIONS_MAX, socket_mode: 0o600, connection: ConnectionOptions::default() }
    }
}

/// A server that listens and does not yet serve.
pub struct Server {
    listeners: Vec<Listener>,
    addresses: Vec<Address>,
    connections: Connections,
}

impl Server {
    /// Listens on all addresses, or on none.
    ///
    /// # Errors
    /// [`BindError`] names the address and says what to do.
    pub async fn bind(
        addresses: &[Address],
        exports: Arc<dyn Exports>,
        options: ServerOptions,
    ) -> Result<Self, BindError> {
        let mut listeners = Vec::with_capacity(addresses.len());
        let mut real = Vec::with_capacity(addresses.len());
        for address in addresses {
            let (listener, address) = Listener::bind(address, options.socket_mode).await?;
            listeners.push(listener);
            real.push(address);
        }
        let permits = Arc::new(Semaphore::new(options.connections_max.min(Semaphore::MAX_PERMITS)));
        let left = Arc::new(Left::of(options.connections_max));
        let exports = Arc::new(Answering { exports, left: Arc::clone(&left) });
        let options = Arc::new(ConnectionOptions { left, ..options.connection });
        let connections = Connections { exports, options, permits, tasks: TaskTracker::new() };
        Ok(Self { listeners, addresses: real, connections })
    }

    /// Where it listens, with real ports, in the order given.
    #[must_use]
    pub fn addresses(&self) -> &[Address] {
        &self.addresses
    }

    /// Serves until `stop`, and until every connection has ended after it.
    pub async fn run(self, stop: CancellationToken) {
        let Self { listeners, connections, .. } = self;
        let tasks = connections.tasks.clone();
        for listener in listeners {
            tasks.spawn(connections.clone().listen(listener, stop.clone()));
        }
        stop.cancelled().await;
        tasks.close();
        tasks.wait().await;
    }
}

/// What a new connection needs.
#[derive(Clone)]
struct Connections {
    exports: Arc<dyn Exports>,
    options: Arc<ConnectionOptions>,
    permits: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Connections {
    async fn listen(self, listener: Listener, stop: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => return,
                accepted = self.accept(&listener, &stop) => accepted,
            };
            if let Err(error) = accepted {
                warn!(%error, "an NBD connection cannot be accepted");
                tokio::time::sleep(ACCEPT_REST).await;
            }
        }
    }

    async fn accept(&self, listener: &Listener, stop: &CancellationToken) -> io::Result<()> {
        let (socket, peer) = match listener {
            Listener::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let process = stream.peer_cred().ok().and_then(|peer| peer.pid());
                let peer = process.map_or_else(|| "a local process".into(), |pid| format!("process {pid}"));
                (OwnedFd::from(stream.into_std()?), peer)
            }
            Listener::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                if let Err(error) = tune(&stream) {
                    debug!(%peer, %error, "an NBD connection's socket cannot be tuned");
                }
                (OwnedFd::from(stream.into_std()?), peer.to_string())
            }
        };
        self.start(Socket::new(socket)?, peer, stop);
        Ok(())
    }

    fn start(&self, socket: Socket, peer: String, stop: &CancellationToken) {
        let Ok(permit) = Arc::clone(&self.permits).try_acquire_owned() else {
            warn!(%peer, "an NBD connection is turned away: there are as many as are allowed at once");
            self.options.observer.on_turned_away();
            return;
        };
        let (exports, options) = (Arc::clone(&self.exports), Arc::clone(&self.options));
        self.tasks.spawn(connection(socket, peer, exports, options, stop.child_token(), permit));
    }
}

async fn connection(
    socket: Socket,
    peer: String,
    exports: Arc<dyn Exports>,
    options: Arc<ConnectionOptions>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
) {
    debug!(%peer, "NBD connection");
    match serve(socket, &*exports, &options, &stop).await {
        Ok(()) => debug!(%peer, "NBD connection ended"),
        Err(error) if is_usual(&error) => info!(%peer, %error, "NBD connection broken off"),
        Err(error) => warn!(%peer, %error, "NBD connection cut off"),
    }
}

/// Hosts die and networks fail; that is not the client's fault.
const fn is_usual(error: &ConnectionError) -> bool {
    matches!(
        error,
        ConnectionError::Handshake(HandshakeError::Socket(_))
            | ConnectionError::Session { source: SessionError::Socket(_) | SessionError::BrokenOff, .. }
    )
}
