//! Between appliances that trust each other and behave.

use std::num::NonZeroU64;

use super::*;
use crate::limits::{DATA_STREAMS, FRAME_STORED_BYTES_MAX};
use crate::wire::message::Message;

fn heartbeat(number: u64) -> Message {
    Message::Heartbeat { number, as_of_ms: 5, captured_seq: 6, marker: 7 }
}

#[tokio::test]
async fn messages_go_both_ways() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    assert_eq!((primary.peer(), secondary.peer()), (west.id, east.id));
    let (to_west, mut from_west) = primary.open_control().await.unwrap();
    to_west.send(&heartbeat(0)).await.unwrap();
    let (to_east, mut from_east) = secondary.accept_control().await.unwrap();
    for number in 1..100 {
        to_west.send(&heartbeat(number)).await.unwrap();
        to_east.send(&heartbeat(number)).await.unwrap();
    }
    for number in 0..100 {
        assert_eq!(from_east.recv().await, Ok(Some(heartbeat(number))));
    }
    for number in 1..100 {
        assert_eq!(from_west.recv().await, Ok(Some(heartbeat(number))));
    }
    to_west.finish().await.unwrap();
    assert_eq!(from_east.recv().await, Ok(None));
    primary.close("enough");
    assert_eq!(secondary.closed().await, LinkError::PeerClosed { reason: "enough".into(), parting: Parting::Over });
    assert_eq!(primary.closed().await, LinkError::LocallyClosed);
    assert_eq!(from_west.recv().await, Err(LinkError::LocallyClosed));
}

