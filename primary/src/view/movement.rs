//! Where a pair's positions are: what has to move as long as there is something to do.

use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_common::watchdog::{Movement, Moving};

use crate::ship::Pair;

impl Pair {
    /// The least that was missing over there since the pair fell behind, while it is connected: what grows again and again, or begins
    /// anew for ever, moves and gets nowhere (a copy has to converge, or to say why not).
    pub(crate) fn converging(&self) -> Movement {
        let missing = self.differences.bytes() + self.image.buffer.bytes();
        let mut view = self.view.lock();
        view.see_flow(&self.image.journal, self.clock.monotonic());
        let behind = self.behind_bytes(&view);
        let due = self.answers(&view)
            && matches!(
                view.state,
                PairState::InitialCopy | PairState::Resync | PairState::Differential | PairState::CatchingUp
            );
        let least = view.missing_least(missing + behind, due);
        // One that lacked nothing a moment ago is as near as it can get, and waits for something else.
        self.moving(Moving::Converge, [least, 0, 0], least > 0)
    }

    /// How far the other side is, and whether it lacks anything that it is to be sent.
    pub(crate) fn movement(&self) -> Movement {
        let complete = self.differences.are_none();
        let view = self.view.lock();
        let remote = view.remote;
        let sends =
            !matches!(view.state, PairState::Suspended | PairState::Fenced | PairState::FailedOver | PairState::Error);
        let behind = remote.durable_seq < self.image.buffer.captured().0 || remote.copy != 0 || !complete;
        let cursor = u64::from(remote.copy_volume) << 48 | remote.copy_offset >> 9;
        let at = [remote.durable_seq, remote.received_marker, cursor];
        self.moving(Moving::Ship, at, sends && behind)
    }

    /// Whether a comparison that runs gets further, or rests on purpose. One that waits for its pair does not run.
    pub(crate) fn comparing(&self) -> Movement {
        let view = self.view.lock();
        self.moving(Moving::Verify, [view.compared, 0, 0], view.verify.is_some())
    }

    fn moving(&self, moving: Moving, at: [u64; 3], due: bool) -> Movement {
        Movement { moving, peer: Some(self.peer().to_owned()), at, due, rests: Duration::ZERO }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::api::types::CopyProgress;
    use tidemark_common::limits::REGION_BYTES;
    use tidemark_common::watchdog::{DIVERGES_AFTER, Watchdog};

    use super::*;
    use crate::plan::tests::Rig;

    /// Hosts write as fast as it takes what they write: everything moves, and the copy is no nearer to its end.
    #[tokio::test(flavor = "multi_thread")]
    async fn every_state_on_the_way_to_being_the_same_has_to_get_nearer() {
        let mut rig = Rig::new(None, REGION_BYTES);
        for state in PairState::ALL {
            let dog = Watchdog::default();
            for looks in 0..2 {
                rig.write(0).await;
                let now = rig.pair.clock.monotonic();
                {
                    let mut view = rig.pair.view.lock();
                    (view.state, view.connected, view.heard) = (state, true, now);
                    view.remote.durable_seq += 1;
                }
                dog.look("g", rig.primary.movements(), DIVERGES_AFTER * looks);
            }
            let standing = dog.standing("g");
            let stuck = standing.iter().any(|one| one.position == Moving::Converge && one.is_stuck());
            let on_the_way = matches!(
                state,
                PairState::InitialCopy | PairState::CatchingUp | PairState::Differential | PairState::Resync
            );
            assert_eq!(stuck, on_the_way, "{state}: {standing:?}");
            assert!(
                !standing.iter().any(|one| one.position == Moving::Ship && one.is_stuck()),
                "{state}: {standing:?}"
            );
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_stands_while_it_runs_and_nobody_hears_of_it() {
        let rig = Rig::new(None, REGION_BYTES);
        let dog = Watchdog::default();
        let stuck = |seconds| {
            dog.look("g", rig.primary.movements(), Duration::from_secs(seconds));
            dog.standing("g").iter().any(|one| one.position == Moving::Verify && one.is_stuck())
        };
        let progress = CopyProgress { done_bytes: 1, total_bytes: 2, bytes_per_second: 1.0, seconds_left: None };
        assert!(!stuck(0) && !stuck(1000), "there is none");
        rig.pair.verifying(Some(progress));
        assert!(!stuck(1001) && !stuck(1300) && stuck(1301));
        // It rests between two slices, and says so.
        rig.pair.verifying(Some(progress));
        assert!(!stuck(1302) && stuck(1602));
        rig.pair.verifying(None);
        assert!(!stuck(1603) && !stuck(3000), "it is over");
    }
}
