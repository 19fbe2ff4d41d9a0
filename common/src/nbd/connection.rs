//! One connection from its first byte to its last: handshake, TLS when it comes to that, transmission.
//!
//! Works on any byte stream, so that tests need no socket. Whatever the client does ends this connection at worst.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncWrite, AsyncWriteExt};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Exports;
use super::budget::Budget;
use super::haggle::{ClientFlags, Encryption, Entered, Haggling, Next};
use super::handshake::{HandshakeError, greet, haggle};
use super::left::Left;
use super::observe::{Observer, Unobserved};
use super::session::{Patience, Session, SessionError};
use super::socket::HostStream;
use super::tls::Tls;
use crate::clock::{Clock, SystemClock};

/// How connections are served.
#[derive(Clone)]
pub struct ConnectionOptions {
    /// A client that is not in transmission after this time is cut off.
    pub handshake_timeout: Duration,
    /// How long transmission waits for what.
    pub patience: Patience,
    /// Encryption, when it is configured.
    pub tls: Option<Tls>,
    /// Told of connections and requests.
    pub observer: Arc<dyn Observer>,
    /// Measures requests.
    pub clock: Arc<dyn Clock>,
    /// Whose clients have gone while requests of theirs are with a disk.
    pub left: Arc<Left>,
    /// Memory for the data of requests of all connections.
    pub budget: Budget,
}

impl Default for ConnectionOptions {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(30),
            patience: Patience { stall: Duration::from_secs(120), stop: Duration::from_secs(10) },
            tls: None,
            observer: Arc::new(Unobserved),
            clock: Arc::new(SystemClock::new()),
            left: Arc::default(),
            budget: Budget::default(),
        }
    }
}

/// Why a connection ended otherwise than by the client's wish or the server's stop.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// Before transmission.
    #[error(transparent)]
    Handshake(#[from] HandshakeError),
    /// In transmission on an export.
    #[error("export '{export}': {source}")]
    Session {
        /// The export.
        export: String,
        /// What happened.
        #[source]
        source: SessionError,
    },
}

/// Serves one client until it leaves, is cut off, or `stop`.
///
/// # Errors
/// [`ConnectionError`] says why the client was cut off, for the log.
pub async fn serve<S: HostStream>(
    stream: S,
    exports: &dyn Exports,
    options: &ConnectionOptions,
    stop: &CancellationToken,
) -> Result<(), ConnectionError> {
    let shaken = tokio::select! {
        biased;
        () = stop.cancelled() => return Ok(()),
        shaken = tokio::time::timeout(options.handshake_timeout, shake_hands(stream, exports, options)) => shaken,
    };
    let seconds = options.handshake_timeout.as_secs();
    match shaken.unwrap_or(Err(HandshakeError::TimedOut { seconds })) {
        Ok(Some(Shaken::Plain(stream, entered))) => transmit(stream, &entered, options, stop).await,
        Ok(Some(Shaken::Encrypted(stream, entered))) => transmit(*stream, &entered, options, stop).await,
        Ok(None) => Ok(()),
        Err(error) => {
            options.observer.on_turned_away();
            Err(error.into())
        }
    }
}

/// A client that is ready for transmission.
enum Shaken<S> {
    Plain(S, Entered),
    Encrypted(Box<tokio_rustls::server::TlsStream<S>>, Entered),
}

async fn shake_hands<S: HostStream>(
    mut stream: S,
    exports: &dyn Exports,
    options: &ConnectionOptions,
) -> Result<Option<Shaken<S>>, HandshakeError> {
    let tls = options.tls.as_ref();
    let required = tls.is_some_and(|tls| tls.required);
    let client = greet(&mut stream, required).await?;
    match haggle(&mut stream, Haggling::new(exports, client, encryption(tls, client))).await? {
        Next::Enter(entered) => Ok(Some(Shaken::Plain(stream, entered))),
        Next::StartTls => {
            let Some(tls) = tls else { return Ok(None) };
            let acceptor = TlsAcceptor::from(Arc::clone(&tls.config));
            let mut stream = Box::new(acceptor.accept(stream).await.map_err(HandshakeError::Tls)?);
            // Nothing that was agreed in the clear counts.
            match haggle(&mut stream, Haggling::new(exports, client, Encryption::Active)).await? {
                Next::Enter(entered) => Ok(Some(Shaken::Encrypted(stream, entered))),
                Next::Close | Next::Continue | Next::StartTls => close(*stream).await,
            }
        }
        Next::Close | Next::Continue => close(stream).await,
    }
}

async fn close<S, T>(mut stream: S) -> Result<Option<T>, HandshakeError>
where
    S: AsyncWrite + Unpin,
{
    // The client asked for the end, or cannot be told anything: nothing is lost when this fails.
    let _ = stream.shutdown().await;
    Ok(None)
}

/// A client that does not speak fixed newstyle cannot be offered TLS.
fn encryption(tls: Option<&Tls>, client: ClientFlags) -> Encryption {
    match tls {
        Some(tls) if tls.required => Encryption::Required,
        Some(_) if client.fixed_newstyle => Encryption::Offered,
        Some(_) | None => Encryption::Unavailable,
    }
}

async fn transmit<S: HostStream>(
    stream: S,
    entered: &Entered,
    options: &ConnectionOptions,
    stop: &CancellationToken,
) -> Result<(), ConnectionError> {
    let observer = options.observer.on_open(&entered.name);
    let opened = Opened { observer: Arc::clone(&observer), clean: false };
    let session = Session::new(stream, entered, observer, options);
    let result = session.run(stop, options.patience).await;
    opened.close(result.is_ok());
    result.map_err(|source| ConnectionError::Session { export: entered.name.clone(), source })
}

/// Tells the observer of the end, also when that is a panic of the export.
struct Opened {
    observer: Arc<dyn super::observe::SessionObserver>,
    clean: bool,
}

impl Opened {
    fn close(mut self, clean: bool) {
        self.clean = clean;
    }
}

impl Drop for Opened {
    fn drop(&mut self) {
        self.observer.on_close(self.clean);
    }
}
