//! Strangers, and peers that misbehave.

use std::net::UdpSocket;

use bytes::BytesMut;
use quinn::crypto::rustls::QuicClientConfig;

use super::*;
use crate::limits::{CONTROL_MESSAGE_BYTES_MAX, DATA_STREAMS, FRAME_STORED_BYTES_MAX, REORDER_BYTES_MAX};
use crate::link::chunk::{ChunkHeader, PREAMBLE_BYTES, preamble};
use crate::link::tls::{ALPN, SERVER_NAME};
use crate::wire::message::Message;

#[tokio::test]
async fn a_stranger_is_refused_and_reported() {
    let (east, mut west) = (Appliance::new(), Appliance::new());
    east.trust(&west);
    let error = east.dial(&west).await.unwrap_err();
    assert!(matches!(&error, DialError::Refused { id, .. } if *id == east.id), "{error:?}");
    assert!(error.to_string().contains(&east.id.to_string()), "{error}");
    let refusal = soon(west.refusals.recv()).await.unwrap();
    assert_eq!(refusal.id, Some(east.id));
    assert!(refusal.why.contains("tidemark peer add"), "{}", refusal.why);

    west.trust(&east);
    connect(&east, &west).await;
}

#[tokio::test]
async fn another_appliance_at_the_address_is_named() {
    let (mut east, west) = pair();
    let other = Appliance::new();
    let error = east.endpoint.dial(&west.address(), other.id).await.unwrap_err();
    assert!(
        matches!(error, DialError::WrongPeer { expected, found, .. } if expected == other.id && found == west.id),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(text.contains(&other.id.to_string()) && text.contains(&west.id.to_string()), "{text}");
    let refusal = soon(east.refusals.recv()).await.unwrap();
    assert_eq!(refusal.id, Some(west.id), "{}", refusal.why);
    assert!(refusal.why.contains("another appliance was called"), "{}", refusal.why);
}

/// It was told as another appliance at the address, which was to be added with this one's own id.
#[tokio::test]
async fn an_appliance_that_calls_itself_is_told_so() {
    let (east, other) = (Appliance::new(), Appliance::new());
    let error = east.endpoint.dial(&east.address(), other.id).await.unwrap_err();
    assert!(matches!(error, DialError::Itself { expected, .. } if expected == other.id), "{error:?}");
    assert!(error.to_string().contains("this appliance's own"), "{error}");
}

/// Dials as nothing that this product makes would.
async fn dial_raw(to: &Appliance, alpn: &[u8], identity: Option<&Identity>) -> quinn::ConnectionError {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsAnything(provider)));
    let mut config = match identity {
        Some(identity) => {
            builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(identity.certified_key())))
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![alpn.into()];
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::client(any_port()).unwrap();
    let connecting = endpoint.connect_with(client, to.endpoint.local_addr().unwrap(), SERVER_NAME).unwrap();
    match connecting.await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    }
}

#[derive(Debug)]
struct AcceptsAnything(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for AcceptsAnything {
    fn verify_server_cert(
        &self,
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &[rustls_pki_types::CertificateDer<'_>],
        _: &rustls_pki_types::ServerName<'_>,
        _: &[u8],
        _: rustls_pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &rustls_pki_types::CertificateDer<'_>,
        _: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        Ok(rustls::client::danger::HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

#[tokio::test]
async fn no_certificate_is_refused_and_reported() {
    let mut west = Appliance::new();
    soon(dial_raw(&west, ALPN, None)).await;
    let refusal = soon(west.refusals.recv()).await.unwrap();
    assert_eq!(refusal.id, None);
    assert!(refusal.why.contains("certificate"), "{}", refusal.why);
}

#[tokio::test]
async fn another_protocol_is_refused_and_reported() {
    let mut west = Appliance::new();
    let stranger = identity();
    west.peers.names.lock().insert(stranger.id(), "friend".into());
    soon(dial_raw(&west, b"h3", Some(&stranger))).await;
    assert!(soon(west.refusals.recv()).await.is_some());
}

/// The certificate of a trusted peer, which anybody may have seen, and another key.
#[tokio::test]
async fn a_stolen_certificate_without_its_key_is_refused() {
    let mut west = Appliance::new();
    let (trusted, thief) = (identity(), identity());
    west.peers.names.lock().insert(trusted.id(), "friend".into());
    let certificate = trusted.certified_key().cert.clone();
    let key = thief.certified_key().key.clone();
    let forged = Forged(Arc::new(rustls::sign::CertifiedKey::new(certificate, key)));
    let error = soon(dial_forged(&west, forged)).await;
    assert!(matches!(error, quinn::ConnectionError::ConnectionClosed(_)), "{error}");
    let refusal = soon(west.refusals.recv()).await.unwrap();
    assert_eq!(refusal.id, Some(trusted.id()), "{}", refusal.why);
}

#[derive(Debug)]
struct Forged(Arc<rustls::sign::CertifiedKey>);

impl rustls::client::ResolvesClientCert for Forged {
    fn resolve(&self, _: &[&[u8]], _: &[rustls::SignatureScheme]) -> Option<Arc<rustls::sign::CertifiedKey>> {
        Some(self.0.clone())
    }

    fn has_certs(&self) -> bool {
        true
    }
}

async fn dial_forged(to: &Appliance, forged: Forged) -> quinn::ConnectionError {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AcceptsAnything(provider)))
        .with_client_cert_resolver(Arc::new(forged));
    config.alpn_protocols = vec![ALPN.into()];
    let client = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).unwrap()));
    let endpoint = quinn::Endpoint::client(any_port()).unwrap();
    let connecting = endpoint.connect_with(client, to.endpoint.local_addr().unwrap(), SERVER_NAME).unwrap();
    match connecting.await {
        Ok(connection) => connection.closed().await,
        Err(error) => error,
    }
}

