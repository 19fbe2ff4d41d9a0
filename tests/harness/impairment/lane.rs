//! One direction of one caller's traffic: decides each datagram's fate, and sends the late ones from its own thread.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::{Traffic, Weather};

/// A link with a rate has a queue as long as this; what does not fit is lost, as at any router.
const QUEUE_MAX: Duration = Duration::from_millis(200);
/// A reordered datagram is late by at least this much, also on a link without delay.
const OVERTAKEN_BY: Duration = Duration::from_millis(2);

type Late = Reverse<(Instant, u64, Vec<u8>)>;

#[derive(Default)]
struct Queue {
    late: BinaryHeap<Late>,
    ended: bool,
}

struct Shared {
    queue: Mutex<Queue>,
    changed: Condvar,
}

/// See the module.
pub(super) struct Lane {
    socket: Arc<UdpSocket>,
    to: SocketAddr,
    random: StdRng,
    /// When the link has sent everything accepted so far, at its rate.
    free_at: Instant,
    passed: u64,
    shared: Arc<Shared>,
    sender: Option<JoinHandle<()>>,
}

impl Lane {
    pub(super) fn start(socket: Arc<UdpSocket>, to: SocketAddr, seed: u64) -> Self {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::default()), changed: Condvar::new() });
        let (of_thread, out) = (Arc::clone(&shared), Arc::clone(&socket));
        let sender = Some(std::thread::spawn(move || send_late(&of_thread, &out, to)));
        let random = StdRng::seed_from_u64(seed);
        Self { socket, to, random, free_at: Instant::now(), passed: 0, shared, sender }
    }

    /// Sends, delays, alters or loses a datagram.
    pub(super) fn pass(&mut self, datagram: &[u8], weather: Weather, traffic: &Traffic) {
        let lost = self.random.random_bool(weather.loss);
        let overtaken = self.random.random_bool(weather.reorder);
        let now = Instant::now();
        let queued = self.queued(now, datagram.len(), weather.bytes_per_second);
        if weather.black_hole || lost || queued > QUEUE_MAX {
            traffic.lost.fetch_add(1, Ordering::Relaxed);
            return;
        }
        traffic.bytes.fetch_add(datagram.len() as u64, Ordering::Relaxed);
        traffic.datagrams.fetch_add(1, Ordering::Relaxed);
        // Asked only where it may be: other weather goes by its seed as ever.
        let altered = if weather.flip > 0.0 && self.random.random_bool(weather.flip) {
            traffic.flipped.fetch_add(1, Ordering::Relaxed);
            Some(self.altered(datagram))
        } else {
            None
        };
        let datagram = altered.as_deref().unwrap_or(datagram);
        let late = queued + weather.delay + if overtaken { weather.delay + OVERTAKEN_BY } else { Duration::ZERO };
        if late.is_zero() {
            // A full socket loses the datagram, as a link may.
            let _ = self.socket.send_to(datagram, self.to);
            return;
        }
        self.passed += 1;
        let mut queue = self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
        queue.late.push(Reverse((now + late, self.passed, datagram.to_vec())));
        self.shared.changed.notify_one();
    }

    /// The same with one bit that is another.
    fn altered(&mut self, datagram: &[u8]) -> Vec<u8> {
        let mut bytes = datagram.to_vec();
        let (at, bit) = (self.random.random_range(0..bytes.len().max(1)), self.random.random_range(0..8_u32));
        if let Some(byte) = bytes.get_mut(at) {
            *byte ^= 1_u8 << bit;
        }
        bytes
    }

    fn queued(&mut self, now: Instant, bytes: usize, rate: Option<u64>) -> Duration {
        let Some(rate) = rate else { return Duration::ZERO };
        let begins = self.free_at.max(now);
        let waits = begins - now;
        if waits <= QUEUE_MAX {
            self.free_at = begins + Duration::from_secs_f64(bytes as f64 / rate as f64);
        }
        waits
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        self.shared.queue.lock().unwrap_or_else(PoisonError::into_inner).ended = true;
        self.shared.changed.notify_one();
        if let Some(sender) = self.sender.take() {
            let _ = sender.join();
        }
    }
}

fn send_late(shared: &Shared, socket: &UdpSocket, to: SocketAddr) {
    let mut queue = shared.queue.lock().unwrap_or_else(PoisonError::into_inner);
    while !queue.ended {
        let wait = match queue.late.peek() {
            None => Duration::from_secs(3600),
            Some(Reverse((due, ..))) => due.saturating_duration_since(Instant::now()),
        };
        if wait.is_zero() {
            if let Some(Reverse((_, _, datagram))) = queue.late.pop() {
                let _ = socket.send_to(&datagram, to);
            }
        } else {
            queue = shared.changed.wait_timeout(queue, wait).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}