/// Frames of very different sizes, over all streams, arrive in order and whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_arrive_in_order() {
    // So small that all streams are needed.
    let (east, west) = pair_with(&LinkConfig { stream_window_bytes: 64 << 10, ..LinkConfig::default() });
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    let size = |random: u64| match random % 10 {
        0 => FRAME_STORED_BYTES_MAX,
        1..4 => 1 + usize::try_from(random >> 32).unwrap() % (1 << 20),
        _ => 1 + usize::try_from(random >> 32).unwrap() % 5000,
    };
    let sizes: Vec<usize> = numbers(1).take(300).map(size).collect();
    let sending = async {
        for (number, &bytes) in (0..).zip(&sizes) {
            sender.send(frame(number, bytes)).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    let receiving = async {
        for (number, &bytes) in (0..).zip(&sizes) {
            let got = receiver.recv().await.unwrap().unwrap();
            assert!(got == frame(number, bytes), "frame {number} of {bytes} bytes");
        }
        assert_eq!(receiver.recv().await, Ok(None));
        assert_eq!(receiver.recv().await, Ok(None));
    };
    soon(async { tokio::join!(sending, receiving) }).await;
    let stats = primary.stats();
    let payload: usize = sizes.iter().sum();
    assert!(stats.sent_bytes > u64::try_from(payload).unwrap() && stats.received_bytes > 0);
    assert!(stats.round_trip > Duration::ZERO && stats.congestion_window_bytes > 0);
}

/// Streams that 640 KiB of frames went over, for streams with this window.
async fn lanes_used(stream_window_bytes: u32) -> usize {
    let (east, west) = pair_with(&LinkConfig { stream_window_bytes, ..LinkConfig::default() });
    let (primary, secondary) = connect(&east, &west).await;
    let sending = async {
        let mut sender = primary.open_data(DATA_STREAMS).await.unwrap();
        for number in 0..10 {
            sender.send(frame(number, 64 << 10)).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    let receiving = async {
        let mut lanes = tokio::task::JoinSet::new();
        for _ in 0..DATA_STREAMS {
            let mut stream = secondary.raw().accept_uni().await.unwrap();
            lanes.spawn(async move { stream.read_to_end(1 << 20).await.unwrap().len() });
        }
        lanes.join_all().await.into_iter().filter(|bytes| *bytes > 64 << 10).count()
    };
    soon(async { tokio::join!(sending, receiving) }).await.1
}

/// What is handed to several streams arrives side by side, the first frame as late as the last.
#[tokio::test]
async fn frames_go_over_as_many_streams_as_the_line_needs() {
    assert_eq!(lanes_used(LinkConfig::default().stream_window_bytes).await, 1);
    assert_eq!(lanes_used(16 << 10).await, DATA_STREAMS);
}

/// A receiver that does not read stops the sender within the windows; control messages still get through.
#[tokio::test]
async fn a_reader_that_stalls_stops_the_sender_and_not_the_control_stream() {
    let config = LinkConfig { stream_window_bytes: 1 << 20, send_window_bytes: 4 << 20, ..LinkConfig::default() };
    let (east, west) = pair_with(&config);
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    let (to_west, _from_west) = primary.open_control().await.unwrap();
    let bytes = 1 << 20;
    let mut sent = 0;
    let full = loop {
        match tokio::time::timeout(Duration::from_millis(300), sender.send(frame(sent, bytes))).await {
            Ok(done) => done.unwrap(),
            Err(_) => break sent,
        }
        sent += 1;
        assert!(sent < 64, "the sender must be held");
    };
    assert!(full >= 2, "the windows take some");
    to_west.send(&heartbeat(1)).await.unwrap();
    let (_to_east, mut from_east) = secondary.accept_control().await.unwrap();
    assert_eq!(soon(from_east.recv()).await, Ok(Some(heartbeat(1))));
    // The send given up above left no trace: the next frame has its number.
    let reading = async {
        for number in 0..=full {
            assert!(receiver.recv().await.unwrap().unwrap() == frame(number, bytes), "frame {number}");
        }
    };
    let (sent, ()) = soon(async { tokio::join!(sender.send(frame(full, bytes)), reading) }).await;
    sent.unwrap();
}

/// `recv` and `send` dropped at every await lose and repeat nothing.
#[tokio::test]
async fn dropped_futures_lose_nothing() {
    let config = LinkConfig { stream_window_bytes: 1 << 20, send_window_bytes: 2 << 20, ..LinkConfig::default() };
    let (east, west) = pair_with(&config);
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    let sending = async {
        for number in 0..200 {
            loop {
                let patience = Duration::from_micros(50);
                match tokio::time::timeout(patience, sender.send(frame(number, 300_000))).await {
                    Ok(done) => break done.unwrap(),
                    Err(_) => tokio::task::yield_now().await,
                }
            }
        }
        sender.finish().await.unwrap();
    };
    let receiving = async {
        let mut number = 0;
        loop {
            match tokio::time::timeout(Duration::from_micros(50), receiver.recv()).await {
                Ok(Ok(Some(got))) => assert!(got == frame(number, 300_000), "frame {number}"),
                Ok(ended) => break assert_eq!((number, ended), (200, Ok(None))),
                Err(_) => continue,
            }
            number += 1;
        }
    };
    soon(async { tokio::join!(sending, receiving) }).await;
}

#[tokio::test]
async fn a_dropped_sender_is_not_taken_for_a_finished_one() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, 2).await;
    sender.send(frame(0, 100)).await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(frame(0, 100))));
    drop(sender);
    assert_eq!(soon(receiver.recv()).await, Err(LinkError::Abandoned));
    assert_eq!(receiver.recv().await, Err(LinkError::Abandoned), "the same again");
}

/// A pair that is suspended drops its streams and closes, and the copy is to show why whatever arrives first.
#[tokio::test]
async fn the_reason_of_a_close_is_told_though_the_streams_were_dropped_before_it() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let (sender, mut receiver) = data(&primary, &secondary, 2).await;
    drop(sender);
    let error = soon(receiver.recv()).await.unwrap_err();
    assert_eq!(error, LinkError::Abandoned);
    let closing = async {
        tokio::task::yield_now().await;
        primary.close_as(Parting::Suspended, "suspended");
    };
    let (error, ()) = soon(async { tokio::join!(secondary.reason_behind(error), closing) }).await;
    assert_eq!(error, LinkError::PeerClosed { reason: "suspended".into(), parting: Parting::Suspended });
    assert_eq!(soon(secondary.reason_behind(LinkError::TimedOut)).await, LinkError::TimedOut);
}

