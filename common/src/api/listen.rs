//! HTTP/1 connections from accept to end, on a Unix or a TCP listener.
//!
//! A listener and a router come in. Owns the connections' tasks: at most a fixed number, each with limits on the time its
//! request heads may take and its answers may wait to be taken, all gone when [`serve`] returns.

use std::future::Future;
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::task::JoinSet;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::CancellationToken;

/// A request's head arrives within this time, or the connection is closed; also ends connections left idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// A client that takes nothing of an answer for so long is cut off: its place is for others.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// Largest request head read, bytes.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// Requests under way when the service stops may take so long to end.
const STOP_GRACE: Duration = Duration::from_secs(5);

/// Serves connections until `stop`, then lets requests under way end. Connections beyond `connections_max` wait in the
/// listener's backlog.
pub(super) async fn serve<L: Listener>(
    mut listener: L,
    router: Router,
    connections_max: usize,
    stop: CancellationToken,
) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            (io, _) = listener.accept(), if connections.len() < connections_max => {
                connections.spawn(converse(Patient::new(io, ANSWER_TIMEOUT), router.clone(), stop.clone()));
            }
            Some(ended) = connections.join_next() => report(ended),
        }
    }
    drop(listener);
    let all_ended = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(STOP_GRACE, all_ended).await.is_err() {
        tracing::warn!(connections = connections.len(), "closing connections whose requests did not end in time");
    }
    connections.shutdown().await;
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!(%error, "a connection's task ended abnormally");
    }
}

async fn converse<I>(io: I, router: Router, stop: CancellationToken)
where
    I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "a control or metrics connection broke off");
    }
}

/// A connection that fails when the client takes nothing for too long.
struct Patient<I> {
    io: I,
    patience: Duration,
    /// Runs while the client takes nothing.
    timer: Option<Pin<Box<Sleep>>>,
}

impl<I> Patient<I> {
    const fn new(io: I, patience: Duration) -> Self {
        Self { io, patience, timer: None }
    }

    fn unless_too_long<T>(&mut self, taken: Poll<io::Result<T>>, context: &mut Context<'_>) -> Poll<io::Result<T>> {
        if taken.is_ready() {
            self.timer = None;
            return taken;
        }
        let patience = self.patience;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(patience)));
        timer.as_mut().poll(context).map(|()| Err(io::ErrorKind::TimedOut.into()))
    }
}

impl<I: AsyncRead + Unpin> AsyncRead for Patient<I> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(context, buffer)
    }
}

impl<I: AsyncWrite + Unpin> AsyncWrite for Patient<I> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.io).poll_write(context, bytes);
        self.unless_too_long(taken, context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let taken = Pin::new(&mut self.io).poll_write_vectored(context, slices);
        self.unless_too_long(taken, context)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n";
    const ANSWER_BYTES: usize = 1 << 20;

    /// The client's end of a conversation whose answer is larger than what lies between the two.
    fn conversation(patience: Duration) -> (tokio::io::DuplexStream, tokio::task::JoinHandle<()>) {
        let (near, far) = tokio::io::duplex(4096);
        let router = Router::new().route("/", get(|| std::future::ready("x".repeat(ANSWER_BYTES))));
        (near, tokio::spawn(converse(Patient::new(far, patience), router, CancellationToken::new())))
    }

    async fn soon<F: Future>(future: F) -> F::Output {
        tokio::time::timeout(Duration::from_secs(20), future).await.expect("this does not take 20 s")
    }

    #[tokio::test]
    async fn a_client_that_takes_no_answer_gives_its_place_up() {
        let (mut client, ended) = conversation(Duration::from_millis(50));
        client.write_all(REQUEST).await.unwrap();
        soon(ended).await.unwrap();
    }

    #[tokio::test]
    async fn a_client_that_takes_its_answer_gets_all_of_it() {
        let (mut client, ended) = conversation(Duration::from_secs(20));
        client.write_all(REQUEST).await.unwrap();
        let mut answer = Vec::new();
        soon(client.read_to_end(&mut answer)).await.unwrap();
        assert!(answer.len() > ANSWER_BYTES);
        soon(ended).await.unwrap();
    }
}
