//! The line between the sites: messages in order, frames over several streams that overtake each other, everything late by
//! what the seed says, and lost when the connection is.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rand::RngExt;
use rand::rngs::StdRng;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::wire::codec;
use tidemark_common::wire::message::Message;

/// Something on its way.
#[derive(Debug)]
struct Sent<T> {
    due: Duration,
    what: T,
}

/// In order, each when it is due.
#[derive(Debug)]
struct Stream<T>(VecDeque<Sent<T>>);

impl<T> Default for Stream<T> {
    fn default() -> Self {
        Self(VecDeque::new())
    }
}

impl<T> Stream<T> {
    fn send(&mut self, what: T, due: Duration) {
        let due = self.0.back().map_or(due, |before| before.due.max(due));
        self.0.push_back(Sent { due, what });
    }

    fn receive(&mut self, now: Duration) -> Option<T> {
        if self.0.front()?.due > now {
            return None;
        }
        self.0.pop_front().map(|sent| sent.what)
    }
}

/// The connection of now, if there is one, and what is on its way over it.
#[derive(Debug, Default)]
pub(crate) struct Line {
    /// Counts connections.
    number: u64,
    connected: bool,
    /// Nobody gets through before this.
    pub(crate) cut_until: Duration,
    /// How late anything may be.
    pub(crate) delay: Duration,
    to_far: Stream<Bytes>,
    to_near: Stream<Bytes>,
    lanes: [Stream<(u64, Bytes)>; DATA_STREAMS],
    next_ordinal: u64,
}

impl Line {
    /// One that makes anything late by up to this.
    pub(crate) fn late(delay: Duration) -> Self {
        Self { delay, ..Self::default() }
    }

    /// A new connection, if one can be made.
    pub(crate) fn connect(&mut self, now: Duration) -> Option<u64> {
        if now < self.cut_until {
            return None;
        }
        let (delay, cut_until, number) = (self.delay, self.cut_until, self.number + 1);
        *self = Self { number, connected: true, delay, cut_until, ..Self::default() };
        Some(number)
    }

    /// The number of the connection of now.
    pub(crate) fn current(&self) -> u64 {
        self.number
    }

    /// Whether this connection still is.
    pub(crate) fn is(&self, number: u64) -> bool {
        self.connected && self.number == number
    }

    /// The connection is gone, with all that is on its way.
    pub(crate) fn lose(&mut self) {
        let (number, delay, cut_until) = (self.number, self.delay, self.cut_until);
        *self = Self { number, delay, cut_until, ..Self::default() };
    }

    pub(crate) fn frames_under_way(&self) -> usize {
        self.lanes.iter().map(|lane| lane.0.len()).sum()
    }

    fn due(&self, now: Duration, random: &mut StdRng) -> Duration {
        now + self.delay.mul_f64(random.random::<f64>())
    }

    pub(crate) fn tell_far(&mut self, message: &Message, now: Duration, random: &mut StdRng) {
        let due = self.due(now, random);
        self.to_far.send(codec::encode(message).expect("a message that can be sent"), due);
    }

    pub(crate) fn tell_near(&mut self, message: &Message, now: Duration, random: &mut StdRng) {
        let due = self.due(now, random);
        self.to_near.send(codec::encode(message).expect("a message that can be sent"), due);
    }

    pub(crate) fn send_frame(&mut self, frame: Bytes, now: Duration, random: &mut StdRng) {
        let due = self.due(now, random);
        let lane = random.random_range(0..DATA_STREAMS);
        self.lanes[lane].send((self.next_ordinal, frame), due);
        self.next_ordinal += 1;
    }

    pub(crate) fn far_hears(&mut self, now: Duration) -> Option<Message> {
        self.to_far.receive(now).map(|bytes| message(&bytes))
    }

    pub(crate) fn near_hears(&mut self, now: Duration) -> Option<Message> {
        self.to_near.receive(now).map(|bytes| message(&bytes))
    }

    /// The next frame of a stream, with its place in the order of all.
    pub(crate) fn far_receives(&mut self, lane: usize, now: Duration) -> Option<(u64, Bytes)> {
        self.lanes[lane].receive(now)
    }
}

fn message(bytes: &[u8]) -> Message {
    codec::decode(&mut BytesMut::from(bytes)).expect("a message as it was sent").expect("all of it")
}