/// Everything is dropped on one side while its peer does not read: nothing stays behind to keep the connection alive.
#[tokio::test]
async fn dropping_all_of_a_blocked_connection_closes_it() {
    let config = LinkConfig { stream_window_bytes: 1 << 20, ..LinkConfig::default() };
    let (east, west) = pair_with(&config);
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, _receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    let control = primary.open_control().await.unwrap();
    let blocking = async {
        for number in 0.. {
            sender.send(frame(number, FRAME_STORED_BYTES_MAX)).await.unwrap();
        }
    };
    assert!(tokio::time::timeout(Duration::from_millis(500), blocking).await.is_err(), "the sender is blocked");
    drop((sender, control, primary));
    assert!(matches!(soon(secondary.closed()).await, LinkError::PeerClosed { .. }));
}

#[tokio::test]
async fn frames_and_streams_out_of_bounds_are_not_sent() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, _receiver) = data(&primary, &secondary, 1).await;
    for bytes in [0, FRAME_STORED_BYTES_MAX + 1] {
        assert_eq!(sender.send(Bytes::from(vec![0; bytes])).await, Err(LinkError::FrameSize { bytes }));
    }
    for streams in [0, DATA_STREAMS + 1] {
        assert_eq!(primary.open_data(streams).await.unwrap_err(), LinkError::StreamCount { streams });
    }
}

#[tokio::test]
async fn a_rate_limit_is_kept() {
    let rate = 4 << 20;
    let config = LinkConfig { rate_limit: NonZeroU64::new(rate), ..LinkConfig::default() };
    let (east, west) = pair_with(&config);
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    let start = tokio::time::Instant::now();
    let sending = async {
        for number in 0..8 {
            sender.send(frame(number, 512 << 10)).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    let receiving = async { while receiver.recv().await.unwrap().is_some() {} };
    tokio::join!(sending, receiving);
    let took = start.elapsed().as_secs_f64();
    assert!(took > 0.95, "4 MiB at 4 MiB/s in {took} s");
}

/// Both sides can dial, at once, and a connection gone leaves the others alone.
#[tokio::test]
async fn both_sides_dial() {
    let (east, west) = pair();
    let (first, _far) = connect(&east, &west).await;
    let (second, _far) = connect(&west, &east).await;
    first.close("done");
    let control = second.open_control().await;
    assert!(control.is_ok());
}

#[tokio::test]
async fn a_closed_endpoint_tells_its_peers_and_lets_go_of_its_port() {
    let (east, west) = pair();
    let (primary, secondary) = connect(&east, &west).await;
    let address = west.endpoint.local_addr().unwrap();
    west.endpoint.close("stopping");
    assert_eq!(primary.closed().await, LinkError::PeerClosed { reason: "stopping".into(), parting: Parting::Over });
    assert_eq!(secondary.closed().await, LinkError::LocallyClosed);
    assert!(west.endpoint.accept().await.is_none());
    assert!(matches!(west.endpoint.dial(&east.address(), east.id).await, Err(DialError::Closed)));
    soon(west.endpoint.wait_idle()).await;
    drop((west, primary, secondary));
    soon(async {
        while std::net::UdpSocket::bind(address).is_err() {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_busy_port_is_named() {
    let east = Appliance::new();
    let busy = east.endpoint.local_addr().unwrap();
    let error = Endpoint::bind(busy, &identity(), east.peers.clone(), LinkConfig::default()).unwrap_err();
    assert!(error.to_string().contains(&busy.to_string()), "{error}");
}
