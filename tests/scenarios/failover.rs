//! Taking over: the image is legal and not older than reported, the generation fences the old primary.

use std::time::{Duration, Instant};

use tidemark_common::api::types::{FailoverReport, PairState, Role};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::figures::resident_kib;
use tidemark_tests::history::Tick;
use tidemark_tests::host::{EPERM, ESHUTDOWN, HostError};
use tidemark_tests::noise::noise;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::{check, wait_until};

/// Loads the pair until a marker is applied on west, and a little on: that marker's bounds begin at the tick returned.
fn loaded(pair: &mut Pair) -> Tick {
    let load = pair.load(0);
    load.wait_acked(400);
    let began = pair.history.tick();
    let marker = pair.cut();
    pair.wait_for(marker, "applied");
    load.wait_acked(400);
    let applied = pair.west.pair(GROUP).applied_marker;
    assert!(applied >= marker);
    pair.east.kill9();
    drop(load.join_broken());
    began
}

fn takes_over(pair: &Pair, began: Tick) -> FailoverReport {
    let before = pair.west.group(GROUP);
    let report = pair.failover();
    assert_eq!(report.group, GROUP);
    assert_eq!(report.generation, before.generation + 1);
    assert!(report.marker.number >= before.pairs[0].applied_marker, "older than the last one applied: {report:?}");
    assert_eq!(report.exports, pair.volumes());
    assert!(report.took_ms < 5_000.0, "{report:?}");
    assert!(report.age_seconds >= 0.0 && report.age_seconds < 60.0, "{report:?}");
    let after = pair.west.group(GROUP);
    assert_eq!((after.role, after.generation), (Role::Primary, report.generation));
    let bounds = Bounds { holds_acked_before: Some(began), nothing_sent_after: None };
    let verdict = assert_legal("the image taken over", &pair.history.writes(), &pair.image(&pair.west), bounds);
    pair.history.settle(&verdict);
    report
}

/// Waits until an old primary knows that it is none any more, and serves nothing.
fn assert_fenced(old: &Appliance, volume: &str) {
    old.wait_fenced(GROUP);
    match old.try_open(volume) {
        Err(HostError::Refused { message, .. }) => assert!(!message.is_empty(), "a refusal says why"),
        Err(other) => panic!("a fenced volume is refused with a reason, not: {other}"),
        Ok(mut export) => {
            let answer = export.write(0, &[1; 4096]);
            assert!(
                matches!(answer, Err(HostError::Errno(EPERM | ESHUTDOWN))),
                "a write to a fenced volume: {answer:?}"
            );
        }
    }
}

