//! Option haggling over a stream.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::client::{Reply, go, meta};
use super::*;
use crate::limits::{NBD_OPTION_BYTES_MAX, NBD_OPTION_SKIP_BYTES_MAX};
use crate::nbd::handshake::HandshakeError;
use crate::nbd::protocol::{OPTION_MAGIC, command, info, option, reply_type, transmission_flag};
use crate::nbd::{Export, Exports, OpenError};

async fn haggling() -> Served {
    let mut served = serve_with(ConnectionOptions::default());
    served.client.greet(3).await;
    served
}

fn handshake_error(ended: Result<(), ConnectionError>) -> HandshakeError {
    match ended {
        Err(ConnectionError::Handshake(error)) => error,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn list_names_all_exports() {
    let Served { mut client, .. } = haggling().await;
    let listed = client.option(option::LIST, &[]).await;
    let server = |name: &str| (reply_type::SERVER, go(name)[..4 + name.len()].to_vec());
    assert_eq!(listed, [server("ro"), server("v"), (reply_type::ACK, Vec::new())]);
    assert_eq!(client.outcome(option::LIST, b"x").await, reply_type::ERR_INVALID);
}

#[tokio::test]
async fn info_tells_everything_and_stays_in_haggling() {
    let Served { mut client, .. } = haggling().await;
    let wishes = [0, 3, 0, 1, 0, 2, 0, 3];
    let told = client.option(option::INFO, &[&go("v")[..5], &wishes].concat()).await;
    let flags = 0xd6d_u16.to_be_bytes();
    let info = |kind: u16, data: &[u8]| (reply_type::INFO, [&kind.to_be_bytes()[..], data].concat());
    let expected = [
        info(info::EXPORT, &[&SIZE.to_be_bytes()[..], &flags].concat()),
        info(info::NAME, b"v"),
        info(info::DESCRIPTION, b"memory"),
        info(info::BLOCK_SIZE, &[0, 0, 0, 1, 0, 0, 0x10, 0, 2, 0, 0, 0]),
        (reply_type::ACK, Vec::new()),
    ];
    assert_eq!(told, expected);
    assert_eq!(client.outcome(option::INFO, &go("nope")).await, reply_type::ERR_UNKNOWN);
    assert_eq!(client.outcome(option::GO, &go("nope")).await, reply_type::ERR_UNKNOWN);
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
    assert_eq!(client.read(0, 1).await, Reply::Data(vec![0]));
}

#[tokio::test]
async fn flags_say_what_is_there() {
    let flags = |told: &[(u32, Vec<u8>)]| u16::from_be_bytes([told[0].1[10], told[0].1[11]]);
    let Served { mut client, .. } = haggling().await;
    let plain = flags(&client.option(option::INFO, &go("v")).await);
    let read_only = flags(&client.option(option::INFO, &go("ro")).await);
    client.agree(Style::Structured).await;
    let structured = flags(&client.option(option::INFO, &go("v")).await);
    assert_eq!(structured, plain | transmission_flag::SEND_DF);
    let changes =
        transmission_flag::SEND_TRIM | transmission_flag::SEND_WRITE_ZEROES | transmission_flag::SEND_FAST_ZERO;
    assert_eq!(read_only, plain & !changes | transmission_flag::READ_ONLY);
}

/// A disk of a terabyte that is discarded whole would be written for hours.
#[tokio::test]
async fn what_is_written_to_be_discarded_is_not_offered_to_be() {
    let flags = |told: &[(u32, Vec<u8>)]| u16::from_be_bytes([told[0].1[10], told[0].1[11]]);
    let Served { mut client, probe, .. } = haggling().await;
    let gives_back = flags(&client.option(option::INFO, &go("v")).await);
    probe.keeps_space.store(true, Ordering::Release);
    let keeps = flags(&client.option(option::INFO, &go("v")).await);
    assert_eq!(keeps, gives_back & !(transmission_flag::SEND_TRIM | transmission_flag::SEND_FAST_ZERO));
    assert_ne!(keeps, gives_back);
}

#[tokio::test]
async fn export_name_pads_unless_told_not_to() {
    for (client_flags, padding) in [(1, 124), (3, 0), (0, 124)] {
        let Served { mut client, .. } = serve_with(ConnectionOptions::default());
        client.greet(client_flags).await;
        client.send_option(option::EXPORT_NAME, b"v").await;
        assert_eq!(client.stream.read_u64().await.unwrap(), SIZE);
        client.stream.read_u16().await.unwrap();
        assert_eq!(client.bytes(padding).await, vec![0; usize::try_from(padding).unwrap()]);
        assert_eq!(client.read(0, 1).await, Reply::Data(vec![0]));
        client.leave().await;
    }
}

#[tokio::test]
async fn export_name_can_only_fail_by_closing() {
    let Served { mut client, .. } = haggling().await;
    client.send_option(option::EXPORT_NAME, b"nope").await;
    client.closed().await;
    let Served { mut client, .. } = haggling().await;
    client.agree(Style::Extended).await;
    client.send_option(option::EXPORT_NAME, b"v").await;
    client.closed().await; // it must not follow extended headers
}

#[tokio::test]
async fn abort_is_acknowledged_and_closes() {
    let Served { mut client, ended, .. } = haggling().await;
    assert_eq!(client.outcome(option::ABORT, b"ignored").await, reply_type::ACK);
    client.closed().await;
    soon(ended).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_is_unknown_or_too_long_is_refused_and_haggling_goes_on() {
    let Served { mut client, .. } = haggling().await;
    let long = vec![0; NBD_OPTION_BYTES_MAX + 1];
    assert_eq!(client.outcome(4, &[]).await, reply_type::ERR_UNSUP);
    assert_eq!(client.outcome(4711, &long).await, reply_type::ERR_UNSUP);
    assert_eq!(client.outcome(option::SET_META_CONTEXT, &long).await, reply_type::ERR_TOO_BIG);
    assert_eq!(client.outcome(option::STARTTLS, &[]).await, reply_type::ERR_POLICY);
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
}

#[tokio::test]
async fn nonsense_ends_the_handshake() {
    let Served { mut client, ended, .. } = haggling().await;
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: here\r\n\r\n").await.unwrap();
    assert!(matches!(handshake_error(soon(ended).await.unwrap()), HandshakeError::NotAnOption(_)));

    let Served { mut client, ended, .. } = serve_with(ConnectionOptions::default());
    client.greet(7).await;
    assert!(matches!(handshake_error(soon(ended).await.unwrap()), HandshakeError::UnknownFlags { flags: 7 }));

    let Served { mut client, ended, .. } = haggling().await;
    let length = u32::try_from(NBD_OPTION_SKIP_BYTES_MAX + 1).unwrap().to_be_bytes();
    let header = [&OPTION_MAGIC.to_be_bytes()[..], &option::GO.to_be_bytes(), &length].concat();
    client.stream.write_all(&header).await.unwrap();
    assert!(matches!(handshake_error(soon(ended).await.unwrap()), HandshakeError::OptionTooLong { .. }));
}

#[tokio::test]
async fn a_handshake_has_an_end() {
    let handshake_timeout = Duration::from_millis(50);
    for greeted in [false, true] {
        let options = ConnectionOptions { handshake_timeout, ..ConnectionOptions::default() };
        let Served { mut client, ended, .. } = serve_with(options);
        if greeted {
            client.greet(3).await;
        }
        assert!(matches!(handshake_error(soon(ended).await.unwrap()), HandshakeError::TimedOut { .. }));
    }
}

#[tokio::test]
async fn extended_headers_take_precedence() {
    let Served { mut client, .. } = haggling().await;
    client.agree(Style::Structured).await;
    client.agree(Style::Extended).await;
    assert_eq!(client.outcome(option::STRUCTURED_REPLY, &[]).await, reply_type::ERR_EXT_HEADER_REQD);
    assert_eq!(client.outcome(option::EXTENDED_HEADERS, b"x").await, reply_type::ERR_INVALID);
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
    assert_eq!(client.read(0, 512).await, Reply::Zeroes(512));
}

#[tokio::test]
async fn meta_contexts_are_listed_and_chosen() {
    let Served { mut client, .. } = haggling().await;
    let (list, set) = (option::LIST_META_CONTEXT, option::SET_META_CONTEXT);
    assert_eq!(client.outcome(set, &meta("v", &["base:allocation"])).await, reply_type::ERR_INVALID);
    client.agree(Style::Structured).await;
    let context = |id: u8| (reply_type::META_CONTEXT, [&[0, 0, 0, id][..], b"base:allocation"].concat());
    let done = || (reply_type::ACK, Vec::new());
    for queries in [&[][..], &["base:"], &["x-other:y", "base:allocation"]] {
        assert_eq!(client.option(list, &meta("v", queries)).await, [context(0), done()], "{queries:?}");
    }
    assert_eq!(client.option(list, &meta("v", &["x-other:y"])).await, [done()]);
    assert_eq!(client.option(set, &meta("v", &["base:"])).await, [done()], "a wildcard chooses nothing");
    assert_eq!(client.option(set, &meta("v", &[])).await, [done()]);
    assert_eq!(client.option(set, &meta("v", &["base:allocation"])).await, [context(1), done()]);
    assert_eq!(client.outcome(list, &meta("nope", &[])).await, reply_type::ERR_UNKNOWN);
    assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
    assert!(matches!(client.ask(command::BLOCK_STATUS, 0, 0, 512).await, Reply::Runs(_)));
}

#[tokio::test]
async fn a_context_counts_for_its_export_and_until_the_next_choice() {
    for (name, then) in [("ro", None), ("v", Some(meta("v", &[]))), ("v", Some(meta("nope", &["base:allocation"])))] {
        let Served { mut client, .. } = haggling().await;
        client.agree(Style::Structured).await;
        client.outcome(option::SET_META_CONTEXT, &meta(name, &["base:allocation"])).await;
        if let Some(then) = then {
            client.outcome(option::SET_META_CONTEXT, &then).await;
        }
        assert_eq!(client.outcome(option::GO, &go("v")).await, reply_type::ACK);
        assert_eq!(client.ask(command::BLOCK_STATUS, 0, 0, 512).await, Reply::Error(22));
    }
}

/// Counts who comes in.
#[derive(Default)]
struct Counted {
    exports: FixedExports,
    opened: AtomicUsize,
}

impl Exports for Counted {
    fn list(&self) -> Vec<String> {
        self.exports.list()
    }

    fn look(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.exports.open(name)
    }

    fn open(&self, name: &str) -> Result<Arc<dyn Export>, OpenError> {
        self.opened.fetch_add(1, Ordering::AcqRel);
        self.exports.open(name)
    }
}

#[tokio::test]
async fn who_asks_about_an_export_has_not_opened_it() {
    for last in [option::GO, option::EXPORT_NAME] {
        let exports = FixedExports::default().with("v", Arc::new(Probe::new(SIZE)) as _);
        let counted = Arc::new(Counted { exports, ..Counted::default() });
        let (near, far) = tokio::io::duplex(4096);
        let of_server = Arc::clone(&counted);
        let serving = tokio::spawn(async move {
            serve(far, &*of_server, &ConnectionOptions::default(), &CancellationToken::new()).await
        });
        let mut client = Client::new(near);
        client.greet(3).await;
        client.agree(Style::Structured).await;
        assert_eq!(client.outcome(option::INFO, &go("v")).await, reply_type::ACK);
        for number in [option::LIST_META_CONTEXT, option::SET_META_CONTEXT] {
            assert_eq!(client.outcome(number, &meta("v", &["base:allocation"])).await, reply_type::ACK);
        }
        assert_eq!(counted.opened.load(Ordering::Acquire), 0);
        if last == option::GO {
            assert_eq!(client.outcome(last, &go("v")).await, reply_type::ACK);
        } else {
            client.send_option(last, b"v").await;
            client.bytes(10).await;
        }
        assert_eq!(counted.opened.load(Ordering::Acquire), 1);
        client.leave().await;
        soon(serving).await.unwrap().unwrap();
    }
}

/// Opens nothing.
struct Closed(OpenError);

impl Exports for Closed {
    fn list(&self) -> Vec<String> {
        Vec::new()
    }

    fn open(&self, _name: &str) -> Result<Arc<dyn Export>, OpenError> {
        Err(self.0.clone())
    }
}

#[tokio::test]
async fn why_an_export_cannot_be_opened_is_told() {
    let table = [
        (OpenError::Unknown { name: "v".into() }, reply_type::ERR_UNKNOWN),
        (OpenError::Refused { reason: "a copy: fail over first".into() }, reply_type::ERR_POLICY),
        (OpenError::ShuttingDown, reply_type::ERR_SHUTDOWN),
    ];
    for (error, expected) in table {
        let message = error.to_string();
        let (near, far) = tokio::io::duplex(4096);
        let serving = tokio::spawn(async move {
            serve(far, &Closed(error), &ConnectionOptions::default(), &CancellationToken::new()).await
        });
        let mut client = Client::new(near);
        client.greet(3).await;
        assert_eq!(client.option(option::GO, &go("v")).await, [(expected, message.into_bytes())]);
        client.outcome(option::ABORT, &[]).await;
        soon(serving).await.unwrap().unwrap();
    }
}
