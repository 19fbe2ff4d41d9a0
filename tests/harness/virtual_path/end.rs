//! One end of a connection over a modelled path: quinn's state machine, and an application that sends or reads what it can. As on the
//! link, whole frames go over the lanes, and a control stream asks for an answer now and then.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ServerConfig,
    StreamId, WriteError,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidemark_common::limits::{DATA_STREAMS, FRAME_RAW_BYTES_MAX};
use tidemark_common::link::{CONTROL_PRIORITY, LinkConfig, in_pieces, lanes_for};

use super::Sender;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Sender = 0,
    Receiver = 1,
}

/// What is handed to one lane at once: as large as the journal makes them, since nothing of a frame counts before all of it came.
const FRAME: usize = FRAME_RAW_BYTES_MAX;
/// Its number and its length come first.
const HEADER: usize = 12;
/// Between two questions on the control stream, and what each is, bytes.
const ASKS_EVERY: Duration = Duration::from_millis(500);
const QUESTION: usize = 48;
const GSO_SEGMENTS: usize = 10;

/// A certificate of a minute, for all runs of this process.
static CERTIFIED: LazyLock<(CertificateDer<'static>, PrivateKeyDer<'static>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()))
});

/// A data stream, and what is to be written to it, or read from it before the next frame.
struct Lane {
    id: StreamId,
    rest: Vec<Bytes>,
    header: Vec<u8>,
    left: u64,
}

impl Lane {
    fn new(id: StreamId) -> Self {
        Self { id, rest: Vec::new(), header: Vec::with_capacity(HEADER), left: 0 }
    }
}

pub(super) struct End {
    role: Role,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    lanes: Vec<Lane>,
    /// The number of the next frame to send, or to have.
    next_frame: u64,
    /// Those that came before their turn, and their bytes.
    early: BTreeMap<u64, u64>,
    in_order: u64,
    control: Option<StreamId>,
    asks: Duration,
    answered: Duration,
    /// What is to be said on the control stream.
    words: Bytes,
    config: LinkConfig,
    sender: Sender,
    /// Bytes the application may still hand over; `None`: as many as it likes.
    allowance: Option<u64>,
    next_trickle: Duration,
    has_begun: bool,
    timer: Option<Instant>,
    lost: Option<(Duration, String)>,
    delivered: u64,
    buffer: Vec<u8>,
}

fn address(role: Role) -> SocketAddr {
    ([10, 0, 0, 1 + role as u8], 7411).into()
}

/// The two ends of one connection, not yet connected.
pub(super) fn pair(begin: Instant, seed: u64, config: &LinkConfig, sender: &Sender) -> [End; 2] {
    let mut endpoint = EndpointConfig::default();
    endpoint.max_udp_payload_size(config.mtu_max).expect("a size");
    let endpoint = Arc::new(endpoint);
    let mut server = ServerConfig::with_single_cert(vec![CERTIFIED.0.clone()], CERTIFIED.1.clone_key()).expect("TLS");
    server.transport_config(config.transport());
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CERTIFIED.0.clone()).expect("a root");
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots)).expect("TLS");
    client.transport_config(config.transport());
    let mut key = [0; 32];
    key[..8].copy_from_slice(&seed.to_le_bytes());
    let new = |role, server, key| End {
        role,
        endpoint: Endpoint::new(Arc::clone(&endpoint), server, true, Some(key)),
        connection: None,
        lanes: Vec::new(),
        next_frame: 0,
        early: BTreeMap::new(),
        in_order: 0,
        control: None,
        asks: Duration::ZERO,
        answered: Duration::ZERO,
        words: Bytes::new(),
        config: config.clone(),
        sender: *sender,
        allowance: sender.trickle.map(|_| 0),
        next_trickle: sender.begins,
        has_begun: false,
        timer: None,
        lost: None,
        delivered: 0,
        buffer: Vec::new(),
    };
    let mut receiver_key = key;
    receiver_key[31] = 1;
    let mut near = new(Role::Sender, None, key);
    let far = new(Role::Receiver, Some(Arc::new(server)), receiver_key);
    let connected = near.endpoint.connect(begin, client, address(Role::Receiver), "localhost");
    near.connection = Some(connected.expect("a connection begins"));
    [near, far]
}

