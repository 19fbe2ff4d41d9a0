//! The asking end of the control API: one method per command, over `DIR/api.sock`.
//!
//! Owns nothing but the socket's path: each request has a connection of its own, because commands are one request each.
//! Every request ends: with an answer, or with an error when the service is silent for longer than it may take.

use std::convert::Infallible;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONTENT_TYPE, HOST};
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use super::types::{
    CloneCreate, Cut, DrillReport, DrillRun, DrillSchedule, ErrorBody, Failover, FailoverReport, GroupCreate,
    GroupDrills, GroupSet, GroupStatus, GroupVolume, ImageStatus, LostExport, LostTail, MarkerInfo, PairStatus,
    PairTarget, PeerAdd, PeerStatus, Rejoin, RejoinReport, Status, Switchover, SwitchoverReport, T0Create,
    VerifyReport, VerifyRequest, VolumeCreate, VolumeOffer, VolumeResize, VolumeStatus, Wait,
};
use crate::config::{CONFIG_FILE, CONTROL_SOCKET};

/// Largest answer taken, bytes. A week of markers, one each second, is 60 MB; the ranges of a lost tail of ten gibibytes that was written in
/// blocks of 4 KiB are 100 MB.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// How long questions may take that the service answers from memory.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(10);
/// How long operations may take that touch disks and peers.
const OPERATION_TIMEOUT: Duration = Duration::from_secs(300);
/// Volumes and journals of many TiB are read, written back and copied as fast as their disks allow.
const COPY_TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// How much later than its own timeout a `wait` may be answered.
const WAIT_GRACE: Duration = Duration::from_secs(10);

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The service says no.
    #[error("{}", .0.message)]
    Answered(ErrorBody),
    /// Nobody listens.
    #[error("no service answers at {socket}: {remedy}", socket = .socket.display())]
    Unreachable {
        /// The socket.
        socket: PathBuf,
        /// What to do.
        remedy: String,
        /// What the system says.
        source: io::Error,
    },
    /// The service went away in the middle.
    #[error("the service at {socket} went away before all of its answer had come ({source}): whether the request was carried out is not known; look at `tidemark status` when it is back", socket = .socket.display())]
    BrokenOff {
        /// The socket.
        socket: PathBuf,
        /// What the connection says.
        source: hyper::Error,
    },
    /// The service does not answer.
    #[error("the service at {socket} has not answered for {} s: whether the request is carried out is not known; is it stopped, or its disk stuck?", .after.as_secs(), socket = .socket.display())]
    Silent {
        /// The socket.
        socket: PathBuf,
        /// How long it was waited for.
        after: Duration,
    },
    /// The answer is not one of this API.
    #[error("{socket} answers with something that is not this API ({why}): is another version of tidemark running?", socket = .socket.display())]
    Garbled {
        /// The socket.
        socket: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

impl ClientError {
    fn unreachable(socket: &Path, source: io::Error) -> Self {
        let directory = socket.parent().unwrap_or(socket);
        let shown = directory.display();
        let remedy = match source.kind() {
            io::ErrorKind::PermissionDenied => "permission denied; run this as the user the service runs as".into(),
            io::ErrorKind::NotFound if !directory.join(CONFIG_FILE).exists() => {
                format!("{shown} holds no appliance; name the right directory with --dir or TIDEMARK_DIR")
            }
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                format!(
                    "it is not running, or still starting, which its log tells; start it with `tidemark serve {shown}`"
                )
            }
            _ => format!("{source}; is `tidemark serve {shown}` running?"),
        };
        Self::Unreachable { socket: socket.into(), remedy, source }
    }
}

/// An appliance's control API.
#[derive(Debug, Clone)]
pub struct Client {
    socket: PathBuf,
    operation_timeout: Duration,
}

pub(super) type Answer<T> = Result<T, ClientError>;

/// A request before it is sent.
pub(super) struct Ask {
    method: Method,
    pub(super) path: String,
    body: Option<Vec<u8>>,
    /// None: as the client has it for operations.
    timeout: Option<Duration>,
}

