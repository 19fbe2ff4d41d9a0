//! Invariant 4: nothing is applied beyond a permitted marker, whatever has been received.

use std::time::Duration;

use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};

/// A pair whose last marker is the one returned, with its bounds, and writes after it that west has received and no
/// marker covers.
fn in_the_middle_of_an_interval(seed: u64) -> (Pair, u64, Bounds) {
    let pair = Pair::prefilled(&Setup::seeded(seed).interval("1h"));
    let began = pair.history.tick();
    let marker = pair.settle();
    let bounds = Bounds::cut(began, pair.history.tick());
    let load = pair.load(0);
    load.wait_acked(500);
    load.stop();
    pair.east.wait_pair(GROUP, "everything to be received", Duration::from_secs(20), |pair| pair.lag_bytes == 0);
    (pair, marker, bounds)
}

#[test]
fn writes_after_the_last_marker_are_received_and_not_applied() {
    let (mut pair, marker, _) = in_the_middle_of_an_interval(41);
    let before = pair.backing(&pair.west);
    pair.east.kill9();
    let status = pair.west.pair(GROUP);
    assert_eq!((status.permitted_marker, status.applied_marker), (marker, marker));
    pair.west.restart();
    assert_eq!(pair.west.pair(GROUP).applied_marker, marker);
    assert!(pair.backing(&pair.west) == before, "the copy changed without a permitted marker");

    pair.east.start();
    pair.wait_paired();
    pair.assert_copy_equals();
    assert!(pair.backing(&pair.west) != before, "the next cut brings them");
}

#[test]
fn failover_leaves_out_and_reports_what_no_marker_covers() {
    let (mut pair, marker, bounds) = in_the_middle_of_an_interval(42);
    pair.east.kill9();
    let report = pair.failover();
    assert_eq!(report.marker.number, marker);
    assert!(report.dropped_writes > 0 && report.dropped_bytes > 0, "{report:?}");
    assert_legal("the image at the last marker", &pair.history.writes(), &pair.image(&pair.west), bounds);
}
