//! Plain quinn: one stream, encrypted, tuned as our link is, with nothing read, checked or written.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use quinn::{ClientConfig, EndpointConfig, MtuDiscoveryConfig, ServerConfig, TokioRuntime, TransportConfig};
use tidemark_common::link::LinkConfig;
use tidemark_tests::figures::processor_time;

pub(super) const FRAME: usize = 1 << 20;
/// More than a processor's caches hold.
const FRAMES: u8 = 128;

/// Where what is sent comes from.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Source {
    /// One buffer, again and again: it stays in a processor's cache.
    Cache,
    /// Each time another one, as what is shipped does.
    Memory,
}

impl Source {
    pub(super) fn frames(self) -> Vec<Bytes> {
        let count = match self {
            Self::Cache => 1,
            Self::Memory => FRAMES,
        };
        (0..count).map(|number| Bytes::from(vec![number; FRAME])).collect()
    }
}

/// Bytes delivered per second of processor time, both ends together.
pub(crate) fn bytes_per_cpu_second(bytes: u64, source: Source) -> f64 {
    let frames = source.frames();
    // A process's first handshake gathers entropy for a tenth of a second.
    per_cpu_second(transfer(FRAME as u64, frames.clone()));
    per_cpu_second(transfer(bytes, frames))
}

/// The same of any transfer.
pub(super) fn per_cpu_second(transfer: impl Future<Output = anyhow::Result<u64>>) -> f64 {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let before = processor_time(std::process::id());
    let delivered = runtime.block_on(transfer).expect("all is delivered");
    let used = processor_time(std::process::id()) - before;
    delivered as f64 / used.as_secs_f64()
}

async fn transfer(bytes: u64, frames: Vec<Bytes>) -> anyhow::Result<u64> {
    let ours = LinkConfig::default();
    let mut discovery = MtuDiscoveryConfig::default();
    discovery.upper_bound(ours.mtu_max);
    let mut transport = TransportConfig::default();
    transport.mtu_discovery_config(Some(discovery)).send_window(ours.send_window_bytes);
    transport.stream_receive_window(ours.stream_window_bytes.into());
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
    endpoint.max_udp_payload_size(ours.mtu_max)?;
    let open = |server| {
        let address: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let socket = std::net::UdpSocket::bind(address)?;
        quinn::Endpoint::new(endpoint.clone(), server, socket, Arc::new(TokioRuntime))
    };
    let (listener, dialer) = (open(Some(server))?, open(None)?);
    let connecting = dialer.connect_with(client, listener.local_addr()?, "localhost")?;
    let accepting = async { anyhow::Ok(listener.accept().await.ok_or_else(|| anyhow::anyhow!("closed"))?.await?) };
    let (dialed, accepted) = tokio::join!(connecting, accepting);
    let (dialed, accepted) = (dialed?, accepted?);
    let receiving = tokio::spawn(async move {
        let mut stream = accepted.accept_uni().await?;
        let mut received = 0_u64;
        while let Some(chunk) = stream.read_chunk(FRAME, true).await? {
            received += chunk.bytes.len() as u64;
        }
        anyhow::Ok(received)
    });
    let mut stream = dialed.open_uni().await?;
    for frame in frames.iter().cycle().take(usize::try_from(bytes)? / FRAME) {
        stream.write_chunk(frame.clone()).await?;
    }
    stream.finish()?;
    stream.stopped().await?;
    receiving.await?
}