/// Random datagrams, and the beginnings of handshakes that never go on, do not keep others out.
#[tokio::test]
async fn garbage_and_stalled_handshakes_keep_nobody_out() {
    let config = LinkConfig {
        handshakes_max: 4,
        idle_timeout: Duration::from_millis(500),
        setup_timeout: Duration::from_millis(500),
        ..LinkConfig::default()
    };
    let (east, mut west) = pair_with(&config);
    let target = west.endpoint.local_addr().unwrap();
    let stranger = UdpSocket::bind(any_port()).unwrap();
    for random in numbers(3).take(500) {
        let bytes: Vec<u8> =
            numbers(random).map(|n| n.to_le_bytes()[0]).take(usize::try_from(random % 1400).unwrap()).collect();
        stranger.send_to(&bytes, target).unwrap();
    }
    // First flights through a relay that lets nothing back: no retry is answered, no handshake goes on.
    let relay = UdpSocket::bind(any_port()).unwrap();
    relay.set_nonblocking(true).unwrap();
    let relay_address = relay.local_addr().unwrap().to_string();
    let relay = tokio::net::UdpSocket::from_std(relay).unwrap();
    let relaying = async {
        let mut buffer = [0; 2000];
        loop {
            let (bytes, _) = relay.recv_from(&mut buffer).await.unwrap();
            relay.send_to(&buffer[..bytes], target).await.unwrap();
        }
    };
    let stalled = async {
        let mut dials = Vec::new();
        for _ in 0..8 {
            dials.push(Box::pin(east.endpoint.dial(&relay_address, west.id)));
        }
        for dial in dials {
            assert!(matches!(dial.await, Err(DialError::Silent { .. })));
        }
    };
    tokio::select! {
        () = relaying => unreachable!("it relays for ever"),
        () = stalled => {}
    }
    soon(connect(&east, &west)).await;
    assert_eq!(soon(west.refusals.recv()).await.unwrap().id, None, "a stalled handshake is reported");
}

#[tokio::test]
async fn an_address_that_is_none_is_named() {
    let east = Appliance::new();
    for bad in ["nowhere", "127.0.0.1", "host.invalid:1", ""] {
        let error = east.endpoint.dial(bad, east.id).await.unwrap_err();
        assert!(matches!(error, DialError::Resolve { .. }), "{bad}: {error}");
    }
}

#[tokio::test]
async fn one_peer_leaves_connections_to_the_others() {
    let config = LinkConfig { connections_of_peer_max: 2, ..LinkConfig::default() };
    let (east, mut west) = pair_with(&config);
    let other = Appliance::new();
    other.trust(&west);
    west.trust(&other);
    let (dialed, accepted) = connect(&east, &west).await;
    let _second = connect(&east, &west).await;
    let error = soon(east.dial(&west)).await.unwrap_err();
    assert!(error.to_string().contains("2 connections are open"), "{error}");
    let refusal = soon(west.refusals.recv()).await.unwrap();
    assert_eq!((refusal.id, refusal.crowded), (Some(east.id), true), "{}", refusal.why);
    let _of_other = soon(connect(&other, &west)).await;

    dialed.close("enough");
    accepted.closed().await;
    drop(accepted);
    soon(connect(&east, &west)).await;
}

