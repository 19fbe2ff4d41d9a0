//! How many bytes may be under way: see the picture in the module above.

use std::time::{Duration, Instant};

use super::path::{Floor, Rates, Round, bytes, float};

/// What a connection begins with.
pub(super) const BEGIN_BYTES: u64 = 128 << 10;
/// Each round the start doubles the window up to here, and adds an eighth beyond. What is sent until a queue shows may be lost,
/// and quinn ends a connection when a stream has 1,024 gaps: this is less than that many packets.
const STEP_BYTES: f64 = 1_048_576.0;
const STEP_PART: f64 = 0.125;
/// Never less, in packets: as BBR.
const PACKETS_MIN: u64 = 4;
/// The slack, in parts of the path's own delay, and its bounds: beyond the machines' own delays on a short path, and less than
/// what routers hold (20 ms and more) on a long one.
const SLACK_PART: u32 = 8;
const SLACK: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(8));
/// The rate that takes just this slack, bytes per second: 200 Mbit/s. Four times the rate takes half.
const SLACK_RATE: f64 = 25e6;
/// Bounds of what the rate makes of the slack.
const SLACK_SHARE: (f64, f64) = (0.5, 2.5);
/// And never less, in packets: a share of hardly anything grows too. One of them quinn never uses: it stops before the window is full.
const SLACK_PACKETS: u64 = 8;
/// Acknowledgements in a row that tell of a queue, before the start believes it: RFC 9406 takes as many.
const LATE: u8 = 8;
/// Of a round, lost, beyond what the path loses by itself: from here on it is ours. BBR version 2 has this number.
const LOSS: f64 = 0.02;
/// No more is believed to be the path's own.
const FLOOR_LOSS_MAX: f64 = 0.1;
/// The same for the start, where the path's own is not known.
const START_LOSS: f64 = 0.1;
/// What each round without a queue adds to the next window, and how often: less than the quarter that BBR tries,
/// because a long path holds more of it than routers do.
const CLIMB: (f64, i8) = (0.05, 4);
/// Rounds without a climb after a loss that was ours.
const MODEST: i8 = 16;
/// A queue so many times the slack is none of ours, or the path is another.
const STRANGE: u32 = 4;
/// A sender that had too little to send goes on with what was under way, but not less than this part of the window: quinn sends 5/4 of
/// a window in a round trip, so an empty path is filled at its own rate. An eighth more in each round does not overrun a queue.
const FILL: f64 = 0.8;
const FILL_STEP: f64 = 0.125;
/// Rounds of strange delay or loss in a row before it is looked at, and rounds between two looks.
const LOOK: (u8, u8) = (3, 16);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The rate is not known.
    Start,
    /// Half is under way soon.
    Down,
    /// Half is under way.
    Look,
    /// All is under way soon.
    Back,
    /// As measured.
    Hold,
    /// It had too little to send.
    Fill,
}

/// The state of one path.
#[derive(Debug, Clone)]
pub(super) struct Law {
    mtu: u64,
    window: f64,
    /// The window of a look, and since when less is sent.
    low: f64,
    low_since: Instant,
    phase: Phase,
    round: Option<Round>,
    rates: Rates,
    floor: Floor,
    /// The newest packet of the batch under way was sent then.
    newest: Option<Instant>,
    /// Batches in a row that tell of a queue.
    batches: u8,
    /// Rounds in a row without a queue; below zero: that must pass first, because more was too much.
    flat: i8,
    /// Rounds in a row that the floor does not explain.
    strange: u8,
    /// Rounds since the last look.
    rounds: u8,
}

impl Law {
    pub(super) fn new(now: Instant, mtu: u16) -> Self {
        Self {
            mtu: u64::from(mtu),
            window: float(BEGIN_BYTES),
            low: 0.0,
            low_since: now,
            phase: Phase::Start,
            round: None,
            rates: Rates::default(),
            floor: Floor::new(now),
            newest: None,
            batches: 0,
            flat: 0,
            strange: 0,
            rounds: 0,
        }
    }

