//! Requests and their replies, in all three forms.

use super::client::Reply;
use super::probe::Call;
use super::*;
use crate::nbd::protocol::{STATE_HOLE, STATE_ZERO, command, command_flag};
use crate::nbd::{Allocation, IoError, ZeroMode};

const STYLES: [Style; 3] = [Style::Simple, Style::Structured, Style::Extended];
const EPERM: Reply = Reply::Error(1);
const EIO: Reply = Reply::Error(5);
const EINVAL: Reply = Reply::Error(22);
const ENOSPC: Reply = Reply::Error(28);
const EOVERFLOW: Reply = Reply::Error(75);
const ENOTSUP: Reply = Reply::Error(95);
const ESHUTDOWN: Reply = Reply::Error(108);

#[tokio::test]
async fn what_was_written_is_read_in_every_form_and_size() {
    for style in STYLES {
        let Served { mut client, ended, .. } = transmit(style).await;
        for length in [1, 511, 4096, 32 << 10, (32 << 10) - 1, 300 << 10] {
            let data: Vec<u8> = (0..length).map(|at| u8::try_from(at % 251).unwrap() | 1).collect();
            assert_eq!(client.write(0, 4097, &data).await, Reply::Done, "{style:?} {length}");
            assert_eq!(client.read(4097, length).await, Reply::Data(data), "{style:?} {length}");
        }
        assert_eq!(client.ask(command::FLUSH, 0, 0, 0).await, Reply::Done);
        client.leave().await;
        soon(ended).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn zeroes_are_told_instead_of_sent_where_the_form_allows_it() {
    for style in STYLES {
        let Served { mut client, .. } = transmit(style).await;
        let zeroes = if style == Style::Simple { Reply::Data(vec![0; 8192]) } else { Reply::Zeroes(8192) };
        assert_eq!(client.read(0, 8192).await, zeroes);
        if style != Style::Simple {
            let whole = client.ask(command::READ, command_flag::DF, 0, 8192).await;
            assert_eq!(whole, zeroes, "one content chunk, as was asked");
        }
        client.write(0, 8191, b"x").await;
        assert_eq!(client.read(0, 8192).await, Reply::Data([vec![0; 8191], vec![b'x']].concat()));
    }
}

#[tokio::test]
async fn allocation_is_told_with_and_without_req_one() {
    for style in [Style::Structured, Style::Extended] {
        let Served { mut client, .. } = transmit(style).await;
        client.write(0, 4096, &[1; 4096]).await;
        let hole = u64::from(STATE_HOLE | STATE_ZERO);
        let all = client.ask(command::BLOCK_STATUS, 0, 0, SIZE).await;
        assert_eq!(all, Reply::Runs(vec![(4096, hole), (4096, 0), (SIZE - 8192, hole)]));
        let part = client.ask(command::BLOCK_STATUS, command_flag::REQ_ONE, 4096, 100).await;
        assert_eq!(part, Reply::Runs(vec![(100, 0)]));
        let rest = client.ask(command::BLOCK_STATUS, command_flag::REQ_ONE, 8192, SIZE - 8192).await;
        assert_eq!(rest, Reply::Runs(vec![(SIZE - 8192, hole)]));
    }
}

#[tokio::test]
async fn an_export_that_reports_nothing_is_an_error_and_one_that_reports_too_much_is_cut() {
    let Served { mut client, probe, .. } = transmit(Style::Extended).await;
    *probe.runs.lock() = Some(Vec::new());
    assert_eq!(client.ask(command::BLOCK_STATUS, 0, 0, 512).await, EIO);
    *probe.runs.lock() = Some(vec![Allocation { length: u64::MAX, hole: false, zero: false }]);
    assert_eq!(client.ask(command::BLOCK_STATUS, 0, 0, 512).await, Reply::Runs(vec![(512, 0)]));
}

/// Requests the protocol document names an error for, and that error.
fn wrong_requests() -> Vec<(u16, u16, u64, u64, Reply)> {
    let fua = command_flag::FUA;
    vec![
        (command::READ, 0, SIZE, 512, EINVAL),
        (command::READ, command_flag::NO_HOLE, 0, 512, EINVAL),
        (command::TRIM, 0, SIZE - 511, 512, EINVAL),
        (command::WRITE_ZEROES, fua, SIZE - 511, 512, ENOSPC),
        (command::WRITE_ZEROES, command_flag::REQ_ONE, 0, 512, EINVAL),
        (command::CACHE, 0, u64::MAX, 512, EINVAL),
        (command::CACHE, command_flag::DF, 0, 512, EINVAL),
        (command::FLUSH, 0, 0, 512, EINVAL),
        (command::BLOCK_STATUS, 0, SIZE, 512, EINVAL),
        (command::BLOCK_STATUS, 0, 0, 0, EINVAL),
        (8, 0, 0, 0, EINVAL),
        (0xffff, 0xffff, u64::MAX, 0, EINVAL),
    ]
}

#[tokio::test]
async fn wrong_requests_get_the_error_the_document_names_and_the_connection_goes_on() {
    for style in STYLES {
        let Served { mut client, probe, .. } = transmit(style).await;
        for (command, flags, offset, length, error) in wrong_requests() {
            let flags = if style == Style::Extended { flags & !command_flag::PAYLOAD_LEN } else { flags };
            let reply = client.ask(command, flags, offset, length).await;
            assert_eq!(reply, error, "{style:?} {command} {flags:#x} {offset} {length}");
        }
        assert_eq!(probe.take_calls(), [], "none of them reached the export");
        assert_eq!(client.write(0, 0, b"still here").await, Reply::Done);
    }
}

#[tokio::test]
async fn a_refused_write_is_consumed_whatever_its_size() {
    for style in STYLES {
        let Served { mut client, probe, .. } = transmit(style).await;
        for length in [1, 4096, 100 << 10, 3 << 20] {
            assert_eq!(client.write(0, SIZE - 1, &vec![7; length + 1]).await, ENOSPC, "{style:?} {length}");
            assert_eq!(client.write(command_flag::DF, 0, &vec![7; length]).await, EINVAL, "{style:?} {length}");
        }
        assert_eq!(probe.take_calls(), []);
        assert_eq!(client.write(0, 0, b"x").await, Reply::Done);
    }
}

#[tokio::test]
async fn with_extended_headers_any_command_may_bring_a_payload_and_is_refused() {
    let Served { mut client, .. } = transmit(Style::Extended).await;
    let cookie = client.send(command::TRIM, command_flag::PAYLOAD_LEN, 0, 5, b"hello").await;
    assert_eq!(client.reply(0).await, (cookie, EINVAL));
    let cookie = client.send(command::WRITE, 0, 0, 5, b"QEMU!").await;
    assert_eq!(client.reply(0).await, (cookie, Reply::Done));
    assert_eq!(client.read(0, 5).await, Reply::Data(b"QEMU!".to_vec()));
}

#[tokio::test]
async fn read_only_exports_refuse_changes() {
    let Served { mut client, .. } = serve_with(ConnectionOptions::default());
    client.enter(Style::Structured, "ro").await;
    assert_eq!(client.write(0, 0, b"x").await, EPERM);
    assert_eq!(client.ask(command::TRIM, 0, 0, 512).await, EPERM);
    assert_eq!(client.ask(command::WRITE_ZEROES, 0, 0, 512).await, EPERM);
    assert_eq!(client.ask(command::FLUSH, 0, 0, 0).await, Reply::Done);
    assert_eq!(client.read(0, 512).await, Reply::Zeroes(512));
}

#[tokio::test]
async fn requests_larger_than_advertised_are_refused() {
    let Served { mut client, probe, .. } = transmit(Style::Structured).await;
    probe.memory.resize(40 << 20);
    assert_eq!(client.read(0, (32 << 20) + 1).await, EINVAL);
    assert_eq!(client.ask(command::READ, command_flag::DF, 0, (32 << 20) + 1).await, EOVERFLOW);
    assert_eq!(client.read(0, 32 << 20).await, Reply::Zeroes(32 << 20));
    assert_eq!(client.ask(command::WRITE_ZEROES, 0, 0, 40 << 20).await, Reply::Done);
}

#[tokio::test]
async fn errors_of_the_export_reach_the_client() {
    let table = [
        (IoError::NotPermitted, EPERM),
        (IoError::Io, EIO),
        (IoError::Invalid, EINVAL),
        (IoError::NoSpace, ENOSPC),
        (IoError::ShuttingDown, ESHUTDOWN),
    ];
    for style in STYLES {
        let Served { mut client, probe, .. } = transmit(style).await;
        for (failure, error) in &table {
            *probe.failure.lock() = Some(*failure);
            assert_eq!(client.write(0, 0, b"x").await, *error);
            assert_eq!(client.read(0, 512).await, *error);
            assert_eq!(client.ask(command::FLUSH, 0, 0, 0).await, *error);
        }
        *probe.failure.lock() = Some(IoError::NotSupported);
        assert_eq!(client.ask(command::WRITE_ZEROES, command_flag::FAST_ZERO, 0, 512).await, ENOTSUP);
        assert_eq!(client.ask(command::WRITE_ZEROES, 0, 0, 512).await, EINVAL);
    }
}

#[tokio::test]
async fn flags_reach_the_export() {
    let Served { mut client, probe, .. } = transmit(Style::Simple).await;
    client.write(command_flag::FUA, 0, b"x").await;
    client.ask(command::TRIM, command_flag::FUA, 0, 512).await;
    let all = command_flag::FUA | command_flag::NO_HOLE | command_flag::FAST_ZERO;
    client.ask(command::WRITE_ZEROES, all, 512, 1024).await;
    client.ask(command::WRITE_ZEROES, 0, 512, 1024).await;
    client.ask(command::CACHE, command_flag::FUA, 0, 512).await;
    client.ask(command::FLUSH, command_flag::FUA, 0, 0).await;
    client.ask(command::READ, command_flag::FUA, 1, 2).await;
    let expected = [
        Call::Write(0, 1, true),
        Call::Trim(0, 512, true),
        Call::Zero(512, 1024, ZeroMode { no_hole: true, fast: true, fua: true }),
        Call::Zero(512, 1024, ZeroMode::default()),
        Call::Cache(0, 512),
        Call::Flush,
        Call::Read(1, 2),
    ];
    assert_eq!(probe.take_calls(), expected);
}

#[tokio::test]
async fn empty_requests_are_answered() {
    for style in STYLES {
        let Served { mut client, probe, .. } = transmit(style).await;
        for command in [command::READ, command::TRIM, command::WRITE_ZEROES, command::CACHE] {
            assert_eq!(client.ask(command, 0, SIZE, 0).await, Reply::Done, "{style:?} {command}");
        }
        assert_eq!(client.write(0, 0, &[]).await, Reply::Done, "{style:?}");
        assert_eq!(probe.take_calls(), []);
    }
}

#[tokio::test]
async fn growth_is_seen_by_the_next_request() {
    let Served { mut client, probe, .. } = transmit(Style::Simple).await;
    assert_eq!(client.write(0, SIZE, b"x").await, ENOSPC);
    probe.memory.resize(2 << 20);
    assert_eq!(client.write(0, SIZE, b"x").await, Reply::Done);
    assert_eq!(client.read(SIZE, 1).await, Reply::Data(b"x".to_vec()));
}

#[tokio::test]
async fn a_slow_request_does_not_hold_those_behind_it() {
    for style in STYLES {
        let Served { mut client, probe, .. } = transmit(style).await;
        client.write(0, SIZE / 2, b"slow").await;
        *probe.slow_from.lock() = SIZE / 2;
        let slow = client.send(command::READ, 0, SIZE / 2, 4, &[]).await;
        let flush = client.send(command::FLUSH, 0, 0, 0, &[]).await;
        for turn in 0..100u8 {
            assert_eq!(client.write(0, u64::from(turn), &[turn + 1]).await, Reply::Done);
            assert_eq!(client.read(u64::from(turn), 1).await, Reply::Data(vec![turn + 1]));
        }
        probe.permits.add_permits(1);
        assert_eq!(client.reply(4).await, (slow, Reply::Data(b"slow".to_vec())), "{style:?}");
        probe.permits.add_permits(1);
        assert_eq!(client.reply(0).await, (flush, Reply::Done), "{style:?}");
    }
}

#[tokio::test]
async fn a_flush_is_answered_only_when_the_export_has_flushed() {
    let Served { mut client, probe, .. } = transmit(Style::Simple).await;
    *probe.slow_from.lock() = u64::MAX - 1;
    client.write(0, 0, b"x").await;
    let flush = client.send(command::FLUSH, 0, 0, 0, &[]).await;
    assert_eq!(client.read(0, 1).await, Reply::Data(b"x".to_vec()), "others go on");
    assert_eq!(probe.take_calls(), [Call::Write(0, 1, false), Call::Flush, Call::Read(0, 1)]);
    probe.permits.add_permits(1);
    assert_eq!(client.reply(0).await, (flush, Reply::Done));
}

#[tokio::test]
async fn what_is_under_way_is_answered_before_a_goodbye_takes_effect() {
    let Served { mut client, probe, ended, .. } = transmit(Style::Simple).await;
    *probe.slow_from.lock() = 0;
    let slow = client.send(command::READ, 0, 0, 3, &[]).await;
    client.send(command::DISC, 0, 0, 0, &[]).await;
    client.send(command::READ, 0, 8, 8, &[]).await;
    probe.begun(1).await;
    probe.permits.add_permits(1);
    assert_eq!(client.reply(3).await, (slow, Reply::Data(vec![0; 3])));
    client.closed().await;
    soon(ended).await.unwrap().unwrap();
    assert_eq!(probe.take_calls(), [Call::Read(0, 3)], "nothing after the goodbye is done");
}

impl HostStream for tokio::io::BufWriter<DuplexStream> {}

/// As under TLS, which takes the last of a reply and keeps it while the socket is full.
#[tokio::test]
async fn what_the_stream_holds_back_follows_when_the_socket_takes_it() {
    const BYTES: usize = 32 << 10;
    let exports = FixedExports::default().with("v", Arc::new(Probe::new(SIZE)) as _);
    let (near, far) = tokio::io::duplex(1024);
    let far = tokio::io::BufWriter::with_capacity(2 * BYTES, far);
    let (options, stop) = (ConnectionOptions::default(), CancellationToken::new());
    let ended = tokio::spawn(async move { serve(far, &exports, &options, &stop).await });
    let mut client = Client::new(near);
    client.enter(Style::Simple, "v").await;
    assert_eq!(client.write(0, 0, &[7; BYTES]).await, Reply::Done);
    assert_eq!(soon(client.read(0, BYTES as u64)).await, Reply::Data(vec![7; BYTES]));
    client.leave().await;
    soon(ended).await.unwrap().unwrap();
}
