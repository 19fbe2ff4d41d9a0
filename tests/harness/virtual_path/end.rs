//! One end of a connection over a modelled path: quinn's state machine, and an application that sends or reads what it can.

use std::net::SocketAddr;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use quinn_proto::{
    ClientConfig, Connection, ConnectionHandle, DatagramEvent, Dir, Endpoint, EndpointConfig, Event, ServerConfig,
    StreamId, WriteError,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::LinkConfig;

use super::Sender;

/// Which end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Sender = 0,
    Receiver = 1,
}

/// What is handed to one stream at once.
const PIECE: usize = 1 << 20;
const GSO_SEGMENTS: usize = 10;

/// A certificate of a minute, for all runs of this process.
static CERTIFIED: LazyLock<(CertificateDer<'static>, PrivateKeyDer<'static>)> = LazyLock::new(|| {
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()]).expect("a certificate");
    (made.cert.der().clone(), PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into()))
});

pub(super) struct End {
    role: Role,
    endpoint: Endpoint,
    connection: Option<(ConnectionHandle, Connection)>,
    streams: Vec<(StreamId, Bytes)>,
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
        streams: Vec::new(),
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
        self.timer.into_iter().chain(application).min()
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

    /// Frames go to the lanes in turn, each whole, as the link sends them.
    fn write(&mut self, connection: &mut Connection, at: Duration) {
        self.allow(at);
        self.has_begun = at >= self.sender.begins;
        if connection.is_handshaking() || !self.has_begun {
            return;
        }
        while self.streams.len() < DATA_STREAMS {
            let Some(id) = connection.streams().open(Dir::Uni) else { return };
            self.streams.push((id, Bytes::new()));
        }
        static PIECE_OF_DATA: LazyLock<Bytes> = LazyLock::new(|| Bytes::from(vec![0x5a; PIECE]));
        loop {
            let mut wrote = false;
            for (id, rest) in &mut self.streams {
                if rest.is_empty() && self.allowance != Some(0) {
                    let bytes = self.allowance.map_or(PIECE, |left| PIECE.min(left as usize));
                    self.allowance = self.allowance.map(|left| left - bytes as u64);
                    *rest = PIECE_OF_DATA.slice(..bytes);
                }
                if rest.is_empty() {
                    continue;
                }
                match connection.send_stream(*id).write_chunks(std::slice::from_mut(rest)) {
                    Ok(written) => wrote |= written.bytes > 0,
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
            self.streams.push((id, Bytes::new()));
        }
        for (id, _) in &self.streams {
            let mut stream = connection.recv_stream(*id);
            let Ok(mut chunks) = stream.read(true) else { continue };
            while let Ok(Some(chunk)) = chunks.next(usize::MAX) {
                self.delivered += chunk.bytes.len() as u64;
            }
            // What was read opens the window; the next transmit tells.
            let _ = chunks.finalize();
        }
    }
}