    /// Nothing came through for long: what was known may be true no more. From a quarter it soon shows.
    pub(super) fn restart(&mut self, now: Instant) {
        let window = (self.window / 4.0).max(float(BEGIN_BYTES));
        *self = Self { window, ..Self::new(now, u16::try_from(self.mtu).unwrap_or(u16::MAX)) };
    }

    pub(super) fn set_mtu(&mut self, mtu: u16) {
        self.mtu = u64::from(mtu);
    }

    pub(super) fn window(&self) -> u64 {
        bytes(self.window).max(PACKETS_MIN * self.mtu)
    }

    pub(super) fn sent(&mut self, now: Instant) {
        self.round.get_or_insert(Round::new(now, true));
    }

    pub(super) fn acknowledged(&mut self, sent: Instant, bytes: u64, app_limited: bool) {
        self.newest = self.newest.max(Some(sent));
        let Some(round) = &mut self.round else { return };
        round.acknowledged += bytes;
        round.over |= sent >= round.began;
        let came = float(bytes);
        match self.phase {
            Phase::Start if app_limited => {}
            Phase::Start => self.window += came * (STEP_BYTES / self.window).clamp(STEP_PART, 1.0),
            // One packet for two that came, then two for one: no burst meets the queue.
            Phase::Down => self.window = (self.window - came / 2.0).max(self.low),
            Phase::Back => self.window = (self.window + came).min(self.target()),
            Phase::Fill => self.window = (self.window + came * FILL_STEP).min(self.target()),
            Phase::Look | Phase::Hold => {}
        }
    }

    /// The newest of what was lost was sent then.
    pub(super) fn lost(&mut self, now: Instant, sent: Instant, bytes: u64) {
        let Some(round) = &mut self.round else { return };
        if self.phase == Phase::Look && sent < self.low_since {
            return;
        }
        round.lost += bytes;
        if self.phase == Phase::Start && round.lost >= BEGIN_BYTES && round.loss() > START_LOSS {
            self.look(now);
        }
    }

    pub(super) fn marked(&mut self) {
        if let Some(round) = &mut self.round {
            round.marked = true;
        }
    }

    /// A batch of acknowledgements is complete.
    pub(super) fn batch_ends(&mut self, now: Instant, in_flight: u64, app_limited: bool) {
        let (Some(newest), Some(mut round)) = (self.newest.take(), self.round) else { return };
        let delay = now.saturating_duration_since(newest);
        round.saw(delay);
        round.starved |= app_limited;
        self.floor.saw(now, delay);
        self.round = Some(round);
        let before = self.phase;
        self.batch(now, delay);
        if round.over && self.phase == before {
            self.turn(now, &round);
        }
        if round.over || self.phase != before {
            self.round = Some(Round::new(now, false));
        }
        if app_limited && matches!(self.phase, Phase::Hold | Phase::Fill) {
            self.phase = Phase::Fill;
            self.window = self.window.min(float(in_flight).max(self.target() * FILL));
        }
        if in_flight == 0 {
            // What comes next begins with an empty path.
            self.round = None;
        }
    }

    /// What is done at once.
    fn batch(&mut self, now: Instant, delay: Duration) {
        match self.phase {
            Phase::Start => {
                if self.is_late(delay) {
                    self.look(now);
                }
            }
            Phase::Hold | Phase::Fill => {
                if self.is_late(delay) && self.flat > 0 {
                    self.flat = 0;
                    self.window = self.target();
                }
            }
            Phase::Down | Phase::Look | Phase::Back => {}
        }
    }

    /// A queue shows.
    fn is_late(&mut self, delay: Duration) -> bool {
        let late = self.queue(delay) > self.slack_of_path() / 2;
        self.batches = if late { self.batches.saturating_add(1) } else { 0 };
        self.batches >= LATE
    }

