//! What a primary knows of a pair's other side, and what it says of it: state, lag, RPO, progress.

mod movement;

use std::collections::VecDeque;
use std::time::Duration;

use tidemark_common::api::types::{CopyProgress, PairState, PairStatus};
use tidemark_common::clock::from_unix_ns;
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{Journal, Position};
use tidemark_common::lag::{Circumstances, Flow, Lag, Taking};
use tidemark_common::lease::JournalHeld;
use tidemark_common::pair::paired_or_behind;
use tidemark_common::rate::Rate;
use tidemark_common::wire::message::Position as Remote;

use crate::differences::Arrived;
use crate::ship::Pair;

/// A peer that is silent for longer does not answer; heartbeats are answered at once.
const SILENCE_MAX: Duration = Duration::from_secs(2);
/// Less than this part of the journal over there is free: it is full of what is not applied.
const FULL_THERE: u64 = 8;
/// Shipments whose places are remembered until their marker is permitted; 2 MiB.
const SENT_MAX: usize = 1 << 16;

/// How much of the journal has been passed in all, by whoever is here in it now.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Passed {
    pub(crate) at: Position,
    bytes: u64,
}

impl Passed {
    fn to(&mut self, at: Position, journal: &Journal) {
        self.bytes += journal.bytes_between(self.at, at);
        self.at = self.at.max(at);
    }
}

/// What is known of the other side now.
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) state: PairState,
    pub(crate) reason: Option<String>,
    pub(crate) since: jiff::Timestamp,
    pub(crate) connected: bool,
    pub(crate) remote: Remote,
    /// Where it stood when the connection began, in another history than this one: what it has of that counts for nothing here.
    pub(crate) elsewhere: Option<Remote>,
    /// What the journal over there may hold, as it was said last.
    pub(crate) journal_capacity_bytes: Option<u64>,
    /// How old the copy over there was, and when that was said, monotonic: a clock that is set changes neither.
    pub(crate) age: Option<(Duration, Duration)>,
    /// When the other side last said something, monotonic.
    pub(crate) heard: Duration,
    /// The oldest place in the journal this pair needs; `None`: it needs nothing.
    pub(crate) holds: Option<Position>,
    /// Nothing from this place of the journal on was ever sent.
    pub(crate) sent_up_to: Position,
    sent: VecDeque<(Seq, MarkerNumber, Position)>,
    /// The numbers of the last frame that has certainly come there.
    come: Option<(Seq, MarkerNumber)>,
    /// Something of the journal was given up since the last connection began.
    pub(crate) given_up: bool,
    /// The copy under way: its number and regions.
    pub(crate) copying: Option<(u64, Bitmap)>,
    pub(crate) verify: Option<CopyProgress>,
    /// How often was told how far it is: with each answer, and while it rests between two slices.
    compared: u64,
    pub(crate) round_trip: Option<Duration>,
    pub(crate) rate: Rate,
    /// Trying again by itself does not help: a person has to do what the reason says.
    pub(crate) stands: bool,
    /// What somebody has to look at over there although everything arrives.
    pub(crate) trouble: Option<String>,
    /// The least that was missing over there since it fell behind.
    least: Option<u64>,
    flow: Flow,
    /// By hosts, as far as it is durable here.
    pub(crate) written: Passed,
    /// By what is durable over there.
    pub(crate) delivered: Passed,
    /// Whether the other side takes no more.
    taking: Taking,
    /// What the journal over there could take when it said something last.
    journal_free_bytes: Option<u64>,
}

impl View {
    pub(crate) fn new(state: PairState, reason: Option<String>, since: jiff::Timestamp) -> Self {
        Self {
            state,
            reason,
            since,
            connected: false,
            remote: Remote::default(),
            elsewhere: None,
            journal_capacity_bytes: None,
            age: None,
            heard: Duration::ZERO,
            holds: None,
            sent_up_to: Position::default(),
            sent: VecDeque::new(),
            come: None,
            given_up: false,
            copying: None,
            verify: None,
            compared: 0,
            round_trip: None,
            rate: Rate::default(),
            stands: false,
            trouble: None,
            least: None,
            flow: Flow::default(),
            written: Passed::default(),
            delivered: Passed::default(),
            taking: Taking::default(),
            journal_free_bytes: None,
        }
    }