/// A trusted peer, by raw streams: what it sends on data streams after their preambles.
async fn lying_sender(lanes: &[&[Bytes]]) -> (LinkError, LinkError) {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let count = u16::try_from(lanes.len()).unwrap();
    for (number, chunks) in (0..).zip(lanes) {
        let mut stream = primary.raw().open_uni().await.unwrap();
        stream.write_all(&preamble(number, count)).await.unwrap();
        for chunk in *chunks {
            stream.write_all(chunk).await.unwrap();
        }
        stream.finish().unwrap();
    }
    let mut receiver = secondary.accept_data(lanes.len()).await.unwrap();
    let error = soon(async {
        loop {
            match receiver.recv().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("nothing was noticed"),
                Err(error) => break error,
            }
        }
    })
    .await;
    (error, primary.closed().await)
}

fn chunk(ordinal: u64, bytes: usize) -> Bytes {
    let mut chunk = BytesMut::from(&ChunkHeader { ordinal, length: u32::try_from(bytes).unwrap() }.write()[..]);
    chunk.extend_from_slice(&frame(ordinal, bytes));
    chunk.freeze()
}

#[tokio::test]
async fn lies_on_data_streams_close_the_connection() {
    let mut damaged = BytesMut::from(&chunk(0, 100)[..]);
    damaged[9] ^= 1;
    let too_long = u32::try_from(FRAME_STORED_BYTES_MAX).unwrap() + 1;
    let too_long = ChunkHeader { ordinal: 0, length: too_long }.write();
    let cases: [(&[&[Bytes]], Violation); 8] = [
        (&[&[damaged.freeze()]], Violation::Header { lane: 0 }),
        (&[&[too_long]], Violation::Header { lane: 0 }),
        (&[&[ChunkHeader { ordinal: 0, length: 0 }.write()]], Violation::Header { lane: 0 }),
        (&[&[chunk(0, 9).slice(..30)]], Violation::ChunkCut { lane: 0 }),
        (&[&[chunk(0, 9).slice(..3)]], Violation::ChunkCut { lane: 0 }),
        (&[&[chunk(0, 9), chunk(0, 9)]], OrderError::Repeated { lane: 0, ordinal: 0 }.into()),
        (&[&[chunk(1, 9)], &[chunk(2, 9)]], OrderError::Missing { ordinal: 0 }.into()),
        (&[&[chunk(1, 9)], &[]], OrderError::Missing { ordinal: 0 }.into()),
    ];
    for (lanes, violation) in cases {
        let (seen, accused) = lying_sender(lanes).await;
        assert_eq!(accused, LinkError::PeerAccuses { reason: violation.to_string() });
        assert_eq!(seen, LinkError::Violation(violation));
    }
}

/// All data streams, by raw streams of the dialer.
async fn raw_data_streams(primary: &Connection) -> Vec<quinn::SendStream> {
    let mut streams = Vec::new();
    for number in 0..DATA_STREAMS {
        let mut stream = primary.raw().open_uni().await.unwrap();
        let preamble = preamble(u16::try_from(number).unwrap(), u16::try_from(DATA_STREAMS).unwrap());
        stream.write_all(&preamble).await.unwrap();
        streams.push(stream);
    }
    streams
}

/// There may be a thousand connections, all of one peer, and none of them is let in yet.
#[tokio::test]
async fn who_may_only_talk_does_not_fill_the_windows_of_data() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let mut streams = raw_data_streams(&primary).await;
    let piece = vec![0_u8; 64 << 10];
    let mut sent = DATA_STREAMS * PREAMBLE_BYTES;
    for stream in &mut streams {
        loop {
            tokio::select! {
                biased;
                written = stream.write(&piece) => sent += written.unwrap(),
                () = std::future::ready(()) => break,
            }
        }
    }
    assert_eq!(sent, CONTROL_MESSAGE_BYTES_MAX);
    let _receiver = secondary.accept_data(DATA_STREAMS).await.unwrap();
    soon(streams[0].write_all(&piece)).await.unwrap();
}