impl End {
    pub(super) fn role(&self) -> Role {
        self.role
    }

    pub(super) fn delivered(&self) -> u64 {
        self.delivered
    }

    /// Bytes of frames that came whole, and in order.
    pub(super) fn in_order(&self) -> u64 {
        self.in_order
    }

    /// When the other end was last heard to answer.
    pub(super) fn answered(&self) -> Duration {
        self.answered
    }

    /// When and why the connection ended.
    pub(super) fn lost(&self) -> Option<&(Duration, String)> {
        self.lost.as_ref()
    }

    pub(super) fn window(&self) -> u64 {
        self.connection.as_ref().map_or(0, |(_, connection)| connection.congestion_state().window())
    }

    pub(super) fn receive(&mut self, now: Instant, datagram: BytesMut) {
        let other = if self.role == Role::Sender { Role::Receiver } else { Role::Sender };
        self.buffer.clear();
        let event = self.endpoint.handle(now, address(other), None, None, datagram, &mut self.buffer);
        match event {
            Some(DatagramEvent::NewConnection(incoming)) => {
                let accepted = self.endpoint.accept(incoming, now, &mut self.buffer, None);
                self.connection = Some(accepted.unwrap_or_else(|error| panic!("accept: {}", error.cause)));
            }
            Some(DatagramEvent::ConnectionEvent(_, event)) => {
                if let Some((_, connection)) = &mut self.connection {
                    connection.handle_event(event);
                }
            }
            // Nobody else speaks on this path.
            Some(DatagramEvent::Response(_)) | None => {}
        }
    }

    /// Everything that can be done now.
    pub(super) fn drive(&mut self, now: Instant, begin: Instant, mut send: impl FnMut(BytesMut)) {
        let Some((handle, mut connection)) = self.connection.take() else { return };
        if connection.poll_timeout().is_some_and(|at| at <= now) {
            connection.handle_timeout(now);
        }
        while let Some(event) = connection.poll_endpoint_events() {
            if let Some(event) = self.endpoint.handle_event(handle, event) {
                connection.handle_event(event);
            }
        }
        while let Some(event) = connection.poll() {
            if let Event::ConnectionLost { reason } = event {
                self.lost = Some((now - begin, reason.to_string()));
                self.timer = None;
                return;
            }
        }
        self.converse(&mut connection, now - begin);
        match self.role {
            Role::Sender => self.write(&mut connection, now - begin),
            Role::Receiver => self.read(&mut connection),
        }
        loop {
            self.buffer.clear();
            let Some(transmit) = connection.poll_transmit(now, GSO_SEGMENTS, &mut self.buffer) else { break };
            let sent = self.buffer.get(..transmit.size).unwrap_or_default();
            for datagram in sent.chunks(transmit.segment_size.unwrap_or(transmit.size).max(1)) {
                send(BytesMut::from(datagram));
            }
        }
        self.timer = connection.poll_timeout();
        self.connection = Some((handle, connection));
    }

    /// When there is something to do without a datagram.
    pub(super) fn wakes(&self, begin: Instant) -> Option<Instant> {
        let waits = self.role == Role::Sender && (self.allowance.is_some() || !self.has_begun);
        let application = waits.then(|| begin + self.next_trickle);
        let lives = self.connection.is_some();
        let asks = self.control.filter(|_| lives && self.role == Role::Sender).map(|_| begin + self.asks);
        self.timer.into_iter().chain(application).chain(asks).min()
    }

    fn allow(&mut self, at: Duration) {
        let Some((until, bytes, often)) = self.sender.trickle else { return };
        if at >= until {
            self.allowance = None;
        } else if at >= self.next_trickle {
            self.allowance = self.allowance.map(|_| bytes);
            self.next_trickle = at + often;
        }
    }

