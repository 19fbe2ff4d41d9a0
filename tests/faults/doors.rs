//! Who knocks at the doors of an appliance: callers without the right to come in are refused, counted and logged; the control socket
//! is its user's alone; and nothing is heard from other machines unless that was asked for.

use std::fs;
use std::net::{SocketAddr, UdpSocket};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::{Arc, Mutex};

use quinn::crypto::rustls::QuicClientConfig;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::{ClientConfig, DigitallySignedStruct, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use tidemark_common::wire::message::Message;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::{Cluster, loopback};
use tidemark_tests::command::run;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::get;
use tidemark_tests::wait::{check, wait_until};

use crate::peers::{hello, say, say_at};

/// What an appliance speaks, so that nothing but the certificate is wrong.
const ALPN: &[u8] = b"tidemark/1";
const LOGGED: &str = "a connection was refused";

/// How many callers it has counted as refused because it does not know them.
fn counted(side: &Appliance) -> u64 {
    counted_for(side, "unknown_peer")
}

fn counted_for(side: &Appliance, reason: &str) -> u64 {
    let series = format!("tidemark_peers_refused_total{{reason=\"{reason}\"}}");
    let page = get(&side.status().addresses.metrics, "/metrics");
    let count = page.lines().find_map(|line| line.strip_prefix(series.as_str())?.trim().parse().ok());
    count.unwrap_or_else(|| panic!("{page}"))
}

/// How often it has logged that, with these words.
fn logged(side: &Appliance, words: &str) -> usize {
    side.log_text().lines().filter(|line| line.contains(LOGGED) && line.contains(words)).count()
}

fn assert_counted_and_logged(side: &Appliance, before: u64, words: &str) {
    wait_until("the refusal to be counted and logged", COPY_LIMIT, || {
        let (count, lines) = (counted(side), logged(side, words));
        check(count > before && lines > 0, || format!("{count} counted, {before} before, {lines} lines with {words:?}"))
    });
}

/// Whoever answers is believed: the caller is the one with something to hide.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// Calls as another appliance would, and shows no certificate: how that ends.
fn call_without_certificate(to: &Appliance) -> quinn::ConnectionError {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(Arc::clone(&provider));
    let builder = builder.with_protocol_versions(&[&rustls::version::TLS13]).expect("TLS 1.3").dangerous();
    let builder = builder.with_custom_certificate_verifier(Arc::new(AnyServer(provider)));
    let mut config = builder.with_no_client_auth();
    config.alpn_protocols = vec![ALPN.into()];
    let config = quinn::ClientConfig::new(Arc::new(QuicClientConfig::try_from(config).expect("for QUIC")));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = quinn::Endpoint::client(SocketAddr::from((loopback(), 0))).expect("an endpoint");
        let address = to.replication().parse().expect("an address");
        match endpoint.connect_with(config, address, "tidemark").expect("a call").await {
            Ok(connection) => connection.closed().await,
            Err(error) => error,
        }
    })
}

#[test]
fn a_caller_with_another_certificate_or_none_is_refused_counted_and_logged() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 225));
    let stranger = pair.cluster.running("stranger");
    stranger.trust(&pair.west, Some(pair.west.replication()));
    stranger.ok(&["volume", "create", "s", "--size", "1MiB"]);
    stranger.ok(&["group", "create", "sg", "--volume", "s"]);
    let before = counted(&pair.west);
    let told = stranger.cli(&["pair", "create", "sg", "--to", "west"]);
    assert!(matches!(told.code, 0 | 1), "{told:?}");
    assert_counted_and_logged(&pair.west, before, stranger.id());

    for side in [&pair.east, &pair.west] {
        let before = counted(side);
        let ended = call_without_certificate(side);
        assert!(!matches!(ended, quinn::ConnectionError::TimedOut), "it is told: {ended}");
        assert_counted_and_logged(side, before, "certificate");
    }
    assert!(pair.west.status().groups.iter().all(|group| group.name == GROUP), "nothing was made for them");
    pair.assert_same();
}

