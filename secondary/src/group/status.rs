//! How a copy stands, for people and for whoever watches it.

use std::time::Duration;

use tidemark_common::api::types::{
    BufferStatus, FreezeStatus, GroupStatus, HistoryStatus, JournalStatus, MarkerStatus, PairState, PairStatus,
    Positions, Role,
};
use tidemark_common::clock::from_unix_ns;
use tidemark_common::ids::Seq;
use tidemark_common::journal::Position;
use tidemark_common::lag::Lag;
use tidemark_common::lease::JournalHeld;
use tidemark_common::markers::info;
use tidemark_common::pair::paired_or_behind;
use tidemark_common::sentences::joined;
use tidemark_common::watchdog::{Movement, Moving};

use super::Secondary;
use super::connection::CALLS_WITHIN;
use crate::permission::Permission;
use crate::returned::was_before;

impl Secondary {
    /// Where its positions are.
    #[must_use]
    pub fn movements(&self) -> Vec<Movement> {
        // Here, because somebody looks all the time: a state that comes and goes while nobody asks for it would be no change.
        let (permission, connected) = (self.state.permission(), self.is_connected());
        let (state, _) = self.pair_state(&permission, connected);
        self.in_state_since(state, self.parts.clock.wall());
        let applied = self.state.applied_position().position;
        // Volumes that wait for a backup stand rightly: it is told by the backup, and ends by itself.
        let due = applied < self.state.limit() && !self.parts.eras.is_squeezed();
        let interval = Duration::from_millis(self.parts.keeper.get().interval_ms);
        let at = [applied.segment, applied.offset, 0];
        vec![
            permitting(&permission, self.state.durable_end().seq, connected, interval),
            Movement { moving: Moving::Apply, peer: None, at, due, rests: Duration::ZERO },
        ]
    }

    /// For status; `peer` is the primary's name here.
    #[must_use]
    pub fn status(&self, peer: &str) -> GroupStatus {
        let record = self.parts.keeper.get();
        let permission = self.state.permission();
        GroupStatus {
            name: record.name,
            id: self.parts.keeper.id().to_string(),
            role: Role::Secondary,
            generation: record.generation,
            volumes: self.volumes().into_iter().map(|volume| volume.name).collect(),
            marker: newest_marker(&permission),
            journal: JournalStatus {
                bytes: self.journal.bytes(),
                capacity_bytes: self.journal.capacity_bytes(),
                full_in_seconds: self.full_in_seconds(),
                throttle_ms: 0.0,
            },
            buffer: BufferStatus::default(),
            freeze: FreezeStatus::default(),
            positions: Positions::read(
                || self.state.applied_position().seq.0,
                || self.state.durable_end().seq.0,
                || self.state.last_heard().captured_seq.max(self.state.durable_end().seq.0),
            ),
            interval_ms: record.interval_ms,
            on_full: record.on_full.into(),
            history: self.history_status(),
            problem: self.state.problem(),
            standing: Vec::new(),
            pairs: vec![self.pair_status(peer, &permission)],
        }
    }

    /// When the journal will be full; a history that is kept in it goes before that.
    fn full_in_seconds(&self) -> Option<f64> {
        let seconds = self.state.forecast.sample(self.parts.clock.monotonic(), &self.journal);
        seconds.filter(|_| self.state.history().asked.is_off())
    }

    /// What is kept on purpose is no lag.
    fn lags_from(&self) -> Position {
        let applied = self.state.applied_position().position;
        match self.state.history().floor {
            Some(floor) if applied >= floor => self.state.permission().limit(),
            _ => applied,
        }
    }

