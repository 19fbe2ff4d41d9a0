//! Dials a trusted appliance.
//!
//! In: HOST:PORT, resolved anew each time, and who is expected there. Out: a connection to that appliance which has let
//! this one in, or what went wrong. A host with several addresses is tried at all of them, one begun a little after the
//! other; the first that works is taken.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{ClientConfig, ConnectionError};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::accept::GREETING;
use super::config::LinkConfig;
use super::connection::Connection;
use super::endpoint::Endpoint;
use super::error::{DialError, refuses_certificate};
use super::tls::{Presented, SERVER_NAME};
use super::trust::Trust;
use crate::ids::ApplianceId;

/// Addresses of one host that are tried.
const ADDRESSES_MAX: usize = 8;
/// How much later each further address is tried.
const STAGGER: Duration = Duration::from_millis(250);

impl Endpoint {
    /// Connects to the appliance `expected` at `address`, HOST:PORT. Resolves when that appliance has let this one in.
    ///
    /// # Cancel safety
    /// Dropped before it resolves, the attempt is given up.
    ///
    /// # Errors
    /// [`DialError`]; of several addresses, the error that says most.
    pub async fn dial(&self, address: &str, expected: ApplianceId) -> Result<Connection, DialError> {
        let resolved = tokio::net::lookup_host(address).await;
        let resolved = resolved.map_err(|source| DialError::Resolve { address: address.into(), source })?;
        let mut attempts = JoinSet::new();
        for (number, remote) in (0_u32..).zip(resolved.take(ADDRESSES_MAX)) {
            let attempt = self.attempt(address, remote, expected)?;
            let patience = self.config.setup_timeout;
            attempts.spawn(async move {
                sleep(STAGGER * number).await;
                let waited = timeout(patience, attempt.run()).await;
                waited.unwrap_or(Err(Failure::Silent))
            });
        }
        let mut failure = Failure::Unresolved;
        while let Some(ended) = attempts.join_next().await {
            match ended.unwrap_or_else(|error| Err(Failure::Other(error.to_string()))) {
                Ok(connection) => return Ok(connection),
                Err(other) => failure = failure.max(other),
            }
        }
        Err(self.explain(failure, address, expected))
    }

    fn attempt(&self, address: &str, remote: SocketAddr, expected: ApplianceId) -> Result<Attempt, DialError> {
        let socket = |source| DialError::Socket { address: address.into(), source };
        let endpoint = self.dialer(remote).map_err(socket)?.ok_or(DialError::Closed)?;
        let (crypto, presented) = self.tls.client(expected).map_err(|error| socket(error.into()))?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(self.config.transport());
        let (trust, config) = (Arc::clone(&self.trust), Arc::clone(&self.config));
        Ok(Attempt { endpoint, client, remote, expected, presented, trust, config })
    }

    fn explain(&self, failure: Failure, address: &str, expected: ApplianceId) -> DialError {
        let address = address.to_owned();
        match failure {
            Failure::Unresolved => {
                DialError::Resolve { address, source: std::io::Error::other("the host has no address") }
            }
            Failure::Silent => DialError::Silent { address, waited: self.config.setup_timeout },
            Failure::Other(reason) => DialError::Failed { address, reason },
            Failure::Refused(reason) => DialError::Refused { address, reason, id: self.id },
            Failure::WrongPeer(found) if found == self.id => DialError::Itself { address, expected },
            Failure::WrongPeer(found) => DialError::WrongPeer { address, expected, found },
            Failure::Closed => DialError::Closed,
        }
    }
}

/// What an attempt came to; later ones say more.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
enum Failure {
    Unresolved,
    Silent,
    Other(String),
    Refused(String),
    WrongPeer(ApplianceId),
    Closed,
}

/// One address.
struct Attempt {
    endpoint: quinn::Endpoint,
    client: ClientConfig,
    remote: SocketAddr,
    expected: ApplianceId,
    presented: Presented,
    trust: Arc<dyn Trust>,
    config: Arc<LinkConfig>,
}

impl Attempt {
    async fn run(self) -> Result<Connection, Failure> {
        let connecting = match self.endpoint.connect_with(self.client.clone(), self.remote, SERVER_NAME) {
            Ok(connecting) => connecting,
            Err(quinn::ConnectError::EndpointStopping) => return Err(Failure::Closed),
            Err(error) => return Err(Failure::Other(error.to_string())),
        };
        let connection = connecting.await.map_err(|error| self.failure(&error))?;
        let mut greeting = connection.accept_uni().await.map_err(|error| self.failure(&error))?;
        match greeting.read_to_end(GREETING.len()).await {
            Ok(bytes) if bytes == GREETING => Ok(Connection::new(connection, self.expected, self.config, None)),
            Ok(_) => Err(Failure::Other("it does not greet as an appliance".into())),
            Err(_) => {
                let reason = connection.close_reason();
                Err(reason.map_or_else(|| Failure::Other("no greeting".into()), |error| self.failure(&error)))
            }
        }
    }

    fn failure(&self, error: &ConnectionError) -> Failure {
        match self.presented.id() {
            Some(found) if found != self.expected => {
                self.trust.refused(self.remote, Some(found), "it answers where another appliance was called");
                return Failure::WrongPeer(found);
            }
            _ => {}
        }
        match error {
            ConnectionError::LocallyClosed => Failure::Closed,
            ConnectionError::TimedOut => Failure::Silent,
            error if refuses_certificate(error) => Failure::Refused(error.to_string()),
            error => Failure::Other(error.to_string()),
        }
    }
}