    /// A connection begins: the other side stands where the reader goes on. What it has received and may not apply yet is still
    /// held: when it takes over, that is what it leaves out.
    pub(crate) fn connect(&mut self, remote: Remote, at: Position, oldest: Position, now: Duration) {
        self.connected = true;
        self.stands = false;
        self.trouble = None;
        self.heard = now;
        self.remote = remote;
        self.holds = Some(self.holds.map_or(at, |holds| holds.min(at)).max(oldest));
        self.sent_up_to = at;
        self.sent.clear();
        self.given_up = false;
        self.come = Some((Seq(remote.durable_seq), MarkerNumber(remote.received_marker)));
        self.rate = Rate::default();
        self.delivered.at = at;
        self.taking.begin();
    }

    /// What the other side says, as far as it is of this history: its numbers mean other writes and markers until it has the begin of the
    /// copy that it is sent, or all of that.
    pub(crate) fn of_this_history(&mut self, says: Remote) -> Remote {
        let stands = |at: Remote| (at.copy, at.durable_seq, at.received_marker);
        if self.elsewhere.is_some_and(|there| stands(there) == stands(says)) {
            return Remote::default();
        }
        self.elsewhere = None;
        says
    }

    /// The newest number that was given out, as the other side is told: whatever it has of another history, it does not have that.
    pub(crate) fn captured_for_it(&self, captured_seq: u64) -> u64 {
        let image = self.elsewhere.filter(|there| there.permitted_marker > 0);
        image.map_or(captured_seq, |there| captured_seq.max(there.permitted_seq.saturating_add(1)))
    }

    /// The journal up to here is given up.
    pub(crate) fn give_up(&mut self, up_to: Position) {
        self.holds = Some(self.holds.map_or(up_to, |holds| holds.max(up_to)));
        self.given_up = true;
        self.delivered.at = self.delivered.at.max(up_to);
        self.sent.clear();
    }

    /// What the link has done since the connection began.
    pub(crate) fn see_link(&mut self, blocked: u64, filled_and_starved: Option<(u64, u64)>) {
        self.taking.see(blocked, filled_and_starved);
    }

    /// Free bytes of the journal over there.
    pub(crate) const fn room_there(&mut self, bytes: u64) {
        self.journal_free_bytes = Some(bytes);
    }

    /// Where hosts and the other side are now.
    fn see_flow(&mut self, journal: &Journal, now: Duration) {
        self.written.to(journal.durable_end().position, journal);
        if let Some(arrived) = self.arrived_up_to() {
            self.delivered.to(arrived, journal);
        }
        let delivered = self.delivered.bytes + self.copied().0;
        self.flow.see(now, self.written.bytes, delivered, self.taking.refused);
    }

    fn is_full_there(&self) -> bool {
        let room = self.journal_free_bytes.zip(self.journal_capacity_bytes);
        room.is_some_and(|(free, capacity)| free < capacity / FULL_THERE)
    }

    /// Nothing is sent over it, because somebody wants it so: what the other side said of itself before that is of then.
    const fn is_at_rest(&self) -> bool {
        matches!(self.state, PairState::Suspended | PairState::FailedOver | PairState::Fenced)
    }

    /// A shipment is about to leave. Those that change nothing here, as regions, are not remembered one by one.
    pub(crate) fn send(&mut self, seq: Seq, marker: MarkerNumber, next: Position) {
        self.sent_up_to = self.sent_up_to.max(next);
        if self.sent.back() != Some(&(seq, marker, next)) {
            if self.sent.len() >= SENT_MAX {
                // What is held goes by the ones that stay: a little longer, and never too short. A record stays or goes with the frame
                // whose numbers it has: by itself it would look like what brought them.
                let last = self.sent.back().map(|(seq, marker, _)| (*seq, *marker));
                let (mut stays, mut before) = (false, None);
                self.sent.retain(|(seq, marker, _)| {
                    let numbers = Some((*seq, *marker));
                    if before != numbers {
                        stays = !stays || numbers == last;
                        before = numbers;
                    }
                    stays
                });
            }
            self.sent.push_back((seq, marker, next));
        }
    }

