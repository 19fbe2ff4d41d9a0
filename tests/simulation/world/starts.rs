//! Sides that die and come up again, and what may keep one from that.

use rand::RngExt;
use tidemark_common::catalog::RoleRecord;
use tidemark_common::wire::message::{Message, Refusal, Refused};

use super::disaster::held_by;
use super::{Side, World};
use crate::far::Far;
use crate::fate::survives;
use crate::near::Near;
use crate::profile::Profile;

/// Changes of its disk after which a side that starts dies again, at most; it goes on with what is left of them.
const RELAPSES: u64 = 30;

impl World {
    /// The copy's journal is damaged.
    pub(super) fn far_stops(&mut self) {
        self.note("the copy's journal is damaged");
        self.line.lose();
        self.far_site.fate.kill();
        self.far = None;
        self.far_waits = true;
        self.far_down = u64::MAX;
    }

    /// The appliance of a copy that does not run tells its primary, or does what that orders.
    pub(super) fn answer_for_far(&mut self) -> bool {
        let time = self.time();
        let Some(message) = self.line.far_hears(time) else { return false };
        let Message::Hello(hello) = message else { return true };
        if !hello.create {
            let refused =
                Refused { refusal: Refusal::Damaged, message: "damaged".into(), generation: hello.generation };
            self.line.tell_near(&Message::Refused(refused), time, &mut self.random);
            return true;
        }
        // From here on its image is given up with its history, even when it dies in that, and it says so.
        (self.told, self.held) = ((0, 0, 0), None);
        let (site, connection) = (&mut self.far_site, self.line.current());
        match survives(|| site.renew_secondary()) {
            None => self.died(Side::Far, None),
            Some(Err(why)) => self.did_not_start(Side::Far, &why.reason),
            Some(Ok((secondary, apply))) => {
                let mut far = Far::new(secondary, apply, self.far_site.clock.clone());
                far.called(connection, hello);
                self.far = Some(far);
                self.far_waits = false;
                self.flipped = false;
                self.figures.renewals += 1;
                self.note("the copy begins anew");
            }
        }
        true
    }

    /// A process is gone; with a seed, power was lost at its site.
    pub(super) fn died(&mut self, side: Side, power: Option<u64>) {
        self.note(("died", side, power));
        self.standing.retain(|act, _| act.side() != side);
        self.line.lose();
        self.figures.kills += u64::from(power.is_none());
        self.figures.power_losses += u64::from(power.is_some());
        let down = self.random.random_range(0..self.profile.down_steps);
        match side {
            Side::Near => {
                self.near_site.fate.kill();
                self.cut = None;
                self.hosts.cut_off();
                self.near = None;
                match power {
                    Some(seed) => self.near_site.lost_power(seed),
                    None => self.near_site.died(),
                }
                self.near_down = (self.figures.steps + down, self.near_down.1 || power.is_some());
            }
            Side::Far => {
                self.far_site.fate.kill();
                self.held = self.far.take().and_then(|far| held_by(&far)).or(self.held.take());
                self.far_waits = false;
                match power {
                    Some(seed) => self.far_site.lost_power(seed),
                    None => self.far_site.died(),
                }
                self.far_down = self.figures.steps + down;
            }
        }
    }

    pub(super) fn start_what_is_down(&mut self) {
        if self.near.is_none() && self.figures.steps >= self.near_down.0 {
            self.start_near();
        }
        if self.far.is_none() && !self.is_apart() && self.figures.steps >= self.far_down {
            self.start_far();
        }
        if self.near.as_ref().is_some_and(|near| near.ended) || (self.near.is_some() && self.hosts.all_stopped()) {
            // The operator starts it again.
            self.near_site.disk.limit_space(None);
            self.died(Side::Near, None);
        }
    }

    /// Why somebody died who was at work: with a seed, power was lost.
    pub(super) fn power_at_death(&mut self) -> Option<u64> {
        let Profile { power_lost, power_lost_next, relapses, .. } = self.profile;
        let lost = power_lost || power_lost_next && self.figures.kills > 0 || relapses && self.random.random();
        lost.then(|| self.random.random())
    }

    /// After how many changes of its disk a side that starts again dies, if it does.
    fn relapse(&mut self) -> Option<u64> {
        let may = self.profile.relapses && self.figures.steps > 0;
        (may && self.random.random_bool(0.3)).then(|| self.random.random_range(0..RELAPSES))
    }

    fn died_in_its_start(&mut self, side: Side) {
        *self.figures.befell.entry("deaths in starts").or_default() += 1;
        let power = self.power_at_death();
        self.died(side, power);
    }

    pub(super) fn start_near(&mut self) {
        if self.generation > 0 {
            let record = self.near_site.group_record();
            let is_primary = record.role == RoleRecord::Primary && record.generation >= self.generation;
            assert!(is_primary, "invariant 8: generation {} was answered, and now: {record:?}", self.generation);
        }
        self.near_site.doomed = self.relapse();
        let site = &mut self.near_site;
        let opened = survives(|| site.open_primary());
        site.doomed = None;
        match opened {
            None => self.died_in_its_start(Side::Near),
            Some(Err(reason)) => self.did_not_start(Side::Near, &reason),
            Some(Ok((primary, stages))) => {
                let captured = primary.status().positions.captured_seq;
                self.moments.retain(|seq, _| *seq <= captured);
                assert!(captured >= self.told.0, "invariant 7: write {} was shipped, and is gone", self.told.0);
                let marker = primary.marker(None).map_or(0, |marker| marker.number);
                assert!(marker >= self.answered_marker, "marker {} was answered, and is gone", self.answered_marker);
                let volumes = self.near_site.try_read_all(&primary).unwrap_or_else(|error| {
                    assert!(self.near_site.device.refuses_reads(), "the primary after its start: {error:?}");
                    self.near_site.device.read_well();
                    self.near_site.read_all(&primary)
                });
                let what = format!("the primary after its start {:?}", self.near_down);
                self.hosts.settle(&what, &volumes, self.near_down.1);
                self.near = Some(Near::new(primary, stages, (self.profile.turn, self.profile.stretch_bytes)));
                self.near_down.1 = false;
                self.note(("near is up", captured));
            }
        }
    }

    pub(super) fn start_far(&mut self) {
        self.far_site.doomed = self.relapse();
        let site = &mut self.far_site;
        let opened = survives(|| site.open_secondary());
        site.doomed = None;
        match opened {
            None => self.died_in_its_start(Side::Far),
            Some(Err(why)) if why.damaged && self.flipped => self.far_stops(),
            Some(Err(why)) => self.did_not_start(Side::Far, &why.reason),
            Some(Ok((secondary, apply))) => {
                self.far = Some(Far::new(secondary, apply, self.far_site.clock.clone()));
                self.note("far is up");
                self.check_history();
            }
        }
    }

    /// Only a full disk, or a sync that failed just then, may keep a side from starting.
    fn did_not_start(&mut self, side: Side, reason: &str) {
        self.note(("did not start", side, reason));
        self.excuse(side, reason);
        self.died(side, None);
    }

    /// A disk that fails may keep a side from what it is to do; then it is repaired.
    pub(super) fn excuse(&mut self, side: Side, reason: &str) {
        let refuses = self.site(side).device.refuses_reads();
        let failing = &mut self.failing[side as usize];
        let excused = self.lean_until > self.figures.steps || refuses || *failing > 0;
        *failing = failing.saturating_sub(1);
        assert!(excused, "{side:?} does not start: {reason}");
        self.near_site.disk.heal();
        self.far_site.disk.heal();
        self.site(side).device.read_well();
        self.lean_until = 0;
    }
}
