//! HTTP/1 connections from accept to end, on a Unix or a TCP listener.
//!
//! A listener and a router come in. Owns the connections' tasks: at most a fixed number, each with a limit on the time its
//! request heads may take, all gone when [`serve`] returns.

use std::time::Duration;

use axum::Router;
use axum::serve::Listener;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// A request's head arrives within this time, or the connection is closed; also ends connections left idle.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
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
                connections.spawn(converse(io, router.clone(), stop.clone()));
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
    I: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
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
