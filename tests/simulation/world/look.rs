//! What is looked at in the middle of a run: what a disaster now would leave on either side.

use std::hash::{DefaultHasher, Hash, Hasher};

use rand::RngExt;
use tidemark_common::catalog::RoleRecord;
use tidemark_tests::history::Tick;

use super::World;
use crate::fate::survives;
use crate::site::TakenOver;

/// Changes of its disk after which a side that goes back dies, at most.
const GOES_BACK: u64 = 12;

impl World {
    /// Looks at what a disaster now would leave: the copy taken over as it is, or after a loss of power there; or the
    /// primary after a loss of power.
    pub(super) fn look(&mut self) -> bool {
        let seed = self.random.random();
        match self.random.random_range(0..4) {
            0 if self.near.is_some() => self.look_at_near(seed),
            // There is no copy.
            _ if self.is_apart() => {}
            1 => self.look_at_copy(None),
            2 => self.look_at_copy(Some(seed)),
            _ => self.look_at_volumes(),
        }
        if self.liar.random() && self.profile.damage == 0 && !self.is_apart() {
            self.look_at_lies();
        }
        true
    }

    fn look_at_near(&mut self, seed: u64) {
        let mut twin = self.near_site.twin(Some(seed));
        let opened = twin.open_primary();
        let (primary, _) = opened.unwrap_or_else(|reason| panic!("the primary would not start: {reason}"));
        let captured = primary.status().positions.captured_seq;
        assert!(captured >= self.told.0, "invariant 7: write {} was shipped, and would be gone", self.told.0);
        let volumes = twin.read_all(&primary);
        self.hosts.judge_power_loss("the primary, if power were lost", &volumes, Tick::MAX);
    }

    pub(super) fn look_at_copy(&mut self, power_lost: Option<u64>) {
        // The history of a copy is looked at as often as its newest marker.
        let older = self.figures.steps.is_multiple_of(2).then(|| usize::try_from(self.figures.steps / 2).unwrap_or(0));
        let choose = |held: &[u64]| older.and_then(|older| held.get(older % held.len().max(1)).copied());
        self.look_at_taken(power_lost, choose);
    }

    pub(super) fn look_at_taken(&mut self, power_lost: Option<u64>, choose: impl FnOnce(&[u64]) -> Option<u64>) {
        let mut older = None;
        let mut twin = self.far_site.twin(power_lost);
        let taken = twin.take_over(|held| {
            older = choose(held);
            older
        });
        if self.flipped && !matches!(taken, Ok(Some(_))) {
            return;
        }
        let taken = taken.unwrap_or_else(|reason| panic!("the copy cannot be taken over: {reason}"));
        let mut what = format!("the copy, power lost {power_lost:?}");
        let Some(TakenOver { marker, primary, mut stages }) = taken else {
            let given_up = self.giving_up.is_some() || (self.told.1, self.told.2) == (0, 0);
            assert!(given_up, "{what}: there is no image any more");
            return;
        };
        let (served, told) = (marker.number, self.told.1);
        what += &format!(", at marker {served}, older {older:?}, told {told}");
        assert!(
            served >= told || older.is_some() || self.flipped || self.giving_up.is_some(),
            "{what}: marker {told} was reported, {served} is served"
        );
        let volumes = match twin.try_read_all(&primary) {
            // What is damaged is not served.
            Err(_) if self.flipped => return,
            read => read.expect("a read"),
        };
        self.figures.copies_judged += 1;
        let moment = self.moment(marker.boundary_seq);
        self.hosts.judge_copy(&what, &volumes, moment);
        self.is_as_before(&what, served, &volumes);
        let limit = stages.writeback.image.journal.durable_end().position;
        stages.writeback.step(limit);
        assert!(volumes == twin.read_all(&primary), "{what}: written back, it reads otherwise");
    }

    /// The oracle lets an image hold what was under way at its cut, or not: whichever it is, it is that for good.
    fn is_as_before(&mut self, what: &str, marker: u64, volumes: &[Vec<u8>]) {
        let mut hasher = DefaultHasher::new();
        volumes.hash(&mut hasher);
        let (now, before) = (hasher.finish(), *self.images.entry(marker).or_insert(hasher.finish()));
        assert_eq!(now, before, "{what}: its image was another one before (invariant 4)");
    }

    /// An old primary that returned and whose copy is not complete goes back to exactly what it was, however often that is broken off.
    pub(super) fn look_at_before(&mut self) {
        let record = self.far_site.group_record();
        let kept = record.role == RoleRecord::Secondary && record.pairs.iter().any(|pair| pair.before.is_some());
        let Some(was) = self.was.clone().filter(|_| kept) else { return };
        let power_lost = self.liar.random_bool(0.5).then(|| self.liar.random());
        let mut twin = self.far_site.twin(power_lost);
        twin.doomed = self.liar.random_bool(0.7).then(|| self.liar.random_range(0..GOES_BACK));
        let what = format!("the copy that goes back, power lost {power_lost:?}, dies after {:?}", twin.doomed);
        let (primary, mut stages) = loop {
            match survives(|| twin.go_back()) {
                None => {
                    twin.died();
                    twin.doomed = None;
                }
                Some(Err(reason)) => panic!("{what}: it cannot: {reason}"),
                Some(Ok(Some(back))) => {
                    twin.fate.doom(u64::MAX);
                    break back;
                }
                // The copy is complete, or what it was had to go for it.
                Some(Ok(None)) => {
                    let permitted = twin.open_secondary().expect("a copy").0.permitted();
                    let is_either = permitted.is_some() || self.giving_up.is_some();
                    return assert!(is_either, "{what}: it is neither the copy nor what it was");
                }
            }
        };
        assert!(twin.read_all(&primary) == was, "{what}: it is not what it was");
        let limit = stages.writeback.image.journal.durable_end().position;
        stages.writeback.step(limit);
        assert!(
            twin.read_all(&primary) == was && twin.raw_volumes() == was,
            "{what}: written back, it is not what it was"
        );
        self.figures.went_back += 1;
    }

    /// The files of a copy that has applied all that is permitted are the image.
    fn look_at_volumes(&mut self) {
        let Some(far) = &self.far else { return };
        let state = far.secondary.state();
        let permission = state.permission();
        let Some(permitted) = permission.permitted().filter(|_| permission.copy().is_none()) else { return };
        if state.is_at_rest() && state.applied_position().marker.0 == permitted.marker.number {
            let moment = self.moment(permitted.marker.boundary_seq);
            self.figures.copies_judged += 1;
            let (marker, volumes) = (permitted.marker.number, self.far_site.raw_volumes());
            self.hosts.judge_copy("the copy's files", &volumes, moment);
            self.is_as_before("the copy's files", marker, &volumes);
        }
    }
}