impl Client {
    /// The API of the appliance in this directory. Connects only when something is asked.
    #[must_use]
    pub fn new(directory: &Path) -> Self {
        Self { socket: directory.join(CONTROL_SOCKET), operation_timeout: OPERATION_TIMEOUT }
    }

    /// The same, which waits so long, instead of five minutes, for operations that neither read nor write much.
    #[must_use]
    pub fn waiting_for_operations(self, operation_timeout: Duration) -> Self {
        Self { operation_timeout, ..self }
    }

    /// `status`.
    ///
    /// # Errors
    /// [`ClientError`], as for all methods here.
    pub async fn status(&self) -> Answer<Status> {
        self.ask(Ask::new(Method::GET, &["status"]).within(QUESTION_TIMEOUT)).await
    }

    /// `peer add`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn peer_add(&self, request: &PeerAdd) -> Answer<PeerStatus> {
        self.ask(Ask::new(Method::POST, &["peers"]).with(request)).await
    }

    /// `peer remove`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn peer_remove(&self, name: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["peers", name])).await
    }

    /// `volume create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn volume_create(&self, request: &VolumeCreate) -> Answer<VolumeStatus> {
        self.ask(Ask::new(Method::POST, &["volumes"]).with(request)).await
    }

    /// `volume delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn volume_delete(&self, name: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["volumes", name])).await
    }

    /// `volume offer`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn volume_offer(&self, name: &str, request: &VolumeOffer) -> Answer<VolumeStatus> {
        self.ask(Ask::new(Method::PUT, &["volumes", name, "offer"]).with(request)).await
    }

    /// `volume resize`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn volume_resize(&self, name: &str, request: &VolumeResize) -> Answer<VolumeStatus> {
        self.ask(Ask::new(Method::PATCH, &["volumes", name]).with(request)).await
    }

    /// `group create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn group_create(&self, request: &GroupCreate) -> Answer<GroupStatus> {
        self.ask(Ask::new(Method::POST, &["groups"]).with(request)).await
    }

    /// `group set`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn group_set(&self, group: &str, request: &GroupSet) -> Answer<GroupStatus> {
        self.ask(Ask::new(Method::PATCH, &["groups", group]).with(request)).await
    }

    /// `group delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn group_delete(&self, name: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["groups", name]).within(COPY_TIMEOUT)).await
    }

    /// `group add`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn group_add(&self, group: &str, request: &GroupVolume, force: bool) -> Answer<GroupStatus> {
        self.ask(forced(Ask::new(Method::POST, &["groups", group, "volumes"]).with(request), force)).await
    }

    /// `group remove`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn group_remove(&self, group: &str, volume: &str) -> Answer<GroupStatus> {
        self.ask(Ask::new(Method::DELETE, &["groups", group, "volumes", volume])).await
    }

    /// `pair create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn pair_create(&self, group: &str, request: &PairTarget) -> Answer<PairStatus> {
        self.ask(Ask::new(Method::POST, &["groups", group, "pairs"]).with(request)).await
    }

    /// `pair suspend`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn pair_suspend(&self, group: &str, peer: &str) -> Answer<PairStatus> {
        self.ask(Ask::new(Method::POST, &["groups", group, "pairs", peer, "suspend"])).await
    }

    /// `pair resume`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn pair_resume(&self, group: &str, peer: &str) -> Answer<PairStatus> {
        self.ask(Ask::new(Method::POST, &["groups", group, "pairs", peer, "resume"])).await
    }

    /// `pair release`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn pair_release(&self, group: &str, peer: &str) -> Answer<PairStatus> {
        self.ask(Ask::new(Method::POST, &["groups", group, "pairs", peer, "release"])).await
    }

    /// `pair resume --in-place`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn pair_in_place(&self, group: &str, peer: &str) -> Answer<PairStatus> {
        self.ask(Ask::new(Method::POST, &["groups", group, "pairs", peer, "in-place"])).await
    }

    /// `pair delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn pair_delete(&self, group: &str, peer: &str, force: bool) -> Answer<()> {
        self.tell(forced(Ask::new(Method::DELETE, &["groups", group, "pairs", peer]).within(COPY_TIMEOUT), force)).await
    }

    /// `cut`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn cut(&self, group: &str, request: &Cut) -> Answer<MarkerInfo> {
        self.ask(Ask::new(Method::POST, &["groups", group, "markers"]).with(request)).await
    }

    /// `markers`, newest first.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn markers(&self, group: &str) -> Answer<Vec<MarkerInfo>> {
        self.ask(Ask::new(Method::GET, &["groups", group, "markers"]).within(QUESTION_TIMEOUT)).await
    }

    /// `wait`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn wait(&self, group: &str, request: &Wait) -> Answer<MarkerInfo> {
        let timeout = Duration::from_millis(request.timeout_ms).saturating_add(WAIT_GRACE);
        self.ask(Ask::new(Method::POST, &["groups", group, "wait"]).with(request).within(timeout)).await
    }

    /// `failover`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn failover(&self, group: &str, request: &Failover) -> Answer<FailoverReport> {
        let ask = Ask::new(Method::POST, &["groups", group, "failover"]).with(request);
        // What lies before an older marker is read.
        let is_older = request.marker.is_some() || request.time.is_some();
        self.ask(if is_older { ask.within(COPY_TIMEOUT) } else { ask }).await
    }

    /// `lost list`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn lost(&self, group: &str) -> Answer<Vec<LostTail>> {
        self.ask(Ask::new(Method::GET, &["groups", group, "lost"]).within(COPY_TIMEOUT)).await
    }

    /// `lost export`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn lost_export(&self, group: &str, tail: &str, request: &LostExport) -> Answer<()> {
        let ask = Ask::new(Method::POST, &["groups", group, "lost", tail, "export"]).with(request);
        self.tell(ask.within(COPY_TIMEOUT)).await
    }

    /// `lost discard`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn lost_discard(&self, group: &str, tail: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["groups", group, "lost", tail])).await
    }

    /// `verify`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn verify(&self, group: &str, request: &VerifyRequest) -> Answer<VerifyReport> {
        self.ask(Ask::new(Method::POST, &["groups", group, "verify"]).with(request).within(COPY_TIMEOUT)).await
    }

    /// `rejoin`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn rejoin(&self, group: &str, request: &Rejoin) -> Answer<RejoinReport> {
        self.ask(Ask::new(Method::POST, &["groups", group, "rejoin"]).with(request).within(COPY_TIMEOUT)).await
    }

    /// `switchover`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn switchover(&self, group: &str, request: &Switchover) -> Answer<SwitchoverReport> {
        let timeout = Duration::from_millis(request.timeout_ms).saturating_add(OPERATION_TIMEOUT);
        self.ask(Ask::new(Method::POST, &["groups", group, "switchover"]).with(request).within(timeout)).await
    }

    /// `t0 create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn t0_create(&self, request: &T0Create) -> Answer<ImageStatus> {
        self.ask(Ask::new(Method::POST, &["t0"]).with(request)).await
    }

    /// `clone create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn clone_create(&self, request: &CloneCreate) -> Answer<ImageStatus> {
        self.ask(Ask::new(Method::POST, &["clones"]).with(request)).await
    }

    /// `t0 delete`, `clone delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn image_delete(&self, name: &str, force: bool) -> Answer<()> {
        let mut ask = Ask::new(Method::DELETE, &["images", name]);
        if force {
            ask.path.push_str("?force=true");
        }
        self.tell(ask).await
    }

    /// `drill run`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drill_run(&self, group: &str, request: &DrillRun) -> Answer<DrillReport> {
        let timeout = Duration::from_millis(request.timeout_ms).saturating_add(OPERATION_TIMEOUT);
        self.ask(Ask::new(Method::POST, &["groups", group, "drills"]).with(request).within(timeout)).await
    }

    /// `drill cancel`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drill_cancel(&self, group: &str) -> Answer<DrillReport> {
        self.ask(Ask::new(Method::POST, &["groups", group, "drills", "cancel"])).await
    }

    /// `drill list`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drills(&self) -> Answer<Vec<DrillReport>> {
        self.ask(Ask::new(Method::GET, &["drills"])).await
    }

    /// `drill show`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drill(&self, id: u64) -> Answer<DrillReport> {
        self.ask(Ask::new(Method::GET, &["drills", &id.to_string()])).await
    }

    /// `drill schedule`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drill_schedule(&self, group: &str, request: &DrillSchedule) -> Answer<GroupDrills> {
        self.ask(Ask::new(Method::PUT, &["groups", group, "drill-schedule"]).with(request)).await
    }

    /// `drill unschedule`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn drill_unschedule(&self, group: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["groups", group, "drill-schedule"])).await
    }

    pub(super) async fn ask<T: DeserializeOwned>(&self, ask: Ask) -> Answer<T> {
        let bytes = self.exchange(ask).await?;
        serde_json::from_slice(&bytes).map_err(|error| self.garbled(&error))
    }

    pub(super) async fn tell(&self, ask: Ask) -> Answer<()> {
        self.exchange(ask).await.map(drop)
    }

    /// One request on one connection, and its answer's body when that is a good one.
    async fn exchange(&self, ask: Ask) -> Answer<Bytes> {
        let after = ask.timeout.unwrap_or(self.operation_timeout);
        match tokio::time::timeout(after, self.exchange_unbounded(ask)).await {
            Ok(answer) => answer,
            Err(_) => Err(ClientError::Silent { socket: self.socket.clone(), after }),
        }
    }

    async fn exchange_unbounded(&self, ask: Ask) -> Answer<Bytes> {
        self.converse(ask, async |response| self.read_all(response).await).await
    }

    /// One request on one connection; a good answer is for who asks to read.
    pub(super) async fn converse<T>(
        &self,
        ask: Ask,
        read: impl AsyncFnOnce(Response<Incoming>) -> Answer<T>,
    ) -> Answer<T> {
        let broken_off = |source| ClientError::BrokenOff { socket: self.socket.clone(), source };
        let stream =
            UnixStream::connect(&self.socket).await.map_err(|source| ClientError::unreachable(&self.socket, source))?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(broken_off)?;
        let request = ask.into_request().map_err(|error| self.garbled(&error))?;
        let converse = async {
            let response = sender.send_request(request).await.map_err(broken_off)?;
            if response.status().is_success() {
                return read(response).await;
            }
            let bytes = self.read_all(response).await?;
            let error = serde_json::from_slice(&bytes).map_err(|error| self.garbled(&error))?;
            Err(ClientError::Answered(error))
        };
        // The connection only moves while it is polled; its own end is told through the request as well.
        let connection = async {
            let _ = connection.await;
            std::future::pending::<Infallible>().await
        };
        tokio::select! {
            answer = converse => answer,
            never = connection => match never {},
        }
    }

    async fn read_all(&self, response: Response<Incoming>) -> Answer<Bytes> {
        let body = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(source) => ClientError::BrokenOff { socket: self.socket.clone(), source: *source },
            Err(too_long) => self.garbled(&too_long),
        });
        Ok(body?.to_bytes())
    }

    fn garbled(&self, why: &dyn std::fmt::Display) -> ClientError {
        ClientError::Garbled { socket: self.socket.clone(), why: why.to_string() }
    }
}

/// Asks for it even where that loses something.
pub(super) fn forced(mut ask: Ask, force: bool) -> Ask {
    if force {
        ask.path.push_str("?force=true");
    }
    ask
}

impl Ask {
    pub(super) fn new(method: Method, segments: &[&str]) -> Self {
        let path = segments.iter().fold(String::from("/v1"), |path, segment| path + "/" + &encoded(segment));
        Self { method, path, body: None, timeout: None }
    }

    pub(super) fn within(self, timeout: Duration) -> Self {
        Self { timeout: Some(timeout), ..self }
    }

    pub(super) fn with(mut self, body: &impl Serialize) -> Self {
        // The API's types are plain structs of text and numbers: writing them to memory cannot fail.
        self.body = serde_json::to_vec(body).ok();
        self
    }

    fn into_request(self) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        let body = Full::new(Bytes::from(self.body.unwrap_or_default()));
        let head = Request::builder().method(self.method).uri(self.path).header(HOST, "tidemark");
        head.header(CONTENT_TYPE, "application/json").body(body)
    }
}

/// A name as one segment of a path.
fn encoded(segment: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~');
    segment
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}
