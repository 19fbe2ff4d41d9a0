//! Listening, real sockets, and TLS.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net as unix;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use super::client::{Reply, go};
use super::*;
use crate::config::Address;
use crate::nbd::protocol::{command, option, reply_type};
use crate::nbd::{BindError, Server, ServerOptions, Tls};

fn exports() -> Arc<FixedExports> {
    Arc::new(FixedExports::default().with("v", Arc::new(Probe::new(SIZE))))
}

async fn bind(address: &Address, options: ServerOptions) -> Result<Server, BindError> {
    Server::bind(std::slice::from_ref(address), exports(), options).await
}

/// A running server.
struct Running {
    addresses: Vec<Address>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

async fn run(address: &Address, options: ServerOptions) -> Running {
    let server = bind(address, options).await.unwrap();
    let (addresses, stop) = (server.addresses().to_vec(), CancellationToken::new());
    Running { addresses, stop: stop.clone(), task: tokio::spawn(server.run(stop)) }
}

fn socket_in(dir: &TempDir) -> (Address, std::path::PathBuf) {
    let path = dir.path().join("nbd.sock");
    (Address::Unix(path.clone()), path)
}

#[tokio::test]
async fn a_unix_socket_is_private_and_goes_with_the_server() {
    let dir = TempDir::new().unwrap();
    let (address, path) = socket_in(&dir);
    let Running { stop, task, .. } = run(&address, ServerOptions::default()).await;
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let mut client = Client::new(UnixStream::connect(&path).await.unwrap());
    client.enter(Style::Simple, "v").await;
    assert_eq!(client.read(0, 1).await, Reply::Data(vec![0]));
    stop.cancel();
    client.closed().await;
    soon(task).await.unwrap();
    assert!(!path.exists());
}

#[tokio::test]
async fn more_than_a_socket_holds_goes_both_ways() {
    let dir = TempDir::new().unwrap();
    let (address, path) = socket_in(&dir);
    let Running { stop, task, .. } = run(&address, ServerOptions::default()).await;
    let mut client = Client::new(UnixStream::connect(&path).await.unwrap());
    client.enter(Style::Simple, "v").await;
    let data: Vec<u8> = (0..SIZE).map(|at| u8::try_from(at % 241).unwrap()).collect();
    assert_eq!(client.write(0, 0, &data).await, Reply::Done);
    for _ in 0..3 {
        let large = client.send(command::READ, 0, 0, SIZE, &[]).await;
        assert_eq!(client.reply(SIZE).await, (large, Reply::Data(data.clone())));
        // Enough small replies for it to forget that the socket was ever full.
        for _ in 0..100 {
            assert_eq!(client.read(7, 3).await, Reply::Data(data[7..10].to_vec()));
        }
    }
    stop.cancel();
    soon(task).await.unwrap();
}

#[tokio::test]
async fn a_unix_socket_gets_the_mode_asked_for() {
    let dir = TempDir::new().unwrap();
    let (address, path) = socket_in(&dir);
    let server = bind(&address, ServerOptions { socket_mode: 0o666, ..ServerOptions::default() }).await.unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o666);
    drop(server);
    assert!(!path.exists(), "also without having run");
}

#[tokio::test]
async fn a_stale_socket_is_replaced_a_live_one_and_other_files_are_not() {
    let dir = TempDir::new().unwrap();
    let (address, path) = socket_in(&dir);
    drop(unix::UnixListener::bind(&path).unwrap());
    let first = bind(&address, ServerOptions::default()).await.expect("what a killed process left is replaced");
    assert!(matches!(bind(&address, ServerOptions::default()).await.err(), Some(BindError::Live { .. })));
    drop(first);
    fs::write(&path, "precious").unwrap();
    assert!(matches!(bind(&address, ServerOptions::default()).await.err(), Some(BindError::NotASocket { .. })));
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let Running { addresses, .. } = run(&"127.0.0.1:0".parse().unwrap(), ServerOptions::default()).await;
    let error = bind(&addresses[0], ServerOptions::default()).await.err().unwrap();
    assert!(error.to_string().contains(&addresses[0].to_string()), "{error}");
}

