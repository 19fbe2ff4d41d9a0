//! Invariants 1 and 2: `kill -9` of the primary at any moment loses no acknowledged write and keeps their order.

use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{Pair, Setup};

/// Kills east under load and judges what it serves after the restart, several times over one history.
fn rounds(pair: &mut Pair, rounds: u64) {
    for round in 0..rounds {
        let load = pair.load(round);
        load.wait_acked(400 + 150 * round as usize);
        pair.east.kill9();
        let ends = load.join_broken();
        assert_eq!(ends.len(), 3, "every host loses its connection: {ends:?}");
        pair.east.start();
        let image = pair.image(&pair.east);
        let what = format!("after kill {round}");
        let verdict = assert_legal(&what, &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
        pair.history.settle(&verdict);
    }
}

#[test]
fn kill_9_of_a_primary_without_a_pair_loses_nothing_acknowledged() {
    let mut pair = Pair::unpaired(&Setup::seeded(11));
    pair.prefill();
    rounds(&mut pair, 5);
}

#[test]
fn kill_9_of_a_paired_primary_loses_nothing_acknowledged_and_the_copy_follows() {
    let mut pair = Pair::prefilled(&Setup::seeded(12));
    rounds(&mut pair, 4);
    pair.assert_copy_equals();
}

#[test]
fn kill_9_right_after_a_restart_loses_nothing_that_was_recovered() {
    let mut pair = Pair::unpaired(&Setup::seeded(13));
    pair.prefill();
    let load = pair.load(0);
    load.wait_acked(1_000);
    pair.east.kill9();
    drop(load.join_broken());
    for _ in 0..3 {
        pair.east.start();
        pair.east.kill9();
    }
    pair.east.start();
    let image = pair.image(&pair.east);
    assert_legal("after four kills", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
}

#[test]
fn a_clean_stop_under_load_loses_nothing_acknowledged() {
    let mut pair = Pair::unpaired(&Setup::seeded(14));
    pair.prefill();
    let load = pair.load(0);
    load.wait_acked(1_000);
    pair.east.stop();
    drop(load.join_broken());
    pair.east.start();
    let image = pair.image(&pair.east);
    assert_legal("after a clean stop", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
}