    /// A round is over.
    fn turn(&mut self, now: Instant, round: &Round) {
        self.rounds = self.rounds.saturating_add(1);
        match self.phase {
            Phase::Start => self.turn_start(now, round),
            Phase::Down => {
                // The queue kept the path busy: that is its rate.
                self.rates.raise(round.rate(now, 0.0));
                (self.phase, self.window) = (Phase::Look, self.low);
            }
            Phase::Look => {
                self.floor.loss = round.loss().min(FLOOR_LOSS_MAX);
                self.looked(now);
            }
            Phase::Back => {
                (self.phase, self.window) = (Phase::Hold, self.target());
            }
            Phase::Hold => self.turn_hold(now, round),
            Phase::Fill => {
                let window = self.window;
                self.turn_hold(now, round);
                if self.phase == Phase::Fill {
                    self.phase = if window < self.window { Phase::Fill } else { Phase::Hold };
                    self.window = self.window.min(window);
                }
            }
        }
    }

    fn turn_start(&mut self, now: Instant, round: &Round) {
        if round.fills || round.starved {
            return;
        }
        self.rates.push(round.rate(now, round.loss()));
        if round.marked {
            self.look(now);
        }
    }

    fn turn_hold(&mut self, now: Instant, round: &Round) {
        let queue = round.shortest.map_or(Duration::ZERO, |shortest| self.queue(shortest));
        let ours = (round.loss() - self.floor.loss * 1.5 - LOSS).max(0.0);
        let rate = round.rate(now, ours);
        if round.fills || round.starved {
            self.rates.raise(rate);
        } else {
            self.rates.push(rate);
        }
        let is_calm = ours == 0.0 && !round.marked && queue < self.slack() / 4;
        self.flat = match (ours > 0.0, is_calm && !round.starved) {
            (true, _) => -MODEST,
            (false, true) => (self.flat + 1).min(CLIMB.1),
            (false, false) => self.flat.min(0),
        };
        let is_strange = ours > 0.0 || queue > self.slack_of_path() * STRANGE;
        self.strange = if is_strange { self.strange.saturating_add(1) } else { 0 };
        let without = if ours > 0.0 || round.marked { self.slack_bytes() } else { 0.0 };
        self.window = self.target() - without;
        if self.floor.is_old(now) || (self.strange >= LOOK.0 && self.rounds >= LOOK.1) {
            self.look(now);
        }
    }

    /// The window of the law.
    fn target(&self) -> f64 {
        let rate = self.rates.best();
        let product = rate * self.floor.delay.unwrap_or_default().as_secs_f64();
        let climb = (product * CLIMB.0 * f64::from(self.flat.max(0))).min(STEP_BYTES.max(product * STEP_PART));
        product + climb + self.slack_bytes() + float(self.mtu)
    }

    /// Half as much, to see the path alone.
    fn look(&mut self, now: Instant) {
        let Some(delay) = self.floor.delay else { return };
        let rate = if self.phase == Phase::Start { self.rates.best() } else { self.rates.newest() };
        let held = rate * (delay + self.slack_of_path()).as_secs_f64();
        // On a slow line the beginning is more than its queue holds: half of it would make that queue, and what it drops, the path's own.
        let least = if rate > 0.0 { float(2 * SLACK_PACKETS * self.mtu) } else { float(BEGIN_BYTES) };
        self.window = self.window.min(held).max(least);
        (self.phase, self.low, self.low_since) = (Phase::Down, self.window / 2.0, now);
        (self.flat, self.rounds) = (self.flat.min(0), 0);
    }

    /// The path alone was seen.
    fn looked(&mut self, now: Instant) {
        if let Some(shortest) = self.round.and_then(|round| round.shortest) {
            self.floor.set(now, shortest);
        }
        (self.phase, self.strange) = (Phase::Back, 0);
    }

    fn queue(&self, delay: Duration) -> Duration {
        delay.saturating_sub(self.floor.delay.unwrap_or(delay))
    }

    /// What the path's delay allows for.
    fn slack_of_path(&self) -> Duration {
        (self.floor.delay.unwrap_or_default() / SLACK_PART).clamp(SLACK.0, SLACK.1)
    }

    fn slack_bytes(&self) -> f64 {
        (self.rates.best() * self.slack().as_secs_f64()).max(float(SLACK_PACKETS * self.mtu))
    }

    fn slack(&self) -> Duration {
        let share = (SLACK_RATE / self.rates.best().max(1.0)).sqrt().clamp(SLACK_SHARE.0, SLACK_SHARE.1);
        self.slack_of_path().mul_f64(share)
    }
}