#[test]
fn a_dead_primary_is_replaced_and_fenced_when_it_comes_back() {
    let mut pair = Pair::prefilled(&Setup::seeded(51));
    let began = loaded(&mut pair);
    let report = takes_over(&pair, began);

    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(300);
    pair.east.start();
    assert_fenced(&pair.east, "a");
    load.wait_acked(100);
    load.stop();

    let after = pair.west.group(GROUP);
    assert_eq!((after.role, after.generation), (Role::Primary, report.generation));
    let image = pair.image(&pair.west);
    assert_legal("the new primary", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
}

#[test]
fn a_new_primary_killed_after_the_failover_loses_nothing() {
    let mut pair = Pair::prefilled(&Setup::seeded(52));
    let began = loaded(&mut pair);
    let report = takes_over(&pair, began);
    for round in 1..3 {
        let load = pair.load_on(&pair.west, round);
        load.wait_acked(300);
        pair.west.kill9();
        drop(load.join_broken());
        pair.west.start();
        assert_eq!(pair.west.group(GROUP).generation, report.generation);
        let image = pair.image(&pair.west);
        let verdict = assert_legal("after the kill", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
        pair.history.settle(&verdict);
    }
}

#[test]
fn failover_is_refused_while_the_primary_is_heard_and_forced_it_fences_the_living() {
    let pair = Pair::prefilled(&Setup::seeded(53));
    let load = pair.load(0);
    load.wait_acked(200);
    let reason = pair.west.refuses(&["failover", GROUP]);
    assert!(reason.contains("--force"), "it says what to do: {reason}");
    assert_eq!(pair.west.group(GROUP).role, Role::Secondary);
    load.wait_acked(100);
    let floor = pair.history.tick();
    pair.settle();

    let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force"]);
    assert_eq!(report.generation, 2);
    let ends = load.join_broken();
    assert_eq!(ends.len(), 3, "every host of the old primary meets an error: {ends:?}");
    assert_fenced(&pair.east, "a");
    let bounds = Bounds { holds_acked_before: Some(floor), nothing_sent_after: None };
    assert_legal("the image taken over", &pair.history.writes(), &pair.image(&pair.west), bounds);
}

#[test]
fn a_primary_cut_off_is_fenced_when_the_link_heals() {
    let pair = Pair::prefilled(&Setup::seeded(54));
    let load = pair.load(0);
    load.wait_acked(200);
    let floor = pair.history.tick();
    pair.settle();
    pair.relay.cut();
    let report = pair.failover();
    assert_eq!(report.generation, 2);
    let bounds = Bounds { holds_acked_before: Some(floor), nothing_sent_after: None };
    let verdict = assert_legal("the image taken over", &pair.history.writes(), &pair.image(&pair.west), bounds);
    load.wait_acked(100);
    pair.relay.heal();
    let ends = load.join_broken();
    assert_eq!(ends.len(), 3, "every host of the old primary meets an error: {ends:?}");
    assert_fenced(&pair.east, "b");
    pair.history.settle(&verdict);
    // Neither more than what was taken over, nor less.
    let (writes, image) = (pair.history.writes(), pair.image(&pair.west));
    assert_legal("nothing of the old primary came after", &writes, &image, Bounds::EVERYTHING_ACKED);
}

/// A primary hangs with writes of its hosts on their way, is taken over, and goes on: it finds out before anybody is served by both for long.
#[test]
fn a_primary_that_hung_and_was_taken_over_is_fenced_when_it_goes_on() {
    let pair = Pair::prefilled(&Setup::seeded(81));
    let load = pair.load(0);
    load.wait_acked(200);
    let floor = pair.history.tick();
    let marker = pair.cut();
    pair.wait_for(marker, "applied");
    pair.east.freeze();
    pair.west.wait_pair(GROUP, "the loss of the connection", Duration::from_secs(30), |pair| !pair.connected);
    let report = pair.failover();
    assert!(report.marker.number >= marker, "{report:?}");
    let bounds = Bounds { holds_acked_before: Some(floor), nothing_sent_after: None };
    let verdict = assert_legal("the image taken over", &pair.history.writes(), &pair.image(&pair.west), bounds);
    pair.east.thaw();
    let ends = load.join_broken();
    assert_eq!(ends.len(), 3, "every host of the old primary meets an error: {ends:?}");
    assert_fenced(&pair.east, "a");
    pair.history.settle(&verdict);
    // Neither more than what was taken over, nor less.
    let (writes, image) = (pair.history.writes(), pair.image(&pair.west));
    assert_legal("nothing of the old primary came after", &writes, &image, Bounds::EVERYTHING_ACKED);
    pair.east.ok(&["rejoin", GROUP]);
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
}

#[test]
fn failover_needs_a_group_that_is_secondary_here() {
    let pair = Pair::paired(&Setup::seeded(55));
    let on_primary = pair.east.refuses(&["failover", GROUP]);
    assert!(on_primary.contains("primary"), "{on_primary}");
    let unknown = pair.west.refuses(&["failover", "nosuch"]);
    assert!(unknown.contains("nosuch"), "{unknown}");
}

/// At night, on the wrong one of two machines: what is said leads to the right one, and to a takeover of nothing that runs.
#[test]
fn what_is_the_primarys_is_refused_elsewhere_with_where_it_belongs() {
    let pair = Pair::paired(&Setup::seeded(257));
    for words in [["cut", GROUP].as_slice(), &["switchover", GROUP, "--to", "east"], &["verify", GROUP, "--to", "east"]]
    {
        let said = pair.west.refuses(words);
        assert!(said.contains("run this on its primary, 'east'. Only when that is lost"), "{words:?}: {said}");
    }
    pair.west.ok(&["failover", GROUP, "--force"]);
    pair.east.wait_fenced(GROUP);
    for words in [["cut", GROUP].as_slice(), &["failover", GROUP]] {
        let said = pair.east.refuses(words);
        assert!(said.contains("fenced here") && said.contains("`tidemark status`"), "{words:?}: {said}");
    }
}

#[test]
fn a_copy_that_was_never_complete_is_not_taken_over() {
    let pair = Pair::unpaired(&Setup::seeded(56));
    pair.prefill();
    pair.relay.set(tidemark_tests::impairment::Weather { bytes_per_second: Some(2_000_000), ..Default::default() });
    pair.create();
    pair.west.wait_pair(GROUP, "the copy to have begun", Duration::from_secs(20), |pair| pair.copy.is_some());
    pair.relay.cut();
    wait_until("the refusal to be about the copy", Duration::from_secs(10), || {
        let reason = pair.west.refuses(&["failover", GROUP]);
        if reason.contains("copy") { Ok(()) } else { Err(reason) }
    });
}

/// A machine that is switched off in good order takes nothing with it, whatever the interval between cuts.
#[test]
fn a_failover_after_a_clean_stop_loses_nothing() {
    let mut pair = Pair::prefilled(&Setup { interval: "1h", ..Setup::seeded(79) });
    let load = pair.load(0);
    load.wait_acked(400);
    load.stop();
    pair.east.stop();
    let report = pair.failover();
    assert_eq!((report.dropped_writes, report.missing_writes_known), (0, 0), "{report:?}");
    let image = pair.image(&pair.west);
    assert_legal("the image taken over", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
}

/// Somebody sets the primary's clock five hours ahead and right again: the copy is as old as it is, before its primary dies and after.
#[test]
fn a_copy_is_as_old_as_it_is_whatever_the_primarys_clock_is_set_to() {
    const LIMIT: Duration = Duration::from_secs(60);
    let mut pair = Pair::paired(&Setup::seeded(71));
    // What shows no fixed clock is started with one.
    pair.east.set_clock(0);
    pair.east.restart();
    for hours in [5, 0] {
        pair.east.set_clock(hours * 3600);
        let expected = jiff::Timestamp::now().as_second() + hours * 3600;
        wait_until("the primary's clock to be set, and a marker of it to be there", LIMIT, || {
            let marker = pair.cut();
            pair.wait_for(marker, "applied");
            let time = pair.east.group(GROUP).marker.time.map_or(0, |time| time.as_second());
            if (time - expected).abs() < 600 { Ok(()) } else { Err(format!("{time}, not {expected}")) }
        });
        for side in [&pair.east, &pair.west] {
            wait_until("the pair to be as good as new", LIMIT, || {
                let seen = side.pair(GROUP);
                let young = seen.rpo_seconds.is_some_and(|seconds| seconds < 30.0);
                if young && seen.state == PairState::Paired { Ok(()) } else { Err(format!("{seen:?}")) }
            });
        }
    }
    pair.east.kill9();
    wait_until("the copy to grow old", LIMIT, || {
        let seen = pair.west.pair(GROUP);
        if seen.rpo_seconds.is_some_and(|seconds| seconds > 3.0) { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    let report = pair.failover();
    assert!((3.0..600.0).contains(&report.age_seconds), "{report:?}");
}

/// Nothing of the backlog can be applied, before the failover or after it: hosts read it out of the journal at once, and write. With room again
/// it comes into the volume behind them.
#[test]
fn a_failover_serves_within_a_second_whatever_was_received_and_could_not_be_applied() {
    const MIB: u64 = 1 << 20;
    const BYTES: u64 = 192 * MIB;
    let mut pair = Pair::unpaired(&Setup::one_volume("v", BYTES, 80).journals("512MiB", "512MiB"));
    pair.west.stop();
    let small = SmallDisk::mount(&pair.west.directory().join("volumes"), 16 * MIB);
    pair.west.start();
    pair.create();
    pair.wait_paired();
    let ballast = small.fill();
    let mut expected = noise(1, BYTES);
    // Scattered as well: each of these has a place of its own in the index.
    let mut host = pair.east.open("v");
    host.write_all(0, &expected).expect("hosts do not notice");
    for number in 0..4_000_usize {
        let at = number * 40_503 % 49_152 * 4096;
        let block = noise(1_000 + number as u64, 4096);
        host.write(at as u64, &block).expect("hosts do not notice");
        expected[at..at + 4096].copy_from_slice(&block);
    }
    drop(host);
    let marker = pair.cut();
    pair.west
        .wait_pair(GROUP, "all of it to be permitted", Duration::from_secs(60), |pair| pair.permitted_marker >= marker);
    pair.east.kill9();

    let resident = resident_kib(pair.west.pid());
    let asked = Instant::now();
    let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force"]);
    let mut host = pair.west.open("v");
    let last = host.read(BYTES - 4096, 4096).expect("read");
    let took = asked.elapsed();
    let grown = resident_kib(pair.west.pid()).saturating_sub(resident) >> 10;
    // A write buffer, and no backlog.
    assert!(grown < 128, "{grown} MiB more are resident after it");
    println!("the first read was answered {took:?} after it was asked for, {:.0} ms of that here", report.took_ms);
    assert!(took < Duration::from_secs(1), "the first read was answered after {took:?}: {report:?}");
    assert!(last == expected[expected.len() - 4096..], "what is served at once");
    assert!(report.marker.number >= marker && report.dropped_writes == 0, "{report:?}");
    let behind = |pair: &Pair| {
        let at = pair.west.group(GROUP).positions;
        at.captured_seq - at.applied_seq
    };
    assert!(behind(&pair) > 1_000, "nearly all of it still waits: {:?}", pair.west.group(GROUP).positions);
    host.write(0, &[7; 4096]).expect("it takes writes");
    expected[..4096].fill(7);
    assert!(host.read_all().expect("read") == expected, "what is served before any of it is applied");
    drop(host);

    std::fs::remove_file(ballast).expect("make space");
    small.resize(256 * MIB);
    wait_until("the updater to catch up", Duration::from_secs(60), || {
        let behind = behind(&pair);
        check(behind == 0, || format!("{behind} writes behind"))
    });
    assert!(pair.backing(&pair.west)[0] == expected, "what is in the volume");
    pair.west.kill9();
    pair.west.start();
    assert!(pair.west.open("v").read_all().expect("read") == expected, "after a kill");
}
