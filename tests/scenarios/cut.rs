//! Invariant 3: a marker holds everything answered before its cut began and nothing sent after the cut ended.

use tidemark_common::api::types::MarkerInfo;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};

/// Cuts by hand under load; the copy taken over at the newest of those markers must be exactly that moment.
fn cut_under_load(seed: u64) {
    let mut pair = Pair::prefilled(&Setup::seeded(seed).interval("1h"));
    let load = pair.load(0);
    let mut last = None;
    for number in 0..4 {
        load.wait_acked(200);
        let began = pair.history.tick();
        let tag = format!("cut-{number}");
        let marker = pair.east.ok(&["cut", GROUP, "--tag", &tag]).trim().parse::<u64>().expect("a number alone");
        last = Some((marker, tag, Bounds::cut(began, pair.history.tick())));
    }
    let (marker, tag, bounds) = last.expect("a cut");
    load.wait_acked(100);
    let markers: Vec<MarkerInfo> = pair.east.json(&["markers", GROUP]);
    assert_eq!(markers.first().map(|newest| (newest.number, newest.tag.clone())), Some((marker, Some(tag.clone()))));
    assert!(markers.windows(2).all(|pair| pair[0].number > pair[1].number), "newest first: {markers:?}");

    pair.wait_for(marker, "received");
    pair.east.kill9();
    drop(load.join_broken());
    let report = pair.failover();
    assert_eq!((report.marker.number, report.marker.tag.clone()), (marker, Some(tag)), "{report:?}");
    assert_legal("the image at the marker", &pair.history.writes(), &pair.image(&pair.west), bounds);
}

#[test]
fn a_marker_holds_what_was_answered_before_and_nothing_sent_after() {
    cut_under_load(31);
}

#[test]
fn a_marker_holds_what_was_answered_before_and_nothing_sent_after_another_seed() {
    cut_under_load(32);
}

#[test]
fn freezes_are_counted_and_stay_short_under_load() {
    let pair = Pair::unpaired(&Setup::seeded(33));
    let load = pair.load(0);
    let before = pair.east.group(GROUP).freeze.count;
    for _ in 0..20 {
        let _ = pair.cut();
    }
    load.stop();
    let freeze = pair.east.group(GROUP).freeze;
    assert!(freeze.count >= before + 20, "{freeze:?}");
    assert_eq!(freeze.abandoned, 0, "{freeze:?}");
    assert!(freeze.p50_us > 0.0 && freeze.p50_us < 1_000.0, "tens of microseconds by design: {freeze:?}");
}
