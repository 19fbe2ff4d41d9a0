//! QUIC over a modelled path, in virtual time: a transfer of a minute over 1 Gbit/s takes seconds, and the same on every machine.
//!
//! In: a [`Path`], what befalls it, and who sends over it. Out: what came, moment by moment. quinn's state machines run as in the
//! product, with the transport settings of our link; sockets, timers and the path are this module's. Randomness follows from
//! the seed (quinn's BBR has some of its own).
//!
//! ```text
//!   senders ─▶ queue (tail drop) ─▶ rate ─▶ loss ─▶ delay ─▶ receivers
//!      ▲                                                        │
//!      └───────────── delay ◀── loss ◀── (acknowledgements) ────┘
//! ```

mod end;

use std::collections::BinaryHeap;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::link::{Congestion, LinkConfig};

use end::{End, Role};

/// Bytes of IP and UDP headers, which take their time on the path too.
const HEADERS: u64 = 28;
/// UDP payload that goes through: Ethernet, less headers of IPv6 and UDP.
const PAYLOAD_MAX: usize = 1452;

/// What a path is like.
#[derive(Debug, Clone, Copy)]
pub struct Path {
    /// Bits per second, headers of IP and UDP included.
    pub bits_per_second: f64,
    /// One way.
    pub delay: Duration,
    /// What waits before the slowest hop at most, bytes; more is lost.
    pub queue_bytes: u64,
    /// Share of datagrams lost, either way.
    pub loss: f64,
    /// Share of datagrams that take twice the delay, and two milliseconds.
    pub reorder: f64,
    /// Nothing comes through.
    pub dark: bool,
}

impl Path {
    /// A path of this round trip, with 20 ms of queue.
    #[must_use]
    pub fn new(megabits: f64, round_trip_ms: u64, loss: f64) -> Self {
        let bits_per_second = megabits * 1e6;
        let queue_bytes = (bits_per_second / 8.0 * 0.02) as u64;
        let delay = Duration::from_micros(round_trip_ms * 500);
        Self { bits_per_second, delay, queue_bytes, loss, reorder: 0.0, dark: false }
    }

    fn takes(&self, bytes: u64) -> Duration {
        Duration::from_secs_f64((bytes + HEADERS) as f64 * 8.0 / self.bits_per_second)
    }
}

/// How a sender behaves.
#[derive(Debug, Clone, Copy)]
pub struct Sender {
    /// Who says how fast.
    pub congestion: Congestion,
    /// Begins then.
    pub begins: Duration,
    /// Until then it has only this now and then: bytes, and how often.
    pub trickle: Option<(Duration, u64, Duration)>,
}

impl Sender {
    /// As much as goes, from the beginning.
    #[must_use]
    pub fn of(congestion: Congestion) -> Self {
        Self { congestion, begins: Duration::ZERO, trickle: None }
    }
}

/// What one sender had brought over at a moment.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Seen {
    /// Bytes of data that were read at the other end, in order.
    pub delivered: u64,
    /// Bytes of frames that came whole, each after the one before it.
    pub in_order: u64,
    /// Since when the receiver has answered nothing on the control stream.
    pub silent: Duration,
    /// Bytes of UDP payload sent, whatever for.
    pub sent: u64,
    /// Of those, dropped before the slowest hop.
    pub dropped: u64,
    /// Longest that something waited there since the moment before.
    pub queued: Duration,
    /// Bytes that may be under way.
    pub window: u64,
}

/// How often is looked.
pub const TICK: Duration = Duration::from_millis(100);

/// A run: what was seen of each sender at each [`TICK`], the first after one.
#[derive(Debug)]
pub struct Run {
    /// By sender, then by tick.
    pub seen: Vec<Vec<Seen>>,
    /// By sender: when and why its connection ended before its time.
    pub lost: Vec<Option<(Duration, String)>>,
}

impl Run {
    fn at(&self, sender: usize, at: Duration) -> Seen {
        let ticks = (at.as_nanos() / TICK.as_nanos()) as usize;
        if ticks == 0 { Seen::default() } else { self.seen[sender][ticks - 1] }
    }

    /// Bits of data per second between two moments.
    #[must_use]
    pub fn goodput(&self, sender: usize, from: Duration, to: Duration) -> f64 {
        let bytes = self.at(sender, to).delivered - self.at(sender, from).delivered;
        bytes as f64 * 8.0 / (to - from).as_secs_f64()
    }