    /// How far back the copy can go; `None` when nothing was asked for.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn history_status(&self) -> Option<HistoryStatus> {
        let kept = self.state.history();
        if kept.asked.is_off() {
            return None;
        }
        let status = HistoryStatus { asked: kept.asked, shortened: kept.shortened, ..HistoryStatus::default() };
        let Some((floor, permitted)) = kept.floor.zip(self.permitted()) else { return Some(status) };
        let newest_ns = permitted.marker.time_ns;
        let oldest = self.state.markers.oldest_from(floor).unwrap_or(permitted.marker);
        Some(HistoryStatus {
            oldest_marker: Some(oldest.number),
            oldest_time: Some(info(&oldest).time),
            seconds: newest_ns.saturating_sub(oldest.time_ns).max(0) as f64 / 1e9,
            bytes: self.journal.bytes_between(floor, permitted.end),
            ..status
        })
    }

    /// How it stands, and the copy's age in seconds; `None`: there is no image.
    #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
    fn pair_state(&self, permission: &Permission, connected: bool) -> (PairState, Option<f64>) {
        let age = self.state.last_heard().as_of.age(self.parts.clock.monotonic(), self.parts.clock.wall());
        let age = permission.permitted().map(|_| age.as_secs_f64());
        let interval = self.parts.keeper.get().interval_ms as f64 / 1000.0;
        let state = match (permission.copy(), age) {
            (Some(copy), _) if copy.direct => PairState::InitialCopy,
            (Some(_), _) => PairState::Resync,
            (None, None) => PairState::InitialCopy,
            (None, Some(age)) => paired_or_behind(connected, age, interval),
        };
        (state, age)
    }

    fn pair_status(&self, peer: &str, permission: &Permission) -> PairStatus {
        let position = self.state.position();
        let now = self.parts.clock.wall();
        let connected = self.is_connected();
        let (state, age) = self.pair_state(permission, connected);
        let (copy_error, stood, suspended, round_trip) = {
            let (current, now) = (self.current.lock(), self.parts.clock.monotonic());
            let round_trip = current.connection.as_ref().map(|connection| connection.stats().round_trip);
            (current.told(now), current.stood, current.is_suspended(now), round_trip)
        };
        let called = |at: Duration| self.parts.clock.monotonic().saturating_sub(at) <= CALLS_WITHIN;
        let silent = (!connected).then(|| format!("'{peer}' is not connected: `tidemark status` there says why"));
        // A pair that is deleted while nobody can tell it to this side is missed by nobody else.
        let gone = (!connected && !suspended && stood.is_none_or(|at| !called(at))).then(|| {
            let (group, here) = (self.parts.keeper.name(), &self.parts.appliance);
            format!(
                "If '{peer}' has no pair of this group any more: `tidemark pair create {group} --to {here}` there goes on with this copy, \
                 `tidemark pair delete {group} --to {peer}` here gives it up and keeps its volumes"
            )
        });
        let before = permission.keeps_before().then(|| was_before(&self.parts.keeper)).flatten().map(|before| {
            let time = from_unix_ns(before.marker_ns);
            let generation = before.generation;
            format!(
                "Until this copy is complete, a failover here goes on with what this side was when it returned: generation {generation}, all \
                 that its hosts had written behind marker {} of {time:.0}", before.marker
            )
        });
        let copy = permission
            .copy()
            .map(|copy| self.rate.lock().progress(self.parts.clock.monotonic(), copy.done_bytes, copy.total_bytes));
        let lag_bytes = self.journal.bytes_between(self.lags_from(), self.journal.durable_end().position);
        PairStatus {
            peer: peer.into(),
            state,
            reason: joined([
                self.state.problem().or(if connected { None } else { copy_error }).or(silent),
                gone,
                before,
            ]),
            since: self.in_state_since(state, now),
            connected,
            stands: !connected && stood.is_some_and(called),
            suspended_there: !connected && suspended,
            received_marker: position.received_marker,
            permitted_marker: position.permitted_marker,
            applied_marker: position.applied_marker,
            rpo_seconds: age,
            lag_bytes,
            // What waits before it comes here is known over there.
            lag: Lag { unapplied_bytes: Some(lag_bytes), ..Lag::default() },
            held: self.looked_at(),
            differential_bytes: permission.copy().map_or(0, |copy| copy.total_bytes.saturating_sub(copy.done_bytes)),
            copy,
            verify: None,
            comparison: None,
            round_trip_ms: round_trip.map(|time| time.as_secs_f64() * 1000.0),
        }
    }

    /// What stays in the journal behind an image that the primary compares with its own.
    fn looked_at(&self) -> Option<JournalHeld> {
        let at = self.state.looked_at()?;
        let end = self.journal.durable_end().position;
        Some(JournalHeld {
            marker: at.marker.number,
            time: info(&at.marker).time,
            bytes: self.journal.bytes_between(at.end, end),
        })
    }

    fn in_state_since(&self, state: PairState, now: jiff::Timestamp) -> jiff::Timestamp {
        let mut since = self.since.lock();
        if since.0 != state {
            tracing::info!(group = %self.parts.keeper.name(), from = ?since.0, to = ?state, "pair state");
            *since = (state, now);
            self.parts.pair_metrics.state_changed(state);
        }
        since.1
    }
}

