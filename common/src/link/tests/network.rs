//! A link that breaks, and one that loses and shuffles datagrams.

use std::io::{self, IoSliceMut};
use std::net::UdpSocket;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, UdpPoller};

use super::*;
use crate::limits::DATA_STREAMS;
use crate::wire::message::Message;

/// Where to, and what.
type Sent = (SocketAddr, Vec<u8>);

/// Loopback with a switch: while it is cut, whatever is sent vanishes. One in `loss` sends vanishes always.
#[derive(Debug, Default)]
struct Wire {
    cut: AtomicBool,
    loss: u64,
    sends: AtomicU64,
    /// Every datagram sent, as somebody on the way would write it down.
    recorded: Option<Mutex<Vec<Sent>>>,
}

#[derive(Debug)]
struct Switched(Arc<Wire>);

impl Network for Switched {
    fn bind(&self, address: SocketAddr, buffer_bytes: usize) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = UdpNetwork.bind(address, buffer_bytes)?;
        Ok(Arc::new(SwitchedSocket { socket, wire: self.0.clone() }))
    }
}

#[derive(Debug)]
struct SwitchedSocket {
    socket: Arc<dyn AsyncUdpSocket>,
    wire: Arc<Wire>,
}

impl AsyncUdpSocket for SwitchedSocket {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        self.socket.clone().create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        let number = self.wire.sends.fetch_add(1, Ordering::Relaxed);
        if let Some(recorded) = &self.wire.recorded {
            let size = transmit.segment_size.unwrap_or(transmit.contents.len());
            let datagrams = transmit.contents.chunks(size).map(|datagram| (transmit.destination, datagram.to_vec()));
            recorded.lock().extend(datagrams);
        }
        let lost = self.wire.loss > 0 && numbers(number).next().unwrap().is_multiple_of(self.wire.loss);
        if lost || self.wire.cut.load(Ordering::Relaxed) { Ok(()) } else { self.socket.try_send(transmit) }
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }
}

fn pair_on(wire: &Arc<Wire>, config: &LinkConfig) -> (Appliance, Appliance) {
    let [east, west] = [(); 2].map(|()| Appliance::with(config.clone(), Arc::new(Switched(wire.clone()))));
    east.trust(&west);
    west.trust(&east);
    (east, west)
}

/// Cut in the middle of a transfer: both sides see it within the idle time-out, on every stream, and when the link is
/// back they connect again and start afresh.
#[tokio::test]
async fn a_cut_link_is_seen_by_both_sides_and_can_be_dialed_again() {
    let wire = Arc::new(Wire::default());
    let config = LinkConfig {
        idle_timeout: Duration::from_millis(400),
        setup_timeout: Duration::from_millis(400),
        ..LinkConfig::default()
    };
    let (east, west) = pair_on(&wire, &config);
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    let (to_west, mut from_west) = primary.open_control().await.unwrap();
    to_west.send(&Message::Goodbye { message: "hello".into() }).await.unwrap();
    let (_to_east, mut from_east) = secondary.accept_control().await.unwrap();
    from_east.recv().await.unwrap();

    let sending = async {
        let mut number = 0;
        loop {
            if let Err(error) = sender.send(frame(number, 100_000)).await {
                break error;
            }
            number += 1;
        }
    };
    let receiving = async {
        let mut number = 0;
        loop {
            match receiver.recv().await {
                Ok(got) => assert!(got.unwrap() == frame(number, 100_000), "frame {number}"),
                Err(error) => break error,
            }
            number += 1;
            if number == 50 {
                wire.cut.store(true, Ordering::Relaxed);
            }
        }
    };
    let (sent, received) = soon(async { tokio::join!(sending, receiving) }).await;
    assert_eq!((sent, received), (LinkError::TimedOut, LinkError::TimedOut));
    assert_eq!((primary.closed().await, secondary.closed().await), (LinkError::TimedOut, LinkError::TimedOut));
    assert_eq!(from_west.recv().await, Err(LinkError::TimedOut));
    assert_eq!(from_east.recv().await, Err(LinkError::TimedOut));
    assert_eq!(sender.finish().await, Err(LinkError::TimedOut));
    assert!(matches!(east.dial(&west).await, Err(DialError::Silent { .. })), "still cut");

    wire.cut.store(false, Ordering::Relaxed);
    let (primary, secondary) = connect(&east, &west).await;
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    sender.send(frame(7, 10)).await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(frame(7, 10))));
}