    /// The longest time for which the control stream had no answer, between two moments.
    #[must_use]
    pub fn silent(&self, sender: usize, from: Duration, to: Duration) -> Duration {
        self.between(sender, from, to).map(|seen| seen.silent).max().unwrap_or_default()
    }

    /// The longest time in which no frame came in its turn, between two moments.
    #[must_use]
    pub fn stood(&self, sender: usize, from: Duration, to: Duration) -> Duration {
        let (mut longest, mut ticks, mut last) = (0, 0, None);
        for seen in self.between(sender, from, to) {
            ticks = if last.replace(seen.in_order) == Some(seen.in_order) { ticks + 1 } else { 0 };
            longest = longest.max(ticks);
        }
        TICK * longest
    }

    fn between(&self, sender: usize, from: Duration, to: Duration) -> impl Iterator<Item = &Seen> {
        let tick = |at: Duration| (at.as_nanos() / TICK.as_nanos()) as usize;
        self.seen[sender].iter().skip(tick(from)).take(tick(to) - tick(from))
    }

    /// Bits of data per second of all senders.
    #[must_use]
    pub fn goodput_of_all(&self, from: Duration, to: Duration) -> f64 {
        (0..self.seen.len()).map(|sender| self.goodput(sender, from, to)).sum()
    }

    /// Bytes of UDP payload sent by all for each byte of data delivered, between two moments.
    #[must_use]
    pub fn sent_for_delivered(&self, from: Duration, to: Duration) -> f64 {
        let sum = |of: fn(&Seen) -> u64| -> u64 {
            (0..self.seen.len()).map(|sender| of(&self.at(sender, to)) - of(&self.at(sender, from))).sum()
        };
        sum(|seen| seen.sent) as f64 / sum(|seen| seen.delivered) as f64
    }

    /// When a sender first delivered at that rate over half a second, after a moment; `None`: never.
    #[must_use]
    pub fn reaches(&self, sender: usize, bits_per_second: f64, after: Duration) -> Option<Duration> {
        let span = TICK * 5;
        let end = TICK * self.seen[sender].len() as u32;
        let mut at = after;
        while at + span <= end {
            if self.goodput(sender, at, at + span) >= bits_per_second {
                return Some(at - after);
            }
            at += TICK;
        }
        None
    }
}

/// Ticks of which an end is the mean.
const EDGE: usize = 20;

/// What a run comes to once its beginning is over.
#[derive(Debug, Clone, Copy)]
pub struct Row {
    /// Bytes of data delivered, against what the path takes.
    pub goodput: f64,
    /// Bytes of UDP payload sent, against bytes of data delivered.
    pub sent: f64,
    /// The connection did not last.
    pub ended: bool,
}

impl Row {
    /// From that moment to the end. What waits for a lost packet is delivered in lumps, so each end is the mean of two seconds.
    #[must_use]
    pub fn of(run: &Run, path: Path, from: Duration) -> Self {
        let ticks = run.seen[0].len();
        let begins = (from.as_nanos() / TICK.as_nanos()) as usize;
        let mean = |first: usize, of: fn(&Seen) -> u64| -> f64 {
            let of_one = |seen: &Vec<Seen>| seen[first..first + EDGE].iter().map(of).sum::<u64>();
            run.seen.iter().map(of_one).sum::<u64>() as f64 / EDGE as f64
        };
        let between = |of: fn(&Seen) -> u64| mean(ticks - EDGE, of) - mean(begins, of);
        let delivered = between(|seen| seen.delivered);
        let took = (TICK * (ticks - EDGE - begins) as u32).as_secs_f64();
        let goodput = delivered * 8.0 / took / path.bits_per_second;
        Self { goodput, sent: between(|seen| seen.sent) / delivered, ended: run.lost.iter().any(Option::is_some) }
    }
}

impl std::fmt::Display for Row {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ended = if self.ended { ", and the connection ended" } else { "" };
        write!(f, "goodput {:.3}, sent for delivered {:.3}{ended}", self.goodput, self.sent)
    }
}

/// What happens next, earliest first.
struct Event {
    at: Instant,
    order: u64,
    to: Role,
    pair: usize,
    datagram: BytesMut,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}
