//! An old primary with writes of its own returns, and its new primary is lost before the copy is complete: it goes on with exactly
//! what it was.

use std::time::Duration;

use tidemark_common::api::types::{FailoverReport, LostTail, PairState, PairStatus, RejoinReport, Role};
use tidemark_tests::history::Write;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::write_noise;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
/// So slow that no copy of a test ends.
fn slow() -> Weather {
    Weather { bytes_per_second: Some(1_500_000), ..Weather::default() }
}

/// East was primary, had writes that west never got, and returns as the copy of west, which does not reach it. All that east's hosts wrote,
/// and what east's volumes hold.
fn returned(seed: u64) -> (Pair, Vec<Write>, Vec<Vec<u8>>) {
    let mut pair = Pair::prefilled(&Setup::seeded(seed));
    let load = pair.load(0);
    load.wait_acked(200);
    pair.relay.cut();
    load.wait_acked(300);
    pair.east.kill9();
    drop(load.join_broken());
    let _ = pair.failover();
    let writes = pair.history.writes();
    let anything = Bounds { holds_acked_before: None, nothing_sent_after: None };
    let verdict = assert_legal("the image taken over", &writes, &pair.image(&pair.west), anything);
    pair.history.settle(&verdict);
    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(400);
    load.stop();
    pair.relay.heal();
    pair.way_back.cut();
    pair.east.start();
    pair.east.wait_fenced(GROUP);
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert!(returned.lost_writes > 0 && !returned.whole, "{returned:?}");
    let held = pair.backing(&pair.east);
    (pair, writes, held)
}

/// The same over a line that is cut in the middle of the copy.
fn returning(seed: u64) -> (Pair, Vec<Write>, Vec<Vec<u8>>) {
    let (pair, writes, held) = returned(seed);
    copy_a_part(&pair);
    (pair, writes, held)
}

fn copy_a_part(pair: &Pair) {
    pair.way_back.set(slow());
    pair.east.wait_pair(GROUP, "the copy to be under way", LIMIT, |pair| {
        pair.copy.as_ref().is_some_and(|copy| copy.done_bytes > 0) && pair.state == PairState::Resync
    });
    pair.way_back.cut();
}

/// East takes over as soon as west has not been heard for long enough.
fn failover_of_east(pair: &Pair) -> FailoverReport {
    let mut report = None;
    wait_until("the failover", LIMIT, || {
        let outcome = pair.east.cli(&["failover", GROUP, "--json"]);
        report = (outcome.code == 0).then(|| serde_json::from_str(&outcome.stdout).expect("a report"));
        check(report.is_some(), || outcome.stderr)
    });
    report.expect("a report")
}

