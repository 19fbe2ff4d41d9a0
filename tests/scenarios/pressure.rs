//! A journal under pressure: folded before the pair's history is given up, or hosts slowed instead, and never an error for them.

use std::time::{Duration, Instant};

use tidemark_common::api::types::PairState;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const FOLDED: &str = "intervals between markers were folded";

#[test]
fn a_hot_region_written_many_times_over_while_the_link_is_down_stays_in_the_journal() {
    let setup = Setup::one_volume("v", 64 * MIB, 91).journals("256MiB", "256MiB");
    let pair = Pair::paired(&setup);
    write_noise(&pair.east, "v", 0, 32 * MIB, 1);
    let before = pair.settle();
    pair.relay.cut();
    // More than twice what the journal holds.
    for round in 0..75 {
        write_noise(&pair.east, "v", 4 * MIB, 8 * MIB, 2 + round);
        let status = pair.east.pair(GROUP);
        assert!(matches!(status.state, PairState::Paired | PairState::CatchingUp), "{status:?}");
        assert_eq!(status.differential_bytes, 0, "its history was given up");
        let newest = pair.cut();
        assert!(newest > before);
    }
    assert!(pair.east.log_text().contains(FOLDED), "{}", pair.east.log_text());
    let kept = pair.east.json::<Vec<serde_json::Value>>(&["markers", GROUP]).len();
    assert!(kept < 60, "{kept} markers are left of 75 and more");
    let sent = pair.relay.forward().bytes();
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
    let sent = pair.relay.forward().bytes() - sent;
    assert!(sent < 260 * MIB, "{sent} bytes were sent: the fold saves the link as well");
}

/// What is folded is applied whole or not at all: whatever moment west takes over at, its image is one that was.
#[test]
fn an_image_taken_over_after_a_fold_is_legal_at_every_moment() {
    for (round, kill_west) in [(0, false), (1, true)] {
        let mut pair = Pair::prefilled(&Setup { journals: Some(("256MiB", "256MiB")), ..Setup::seeded(92 + round) });
        pair.east.ok(&["volume", "create", "n", "--size", "32MiB"]);
        pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
        pair.wait_paired();
        let marker = pair.settle();
        let began = pair.history.tick();
        pair.relay.cut();
        let load = pair.load(0);
        wait_until("a fold", LIMIT, || {
            write_noise(&pair.east, "n", 0, 12 * MIB, round);
            check(pair.east.log_text().contains(FOLDED), || "not yet".into())
        });
        load.wait_acked(200);
        pair.relay.heal();
        let passed = |pair: &tidemark_common::api::types::PairStatus| pair.permitted_marker > marker;
        pair.east.wait_pair(GROUP, "a marker behind the fold", LIMIT, passed);
        if kill_west {
            pair.west.kill9();
            pair.west.start();
        }
        pair.east.kill9();
        drop(load.join_broken());
        let report = pair.failover();
        assert!(report.marker.number > marker, "{report:?}");
        let bounds = Bounds { holds_acked_before: Some(began), nothing_sent_after: None };
        assert_legal("the image taken over", &pair.history.writes(), &pair.image(&pair.west), bounds);
    }
}

#[test]
fn a_primary_killed_between_folds_has_lost_nothing_and_the_copy_follows() {
    let mut pair = Pair::prefilled(&Setup { journals: Some(("256MiB", "256MiB")), ..Setup::seeded(95) });
    pair.east.ok(&["volume", "create", "n", "--size", "32MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
    pair.settle();
    pair.wait_paired();
    pair.relay.cut();
    let load = pair.load(0);
    let mut round = 0;
    wait_until("a fold", LIMIT, || {
        round += 1;
        write_noise(&pair.east, "n", 0, 12 * MIB, round);
        check(pair.east.log_text().contains(FOLDED), || "not yet".into())
    });
    pair.east.kill9();
    drop(load.join_broken());
    pair.east.start();
    let verdict = assert_legal(
        "the primary after its death",
        &pair.history.writes(),
        &pair.image(&pair.east),
        Bounds::EVERYTHING_ACKED,
    );
    pair.history.settle(&verdict);
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
}

#[test]
fn a_group_that_throttles_slows_its_hosts_to_the_link_and_keeps_the_pairs_history() {
    let setup = Setup::one_volume("v", 64 * MIB, 96).journals("64MiB", "64MiB").throttled();
    let pair = Pair::paired(&setup);
    pair.relay.set(Weather { bytes_per_second: Some(10_000_000), ..Weather::default() });
    let mut export = pair.east.open("v");
    let (mut longest, mut held, mut round) = (Duration::ZERO, false, 0);
    wait_until("hosts to be held back", LIMIT, || {
        for piece in 0..16 {
            let begin = Instant::now();
            export.write_all(piece * 4 * MIB / 16, &noise(round, MIB / 4)).expect("no host sees an error");
            longest = longest.max(begin.elapsed());
            round += 1;
        }
        let status = pair.east.pair(GROUP);
        assert!(matches!(status.state, PairState::Paired | PairState::CatchingUp), "{status:?}");
        assert_eq!(status.differential_bytes, 0);
        held |= pair.east.group(GROUP).journal.throttle_ms > 0.0;
        // Twice what the journal holds went through.
        check(held && round > 512, || format!("{round} writes, held back: {held}"))
    });
    assert!(longest < Duration::from_secs(6), "a host waited {longest:?}");
    pair.relay.set(Weather::default());
    pair.wait_paired();
    drop(export);
    pair.assert_copy_equals();
}