/// A service that hung finds calls for which nobody waits any more: no stranger has called, and nobody is to look for one.
#[test]
fn a_peer_that_gave_up_a_call_to_a_service_that_hung_is_not_counted_as_a_stranger() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 258));
    let before = counted(&pair.west);
    pair.west.freeze();
    pair.east.wait_pair(GROUP, "a call to be given up", COPY_LIMIT, |pair| {
        pair.reason.as_ref().is_some_and(|reason| reason.contains("nobody answered"))
    });
    pair.west.thaw();
    pair.wait_paired();
    wait_until("the call to be counted as what it was", COPY_LIMIT, || {
        let count = counted_for(&pair.west, "handshake");
        check(count > 0, || format!("{count} counted"))
    });
    assert_eq!(counted(&pair.west), before, "{}", pair.west.log_text());
}

/// A line to an appliance that somebody listens to: what was sent to it.
struct Tapped {
    address: SocketAddr,
    heard: Arc<Mutex<Vec<Vec<u8>>>>,
}

impl Tapped {
    /// Both ways, until the test ends.
    fn to(target: &Appliance) -> Self {
        let target: SocketAddr = target.replication().parse().expect("an address");
        let inside = UdpSocket::bind((loopback(), 0)).expect("a socket");
        let outside = UdpSocket::bind((loopback(), 0)).expect("a socket");
        outside.connect(target).expect("the way to it");
        let address = inside.local_addr().expect("an address");
        let (heard, caller) = (Arc::<Mutex<Vec<Vec<u8>>>>::default(), Arc::new(Mutex::new(address)));
        let back = (inside.try_clone().expect("a handle"), outside.try_clone().expect("a handle"), Arc::clone(&caller));
        let noted = Arc::clone(&heard);
        std::thread::spawn(move || {
            let mut datagram = [0; 2048];
            while let Ok((length, from)) = inside.recv_from(&mut datagram) {
                *caller.lock().expect("the caller") = from;
                noted.lock().expect("what was heard").push(datagram[..length].to_vec());
                let _ = outside.send(&datagram[..length]);
            }
        });
        std::thread::spawn(move || {
            let (inside, outside, caller) = back;
            let mut datagram = [0; 2048];
            while let Ok(length) = outside.recv(&mut datagram) {
                let _ = inside.send_to(&datagram[..length], *caller.lock().expect("the caller"));
            }
        });
        Self { address, heard }
    }
}

/// Somebody who listened to the line sends again what a trusted peer has sent, its handshake and its order to make a copy. Once nothing
/// of that connection is remembered, it is a caller that cannot show who it is.
#[test]
fn a_replayed_handshake_is_refused_counted_and_logged() {
    let cluster = Cluster::new();
    let (west, caller) = (cluster.running("west"), cluster.appliance("caller"));
    west.trust(&caller, None);
    let tapped = Tapped::to(&west);
    let answer = say_at(&tapped.address.to_string(), &caller, &west, &Message::Hello(hello()));
    assert!(matches!(answer, Message::Welcome(_)), "{answer:?}");
    let sent = tapped.heard.lock().expect("what was heard").clone();
    assert!(sent.len() > 3, "a handshake and more: {}", sent.len());
    // What it made is given up, so that the order, if it were taken, would be seen.
    west.ok(&["pair", "delete", "h", "--to", "caller"]);
    let before = counted_for(&west, "handshake");
    let attacker = UdpSocket::bind((loopback(), 0)).expect("a socket");
    wait_until("a replayed handshake to be refused", COPY_LIMIT, || {
        for datagram in &sent {
            attacker.send_to(datagram, west.replication()).expect("send it again");
        }
        let count = counted_for(&west, "handshake");
        check(count > before, || format!("{count} counted"))
    });
    // Nothing of it tells whether it is a stranger's: it ends like a call that was given up.
    let words = attacker.local_addr().expect("its address").to_string();
    wait_until("the refusal to be logged", COPY_LIMIT, || check(logged(&west, &words) > 0, || west.log_text()));
    assert!(west.status().groups.is_empty(), "its order was not taken");
    // Who can show it is welcome still.
    west.ok(&["volume", "delete", "v"]);
    assert!(matches!(say(&caller, &west, &Message::Hello(hello())), Message::Welcome(_)));
}