/// Three lanes run ahead of a silent one: the receiver takes a bounded amount and then waits, and goes on when the
/// silent one speaks.
#[tokio::test]
async fn lanes_that_run_ahead_are_held() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let mut streams = raw_data_streams(&primary).await;
    let mut receiver = secondary.accept_data(DATA_STREAMS).await.unwrap();
    let silent = streams.remove(0);
    let frames = u64::try_from(3 * REORDER_BYTES_MAX / FRAME_STORED_BYTES_MAX).unwrap();
    let ahead = std::cell::Cell::new(false);
    let running_ahead = async {
        for ordinal in 1..frames {
            let lane = usize::try_from(ordinal).unwrap() % streams.len();
            streams[lane].write_all(&chunk(ordinal, FRAME_STORED_BYTES_MAX)).await.unwrap();
        }
        ahead.set(true);
    };
    let speaking = async {
        let mut silent = silent;
        let full = u64::try_from(REORDER_BYTES_MAX).unwrap();
        while secondary.stats().received_bytes < full {
            tokio::task::yield_now().await;
        }
        assert!(!ahead.get(), "the receiver must not have taken everything");
        silent.write_all(&chunk(0, 1)).await.unwrap();
    };
    let receiving = async {
        for ordinal in 0..frames {
            let bytes = if ordinal == 0 { 1 } else { FRAME_STORED_BYTES_MAX };
            assert!(receiver.recv().await.unwrap().unwrap() == frame(ordinal, bytes), "frame {ordinal}");
        }
    };
    soon(async { tokio::join!(running_ahead, speaking, receiving) }).await;
}

#[tokio::test]
async fn lies_on_the_control_stream_close_the_connection() {
    for (bytes, ends) in [(&b"GET / HTTP/1.1\r\n\r\n..."[..], false), (b"TMKC\x05\0", true)] {
        let (east, west) = pair();
        let (primary, secondary) = connect(&east, &west).await;
        let (mut stream, _receive) = primary.raw().open_bi().await.unwrap();
        stream.write_all(bytes).await.unwrap();
        if ends {
            stream.finish().unwrap();
        }
        let (_send, mut receiver) = secondary.accept_control().await.unwrap();
        let error = soon(receiver.recv()).await.unwrap_err();
        assert!(matches!(error, LinkError::Violation(_)), "{error}");
        assert!(matches!(primary.closed().await, LinkError::PeerAccuses { .. }));
    }
}

#[tokio::test]
async fn streams_that_do_not_begin_as_data_streams_close_the_connection() {
    for bytes in [*b"TMKDxxxx", *b"whatever", *b"TMKD\x01\0\x01\0", *b"TMKD\x00\0\x02\0"] {
        let (east, west) = pair();
        let (primary, secondary) = connect(&east, &west).await;
        let mut stream = primary.raw().open_uni().await.unwrap();
        stream.write_all(&bytes).await.unwrap();
        let error = secondary.accept_data(1).await.unwrap_err();
        assert_eq!(error, LinkError::Violation(Violation::Preamble { found: bytes }));
        assert!(matches!(primary.closed().await, LinkError::PeerAccuses { .. }));
    }
}

#[tokio::test]
async fn a_peer_that_opens_nothing_is_given_up() {
    let config = LinkConfig { setup_timeout: Duration::from_millis(300), ..LinkConfig::default() };
    let (east, west) = pair_with(&config);
    let (primary, secondary) = connect(&east, &west).await;
    assert!(matches!(secondary.accept_control().await, Err(LinkError::TooSlow { .. })));
    assert!(matches!(primary.closed().await, LinkError::PeerClosed { .. }));
    let (primary, secondary) = connect(&east, &west).await;
    let _three = primary.raw().open_uni().await.unwrap().write_all(&preamble(0, 4)).await;
    assert!(matches!(secondary.accept_data(4).await, Err(LinkError::TooSlow { .. })));
}

/// A peer that says nothing for ever but keeps the connection alive is left to the caller, who knows what to expect:
/// receiving can be given up and taken up again.
#[tokio::test]
async fn waiting_for_a_silent_peer_can_be_given_up() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let (to_west, _from_west) = primary.open_control().await.unwrap();
    let message = Message::Goodbye { message: "one".into() };
    to_west.send(&message).await.unwrap();
    let (_to_east, mut from_east) = secondary.accept_control().await.unwrap();
    assert_eq!(from_east.recv().await, Ok(Some(message.clone())));
    assert!(tokio::time::timeout(Duration::from_millis(50), from_east.recv()).await.is_err());
    to_west.send(&message).await.unwrap();
    assert_eq!(soon(from_east.recv()).await, Ok(Some(message)));
}