#[tokio::test]
async fn tcp_tells_its_real_port_and_serves_several_clients() {
    let Running { addresses, stop, task } = run(&"127.0.0.1:0".parse().unwrap(), ServerOptions::default()).await;
    let address = addresses[0].to_string();
    assert!(!address.ends_with(":0"), "{address}");
    let mut one = Client::new(TcpStream::connect(&address).await.unwrap());
    let mut two = Client::new(TcpStream::connect(&address).await.unwrap());
    one.enter(Style::Extended, "v").await;
    two.enter(Style::Simple, "v").await;
    one.write(0, 7, b"shared").await;
    assert_eq!(two.read(7, 6).await, Reply::Data(b"shared".to_vec()));
    one.stream.write_all(&[0xff; 1000]).await.unwrap();
    one.closed().await;
    two.send(command::WRITE, 0, 0, 5, b"panic").await;
    two.closed().await;
    let mut three = Client::new(TcpStream::connect(&address).await.unwrap());
    three.enter(Style::Simple, "v").await;
    assert_eq!(three.read(7, 6).await, Reply::Data(b"shared".to_vec()), "the others' ends do not matter");
    stop.cancel();
    soon(task).await.unwrap();
    assert!(TcpStream::connect(&address).await.is_err());
}

#[tokio::test]
async fn connections_are_limited_and_a_free_place_can_be_taken() {
    let options = ServerOptions { connections_max: 1, ..ServerOptions::default() };
    let Running { addresses, .. } = run(&"127.0.0.1:0".parse().unwrap(), options).await;
    let connect = async || Client::new(TcpStream::connect(addresses[0].to_string()).await.unwrap());
    let mut first = connect().await;
    first.enter(Style::Simple, "v").await;
    connect().await.closed().await;
    first.leave().await;
    soon(async {
        loop {
            let mut next = connect().await;
            match next.stream.read_u8().await {
                Ok(_) => break,
                Err(error) => assert!(matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset)),
            }
        }
    })
    .await;
}

/// An authority, a server and a client, as PEM files.
fn certificates(dir: &Path) {
    let mut authority = CertificateParams::new(Vec::new()).unwrap();
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    fs::write(dir.join("ca-cert.pem"), authority.pem()).unwrap();
    let uses = [("server", ExtendedKeyUsagePurpose::ServerAuth), ("client", ExtendedKeyUsagePurpose::ClientAuth)];
    for (name, purpose) in uses {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".into()]).unwrap();
        params.extended_key_usages = vec![purpose];
        fs::write(dir.join(format!("{name}-cert.pem")), params.signed_by(&key, &authority).unwrap().pem()).unwrap();
        fs::write(dir.join(format!("{name}-key.pem")), key.serialize_pem()).unwrap();
    }
}

