//! The serving end: the control API on `DIR/api.sock`, the metrics page on TCP.
//!
//! Owns the socket file: it appears complete, with its permissions, and goes when serving ends. The caller holds the lock
//! on the directory, so a socket found there belongs to a service that is gone.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::header;
use axum::routing::get;
use rustix::net::listen as listen_on;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

use super::answer::{method_not_allowed, not_found};
use super::control::Control;
use super::listen;
use super::routes::{Api, router};
use crate::config::{CONTROL_SOCKET, ControlAccess};
use crate::private_socket::bind_private;

/// Operators' connections waiting to be accepted.
const BACKLOG: i32 = 128;
/// Operators' connections at once. A command that waits has one for as long, and a look at the status beside it: a script that waits for a
/// hundred groups keeps no failover out.
const CONTROL_CONNECTIONS_MAX: usize = 256;
/// Scrapers' connections at once.
const METRICS_CONNECTIONS_MAX: usize = 32;
/// What the metrics page is.
const METRICS_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// Why the control socket cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Something else has its name.
    #[error("{path} is not a socket: move it away, the control API needs that name", path = .path.display())]
    InTheWay {
        /// The path.
        path: PathBuf,
    },
    /// The system refuses.
    #[error("open the control socket {path}: {source}: check the directory's permissions and the length of its path (at most 99 bytes)", path = .path.display())]
    Bind {
        /// The path.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
}

/// The control socket, listening.
#[derive(Debug)]
pub struct ControlListener {
    listener: UnixListener,
    _file: SocketFile,
}

/// Removes the socket's file when it is dropped.
#[derive(Debug)]
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            tracing::debug!(path = %self.0.display(), %error, "the control socket's file was gone already");
        }
    }
}

impl ControlListener {
    /// Opens `api.sock` in an appliance's directory. Connections wait from now on, and are answered by [`serve_control`].
    ///
    /// # Errors
    /// [`BindError`] says what is in the way.
    pub fn bind(directory: &Path, access: ControlAccess) -> Result<Self, BindError> {
        let path = directory.join(CONTROL_SOCKET);
        match std::fs::symlink_metadata(&path) {
            Ok(found) if !found.file_type().is_socket() => return Err(BindError::InTheWay { path }),
            _ => {}
        }
        let listener =
            bind_complete(&path, access.mode()).map_err(|source| BindError::Bind { path: path.clone(), source })?;
        Ok(Self { listener, _file: SocketFile(path) })
    }
}

/// Binds under another name, sets the permissions, and only then gives the socket its name: nobody meets it half done.
fn bind_complete(path: &Path, mode: u32) -> io::Result<UnixListener> {
    let early = path.with_extension("new");
    match std::fs::remove_file(&early) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let socket = bind_private(&early)?;
    std::fs::set_permissions(&early, std::fs::Permissions::from_mode(mode))?;
    listen_on(&socket, BACKLOG)?;
    std::fs::rename(&early, path)?;
    UnixListener::from_std(unix::UnixListener::from(socket))
}

/// Serves the control API until `stop`; requests under way end first.
pub async fn serve_control(listener: ControlListener, control: Arc<dyn Control>, stop: CancellationToken) {
    let ControlListener { listener, _file } = listener;
    let router = router(Api { control, stop: stop.clone() });
    listen::serve(listener, router, CONTROL_CONNECTIONS_MAX, stop).await;
}

/// Serves `GET /metrics` and `GET /-/healthy` until `stop`.
pub async fn serve_metrics(listener: TcpListener, control: Arc<dyn Control>, stop: CancellationToken) {
    let page =
        async |State(control): State<Arc<dyn Control>>| ([(header::CONTENT_TYPE, METRICS_TYPE)], control.metrics());
    let router = Router::new()
        .route("/metrics", get(page))
        .route("/-/healthy", get(|| std::future::ready("healthy\n")))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .with_state(control);
    listen::serve(listener, router, METRICS_CONNECTIONS_MAX, stop).await;
}
