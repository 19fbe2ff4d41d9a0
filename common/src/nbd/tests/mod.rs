//! Whole connections against exports in memory, over a stream in memory or real sockets.

mod client;
mod garbage;
mod haggling;
mod limits;
mod probe;
mod servers;
mod stops;
mod transmission;

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::client::Client;
use self::probe::Probe;
use super::memory::{FixedExports, MemoryExport};
use super::request::Style;
use super::{ConnectionError, ConnectionOptions, HostStream, serve};

/// Bytes of the exports here.
const SIZE: u64 = 1 << 20;

/// A connection to a probe named `v` and a read-only export named `ro`.
struct Served<C = DuplexStream> {
    client: Client<C>,
    probe: Arc<Probe>,
    stop: CancellationToken,
    ended: JoinHandle<Result<(), ConnectionError>>,
}

fn serve_with(options: ConnectionOptions) -> Served {
    let (near, far) = tokio::io::duplex(64 << 10);
    serve_over(near, far, options)
}

fn serve_over<C: AsyncRead + AsyncWrite + Unpin>(
    near: C,
    far: impl HostStream + 'static,
    options: ConnectionOptions,
) -> Served<C> {
    let probe = Arc::new(Probe::new(SIZE));
    let read_only = Arc::new(MemoryExport::new(1 << 20, true));
    let exports = FixedExports::default().with("v", Arc::clone(&probe) as _).with("ro", read_only);
    let stop = CancellationToken::new();
    let stopped = stop.clone();
    let ended = tokio::spawn(async move { serve(far, &exports, &options, &stopped).await });
    Served { client: Client::new(near), probe, stop, ended }
}

/// In transmission on `v`.
async fn transmit(style: Style) -> Served {
    let mut served = serve_with(ConnectionOptions::default());
    served.client.enter(style, "v").await;
    served
}

/// Waits for something that must come soon.
async fn soon<F: Future>(future: F) -> F::Output {
    tokio::time::timeout(Duration::from_secs(20), future).await.expect("this does not take 20 s")
}