fn connector(dir: &Path, with_certificate: bool) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(dir.join("ca-cert.pem")).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let config = if with_certificate {
        let certificate = CertificateDer::from_pem_file(dir.join("client-cert.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(dir.join("client-key.pem")).unwrap();
        builder.with_client_auth_cert(vec![certificate], key).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    TlsConnector::from(Arc::new(config))
}

fn serve_tls(dir: &Path, required: bool) -> Served {
    let tls = Some(Tls::from_dir(dir, required).unwrap());
    serve_with(ConnectionOptions { tls, ..ConnectionOptions::default() })
}

fn host() -> ServerName<'static> {
    ServerName::try_from("localhost").unwrap()
}

#[tokio::test]
async fn tls_that_is_required_comes_first_and_everything_begins_again_under_it() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let Served { mut client, ended, .. } = serve_tls(dir.path(), true);
    client.greet(3).await;
    for number in [option::LIST, option::STRUCTURED_REPLY, 4711] {
        assert_eq!(client.outcome(number, &[]).await, reply_type::ERR_TLS_REQD, "{number}");
    }
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ERR_TLS_REQD);
    assert_eq!(client.outcome(option::STARTTLS, &[]).await, reply_type::ACK);
    let stream = connector(dir.path(), true).connect(host(), client.stream).await.unwrap();
    let mut client = Client::new(stream);
    assert_eq!(client.outcome(option::STARTTLS, &[]).await, reply_type::ERR_INVALID);
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
    let data = vec![7; 1 << 20];
    assert_eq!(client.write(0, 0, &data).await, Reply::Done);
    assert_eq!(client.read(0, 1 << 20).await, Reply::Data(data));
    client.leave().await;
    soon(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_agreed_in_the_clear_does_not_count_under_tls() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let Served { mut client, .. } = serve_tls(dir.path(), false);
    client.greet(3).await;
    client.agree(Style::Structured).await;
    assert_eq!(client.outcome(option::STARTTLS, &[]).await, reply_type::ACK);
    let stream = connector(dir.path(), true).connect(host(), client.stream).await.unwrap();
    let mut client = Client::new(stream);
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
    assert_eq!(client.read(0, 1).await, Reply::Data(vec![0]), "a simple reply");
}

#[tokio::test]
async fn tls_that_is_offered_need_not_be_taken() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let Served { mut client, .. } = serve_tls(dir.path(), false);
    client.enter(Style::Simple, "v").await;
    assert_eq!(client.read(0, 1).await, Reply::Data(vec![0]));
}

#[tokio::test]
async fn a_client_that_cannot_do_tls_is_cut_off_where_it_is_required() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let Served { mut client, ended, .. } = serve_tls(dir.path(), true);
    client.greet(3).await;
    client.send_option(option::EXPORT_NAME, b"v").await;
    client.closed().await;
    soon(ended).await.unwrap().unwrap();
    let Served { mut client, ended, .. } = serve_tls(dir.path(), true);
    client.greet(0).await;
    assert!(soon(ended).await.unwrap().is_err());
}

#[tokio::test]
async fn a_client_without_a_certificate_or_with_plain_text_gets_no_further() {
    let dir = TempDir::new().unwrap();
    certificates(dir.path());
    let Served { mut client, ended, .. } = serve_tls(dir.path(), true);
    client.greet(3).await;
    assert_eq!(client.outcome(option::STARTTLS, &[]).await, reply_type::ACK);
    // In TLS 1.3 a client learns that it is refused only when it reads.
    if let Ok(stream) = connector(dir.path(), false).connect(host(), client.stream).await {
        Client::new(stream).closed().await;
    }
    assert!(soon(ended).await.unwrap().is_err());

    let Served { mut client, ended, .. } = serve_tls(dir.path(), true);
    client.greet(3).await;
    assert_eq!(client.outcome(option::STARTTLS, &[]).await, reply_type::ACK);
    client.send_option(option::GO, &go("v")).await;
    drop(client);
    assert!(soon(ended).await.unwrap().is_err());
}

#[test]
fn tls_files_that_are_missing_or_wrong_are_named() {
    let dir = TempDir::new().unwrap();
    let missing = Tls::from_dir(dir.path(), true).unwrap_err().to_string();
    assert!(missing.contains("server-cert.pem"), "{missing}");
    certificates(dir.path());
    fs::copy(dir.path().join("client-key.pem"), dir.path().join("server-key.pem")).unwrap();
    assert!(Tls::from_dir(dir.path(), true).is_err(), "the key of another certificate");
    fs::write(dir.path().join("server-key.pem"), "no key").unwrap();
    let wrong = Tls::from_dir(dir.path(), true).unwrap_err().to_string();
    assert!(wrong.contains("server-key.pem"), "{wrong}");
}
