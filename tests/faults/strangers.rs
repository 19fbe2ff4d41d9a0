//! Hosts and peers that send garbage, stall, vanish or are not who they should be: only they notice.

use std::io::{Read, Write};
use std::net::UdpSocket;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tidemark_common::api::types::PairState;
use tidemark_tests::cluster::loopback;
use tidemark_tests::figures::resident_kib;
use tidemark_tests::host::{EINVAL, ENOSPC, HostError, Request};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::figures;
use tidemark_tests::wait::wait_until;

/// A stranger may cost this much memory, for all of them together.
const STRANGERS_KIB_MAX: u64 = 96 << 10;

fn garbage(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    StdRng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// What strangers say first; whatever it is, it must end or be refused without harm.
fn openings() -> Vec<Vec<u8>> {
    let option = |number: u32, length: u32, data: &[u8]| {
        let head = [&3_u32.to_be_bytes()[..], b"IHAVEOPT", &number.to_be_bytes(), &length.to_be_bytes()].concat();
        [head.as_slice(), data].concat()
    };
    vec![
        Vec::new(),
        garbage(1, 16),
        garbage(2, 65_536),
        [&3_u32.to_be_bytes()[..], &garbage(3, 4096)].concat(),
        option(7, u32::MAX, &garbage(4, 1 << 16)),
        option(7, 6, &[0xff; 6]),
        option(0xdead, 4, &[0; 4]),
        option(6, 8, &[0, 0, 0, 2, 0xff, 0xfe, 0, 0]),
        option(1, 1 << 20, &vec![b'x'; 1 << 20]),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    ]
}

#[test]
fn garbage_on_the_nbd_socket_costs_only_the_stranger() {
    let pair = Pair::prefilled(&Setup::seeded(211));
    let load = pair.load(0);
    let before = resident_kib(pair.east.pid());
    for opening in openings().iter().cycle().take(60) {
        let mut stranger = pair.east.nbd().connect().expect("connect");
        stranger.limit(Duration::from_millis(100)).expect("a time limit");
        let _ = stranger.write_all(opening);
        let mut answer = [0; 4096];
        let _ = stranger.read(&mut answer);
    }
    load.wait_acked(200);
    let grown = resident_kib(pair.east.pid()).saturating_sub(before);
    assert!(grown < STRANGERS_KIB_MAX, "{grown} KiB more");
    load.stop();
    pair.assert_copy_equals();
}

#[test]
fn requests_that_make_no_sense_are_answered_or_end_the_connection() {
    let pair = Pair::paired(&Setup::seeded(212));
    let mut host = pair.east.open("a");
    let size = host.size();
    let past_end = host.ask(Request::Read(size, 4096));
    assert!(matches!(past_end, Err(HostError::Errno(EINVAL))), "{past_end:?}");
    let past_end = host.ask(Request::Write(size - 512, &[0; 4096], 0));
    assert!(matches!(past_end, Err(HostError::Errno(ENOSPC))), "{past_end:?}");
    let overflow = host.ask(Request::Trim(u64::MAX - 4096, 1 << 20, 0));
    assert!(matches!(overflow, Err(HostError::Errno(EINVAL | ENOSPC))), "{overflow:?}");
    let flags = host.ask(Request::Write(0, &[0; 512], 0x8000));
    assert!(matches!(flags, Err(HostError::Errno(EINVAL))), "{flags:?}");
    host.write(0, &[1; 512]).expect("the connection is still good");

    let request = |kind: u16, length: u32| {
        let head = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0], &kind.to_be_bytes(), &[0; 16], &length.to_be_bytes()];
        head.concat()
    };
    for bytes in [garbage(9, 64), request(99, 0), request(1, u32::MAX), request(0, u32::MAX)] {
        let mut rude = pair.east.open("a");
        let _ = rude.raw().write_all(&bytes);
        host.write(0, &[2; 512]).expect("others go on");
    }
}

#[test]
fn a_host_that_stalls_in_the_middle_of_a_request_holds_up_nobody() {
    let pair = Pair::prefilled(&Setup::seeded(213));
    let mut stalled = pair.east.open("a");
    let data = [7; 8192];
    let head = [&0x2560_9513_u32.to_be_bytes()[..], &[0, 0, 0, 1], &[0; 16], &8192_u32.to_be_bytes()].concat();
    stalled.raw().write_all(&[head.as_slice(), &data[..5000]].concat()).expect("half a request");

    let load = pair.load(0);
    load.wait_acked(300);
    load.stop();
    pair.settle();
    pair.assert_copy_equals();
    let before = pair.east.open("a").read(0, 8192).expect("read");
    assert!(before != data, "half a request writes nothing");

    stalled.raw().write_all(&data[5000..]).expect("the other half");
    let mut answer = [0; 16];
    stalled.raw().read_exact(&mut answer).expect("it is answered");
    assert_eq!(answer[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0], "and succeeds");
    assert_eq!(pair.east.open("a").read(0, 8192).expect("read"), data);
}

