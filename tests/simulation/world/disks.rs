//! Disks that take their time, and what they do not give out: stages that stand, processes that die meanwhile, and the operator whom it
//! takes.

use std::sync::atomic::Ordering;
use std::time::Duration;

use rand::RngExt;
use tidemark_common::api::types::PairState;

use super::{Act, Side, World};

/// Steps of its disk that a stage dies in the middle of, at most.
const HALF_DONE: u64 = 8;

impl World {
    /// Whether this stage waits for its disk.
    pub(super) fn stands(&self, act: Act) -> bool {
        self.standing.get(&act).is_some_and(|until| *until > self.now_ns.load(Ordering::SeqCst))
    }

    /// The stage stands for as long as its disk takes.
    pub(super) fn charge(&mut self, act: Act) {
        let taken = self.site(act.side()).device.taken_ns();
        if taken > 0 {
            self.standing.insert(act, self.now_ns.load(Ordering::SeqCst) + taken);
        }
    }

    /// A process dies. What a stage that stands has given to its disk is not done then, or half done, or just done.
    pub(super) fn die_at_work(&mut self, side: Side, power: Option<u64>) {
        let working: Vec<Act> =
            self.standing.keys().copied().filter(|act| act.side() == side && self.stands(*act)).collect();
        if !working.is_empty() && self.random.random() {
            let act = working[self.random.random_range(0..working.len())];
            let steps = self.random.random_range(0..HALF_DONE);
            self.fate_of(side).doom(steps);
            let done = self.work(act);
            self.note(("at work", act, done));
        }
        self.died(side, power);
    }

    /// The copy has everything, the line is cut, hosts write on, and all of it gets to the volumes and is forgotten in memory. Then what
    /// the journal holds of it cannot be read any more, for good, and the line holds again.
    pub(crate) fn lose_journal_behind_the_volumes(&mut self, steps: u64) {
        self.rest();
        let (segment, offset) = self.near.as_ref().expect("nobody dies").journal_end();
        self.line.lose();
        self.line.cut_until = Duration::MAX;
        self.hosts.resting = false;
        (0..steps).for_each(|_| self.step());
        self.hosts.resting = true;
        let near = self.near.as_mut().expect("nobody dies");
        while near.drain() || near.write_back() {}
        near.rest_journal();
        self.near_site.refuse_journal(segment, offset);
        self.line.cut_until = Duration::ZERO;
        self.rest();
        self.judge_end();
        let [.., refused_reads] = self.near_site.device.figures();
        assert!(refused_reads > 0, "nothing was to be read there");
    }

    /// The primary's journal could not be read where the copy stands: only a person gives its image up.
    pub(super) fn give_image_up(&mut self, has_waited: bool) {
        let Some(near) = &self.near else { return };
        let status = near.pair.status();
        let says = |what: &str| status.reason.as_ref().is_some_and(|reason| reason.contains(what));
        // Copies that were broken off again and again leave no room for one more beside the image. Beside what a side was before it returned:
        // that is said only once nothing there gives any back.
        let is_of_a_return = says("is full of a copy that is not complete");
        let is_outgrown = has_waited && says("is full of a resync that is not complete") || is_of_a_return;
        // With nothing marked it is enough that the journal can be read again: then the next connection finds the place.
        let is_unread =
            status.state == PairState::Error && status.differential_bytes > 0 && says("what it lacks cannot be told");
        if !is_unread && !is_outgrown {
            return;
        }
        let [.., refused_reads] = self.near_site.device.figures();
        let is_true = is_outgrown || refused_reads > 0;
        assert!(is_true, "nothing kept the primary from reading its journal: {:?}", near.pair.status());
        near.pair.resume_in_place().expect("what differs is known");
        self.giving_up = Some(near.primary.marker(None).map_or(0, |marker| marker.number));
        self.note("the copy's image is given up");
    }
}