    /// The other side is this far.
    pub(crate) fn acknowledge(&mut self, remote: Remote, age: Option<Duration>, now: Duration) {
        self.remote = remote;
        self.heard = now;
        self.age = age.map(|age| (age, now));
        // While a copy runs, nothing is permitted, and what has arrived is not needed for it.
        let (passed_seq, passed_marker) = if remote.copy == 0 {
            (remote.permitted_seq, remote.permitted_marker)
        } else {
            (remote.durable_seq, remote.received_marker)
        };
        while let Some((seq, marker, next)) = self.sent.front().copied() {
            if seq.0 > passed_seq || marker.0 > passed_marker {
                break;
            }
            // A record that is no write has the numbers of the frame before it: only something behind both tells that it has come.
            let latest = (seq.0, marker.0) == (passed_seq, passed_marker);
            if latest && self.come == Some((seq, marker)) {
                break;
            }
            self.come = Some((seq, marker));
            self.holds = self.holds.max(Some(next));
            self.sent.pop_front();
        }
    }

    /// The place in the journal up to which all is durable over there, permitted or not.
    fn arrived_up_to(&self) -> Option<Position> {
        let remote = &self.remote;
        let came = self
            .sent
            .partition_point(|(seq, marker, _)| seq.0 <= remote.durable_seq && marker.0 <= remote.received_marker);
        let last = came.checked_sub(1).and_then(|last| self.sent.get(last)).map(|(_, _, next)| *next);
        self.holds.map(|holds| last.map_or(holds, |last| holds.max(last)))
    }

    /// The least that was missing since the pair fell behind, or lacked nothing.
    fn missing_least(&mut self, bytes: u64, behind: bool) -> u64 {
        self.least = (behind && bytes > 0).then(|| self.least.map_or(bytes, |least| least.min(bytes)));
        self.least.unwrap_or(0)
    }

    /// How far the regions of a copy have arrived, as last heard.
    pub(crate) const fn arrived(&self) -> Option<Arrived> {
        let remote = &self.remote;
        if remote.copy == 0 {
            return None;
        }
        Some((remote.copy, (VolumeIndex(remote.copy_volume), remote.copy_offset)))
    }

    /// Bytes of the copy's regions that are durable over there, and in all.
    fn copied(&self) -> (u64, u64) {
        let Some((number, bitmap)) = &self.copying else { return (0, 0) };
        let total = bitmap.bytes();
        let cursor = (VolumeIndex(self.remote.copy_volume), self.remote.copy_offset);
        let done = if self.remote.copy == *number { bitmap.bytes_before(cursor.0, cursor.1) } else { 0 };
        (done, total)
    }
}

impl Pair {
    /// Paired or catching up, by the age of the copy.
    pub(crate) fn judge(&self) {
        let interval = self.desk.interval().as_secs_f64();
        let age = self.rpo_seconds().unwrap_or(f64::MAX);
        let (state, connected) = {
            let view = self.view.lock();
            (view.state, self.answers(&view))
        };
        if matches!(state, PairState::Paired | PairState::CatchingUp) {
            let next = paired_or_behind(connected, age, interval);
            let entered = if next == state { Ok(true) } else { self.enter(next, None) };
            match entered {
                Ok(_) if self.unrecorded.ends() => {
                    tracing::info!(peer = %self.peer(), "the pair's state is as it is recorded again");
                }
                Ok(_) => {}
                Err(error) => self.not_recorded(&error),
            }
        }
    }

    /// Whether the other side answers now: a connection may be lost for seconds before that is noticed.
    fn answers(&self, view: &View) -> bool {
        let silent = self.clock.monotonic().saturating_sub(view.heard);
        view.connected && silent <= SILENCE_MAX.max(4 * self.heartbeat)
    }

    /// The same for who does not hold the view.
    pub(crate) fn is_there(&self) -> bool {
        let view = self.view.lock();
        self.answers(&view)
    }

    /// What a disaster now would lose, seconds: nothing when all that was captured is permitted over there, and nothing
    /// is still to be copied.
    fn rpo_seconds(&self) -> Option<f64> {
        let captured = self.image.buffer.captured().0;
        let complete = self.differences.are_none();
        let view = self.view.lock();
        if matches!(view.state, PairState::InitialCopy) || view.remote.permitted_marker == 0 {
            return None;
        }
        let (age, said) = view.age?;
        // What a pair in error has over there is not known to be what it was.
        if complete && captured <= view.remote.permitted_seq && view.state != PairState::Error {
            return Some(0.0);
        }
        Some((age + self.clock.monotonic().saturating_sub(said)).as_secs_f64())
    }