#[test]
fn a_failover_in_the_middle_of_a_failback_serves_exactly_what_the_old_primary_was() {
    let (mut pair, writes, held) = returning(331);
    // Restarts find it as it was.
    pair.east.kill9();
    pair.east.start();
    let reason = pair.east.pair(GROUP).reason.unwrap_or_default();
    assert!(reason.contains("a failover here goes on with what this side was"), "{reason}");
    assert_eq!(pair.backing(&pair.east), held, "nothing of the copy is applied");

    pair.west.kill9();
    let report = failover_of_east(&pair);
    assert!(report.went_back && report.generation == 3, "{report:?}");
    assert_legal("what east was", &writes, &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
    pair.east.kill9();
    pair.east.start();
    assert_eq!((pair.east.group(GROUP).role, pair.east.group(GROUP).generation), (Role::Primary, 3));
    assert_legal("after a kill", &writes, &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
    assert!(pair.east.json::<Vec<LostTail>>(&["lost", "list", GROUP]).is_empty(), "it is lost no more");

    // The new primary comes back to find that it was left.
    pair.way_back.set(Weather::default());
    pair.west.start();
    pair.west.wait_fenced(GROUP);
    let returned: RejoinReport = pair.west.json(&["rejoin", GROUP]);
    assert!(returned.lost_writes > 0 && returned.kept.is_some() && !returned.whole, "{returned:?}");
    pair.wait_paired();
    let marker = pair.east.ok(&["cut", GROUP]);
    pair.east.ok(&["wait", GROUP, "--to", "west", "--marker", marker.trim(), "--timeout", "30s"]);
    assert_eq!(pair.backing(&pair.west), pair.backing(&pair.east));
}

/// Stopped in good order before the copy has begun: the newest marker it knows then is one that both sides have, and no image of what its
/// volumes hold (invariant 4).
#[test]
fn an_old_primary_that_is_stopped_before_its_copy_begins_stays_what_it_was() {
    let (mut pair, writes, held) = returned(336);
    pair.east.restart();
    let east = pair.east.pair(GROUP);
    assert_eq!((east.permitted_marker, east.rpo_seconds), (0, None), "{east:?}");
    assert!(east.reason.unwrap_or_default().contains("a failover here goes on with what this side was"));
    copy_a_part(&pair);
    assert_eq!(pair.backing(&pair.east), held, "nothing of the copy is applied");
    pair.west.kill9();
    let report = failover_of_east(&pair);
    assert!(report.went_back && report.generation == 3, "{report:?}");
    assert_legal("what east was", &writes, &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
}

#[test]
fn a_failback_that_is_not_interrupted_ends_with_what_the_new_primary_has() {
    let (mut pair, _, held) = returning(332);
    pair.east.restart();
    assert_eq!(pair.backing(&pair.east), held, "nothing of the copy is applied");
    pair.way_back.set(Weather::default());
    pair.wait_paired();
    let marker = pair.west.ok(&["cut", GROUP]);
    pair.west.ok(&["wait", GROUP, "--to", "east", "--marker", marker.trim(), "--timeout", "30s"]);
    pair.west.kill9();
    let report = failover_of_east(&pair);
    assert!(!report.went_back, "{report:?}");
    assert_legal("what west had", &pair.history.writes(), &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
}

#[test]
fn what_an_old_primary_was_goes_with_its_tail_when_that_is_discarded() {
    let (mut pair, ..) = returning(335);
    let [tail] = &pair.east.json::<Vec<LostTail>>(&["lost", "list", GROUP])[..] else { panic!("one tail") };
    pair.east.ok(&["lost", "discard", GROUP, &tail.name]);
    pair.east.restart();
    assert_eq!(pair.east.pair(GROUP).state, PairState::InitialCopy);
    assert!(pair.east.refuses(&["failover", GROUP, "--force"]).contains("no usable copy"));
    pair.way_back.set(Weather::default());
    pair.wait_paired();
    let marker = pair.west.ok(&["cut", GROUP]);
    pair.west.ok(&["wait", GROUP, "--to", "east", "--marker", marker.trim(), "--timeout", "30s"]);
    assert_eq!(pair.backing(&pair.west), pair.backing(&pair.east));
}

/// East, whose journal has 64 MiB, lacks so much of what west has; and what east's volumes hold.
fn returning_to_much(seed: u64, differs: u64) -> (Pair, Vec<Vec<u8>>) {
    let setup = Setup::one_volume("v", 96 * MIB, seed).journals("64MiB", "512MiB");
    let mut pair = Pair::paired(&setup);
    pair.relay.cut();
    write_noise(&pair.east, "v", 0, MIB, 1);
    pair.east.kill9();
    let _ = pair.failover();
    write_noise(&pair.west, "v", 0, differs, 2);
    pair.relay.heal();
    pair.way_back.set(Weather { bytes_per_second: Some(4_000_000), ..Weather::default() });
    pair.east.start();
    pair.east.wait_fenced(GROUP);
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert!(returned.lost_writes > 0 && !returned.whole, "{returned:?}");
    let held = pair.backing(&pair.east);
    (pair, held)
}

/// Both sides say why it stands and what there is to do, and east is what it was.
fn assert_asks(pair: &Pair, why: &str, held: &[Vec<u8>]) {
    let asks = |pair: &PairStatus| {
        let says = |what: &str| pair.reason.as_deref().is_some_and(|reason| reason.contains(what));
        pair.stands && says(why) && says("raise journal_bytes") && says("--in-place")
    };
    pair.west.wait_pair(GROUP, "the reason", COPY_LIMIT, asks);
    pair.east.wait_pair(GROUP, "the copy to say the same", LIMIT, asks);
    assert!(pair.backing(&pair.east) == held, "nothing of the copy is applied");
}

#[test]
fn a_failback_larger_than_the_journal_asks_and_a_failover_serves_what_the_old_primary_was() {
    let (mut pair, held) = returning_to_much(333, 80 * MIB);
    let why = "MiB differ, and the journal on 'east' has 48 MiB for them";
    assert_asks(&pair, why, &held);
    pair.east.restart();
    assert_asks(&pair, why, &held);
    let report: FailoverReport = pair.east.json(&["failover", GROUP, "--force"]);
    assert!(report.went_back && report.generation == 3, "{report:?}");
    let served: Vec<_> = pair.open(&pair.east).iter_mut().map(|export| export.read_all().expect("read")).collect();
    assert!(served == held, "what east was");
}

#[test]
fn a_failback_that_hosts_outgrow_asks_and_takes_the_place_of_what_was_when_the_operator_says_so() {
    let (mut pair, held) = returning_to_much(334, 46 * MIB);
    pair.east.wait_pair(GROUP, "the copy to be under way", LIMIT, |pair| {
        pair.copy.as_ref().is_some_and(|copy| copy.done_bytes > 0) && pair.state == PairState::Resync
    });
    write_noise(&pair.west, "v", 46 * MIB, 50 * MIB, 3);
    assert_asks(&pair, "hosts wrote more meanwhile", &held);
    pair.west.ok(&["pair", "resume", GROUP, "--to", "east", "--in-place"]);
    pair.east.wait_pair(GROUP, "the copy over it", COPY_LIMIT, |pair| pair.state == PairState::InitialCopy);
    pair.east.kill9();
    pair.east.start();
    let refused = pair.east.refuses(&["failover", GROUP, "--force"]);
    assert!(refused.contains("no usable copy"), "{refused}");
    pair.way_back.set(Weather::default());
    pair.wait_paired();
    let marker = pair.west.ok(&["cut", GROUP]);
    pair.west.ok(&["wait", GROUP, "--to", "east", "--marker", marker.trim(), "--timeout", "30s"]);
    assert_eq!(pair.backing(&pair.west), pair.backing(&pair.east));
}