/// Nothing is sent for longer than the idle time-out: keep-alives hold the connection.
#[tokio::test]
async fn an_idle_connection_stays() {
    let wire = Arc::new(Wire::default());
    let config = LinkConfig { idle_timeout: Duration::from_millis(300), ..LinkConfig::default() };
    let (east, west) = pair_on(&wire, &config);
    let (primary, secondary) = connect(&east, &west).await;
    let patience = Duration::from_millis(900);
    assert!(tokio::time::timeout(patience, primary.closed()).await.is_err(), "it is still open");
    assert!(tokio::time::timeout(Duration::ZERO, secondary.closed()).await.is_err(), "on both sides");
}

/// Losses delay some streams against others; the order stays.
#[tokio::test]
async fn lost_datagrams_change_nothing() {
    for congestion in [Congestion::Bbr, Congestion::Cubic] {
        let wire = Arc::new(Wire { loss: 20, ..Wire::default() });
        let (east, west) = pair_on(&wire, &LinkConfig { congestion, ..LinkConfig::default() });
        let (primary, secondary) = connect(&east, &west).await;
        let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
        let sending = async {
            for number in 0..40 {
                sender.send(frame(number, 50_000)).await.unwrap();
            }
            sender.finish().await.unwrap();
        };
        let receiving = async {
            for number in 0..40 {
                assert!(receiver.recv().await.unwrap().unwrap() == frame(number, 50_000), "frame {number}");
            }
            assert_eq!(receiver.recv().await, Ok(None));
        };
        soon(async { tokio::join!(sending, receiving) }).await;
        assert!(primary.stats().lost_packets > 0);
    }
}

/// Somebody on the way sends again what a trusted peer has sent: its handshake, its messages, its frames. That opens nothing, is
/// reported, and disturbs nobody.
#[tokio::test]
async fn a_replayed_handshake_is_refused_and_reported() {
    let wire = Arc::new(Wire { recorded: Some(Mutex::default()), ..Wire::default() });
    let config = LinkConfig { setup_timeout: Duration::from_millis(500), ..LinkConfig::default() };
    let (east, mut west) = pair_on(&wire, &config);
    let (primary, secondary) = connect(&east, &west).await;
    let (control, _incoming) = primary.open_control().await.unwrap();
    control.send(&Message::Goodbye { message: "take me over".into() }).await.unwrap();
    let (_control, mut heard) = secondary.accept_control().await.unwrap();
    heard.recv().await.unwrap();
    let (mut sender, mut receiver) = data(&primary, &secondary, DATA_STREAMS).await;
    sender.send(frame(1, 5_000)).await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(frame(1, 5_000))));

    let target = west.endpoint.local_addr().unwrap();
    let recorded = wire.recorded.as_ref().unwrap().lock().clone();
    let sent: Vec<_> = recorded.into_iter().filter(|(to, _)| *to == target).map(|(_, datagram)| datagram).collect();
    assert!(sent.len() > 3, "a handshake and more: {}", sent.len());
    let attacker = UdpSocket::bind(any_port()).unwrap();
    let replay = || {
        for datagram in &sent {
            attacker.send_to(datagram, target).unwrap();
        }
    };
    replay();
    sender.send(frame(2, 10)).await.unwrap();
    assert_eq!(receiver.recv().await, Ok(Some(frame(2, 10))), "the connection that was listened to goes on");
    primary.close("over");
    secondary.closed().await;
    // Again, now that nothing here remembers the first packet: a handshake begins, and its answers lead nowhere.
    let refusal = soon(async {
        loop {
            replay();
            if let Ok(refusal) = tokio::time::timeout(Duration::from_secs(1), west.refusals.recv()).await {
                break refusal.unwrap();
            }
        }
    });
    let refusal = refusal.await;
    assert_eq!(refusal.id, None, "nobody was taken for east");
    // Which of its packets come first decides.
    let why = refusal.why.as_str();
    assert!(why == "the handshake took too long" || why.ends_with("authentication failed"), "{why}");
    // Nothing was let in: the next that comes is the one that is dialed now.
    let again = soon(east.dial(&west)).await.unwrap();
    let admitted = soon(west.endpoint.accept()).await.unwrap();
    again.close("found");
    assert_eq!(admitted.closed().await, LinkError::PeerClosed { reason: "found".into(), parting: Parting::Over });
}
