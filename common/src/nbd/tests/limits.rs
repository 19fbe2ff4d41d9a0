//! What one client may have under way, and what becomes of one that breaks off, stalls or sends garbage.

use std::os::fd::OwnedFd;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;

use super::client::{Reply, request};
use super::*;
use crate::limits::{NBD_BYTES_IN_FLIGHT_MAX, NBD_OWN_BYTES_MAX, NBD_REQUEST_BYTES_MAX, NBD_REQUESTS_IN_FLIGHT_MAX};
use crate::nbd::budget::Budget;
use crate::nbd::left::Left;
use crate::nbd::protocol::{Errno, command, command_flag};
use crate::nbd::socket::Socket;
use crate::nbd::{Patience, SessionError};

/// Until a client that has gone is counted as one.
async fn counted(left: &Left) {
    while left.refusal("v").is_none() {
        tokio::task::yield_now().await;
    }
}

fn session_error(ended: Result<(), ConnectionError>) -> SessionError {
    match ended {
        Err(ConnectionError::Session { source, .. }) => source,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn requests_under_way_are_limited() {
    let Served { mut client, probe, .. } = transmit(Style::Simple).await;
    *probe.slow_from.lock() = 0;
    let sent = NBD_REQUESTS_IN_FLIGHT_MAX + 50;
    for _ in 0..sent {
        client.send(command::READ, 0, 0, 1, &[]).await;
    }
    probe.begun(NBD_REQUESTS_IN_FLIGHT_MAX).await;
    // What has come is looked at in one go: were more begun, they would be by the time one is answered.
    probe.permits.add_permits(1);
    client.reply(1).await;
    assert!(probe.begun_now() <= NBD_REQUESTS_IN_FLIGHT_MAX + 1, "{}", probe.begun_now());
    probe.permits.add_permits(sent);
    for _ in 1..sent {
        client.reply(1).await;
    }
}

#[tokio::test]
async fn bytes_under_way_are_limited() {
    let Served { mut client, probe, .. } = transmit(Style::Structured).await;
    let largest = u64::from(NBD_REQUEST_BYTES_MAX);
    probe.memory.resize(usize::try_from(largest).unwrap());
    *probe.slow_from.lock() = 0;
    let fit = NBD_BYTES_IN_FLIGHT_MAX / usize::try_from(largest).unwrap();
    for _ in 0..fit + 3 {
        client.send(command::READ, 0, 0, largest, &[]).await;
    }
    probe.begun(fit).await;
    for answered in 1..=fit + 3 {
        assert!(probe.begun_now() < fit + answered, "{} begun, {answered} answered", probe.begun_now());
        probe.permits.add_permits(1);
        assert_eq!(client.reply(largest).await.1, Reply::Zeroes(NBD_REQUEST_BYTES_MAX));
    }
}

#[tokio::test]
async fn bytes_under_way_of_all_connections_are_limited_and_each_goes_on() {
    const WHOLE: usize = NBD_OWN_BYTES_MAX;
    let budget = Budget::of(WHOLE);
    let options = || ConnectionOptions { budget: budget.clone(), ..ConnectionOptions::default() };
    let [mut greedy, mut other] = [serve_with(options()), serve_with(options())];
    for served in [&mut greedy, &mut other] {
        served.client.enter(Style::Simple, "v").await;
        *served.probe.slow_from.lock() = 0;
    }
    for _ in 0..4 {
        greedy.client.send(command::READ, 0, 0, SIZE, &[]).await;
    }
    soon(greedy.probe.begun(2)).await;
    let Served { client, probe, .. } = &mut other;
    for _ in 0..3 {
        client.send(command::READ, 0, 0, SIZE, &[]).await;
    }
    for answered in 1..=3 {
        soon(probe.begun(answered)).await;
        assert_eq!(probe.begun_now(), answered, "one at a time");
        probe.permits.add_permits(1);
        assert_eq!(soon(client.reply(SIZE)).await.1, Reply::Data(vec![0; WHOLE]));
    }
    probe.memory.resize(4 * WHOLE);
    client.send(command::READ, 0, 0, 4 * SIZE, &[]).await;
    probe.permits.add_permits(1);
    let larger = soon(client.reply(4 * SIZE)).await.1;
    assert_eq!(larger, Reply::Data(vec![0; 4 * WHOLE]), "the only one may be larger than what there is");
    assert_eq!(greedy.probe.begun_now(), 2, "one of its own memory, and one of what all share");
}

#[tokio::test]
async fn what_another_gives_back_is_found_by_who_has_only_slow_requests_under_way() {
    let patience = Patience { stall: Duration::from_millis(100), stop: Duration::from_secs(1) };
    let budget = Budget::of(NBD_OWN_BYTES_MAX);
    let options = || ConnectionOptions { budget: budget.clone(), patience, ..ConnectionOptions::default() };
    let [mut greedy, mut other] = [serve_with(options()), serve_with(options())];
    for (served, begun) in [(&mut greedy, 2), (&mut other, 1)] {
        served.client.enter(Style::Simple, "v").await;
        *served.probe.slow_from.lock() = 0;
        for _ in 0..2 {
            served.client.send(command::READ, 0, 0, SIZE, &[]).await;
        }
        soon(served.probe.begun(begun)).await;
    }
    // Until nothing moves any more on those: each of these is quiet for as long as it is looked for.
    for _ in 0..3 {
        let mut stalled = serve_with(options());
        stalled.client.enter(Style::Simple, "v").await;
        stalled.client.send(command::WRITE, 0, 0, 100, b"only this").await;
        soon(stalled.client.closed()).await;
    }
    assert_eq!(other.probe.begun_now(), 1);
    greedy.probe.permits.add_permits(2);
    for _ in 0..2 {
        soon(greedy.client.reply(SIZE)).await;
    }
    soon(other.probe.begun(2)).await;
}

#[tokio::test]
async fn a_client_that_takes_no_replies_is_not_read_from_for_ever() {
    const UNKNOWN: u16 = 4711;
    // Also when nothing of what it sends can be done: answers that say so take memory as well.
    for command in [command::READ, UNKNOWN] {
        let Served { mut client, probe, .. } = transmit(Style::Simple).await;
        let mut taken = 0;
        let header = request(Style::Simple, command, 0, 7, 0, 64 << 10);
        while tokio::time::timeout(Duration::from_millis(200), client.stream.write_all(&header)).await.is_ok() {
            taken += 1;
            assert!(taken < 100_000, "the server reads requests whose replies nobody takes: {command}");
        }
        assert!(probe.begun_now() < NBD_REQUESTS_IN_FLIGHT_MAX);
    }
}

#[tokio::test]
async fn refused_requests_that_were_held_are_answered_when_their_replies_are_taken() {
    // More replies than the stream and the server hold, and no more requests than the stream and these.
    const SENT: u64 = 2000;
    let Served { mut client, .. } = transmit(Style::Structured).await;
    for _ in 0..SENT {
        client.send(command::FLUSH, 0, 1, 1, &[]).await;
    }
    for cookie in 1..=SENT {
        assert_eq!(soon(client.reply(0)).await, (cookie, Reply::Error(Errno::Invalid.code())));
    }
}

#[tokio::test]
async fn garbage_ends_the_connection() {
    for style in [Style::Simple, Style::Extended] {
        let Served { mut client, ended, .. } = transmit(style).await;
        client.stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n").await.unwrap();
        client.closed().await;
        let error = session_error(soon(ended).await.unwrap());
        assert!(error.to_string().contains("0x47455420"), "{error}");
    }
}

#[tokio::test]
async fn a_payload_beyond_reason_ends_the_connection() {
    let Served { mut client, ended, .. } = transmit(Style::Extended).await;
    client.send(command::WRITE, command_flag::PAYLOAD_LEN, 0, 1 << 40, &[]).await;
    client.closed().await;
    let error = session_error(soon(ended).await.unwrap());
    assert!(error.to_string().contains("1099511627776"), "{error}");
}

#[tokio::test]
async fn breaking_off_in_a_request_is_noticed_and_between_requests_is_a_goodbye() {
    let half = request(Style::Simple, command::WRITE, 0, 7, 0, 100_000);
    for cut in [0, 1, 27, 28] {
        let Served { mut client, ended, probe, .. } = transmit(Style::Simple).await;
        client.write(0, 0, b"x").await;
        client.stream.write_all(&half[..cut]).await.unwrap();
        drop(client);
        let ended = soon(ended).await.unwrap();
        if cut == 0 {
            ended.unwrap();
        } else {
            assert!(matches!(session_error(ended), SessionError::BrokenOff), "cut at {cut}");
        }
        assert_eq!(probe.take_calls().len(), 1);
    }
}

#[tokio::test]
async fn what_was_begun_ends_also_when_the_client_has_gone() {
    let Served { mut client, probe, ended, .. } = transmit(Style::Simple).await;
    *probe.slow_from.lock() = 0;
    client.send(command::WRITE, 0, 0, 1, b"x").await;
    probe.begun(1).await;
    drop(client);
    probe.permits.add_permits(1);
    let _ = soon(ended).await.unwrap();
    assert_eq!(probe.permits.available_permits(), 0, "the write was run to its end");
}

#[tokio::test]
async fn who_has_gone_is_counted_for_as_long_as_the_disk_does_not_answer() {
    let left = Arc::new(Left::of(1));
    let options = ConnectionOptions { left: Arc::clone(&left), ..ConnectionOptions::default() };
    let Served { mut client, probe, ended, .. } = serve_with(options);
    client.enter(Style::Simple, "v").await;
    *probe.slow_from.lock() = 0;
    client.send(command::READ, 0, 0, 1, &[]).await;
    probe.begun(1).await;
    assert_eq!(left.refusal("v"), None, "it is still there");
    drop(client);
    soon(counted(&left)).await;
    probe.permits.add_permits(1);
    let _ = soon(ended).await.unwrap();
    assert_eq!(left.refusal("v"), None);
}

#[tokio::test]
async fn who_has_gone_with_all_requests_under_way_that_there_may_be_is_counted_too() {
    let left = Arc::new(Left::of(1));
    let patience = Patience { stall: Duration::from_millis(100), stop: Duration::from_secs(1) };
    let options = ConnectionOptions { left: Arc::clone(&left), patience, ..ConnectionOptions::default() };
    let (near, far) = UnixStream::pair().unwrap();
    let far = Socket::new(OwnedFd::from(far.into_std().unwrap())).unwrap();
    let Served { mut client, probe, ended, .. } = serve_over(near, far, options);
    client.enter(Style::Simple, "v").await;
    *probe.slow_from.lock() = 0;
    // The last of them is not begun, and what lies behind it is not read.
    let sent = NBD_REQUESTS_IN_FLIGHT_MAX + 1;
    for _ in 0..sent {
        client.send(command::READ, 0, 0, 1, &[]).await;
    }
    soon(probe.begun(NBD_REQUESTS_IN_FLIGHT_MAX)).await;
    assert_eq!(left.refusal("v"), None, "it is still there");
    drop(client);
    soon(counted(&left)).await;
    assert_eq!(probe.begun_now(), NBD_REQUESTS_IN_FLIGHT_MAX);
    probe.permits.add_permits(sent);
    let _ = soon(ended).await.unwrap();
    assert_eq!(left.refusal("v"), None);
}

#[tokio::test]
async fn nothing_follows_a_part_of_a_reply_that_was_given_up() {
    let left = Arc::new(Left::of(1));
    let patience = Patience { stall: Duration::from_millis(100), stop: Duration::from_secs(1) };
    let options = ConnectionOptions { left: Arc::clone(&left), patience, ..ConnectionOptions::default() };
    let Served { mut client, probe, ended, .. } = serve_with(options);
    client.enter(Style::Simple, "v").await;
    client.write(0, 0, &[1; 300 << 10]).await;
    client.write(0, SIZE / 2, &[2; 300 << 10]).await;
    *probe.slow_from.lock() = SIZE / 2;
    let slow = client.send(command::READ, 0, SIZE / 2, 300 << 10, &[]).await;
    client.send(command::READ, 0, 0, 300 << 10, &[]).await;
    // It takes no more of its reply than the socket does, until it is given up, and goes on when the disk has answered the other one.
    soon(counted(&left)).await;
    probe.permits.add_permits(1);
    let mut taken = Vec::new();
    soon(client.stream.read_to_end(&mut taken)).await.unwrap();
    assert!(matches!(session_error(soon(ended).await.unwrap()), SessionError::Stalled { .. }));
    assert!(taken.len() < 300 << 10, "{} bytes", taken.len());
    assert!(taken[16..].iter().all(|byte| *byte == 1), "of request {slow}, which was never answered");
}

#[tokio::test]
async fn a_client_that_stalls_in_the_middle_is_cut_off_and_one_that_is_quiet_is_not() {
    let patience = Patience { stall: Duration::from_millis(100), stop: Duration::from_secs(1) };
    let options = || ConnectionOptions { patience, ..ConnectionOptions::default() };
    let mut quiet = serve_with(options());
    quiet.client.enter(Style::Simple, "v").await;
    *quiet.probe.slow_from.lock() = 0;
    let waiting = quiet.client.send(command::READ, 0, 0, 1, &[]).await;

    let mut sender = serve_with(options());
    sender.client.enter(Style::Simple, "v").await;
    sender.client.send(command::WRITE, 0, 0, 100, b"only this").await;
    soon(sender.client.closed()).await;
    assert!(matches!(session_error(sender.ended.await.unwrap()), SessionError::Stalled { .. }));

    let mut taker = serve_with(options());
    taker.client.enter(Style::Simple, "v").await;
    taker.client.write(0, 0, &[1; 300 << 10]).await;
    taker.client.send(command::READ, 0, 0, 300 << 10, &[]).await;
    assert!(matches!(session_error(soon(taker.ended).await.unwrap()), SessionError::Stalled { .. }));

    quiet.probe.permits.add_permits(2);
    assert_eq!(quiet.client.reply(1).await, (waiting, Reply::Data(vec![0])));
    assert_eq!(quiet.client.read(0, 1).await, Reply::Data(vec![0]));
}
