//! The relay does to datagrams what it says.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use super::*;

/// A caller and an answerer with a relay between them.
fn ends() -> (UdpSocket, UdpSocket, Relay) {
    let far = socket();
    let near = socket();
    let relay = Relay::start(&far.local_addr().expect("address").to_string(), 1);
    near.connect(relay.address()).expect("connect");
    (near, far, relay)
}

fn send(near: &UdpSocket, numbers: std::ops::Range<u32>) {
    for number in numbers {
        near.send(&number.to_be_bytes()).expect("send");
    }
}

/// Everything that arrives until nothing comes for a while.
fn arrived(far: &UdpSocket) -> Vec<u32> {
    let mut buffer = [0; 16];
    let mut numbers = Vec::new();
    while let Ok(length) = far.recv(&mut buffer) {
        numbers.push(u32::from_be_bytes(buffer[..length].try_into().expect("a number")));
    }
    numbers
}

#[test]
fn fair_weather_passes_everything_both_ways() {
    let (near, far, relay) = ends();
    send(&near, 0..50);
    let mut buffer = [0; 16];
    let (_, caller) = far.recv_from(&mut buffer).expect("a datagram");
    assert_eq!(arrived(&far).len(), 49);
    far.send_to(&[9; 4], caller).expect("answer");
    assert_eq!(near.recv(&mut buffer).expect("the answer"), 4);
    assert_eq!((relay.forward().bytes(), relay.backward().bytes()), (200, 4));
}

#[test]
fn of_each_datagram_that_is_altered_one_bit_is_another() {
    let (near, far, relay) = ends();
    relay.set(Weather { flip: 1.0, ..Weather::default() });
    send(&near, 0..50);
    let came = arrived(&far);
    assert_eq!((came.len(), relay.forward().flipped()), (50, 50));
    assert!((0..50_u32).zip(came).all(|(sent, came)| (sent ^ came).count_ones() == 1));
}

#[test]
fn a_cut_link_passes_nothing_until_it_heals() {
    let (near, far, relay) = ends();
    relay.cut();
    send(&near, 0..10);
    assert!(arrived(&far).is_empty());
    relay.heal();
    send(&near, 10..12);
    assert_eq!(arrived(&far), [10, 11]);
    assert_eq!(relay.forward().lost(), 10);
}

#[test]
fn a_trap_waits_for_a_call_and_cuts_it_where_it_was_told_to() {
    let (near, far, relay) = ends();
    relay.cut_next_call_after(2);
    send(&near, 0..10);
    assert_eq!(arrived(&far).len(), 10, "no call has begun");
    // Its first datagram is the first of the two.
    send(&near, 0xc000_0000..0xc000_0001);
    send(&near, 20..24);
    assert_eq!(arrived(&far), [0xc000_0000, 20]);
    assert!(relay.is_cut());
    assert_eq!(relay.lost(), 3);
    relay.heal();
    send(&near, 30..31);
    assert_eq!(arrived(&far), [30]);
}

#[test]
fn delay_loss_and_reordering_are_what_was_asked_for() {
    let (near, far, relay) = ends();
    let delay = Duration::from_millis(50);
    relay.set(Weather { delay, loss: 0.2, reorder: 0.2, ..Weather::default() });
    let start = Instant::now();
    send(&near, 0..500);
    let numbers = arrived(&far);
    assert!(start.elapsed() >= delay);
    assert!((350..450).contains(&numbers.len()), "{} of 500 arrived", numbers.len());
    assert!(numbers.windows(2).any(|pair| pair[0] > pair[1]), "some are overtaken");
}

#[test]
fn a_rate_limits_what_comes_through() {
    let (near, far, relay) = ends();
    relay.set(Weather { bytes_per_second: Some(100_000), ..Weather::default() });
    let start = Instant::now();
    for _ in 0..10 {
        near.send(&[0; 1_000]).expect("send");
    }
    let mut buffer = [0; 2_000];
    for _ in 0..10 {
        far.recv(&mut buffer).expect("a datagram");
    }
    assert!(start.elapsed() >= Duration::from_millis(80), "{:?}", start.elapsed());
}
