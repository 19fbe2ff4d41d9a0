//! What is measured of a path: round by round, and what it does by itself when hardly anything waits on it.

use std::time::{Duration, Instant};

/// The path's own delay is looked for again when it was not seen for so long: as BBR does.
const DELAY_COUNTS: Duration = Duration::from_secs(10);
/// A delay that is longer by no more than this part is the same.
const SAME_PART: u32 = 64;
/// Rounds whose best rate counts: one that the machine's own hiccup spoiled is outvoted.
const ROUNDS: usize = 3;

/// From one acknowledgement to that of the first packet sent after it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Round {
    pub began: Instant,
    /// A packet of this round itself came.
    pub over: bool,
    /// It began with an empty path: what came says nothing of the rate.
    pub fills: bool,
    /// The sender had too little to send at some time.
    pub starved: bool,
    /// A router said that its queue grows.
    pub marked: bool,
    pub acknowledged: u64,
    pub lost: u64,
    pub shortest: Option<Duration>,
}

impl Round {
    pub(super) const fn new(now: Instant, fills: bool) -> Self {
        let (over, starved, marked) = (false, false, false);
        Self { began: now, over, fills, starved, marked, acknowledged: 0, lost: 0, shortest: None }
    }

    pub(super) fn saw(&mut self, delay: Duration) {
        self.shortest = Some(self.shortest.map_or(delay, |shortest| shortest.min(delay)));
    }

    /// The share of what was sent that did not come.
    pub(super) fn loss(&self) -> f64 {
        float(self.lost) / float(self.lost + self.acknowledged).max(1.0)
    }

    /// Bytes per second, with this share of what was sent taken for never sent.
    pub(super) fn rate(&self, now: Instant, without: f64) -> f64 {
        let took = now.saturating_duration_since(self.began).as_secs_f64();
        if took > 0.0 { float(self.acknowledged + self.lost) * (1.0 - without) / took } else { 0.0 }
    }
}

/// The rates of the last rounds.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Rates {
    last: [f64; ROUNDS],
    turn: usize,
}

impl Rates {
    pub(super) fn push(&mut self, rate: f64) {
        if let Some(place) = self.last.get_mut(self.turn) {
            *place = rate;
        }
        self.turn = (self.turn + 1) % ROUNDS;
    }

    /// Counts only when it is the best.
    pub(super) fn raise(&mut self, rate: f64) {
        if rate > self.best() {
            self.push(rate);
        }
    }

    /// The best, bytes per second; zero before there is any.
    pub(super) fn best(&self) -> f64 {
        self.last.iter().copied().fold(0.0, f64::max)
    }

    /// The newest.
    pub(super) fn newest(&self) -> f64 {
        self.last.get((self.turn + ROUNDS - 1) % ROUNDS).copied().unwrap_or(0.0)
    }
}

/// What the path does by itself: its delay, and the share it loses.
#[derive(Debug, Clone, Copy)]
pub(super) struct Floor {
    pub delay: Option<Duration>,
    seen: Instant,
    pub loss: f64,
}

impl Floor {
    pub(super) const fn new(now: Instant) -> Self {
        Self { delay: None, seen: now, loss: 0.0 }
    }

    /// A packet took so long.
    pub(super) fn saw(&mut self, now: Instant, delay: Duration) {
        let known = self.delay.unwrap_or(Duration::MAX);
        if delay <= known {
            self.delay = Some(delay);
        }
        if delay <= known.saturating_add(known / SAME_PART) {
            self.seen = now;
        }
    }

    /// That is how long it takes with hardly anything under way.
    pub(super) fn set(&mut self, now: Instant, delay: Duration) {
        (self.delay, self.seen) = (Some(delay), now);
    }

    pub(super) fn is_old(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.seen) > DELAY_COUNTS
    }
}

#[expect(clippy::cast_precision_loss, reason = "bytes of some round trips")]
pub(super) fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates; never negative")]
pub(super) fn bytes(float: f64) -> u64 {
    float as u64
}
