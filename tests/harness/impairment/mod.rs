//! A bad link: a UDP relay between two appliances that delays, loses, reorders, alters, limits or swallows datagrams.
//!
//! The caller of a pair is told the relay's address instead of the other appliance's. Everything random follows from
//! the seed. Bytes are counted where they leave the relay.

mod lane;

use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::cluster::loopback;
use lane::Lane;

/// How often a blocked receive looks whether the relay has ended.
const END_CHECK: Duration = Duration::from_millis(100);
/// Datagrams are never larger.
const DATAGRAM_BYTES_MAX: usize = 65_536;
/// Asked of the kernel for each socket, so that only the relay loses datagrams.
const SOCKET_BYTES: usize = 4 << 20;

/// What the link does to each direction.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Weather {
    /// Time each datagram takes.
    pub delay: Duration,
    /// Share of datagrams lost, 0 to 1.
    pub loss: f64,
    /// Share of datagrams that take twice the delay (and two milliseconds more), so that others overtake them.
    pub reorder: f64,
    /// Share of datagrams of which one bit flips.
    pub flip: f64,
    /// Bytes per second that fit through.
    pub bytes_per_second: Option<u64>,
    /// Nothing comes through.
    pub black_hole: bool,
}

/// Cuts the link in the middle of the next call: a connection that is made through the relay from now on.
#[derive(Debug, Clone, Copy)]
struct Trap {
    /// Datagrams of either direction that still come through, from the call's first one on.
    left: u64,
    /// The call has begun.
    called: bool,
}

/// A datagram that begins a QUIC connection: a long header of version 1 and the kind "Initial" (RFC 9000, 17.2.2).
fn begins_call(datagram: &[u8]) -> bool {
    datagram.first().is_some_and(|first| first & 0xf0 == 0xc0)
}

/// Bytes and datagrams that left the relay in one direction.
#[derive(Debug, Default)]
pub struct Traffic {
    bytes: AtomicU64,
    datagrams: AtomicU64,
    lost: AtomicU64,
    flipped: AtomicU64,
}

impl Traffic {
    /// Bytes of payload.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Datagrams.
    #[must_use]
    pub fn datagrams(&self) -> u64 {
        self.datagrams.load(Ordering::Relaxed)
    }

    /// Datagrams dropped on the way.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Datagrams that were altered on the way.
    #[must_use]
    pub fn flipped(&self) -> u64 {
        self.flipped.load(Ordering::Relaxed)
    }
}

#[derive(Debug)]
struct Shared {
    ended: AtomicBool,
    weather: Mutex<Weather>,
    trap: Mutex<Option<Trap>>,
    forward: Traffic,
    backward: Traffic,
}

impl Shared {
    fn weather(&self) -> Weather {
        *self.weather.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The weather that a datagram meets, which may be the one that springs the trap.
    fn meet(&self, datagram: &[u8], forward: bool) -> Weather {
        let mut armed = self.trap.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(trap) = armed.as_mut() {
            trap.called |= forward && begins_call(datagram);
            if trap.called && trap.left == 0 {
                *armed = None;
                self.weather.lock().unwrap_or_else(PoisonError::into_inner).black_hole = true;
            } else if trap.called {
                trap.left -= 1;
            }
        }
        drop(armed);
        self.weather()
    }

    fn ended(&self) -> bool {
        self.ended.load(Ordering::Relaxed)
    }
}

/// A running relay; ends when it is dropped.
#[derive(Debug)]
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

impl Relay {
    /// Starts relaying to an appliance's QUIC address, in fair weather.
    ///
    /// # Panics
    /// When the sockets cannot be made.
    #[must_use]
    pub fn start(to: &str, seed: u64) -> Self {
        let to: SocketAddr = to.parse().expect("a QUIC address");
        let front = socket();
        let address = front.local_addr().expect("its address");
        let shared = Arc::new(Shared {
            ended: AtomicBool::new(false),
            weather: Mutex::new(Weather::default()),
            trap: Mutex::new(None),
            forward: Traffic::default(),
            backward: Traffic::default(),
        });
        let of_thread = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || accept(&Arc::new(front), to, seed, &of_thread));
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// The address to tell the calling side.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Changes the weather, for both directions.
    pub fn set(&self, weather: Weather) {
        *self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner) = weather;
    }

    /// Cuts the link: nothing comes through, nothing says so.
    pub fn cut(&self) {
        self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner).black_hole = true;
    }

    /// Cuts the link in the middle of the next call: when so many datagrams of either direction have come through since its first.
    pub fn cut_next_call_after(&self, datagrams: u64) {
        *self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(Trap { left: datagrams, called: false });
    }

    /// Whether nothing comes through.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.shared.weather().black_hole
    }

    /// Datagrams lost on the way, in both directions.
    #[must_use]
    pub fn lost(&self) -> u64 {
        self.forward().lost() + self.backward().lost()
    }

    /// Heals the link, and takes a trap away.
    pub fn heal(&self) {
        *self.shared.trap.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.shared.weather.lock().unwrap_or_else(PoisonError::into_inner).black_hole = false;
    }

    /// From the caller to the other side.
    #[must_use]
    pub fn forward(&self) -> &Traffic {
        &self.shared.forward
    }

    /// Back to the caller.
    #[must_use]
    pub fn backward(&self) -> &Traffic {
        &self.shared.backward
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}

fn socket() -> UdpSocket {
    let socket = UdpSocket::bind((loopback(), 0)).expect("a UDP socket");
    socket.set_read_timeout(Some(END_CHECK)).expect("a time limit");
    // What the kernel does not grant shows as loss, which a link may have.
    let _ = rustix::net::sockopt::set_socket_recv_buffer_size(&socket, SOCKET_BYTES);
    let _ = rustix::net::sockopt::set_socket_send_buffer_size(&socket, SOCKET_BYTES);
    socket
}

/// Receives from callers; each caller has its own socket towards the other side, and a thread for what comes back.
fn accept(front: &Arc<UdpSocket>, to: SocketAddr, seed: u64, shared: &Arc<Shared>) {
    let mut callers: HashMap<SocketAddr, (Arc<UdpSocket>, Lane)> = HashMap::new();
    let mut returns = Vec::new();
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !shared.ended() {
        let Ok((length, caller)) = front.recv_from(&mut buffer) else { continue };
        let count = callers.len() as u64;
        let (_, lane) = callers.entry(caller).or_insert_with(|| {
            let back = Arc::new(socket());
            let (front, of_thread, of_return) = (Arc::clone(front), Arc::clone(shared), Arc::clone(&back));
            let seed = seed.wrapping_add(2 * count);
            returns.push(std::thread::spawn(move || give_back(&of_return, &front, caller, seed + 1, &of_thread)));
            (Arc::clone(&back), Lane::start(back, to, seed))
        });
        let weather = shared.meet(&buffer[..length], true);
        lane.pass(&buffer[..length], weather, &shared.forward);
    }
    drop(callers);
    for thread in returns {
        let _ = thread.join();
    }
}

fn give_back(back: &UdpSocket, front: &Arc<UdpSocket>, caller: SocketAddr, seed: u64, shared: &Shared) {
    let mut lane = Lane::start(Arc::clone(front), caller, seed);
    let mut buffer = vec![0; DATAGRAM_BYTES_MAX];
    while !shared.ended() {
        if let Ok(length) = back.recv(&mut buffer) {
            let weather = shared.meet(&buffer[..length], false);
            lane.pass(&buffer[..length], weather, &shared.backward);
        }
    }
}

#[cfg(test)]
mod tests;
