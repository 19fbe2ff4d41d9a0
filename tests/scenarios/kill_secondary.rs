//! Invariants 4 and 5: `kill -9` of the secondary at any moment costs only time.

use std::time::Duration;

use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::measure_for;

#[test]
fn kill_9_of_the_secondary_under_load_is_caught_up_without_hosts_noticing() {
    let mut pair = Pair::prefilled(&Setup::seeded(21));
    let load = pair.load(0);
    for round in 0..4_u64 {
        load.wait_acked(300);
        let applied = pair.west.pair(GROUP).applied_marker;
        // The kill falls at another moment of receiving, applying and recording each time.
        measure_for(Duration::from_millis(37 * round));
        pair.west.kill9();
        load.wait_acked(300);
        pair.west.start();
        // What is applied is recorded lazily and done again after a kill; what would be served never retreats.
        let after = pair.west.pair(GROUP).permitted_marker;
        assert!(after >= applied, "invariant 5: marker {applied} was applied, after the restart it serves {after}");
    }
    pair.wait_paired();
    load.stop();
    pair.assert_copy_equals();
}

#[test]
fn both_sides_killed_at_once_go_on() {
    let mut pair = Pair::prefilled(&Setup::seeded(22));
    let load = pair.load(0);
    load.wait_acked(800);
    pair.east.kill9();
    pair.west.kill9();
    drop(load.join_broken());
    pair.west.start();
    pair.east.start();
    pair.wait_paired();
    pair.assert_copy_equals();
}