/// Whether what arrives gets permitted. A marker that is here permits itself at once; writes behind the newest one wait for theirs, which is cut an
/// interval later at most and comes while the sides talk. While a copy runs, and where an image was given up for one, only its end permits anything.
fn permitting(permission: &Permission, durable: Seq, connected: bool, interval: Duration) -> Movement {
    let permitted = permission.permitted().map_or(0, |permitted| permitted.marker.number);
    let has_come = permission.received_marker().is_some_and(|received| received.marker.number > permitted);
    let is_awaited = connected && durable > permission.permitted_seq();
    let due = permitted > 0 && permission.copy().is_none() && (has_come || is_awaited);
    // A long interval arrives slowly where the line is slow.
    let (arrived, rests) = if has_come { (0, Duration::ZERO) } else { (durable.0, interval) };
    Movement { moving: Moving::Permit, peer: None, at: [permitted, arrived, 0], due, rests }
}

/// The newest marker here, which may be far ahead of the one permitted while a copy runs, and when it was cut.
fn newest_marker(permission: &Permission) -> MarkerStatus {
    let (last, permitted) = (permission.received().0, permission.permitted());
    let newest = permission.received_marker().filter(|received| received.marker.number == last).or(permitted);
    MarkerStatus { last, time: newest.map(|newest| info(&newest.marker).time) }
}

#[cfg(test)]
mod tests {
    use tidemark_common::ids::MarkerNumber;
    use tidemark_common::record::MarkerRecord;
    use tidemark_common::watchdog::{Standing, Watchdog};

    use super::*;
    use crate::permission::{OpenCopy, Permitted};

    /// Counts as many writes as its number.
    fn marker(number: u64) -> Permitted {
        let marker = MarkerRecord { number, boundary_seq: number, time_ns: 0, freeze_ns: 0, tag: None };
        Permitted { marker, end: Position::default() }
    }

    #[test]
    fn what_arrives_and_is_not_permitted_stands() {
        let interval = Duration::from_secs(30);
        let copy = || OpenCopy {
            number: 1,
            direct: false,
            cursor: (0, 0),
            done_bytes: 0,
            total_bytes: 1,
            begun: Position::default(),
        };
        // What is here, what is permitted, the copy under way, the last write here, whether the sides talk: stands from then on.
        for (received, permitted, copy, durable, connected, from) in [
            (Some(5), Some(5), None, 5, true, None),
            (Some(5), Some(5), None, 6, true, Some(90)),
            (Some(5), Some(5), None, 6, false, None),
            (Some(6), Some(5), None, 6, true, Some(60)),
            (Some(6), Some(5), None, 6, false, Some(60)),
            (Some(6), Some(5), Some(copy()), 6, true, None),
            (Some(5), None, None, 5, true, None),
            (None, None, None, 0, true, None),
        ] {
            let told = (received, permitted, copy, durable, connected);
            let permission =
                Permission::recovered(received.map(marker), permitted.map(marker), copy, Position::default());
            let dog = Watchdog::default();
            let stands = |seconds: u64| {
                let movement = permitting(&permission, Seq(durable), connected, interval);
                dog.look("g", vec![movement], Duration::from_secs(seconds));
                dog.standing("g").iter().any(Standing::is_stuck)
            };
            assert!(!stands(0), "{told:?}");
            let found = [59, 60, 89, 90, 1000].into_iter().find(|seconds| stands(*seconds));
            assert_eq!(found, from, "{told:?}");
        }
        // A long interval comes slowly where the line is slow.
        let permission = Permission::recovered(Some(marker(5)), Some(marker(5)), None, Position::default());
        let at = |durable| permitting(&permission, Seq(durable), true, interval).at;
        assert_ne!(at(6), at(7));
    }

    #[test]
    fn the_newest_marker_is_told_with_its_own_time() {
        let marker = |number, seconds: i64| Permitted {
            marker: MarkerRecord { number, boundary_seq: 1, time_ns: seconds * 1_000_000_000, freeze_ns: 0, tag: None },
            end: Position::default(),
        };
        let told = |received, newest| {
            let mut permission = Permission::recovered(received, Some(marker(5, 50)), None, Position::default());
            permission.set_newest(MarkerNumber(newest));
            let MarkerStatus { last, time } = newest_marker(&permission);
            (last, time.map(|time| time.as_second()))
        };
        assert_eq!(told(Some(marker(7, 70)), 7), (7, Some(70)), "a copy is staged beside the image of marker 5");
        assert_eq!(told(None, 5), (5, Some(50)));
    }
}
