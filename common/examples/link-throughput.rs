//! What the link makes of loopback, beside plain quinn: MB/s of payload.
//!
//! `cargo run --release -p tidemark-common --example link-throughput -- [MIB] [FRAME_KIB] [MTU]`

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig};
use tidemark_common::identity::Identity;
use tidemark_common::ids::ApplianceId;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Congestion, Endpoint, LinkConfig, Trust};
use tokio::time::Instant;

type Failure = Box<dyn std::error::Error + Send + Sync>;

/// What is measured.
#[derive(Clone, Copy)]
struct Load {
    frames: u64,
    frame_bytes: usize,
    mtu: u16,
}

struct Anybody;

impl Trust for Anybody {
    fn peer_name(&self, _id: &ApplianceId) -> Option<String> {
        Some("peer".into())
    }

    fn refused(&self, remote: SocketAddr, _id: Option<ApplianceId>, why: &str) {
        eprintln!("refused {remote}: {why}");
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() -> Result<(), Failure> {
    let mut arguments = std::env::args().skip(1).map(|text| text.parse::<u64>());
    let total_mib = arguments.next().transpose()?.unwrap_or(1024);
    let frame_kib = arguments.next().transpose()?.unwrap_or(1024);
    let mtu = arguments.next().transpose()?.unwrap_or(6500);
    let frames = (total_mib << 10) / frame_kib;
    let load = Load { frames, frame_bytes: usize::try_from(frame_kib << 10)?, mtu: u16::try_from(mtu)? };
    println!("{frames} frames of {frame_kib} KiB, MTU up to {mtu}");
    for (name, congestion) in [("bbr", Congestion::Bbr), ("cubic", Congestion::Cubic)] {
        for streams in [1, DATA_STREAMS] {
            let (took, mtu) = link(load, congestion, streams).await?;
            report(&format!("link, {name}, {streams} streams, MTU found {mtu}"), load, took);
        }
    }
    report("plain quinn, defaults", load, plain(load, TransportConfig::default(), 1472).await?);
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(load.mtu);
    let mut tuned = TransportConfig::default();
    tuned.mtu_discovery_config(Some(discovery)).stream_receive_window((32_u32 << 20).into()).send_window(32 << 20);
    report("plain quinn, same MTU and windows", load, plain(load, tuned, load.mtu).await?);
    Ok(())
}

fn report(what: &str, load: Load, took: Duration) {
    let bytes = load.frames as f64 * load.frame_bytes as f64;
    println!("{what:<50} {:>8.0} MB/s", bytes / 1e6 / took.as_secs_f64());
}

async fn link(load: Load, congestion: Congestion, streams: usize) -> Result<(Duration, u16), Failure> {
    let config = LinkConfig { congestion, mtu_max: load.mtu, ..LinkConfig::default() };
    let directories = (tempfile::tempdir()?, tempfile::tempdir()?);
    let identities = (Identity::create(directories.0.path())?, Identity::create(directories.1.path())?);
    let bind = |identity| Endpoint::bind(loopback(), identity, Arc::new(Anybody), config.clone());
    let (east, west) = (bind(&identities.0)?, bind(&identities.1)?);
    let primary = east.dial(&west.local_addr()?.to_string(), identities.1.id()).await?;
    let secondary = west.accept().await.ok_or("the endpoint closed")?;
    let (sender, receiver) = tokio::join!(primary.open_data(streams), secondary.accept_data(streams));
    let (mut sender, mut receiver) = (sender?, receiver?);

    let start = Instant::now();
    let receiving = tokio::spawn(async move {
        let mut frames = 0_u64;
        while receiver.recv().await?.is_some() {
            frames += 1;
        }
        Ok::<_, Failure>(frames)
    });
    let frame = Bytes::from(vec![0x5a; load.frame_bytes]);
    for _ in 0..load.frames {
        sender.send(frame.clone()).await?;
    }
    sender.finish().await?;
    let received = receiving.await??;
    if received != load.frames {
        return Err(format!("{received} of {} frames arrived", load.frames).into());
    }
    Ok((start.elapsed(), primary.stats().mtu_bytes))
}

async fn plain(load: Load, transport: TransportConfig, udp_payload: u16) -> Result<Duration, Failure> {
    let transport = Arc::new(transport);
    let made = rcgen::generate_simple_self_signed(vec!["localhost".into()])?;
    let key = rustls_pki_types::PrivateKeyDer::Pkcs8(made.signing_key.serialize_der().into());
    let mut server = ServerConfig::with_single_cert(vec![made.cert.der().clone()], key)?;
    server.transport_config(Arc::clone(&transport));
    let mut roots = rustls::RootCertStore::empty();
    roots.add(made.cert.der().clone())?;
    let mut client = ClientConfig::with_root_certificates(Arc::new(roots))?;
    client.transport_config(transport);
    let mut endpoint = EndpointConfig::default();
    endpoint.max_udp_payload_size(udp_payload)?;
    let open = |server| {
        let socket = std::net::UdpSocket::bind(loopback())?;
        quinn::Endpoint::new(endpoint.clone(), server, socket, Arc::new(TokioRuntime))
    };
    let (listener, dialer) = (open(Some(server))?, open(None)?);
    let connecting = dialer.connect_with(client, listener.local_addr()?, "localhost")?;
    let (dialed, accepted) =
        tokio::join!(connecting, async { listener.accept().await.ok_or("closed")?.await.map_err(Failure::from) });
    let (dialed, accepted) = (dialed?, accepted?);

    let start = Instant::now();
    let receiving = tokio::spawn(async move {
        let mut stream = accepted.accept_uni().await?;
        let mut bytes = 0_u64;
        while let Some(chunk) = stream.read_chunk(1 << 20, true).await? {
            bytes += chunk.bytes.len() as u64;
        }
        Ok::<_, Failure>(bytes)
    });
    let frame = Bytes::from(vec![0x5a; load.frame_bytes]);
    let mut stream = dialed.open_uni().await?;
    for _ in 0..load.frames {
        stream.write_chunk(frame.clone()).await?;
    }
    stream.finish()?;
    stream.stopped().await?;
    receiving.await??;
    Ok(start.elapsed())
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}