    /// The sender asks, the receiver says the same back.
    fn converse(&mut self, connection: &mut Connection, at: Duration) {
        if connection.is_handshaking() {
            return;
        }
        if self.control.is_none() {
            self.control = match self.role {
                Role::Sender => connection.streams().open(Dir::Bi),
                Role::Receiver => connection.streams().accept(Dir::Bi),
            };
            if let Some(id) = self.control {
                connection.send_stream(id).set_priority(CONTROL_PRIORITY).expect("an open stream");
            }
        }
        let Some(id) = self.control else { return };
        let heard = read_all(connection, id, |_| ());
        match self.role {
            Role::Sender if heard > 0 => self.answered = at,
            Role::Sender => {}
            Role::Receiver => self.words = Bytes::from(vec![0x5a; self.words.len() + heard as usize]),
        }
        if self.role == Role::Sender && at >= self.asks {
            self.words = Bytes::from(vec![0x5a; self.words.len() + QUESTION]);
            self.asks = at + ASKS_EVERY;
        }
        if !self.words.is_empty() {
            match connection.send_stream(id).write_chunks(std::slice::from_mut(&mut self.words)) {
                Ok(_) | Err(WriteError::Blocked) => {}
                Err(error) => panic!("write: {error}"),
            }
        }
    }

    /// Frames go to the lanes in turn, each whole, as the link sends them.
    fn write(&mut self, connection: &mut Connection, at: Duration) {
        static FRAME_OF_DATA: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0x5a; FRAME]));
        self.allow(at);
        self.has_begun = at >= self.sender.begins;
        if connection.is_handshaking() || !self.has_begun {
            return;
        }
        while self.lanes.len() < DATA_STREAMS {
            let Some(id) = connection.streams().open(Dir::Uni) else { return };
            self.lanes.push(Lane::new(id));
        }
        loop {
            let mut wrote = false;
            let window = connection.congestion_state().window();
            let used = lanes_for(window, self.config.stream_window_bytes, DATA_STREAMS);
            for (number, lane) in self.lanes.iter_mut().enumerate() {
                let is_done = lane.rest.is_empty();
                if is_done && number < used && self.allowance != Some(0) {
                    let bytes = self.allowance.map_or(FRAME, |left| FRAME.min(left as usize));
                    self.allowance = self.allowance.map(|left| left - bytes as u64);
                    let header = [&self.next_frame.to_le_bytes()[..], &(bytes as u32).to_le_bytes()].concat();
                    self.next_frame += 1;
                    lane.rest = [header.into(), FRAME_OF_DATA.slice(..bytes)].into_iter().flat_map(in_pieces).collect();
                } else if is_done {
                    continue;
                }
                match connection.send_stream(lane.id).write_chunks(&mut lane.rest) {
                    Ok(written) => {
                        lane.rest.drain(..written.chunks);
                        wrote |= written.bytes > 0;
                    }
                    Err(WriteError::Blocked) => {}
                    Err(error) => panic!("write: {error}"),
                }
            }
            if !wrote {
                return;
            }
        }
    }

    fn read(&mut self, connection: &mut Connection) {
        while let Some(id) = connection.streams().accept(Dir::Uni) {
            self.lanes.push(Lane::new(id));
        }
        for lane in &mut self.lanes {
            let Lane { id, header, left, .. } = lane;
            let early = &mut self.early;
            self.delivered += read_all(connection, *id, |mut bytes| {
                while !bytes.is_empty() {
                    if header.len() < HEADER {
                        header.extend_from_slice(&bytes.split_to(bytes.len().min(HEADER - header.len())));
                        *left = header.get(8..HEADER).map_or(0, |mut length| length.get_u32_le().into());
                    } else {
                        let body = bytes.split_to(bytes.len().min(*left as usize));
                        *left -= body.len() as u64;
                    }
                    if header.len() == HEADER && *left == 0 {
                        let mut said = &header[..];
                        early.insert(said.get_u64_le(), said.get_u32_le().into());
                        header.clear();
                    }
                }
            });
        }
        while let Some(bytes) = self.early.remove(&self.next_frame) {
            self.in_order += bytes;
            self.next_frame += 1;
        }
    }
}

/// Everything that a stream has; how many bytes.
fn read_all(connection: &mut Connection, id: StreamId, mut take: impl FnMut(Bytes)) -> u64 {
    let mut bytes = 0;
    let mut stream = connection.recv_stream(id);
    let Ok(mut chunks) = stream.read(true) else { return bytes };
    while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
        bytes += chunk.bytes.len() as u64;
        take(chunk.bytes);
    }
    // What was read opens the window; the next transmit tells.
    let _ = chunks.finalize();
    bytes
}