    /// What the other side says that somebody has to look at there, although everything arrives.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.view.lock().trouble.clone()
    }

    /// For status.
    #[must_use]
    pub fn status(&self) -> PairStatus {
        let rpo_seconds = self.rpo_seconds();
        let (differential_bytes, complete) = (self.differences.bytes(), self.differences.are_none());
        let now = self.clock.monotonic();
        let mut view = self.view.lock();
        let caught_up = view.remote.durable_seq >= self.image.buffer.captured().0 && complete;
        let copying = matches!(view.state, PairState::InitialCopy | PairState::Resync);
        let (done_bytes, total_bytes) = view.copied();
        let copy = copying.then(|| view.rate.progress(now, done_bytes, total_bytes));
        view.see_flow(&self.image.journal, now);
        let lag = self.lag(&view, differential_bytes, caught_up);
        PairStatus {
            peer: self.peer().into(),
            state: view.state,
            reason: view
                .reason
                .clone()
                .or_else(|| {
                    let silent = view.connected && !self.answers(&view);
                    silent.then(|| format!("'{}' has not answered for {SILENCE_MAX:?}", self.peer()))
                })
                .or_else(|| view.trouble.as_ref().map(|what| format!("'{}' says: {what}", self.peer()))),
            since: view.since,
            connected: self.answers(&view),
            stands: !view.is_at_rest() && (view.stands || view.trouble.is_some()),
            suspended_there: false,
            received_marker: view.remote.received_marker,
            permitted_marker: view.remote.permitted_marker,
            applied_marker: view.remote.applied_marker,
            rpo_seconds,
            lag_bytes: lag.missing_bytes(),
            lag,
            held: self.held(&view),
            differential_bytes,
            copy,
            verify: view.verify,
            comparison: None,
            round_trip_ms: view.round_trip.filter(|_| self.answers(&view)).map(|time| time.as_secs_f64() * 1000.0),
        }
    }

    /// Bytes of the journal that have not come there.
    fn behind_bytes(&self, view: &View) -> u64 {
        let journal = &self.image.journal;
        view.arrived_up_to().map_or(0, |arrived| journal.bytes_between(arrived, journal.durable_end().position))
    }

    /// What of the journal is kept for it alone, while it does not follow.
    fn held(&self, view: &View) -> Option<JournalHeld> {
        let journal = &self.image.journal;
        let (oldest, end) = (journal.oldest(), journal.durable_end().position);
        let from = view.holds.filter(|holds| view.state != PairState::Paired && *holds < end)?.max(oldest);
        let marker = self.desk.markers.oldest_from(from)?;
        Some(JournalHeld {
            marker: marker.number,
            time: from_unix_ns(marker.time_ns),
            bytes: journal.bytes_between(from, end),
        })
    }

    /// Where what is missing over there waits, and for what.
    fn lag(&self, view: &View, differential_bytes: u64, caught_up: bool) -> Lag {
        let journal = &self.image.journal;
        let end = journal.durable_end().position;
        let arrived = view.arrived_up_to().unwrap_or(end);
        let sent = view.sent_up_to.clamp(arrived, end.max(arrived));
        let applied = self.desk.markers.place(view.remote.applied_marker);
        let unapplied = if view.remote.applied_marker == view.remote.received_marker {
            Some(0)
        } else {
            applied.filter(|at| *at >= journal.oldest()).map(|at| journal.bytes_between(at, arrived))
        };
        let behind = if caught_up {
            Lag::default()
        } else {
            Lag {
                buffer_bytes: self.image.buffer.bytes(),
                unsent_bytes: journal.bytes_between(sent, end),
                under_way_bytes: journal.bytes_between(arrived, sent),
                ..Lag::default()
            }
        };
        let known = Circumstances {
            state: view.state,
            answers: self.answers(view),
            is_full_there: view.is_full_there(),
            differential_bytes,
        };
        view.flow.lag(Lag { unapplied_bytes: unapplied, ..behind }, known)
    }

    /// How far a comparison is, for status and as a sign of life; `None`: it is over.
    pub fn verifying(&self, progress: Option<CopyProgress>) {
        let mut view = self.view.lock();
        view.verify = progress;
        view.compared += 1;
    }

    /// How far the other side is.
    #[must_use]
    pub fn remote(&self) -> Remote {
        self.view.lock().remote
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    fn far(seq: u64, marker: u64) -> Remote {
        Remote {
            durable_seq: seq,
            received_marker: marker,
            permitted_seq: seq,
            permitted_marker: marker,
            ..Remote::default()
        }
    }

    #[test]
    fn what_grows_and_begins_anew_gets_no_nearer() {
        let mut view = View::new(PairState::Resync, None, jiff::Timestamp::UNIX_EPOCH);
        for (bytes, behind, least) in [
            (100, true, 100),
            (90, true, 90),
            (120, true, 90),
            (91, true, 90),
            (200, false, 0),
            (150, true, 150),
            // All of it is there, and is not permitted yet: what comes then is another burst.
            (0, true, 0),
            (70, true, 70),
        ] {
            assert_eq!(view.missing_least(bytes, behind), least, "{bytes} {behind}");
        }
    }

    #[test]
    fn what_has_arrived_is_not_behind_though_it_is_not_permitted() {
        let mut view = View::new(PairState::CatchingUp, None, jiff::Timestamp::UNIX_EPOCH);
        view.connect(far(50, 5), at(100), at(0), Duration::ZERO);
        (1..=3).for_each(|step| view.send(Seq(50 + step), MarkerNumber(5), at(100 + 100 * step)));
        let arrived = |view: &mut View, seq| {
            view.acknowledge(Remote { durable_seq: seq, ..far(50, 5) }, None, Duration::ZERO);
            (view.holds, view.arrived_up_to())
        };
        assert_eq!(arrived(&mut view, 50), (Some(at(100)), Some(at(100))));
        assert_eq!(arrived(&mut view, 52), (Some(at(100)), Some(at(300))));
        assert_eq!(arrived(&mut view, 53), (Some(at(100)), Some(at(400))));
    }

    #[test]
    fn a_record_with_the_numbers_of_the_frame_before_it_is_held_until_something_behind_it_has_come() {
        let mut view = View::new(PairState::CatchingUp, None, jiff::Timestamp::UNIX_EPOCH);
        let acknowledge = |view: &mut View, seq, marker| {
            view.acknowledge(far(seq, marker), None, Duration::ZERO);
            view.holds
        };
        view.connect(far(55, 5), at(100), at(0), Duration::ZERO);
        // A record of the group's volumes, then what follows it.
        view.send(Seq(55), MarkerNumber(5), at(200));
        assert_eq!(acknowledge(&mut view, 55, 5), Some(at(100)), "where it stood when it connected");
        view.send(Seq(60), MarkerNumber(5), at(300));
        view.send(Seq(60), MarkerNumber(6), at(400));
        view.send(Seq(60), MarkerNumber(6), at(500));
        assert_eq!(
            acknowledge(&mut view, 60, 6),
            Some(at(400)),
            "the marker has come, the record behind it perhaps not"
        );
        assert_eq!(acknowledge(&mut view, 60, 6), Some(at(400)));
        view.send(Seq(61), MarkerNumber(7), at(600));
        assert_eq!(acknowledge(&mut view, 61, 7), Some(at(600)));
    }

    /// In a long interval there are more than are remembered.
    #[test]
    fn a_record_is_held_also_when_every_second_shipment_is_forgotten() {
        for shift in [2, 3] {
            let mut view = View::new(PairState::CatchingUp, None, jiff::Timestamp::UNIX_EPOCH);
            view.connect(far(0, 0), at(0), at(0), Duration::ZERO);
            let write = |view: &mut View, seq| view.send(Seq(seq), MarkerNumber(0), at(100 * seq));
            let last = SENT_MAX as u64 - shift;
            (1..=last).for_each(|seq| write(&mut view, seq));
            view.send(Seq(last), MarkerNumber(0), at(100 * last + 50));
            (1..=shift).for_each(|more| write(&mut view, last + more));
            assert!(view.sent.len() < SENT_MAX);
            view.acknowledge(far(last, 0), None, Duration::ZERO);
            assert!(view.holds > Some(at(90 * last)) && view.holds <= Some(at(100 * last)), "{:?}", view.holds);
        }
    }
}