#[test]
fn a_host_that_reads_no_answers_holds_up_nobody() {
    let pair = Pair::prefilled(&Setup::seeded(214));
    let mut deaf = pair.east.open("a");
    deaf.raw().limit(Duration::from_millis(200)).expect("a time limit");
    for _ in 0..200 {
        if deaf.submit(Request::Read(0, 1 << 20)).is_err() {
            break;
        }
    }
    let load = pair.load(0);
    load.wait_acked(300);
    load.stop();
    pair.assert_copy_equals();
    assert!(resident_kib(pair.east.pid()) < 400 << 10, "what it does not read is not kept without bound");
}

#[test]
fn garbage_on_the_replication_port_disturbs_no_pair() {
    let pair = Pair::prefilled(&Setup::seeded(215));
    let load = pair.load(0);
    let stranger = UdpSocket::bind((loopback(), 0)).expect("a socket");
    let mut random = StdRng::seed_from_u64(5);
    for side in [&pair.east, &pair.west] {
        for _ in 0..2_000 {
            let mut datagram = garbage(random.random(), random.random_range(1..1400));
            // Half of them look like QUIC's first packet, of version 1.
            if random.random_bool(0.5) {
                datagram.splice(..5.min(datagram.len()), [0xc3, 0, 0, 0, 1]);
                datagram.resize(1200, 0);
            }
            let _ = stranger.send_to(&datagram, side.replication());
        }
    }
    load.wait_acked(200);
    load.stop();
    pair.assert_copy_equals();
    assert_eq!(pair.east.pair(GROUP).state, PairState::Paired);
}

#[test]
fn a_peer_with_another_id_than_pinned_is_never_paired() {
    let pair = Pair::unpaired(&Setup::seeded(216));
    let third = pair.cluster.appliance("third");
    pair.east.ok(&["peer", "add", "impostor", "--id", third.id(), "--addr", &pair.relay.address()]);
    let told = pair.east.cli(&["pair", "create", GROUP, "--to", "impostor"]);
    assert!(matches!(told.code, 0 | 1), "{told:?}");
    wait_until("the mismatch to be reported", COPY_LIMIT, || {
        let reason = pair.east.group(GROUP).pairs.into_iter().find_map(|pair| pair.reason).unwrap_or_default();
        let text = format!("{}{reason}", told.stderr).to_lowercase();
        let tells =
            ["was expected", "identity", "fingerprint", "certificate", " id "].iter().any(|word| text.contains(word));
        if tells { Ok(()) } else { Err(format!("{text:?}")) }
    });
    assert!(pair.west.status().groups.is_empty(), "nothing was made on the side that is somebody else");
    let refused = figures(&pair.east.status().addresses.metrics, "tidemark_peers_refused_total");
    assert!(refused.iter().sum::<f64>() >= 1.0, "counted: {refused:?}");
    let log = pair.east.log_text();
    let logged = log.lines().any(|line| line.contains("a connection was refused") && line.contains(pair.west.id()));
    assert!(logged, "{log}");
}

#[test]
fn an_unknown_caller_is_refused_logged_and_welcome_once_trusted() {
    let pair = Pair::unpaired(&Setup::seeded(217));
    let stranger = pair.cluster.running("stranger");
    stranger.trust(&pair.west, Some(pair.west.replication()));
    stranger.ok(&["volume", "create", "s", "--size", "1MiB"]);
    stranger.ok(&["group", "create", "sg", "--volume", "s", "--interval", "250ms"]);
    let told = stranger.cli(&["pair", "create", "sg", "--to", "west"]);
    assert!(matches!(told.code, 0 | 1), "{told:?}");
    wait_until("the refusal to be logged", COPY_LIMIT, || {
        let log = pair.west.log_text();
        if log.contains(stranger.id()) { Ok(()) } else { Err(log) }
    });
    assert!(pair.west.status().groups.is_empty(), "nothing was made for a stranger");
    pair.west.trust(&stranger, None);
    if told.code == 1 {
        stranger.ok(&["pair", "create", "sg", "--to", "west"]);
    }
    stranger.wait_pair("sg", "the trusted caller to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
}