/// Any user of the machine, with nothing of root's.
const NOBODY: [&str; 5] = ["--reuid", "65534", "--regid", "65534", "--clear-groups"];

#[test]
fn the_control_socket_is_private_to_its_user() {
    let cluster = Cluster::new();
    let east = cluster.running("east");
    let mode = |path: &std::path::Path| fs::metadata(path).expect("its mode").permissions().mode() & 0o777;
    let socket = east.directory().join("api.sock");
    assert_eq!((mode(&socket), mode(east.directory())), (0o600, 0o700));
    if fs::metadata(&socket).expect("its owner").uid() != 0 {
        return;
    }
    // Also where every folder on the way were open to all.
    for folder in [east.directory(), cluster.path()] {
        fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).expect("open the folder");
    }
    let opens = ["test", "-w", &socket.display().to_string()];
    let other = run("setpriv", &[&NOBODY[..], &opens].concat());
    assert_eq!(other.code, 1, "another user is let in: {other:?}");
    assert_eq!(run(opens[0], &opens[1..]).code, 0, "and its own user is");
}

/// The addresses on which a process listens for TCP, from the kernel's tables.
fn listens(pid: u32) -> Vec<String> {
    let listed = fs::read_dir(format!("/proc/{pid}/fd")).expect("its files").flatten();
    let sockets: Vec<String> = listed
        .filter_map(|file| fs::read_link(file.path()).ok())
        .filter_map(|target| Some(target.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let tables = ["tcp", "tcp6"].map(|table| fs::read_to_string(format!("/proc/net/{table}")).unwrap_or_default());
    let lines = tables.iter().flat_map(|table| table.lines().skip(1));
    let rows = lines.map(|line| line.split_whitespace().collect::<Vec<_>>());
    let listening = rows.filter(|row| row[3] == "0A" && sockets.iter().any(|socket| socket == row[9]));
    listening.map(|row| row[1].to_owned()).collect()
}

/// Metrics are the only thing that an appliance serves over TCP as it is made, and only to its own machine; others are let in by two
/// settings, not by one.
#[test]
fn nothing_is_served_to_other_machines_unless_it_is_asked_for() {
    let cluster = Cluster::new();
    let mut east = cluster.running("east");
    let open = listens(east.pid());
    // The kernel writes addresses with their first byte last.
    assert!(open.len() == 1 && open.iter().all(|address| address[6..].starts_with("7F:")), "it listens at {open:?}");

    east.stop();
    let path = east.directory().join("config.toml");
    let text = fs::read_to_string(&path).expect("its configuration");
    let begin = text.find("[metrics]").expect("its metrics");
    let (before, metrics) = text.split_at(begin);
    let line = metrics.lines().find(|line| line.starts_with("address")).expect("its address");
    let port = line.trim_end_matches('"').rsplit_once(':').expect("a port").1;
    let everywhere = format!("address = \"0.0.0.0:{port}\"");
    fs::write(&path, format!("{before}{}", metrics.replacen(line, &everywhere, 1))).expect("change it");
    let said = east.start_refused().failed_with(1);
    assert!(said.contains("allow_remote_metrics = true") && said.contains("127.0.0.1"), "it says what to do: {said}");

    let asked = format!("{everywhere}\nallow_remote_metrics = true");
    fs::write(&path, format!("{before}{}", metrics.replacen(line, &asked, 1))).expect("change it");
    east.start();
    let open = listens(east.pid());
    assert!(open.len() == 1 && open[0].starts_with("00000000:"), "it was asked for: {open:?}");
}