impl Eq for Event {}
impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (other.at, other.order).cmp(&(self.at, self.order))
    }
}

/// The slowest hop, shared by all senders.
struct Hop {
    free: Instant,
    random: StdRng,
}

struct World {
    path: Path,
    hop: Hop,
    events: BinaryHeap<Event>,
    order: u64,
    seen: Vec<Seen>,
}

impl World {
    /// A datagram leaves for the other end of its pair, or is lost.
    fn carry(&mut self, now: Instant, from: Role, pair: usize, datagram: BytesMut) {
        let bytes = datagram.len() as u64;
        let path = self.path;
        let mut at = now;
        if from == Role::Sender {
            let seen = &mut self.seen[pair];
            seen.sent += bytes;
            let waits = self.hop.free.saturating_duration_since(now);
            let waiting = waits.as_secs_f64() * path.bits_per_second / 8.0;
            if datagram.len() > PAYLOAD_MAX || path.dark {
                return;
            }
            if waiting as u64 + bytes > path.queue_bytes {
                seen.dropped += bytes;
                return;
            }
            seen.queued = seen.queued.max(waits);
            self.hop.free = self.hop.free.max(now) + path.takes(bytes);
            at = self.hop.free;
        }
        let lost = self.hop.random.random_bool(path.loss);
        let late = self.hop.random.random_bool(path.reorder);
        if lost || path.dark || datagram.len() > PAYLOAD_MAX {
            return;
        }
        at += path.delay;
        if late {
            at += path.delay + Duration::from_millis(2);
        }
        let to = if from == Role::Sender { Role::Receiver } else { Role::Sender };
        self.order += 1;
        self.events.push(Event { at, order: self.order, to, pair, datagram });
    }
}

/// Runs senders over a path for so long; at the moments of `changes`, the path is another.
///
/// # Panics
/// When quinn refuses what it is told, or a connection ends.
#[must_use]
pub fn run(seed: u64, path: Path, senders: &[Sender], changes: &[(Duration, Path)], lasts: Duration) -> Run {
    let begin = Instant::now();
    let mut world = World {
        path,
        hop: Hop { free: begin, random: StdRng::seed_from_u64(seed) },
        events: BinaryHeap::new(),
        order: 0,
        seen: vec![Seen::default(); senders.len()],
    };
    let config = |sender: &Sender| LinkConfig { congestion: sender.congestion, ..LinkConfig::default() };
    let mut ends: Vec<[End; 2]> = (0..)
        .zip(senders)
        .map(|(number, sender)| end::pair(begin, seed ^ number << 32, &config(sender), sender))
        .collect();
    let mut changes = changes.iter().copied().peekable();
    let mut run = Run { seen: vec![Vec::new(); senders.len()], lost: Vec::new() };
    let mut tick = begin + TICK;
    let mut now = begin;
    loop {
        while let Some((_, path)) = changes.next_if(|(at, _)| now >= begin + *at) {
            world.path = path;
        }
        while now >= tick {
            for (pair, seen) in world.seen.iter_mut().enumerate() {
                seen.delivered = ends[pair][1].delivered();
                seen.in_order = ends[pair][1].in_order();
                seen.silent = (now - begin).saturating_sub(ends[pair][0].answered());
                seen.window = ends[pair][0].window();
                run.seen[pair].push(*seen);
                seen.queued = Duration::ZERO;
            }
            tick += TICK;
        }
        if now >= begin + lasts {
            run.lost = ends.iter().map(|both| both.iter().find_map(End::lost).cloned()).collect();
            return run;
        }
        while world.events.peek().is_some_and(|event| event.at <= now) {
            let Some(event) = world.events.pop() else { break };
            ends[event.pair][event.to as usize].receive(now, event.datagram);
        }
        for (pair, both) in ends.iter_mut().enumerate() {
            for end in both {
                let role = end.role();
                end.drive(now, begin, |datagram| world.carry(now, role, pair, datagram));
            }
        }
        let timers = ends.iter().flatten().filter_map(|end| end.wakes(begin));
        let moments =
            [Some(tick), changes.peek().map(|(at, _)| begin + *at), world.events.peek().map(|event| event.at)];
        now = timers.chain(moments.into_iter().flatten()).min().unwrap_or(tick).max(now);
    }
}
