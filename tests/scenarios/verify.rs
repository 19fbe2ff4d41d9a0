//! Comparing under load: no false alarm, every planted difference found and mended.

use std::collections::BTreeSet;
use std::ops::Range;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::api::types::{PairState, PairStatus, Status, VerifyDifference, VerifyReport};
use tidemark_tests::appliance::tidemark;
use tidemark_tests::cluster::{flip_bit, flip_byte};
use tidemark_tests::flood::Flood;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::stamp::BLOCK_BYTES;
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::{Load, Profile, prefill};

use crate::ordeal::given;

/// Under full load, on a machine that does much else.
const LONG: Duration = Duration::from_secs(240);

fn verify(pair: &Pair, words: &[&str]) -> (i32, VerifyReport) {
    let outcome = pair.east.cli_within(LONG, &[&["verify", GROUP, "--to", "west", "--json"], words].concat());
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    (outcome.code, report)
}

fn copy_of(pair: &Pair, volume: &str) -> PathBuf {
    let status = pair.west.status().volumes.into_iter().find(|found| found.name == volume).expect("the copy");
    status.backing.into()
}

/// Behind what hosts write, on each volume: nothing but a test changes it.
const QUIET_BYTES: u64 = 8 << 20;
const REGION: u64 = 65_536;

/// A pair whose volumes hold data everywhere, and that hosts write only the first part of.
fn with_a_quiet_part(seed: u64) -> Pair {
    let pair = Pair::unpaired(&Setup::seeded(seed).with_room(QUIET_BYTES));
    let bytes = pair.profile(0).volume_bytes() + QUIET_BYTES;
    prefill(&pair.history, &pair.target(&pair.east), bytes / BLOCK_BYTES as u64).expect("prefill");
    pair.create();
    pair.wait_paired();
    pair.settle();
    pair
}

/// As fast as they are answered, until the copy is this much behind: then they wait for it. A copy that is ever further behind reaches
/// no marker before the journals are full.
const BEHIND_BYTES: u64 = 64 << 20;

fn hosts(pair: &Pair) -> Flood {
    let hosts = Flood::start(&pair.target(&pair.east), pair.profile(0).volume_bytes(), 1);
    let directory = pair.east.directory().display().to_string();
    let hosts = hosts.waiting_while(move || {
        let shown = tidemark(&["status", "--json", "--dir", &directory]);
        let status: Option<Status> = serde_json::from_str(&shown.stdout).ok();
        let lags = status.into_iter().flat_map(|status| status.groups).flat_map(|group| group.pairs);
        lags.map(|pair| pair.lag_bytes).sum::<u64>() > BEHIND_BYTES
    });
    wait_until("hosts to write", COPY_LIMIT, || check(hosts.acked() > 2_000, || format!("{}", hosts.acked())));
    hosts
}

/// Where a difference lies: its volume and its region.
type Place = (String, u64);

/// Where no host writes.
fn quiet(pair: &Pair) -> Range<u64> {
    let begin = pair.profile(0).volume_bytes();
    begin..begin + QUIET_BYTES
}

/// One bit of each of some regions in this part of the volumes, behind the service's back.
fn plant(pair: &Pair, random: &mut StdRng, count: usize, part: Range<u64>) -> BTreeSet<Place> {
    let (volumes, mut planted) = (pair.volumes(), BTreeSet::new());
    while planted.len() < count {
        let volume = &volumes[random.random_range(0..volumes.len())];
        let offset = random.random_range(part.clone());
        if planted.insert((volume.clone(), offset / REGION * REGION)) {
            flip_bit(&copy_of(pair, volume), offset, random.random_range(0..8));
        }
    }
    planted
}

/// The regions of the differences that were found.
fn places(report: &VerifyReport) -> BTreeSet<Place> {
    let regions = |found: &VerifyDifference| (found.offset..found.offset + found.length).step_by(REGION as usize);
    let named = |found| regions(found).map(|offset| (found.volume.clone(), offset)).collect::<Vec<_>>();
    report.differences.iter().flat_map(named).collect()
}

/// What was planted is found, and nothing else; it is mended, and then nothing differs.
fn assert_found_and_mended(pair: &Pair, planted: &BTreeSet<Place>) {
    let (code, report) = verify(pair, &["--repair", "--wait", "60s"]);
    assert_eq!((code, &places(&report)), (1, planted), "{report:?}");
    assert!(report.repaired, "{report:?}");
    let mended = |pair: &PairStatus| pair.state != PairState::Resync && pair.differential_bytes == 0;
    pair.east.wait_pair(GROUP, "the repair", LONG, mended);
}

/// The quiet part is compared whatever hosts do elsewhere.
fn assert_no_difference(pair: &Pair) -> VerifyReport {
    let (code, report) = verify(pair, &["--wait", "60s"]);
    assert_eq!((code, report.different_bytes, report.differences.len()), (0, 0, 0), "{report:?}");
    let quiet = QUIET_BYTES * pair.volumes().len() as u64;
    assert!(report.compared_bytes >= quiet, "{report:?}");
    report
}

#[test]
fn a_busy_copy_is_the_same_and_nothing_is_called_different() {
    let pair = Pair::prefilled(&Setup::seeded(111));
    let profile = Profile { pause: Duration::ZERO, ..pair.profile(0) };
    let load = Load::start(&pair.history, &pair.target(&pair.east), &profile);
    load.wait_acked(100);
    for _ in 0..4 {
        let (code, report) = verify(&pair, &[]);
        assert_eq!((code, report.different_bytes, report.differences.len()), (0, 0, 0), "{report:?}");
        assert!(report.compared_bytes > 0, "{report:?}");
    }
    load.wait_acked(100);
    load.stop();
    pair.assert_copy_equals();
}

#[test]
fn every_planted_difference_is_found_located_and_mended_alone() {
    let pair = Pair::prefilled(&Setup::seeded(112));
    pair.settle();
    let places = [("a", 0), ("b", 1_000_003), ("c", pair.profile(0).volume_bytes() - 1)];
    for (volume, offset) in places {
        flip_bit(&copy_of(&pair, volume), offset, 4);
    }
    let (code, report) = verify(&pair, &[]);
    assert_eq!((code, report.repaired), (1, false));
    let found: Vec<_> = report.differences.iter().map(|found| (found.volume.as_str(), found.offset)).collect();
    assert_eq!(found, places.map(|(volume, offset)| (volume, offset / REGION * REGION)));
    assert!(report.differences.iter().all(|found| found.length == REGION), "{report:?}");

    let sent = pair.relay.forward().bytes();
    let (code, report) = verify(&pair, &["--repair"]);
    assert_eq!((code, report.repaired), (1, true), "{report:?}");
    pair.east.wait_pair(GROUP, "the repair", COPY_LIMIT, |pair| {
        pair.state == PairState::Paired && pair.differential_bytes == 0
    });
    let (code, report) = verify(&pair, &[]);
    assert_eq!((code, report.different_bytes), (0, 0), "{report:?}");
    pair.assert_copy_equals();
    let sent = pair.relay.forward().bytes() - sent;
    assert!(sent < 4 << 20, "{sent} bytes sent to mend three regions");
}

/// Where no host writes, no bit may go unnoticed, however fast hosts write elsewhere.
#[test]
fn every_planted_bit_is_found_and_mended_under_full_load() {
    let pair = with_a_quiet_part(115);
    let (hosts, mut random) = (hosts(&pair), StdRng::seed_from_u64(115));
    assert_no_difference(&pair);
    let planted = plant(&pair, &mut random, 6, quiet(&pair));
    assert_found_and_mended(&pair, &planted);
    assert_no_difference(&pair);
    assert!(!hosts.ended_early());
    hosts.stop();
    pair.wait_paired();
    pair.assert_copy_equals();
}

/// Where hosts write, too: unless one has written over it, it is found, or is among what is said to be not compared.
#[test]
fn a_planted_bit_where_hosts_write_now_and_then_is_found_or_said_to_be_not_compared() {
    let pair = Pair::prefilled(&Setup::seeded(116));
    pair.settle();
    let profile = Profile { pause: Duration::from_millis(20), ..pair.profile(0) };
    let load = Load::start(&pair.history, &pair.target(&pair.east), &profile);
    load.wait_acked(50);
    let planted = plant(&pair, &mut StdRng::seed_from_u64(116), 24, 0..profile.volume_bytes());
    let (_, report) = verify(&pair, &["--wait", "60s"]);
    load.stop();
    let found = places(&report);
    assert!(!found.is_empty() && found.is_subset(&planted), "{planted:?}: {report:?}");
    pair.settle();
    let (_, at_rest) = verify(&pair, &["--wait", "60s"]);
    let left = places(&at_rest);
    assert!(at_rest.not_compared_bytes == 0 && left.is_subset(&planted), "{planted:?}: {at_rest:?}");
    let missed = REGION * left.difference(&found).count() as u64;
    assert!(missed <= report.not_compared_bytes, "{missed} bytes: {report:?}, and then {at_rest:?}");
    assert_found_and_mended(&pair, &left);
    pair.assert_same();
}

/// Both at length: no false alarm under full load, and every planted bit is found where it was planted.
#[test]
#[ignore = "long: make verifies MINUTES=60"]
fn verifies() {
    let length = Duration::from_secs(60 * given("MINUTES", 60));
    let seed = given("SEED", 113);
    let (begun, pair, mut random) = (Instant::now(), with_a_quiet_part(seed), StdRng::seed_from_u64(seed));
    let hosts = hosts(&pair);
    let (mut comparisons, mut compared, mut skipped, mut found, mut rounds) = (0, 0, 0, 0, 0_u64);
    while begun.elapsed() < length {
        for _ in 0..10 {
            let report = assert_no_difference(&pair);
            comparisons += 1;
            compared += report.compared_bytes;
            skipped += report.not_compared_bytes;
        }
        let planted = plant(&pair, &mut random, 1 + (rounds % 8) as usize, quiet(&pair));
        assert_found_and_mended(&pair, &planted);
        comparisons += 1;
        found += planted.len();
        rounds += 1;
        assert!(!hosts.ended_early(), "a host met an error");
        if rounds.is_multiple_of(2) {
            println!("{comparisons} comparisons, {} MiB, {found} planted and found", compared >> 20);
        }
    }
    println!(
        "{} s, {} writes of {} MiB answered, {comparisons} comparisons of {} MiB ({} MiB too busy), {found} bits planted and found, no \
         false alarm",
        begun.elapsed().as_secs(),
        hosts.acked(),
        hosts.bytes() >> 20,
        compared >> 20,
        skipped >> 20
    );
    hosts.stop();
    pair.wait_paired();
    pair.assert_copy_equals();
}

#[test]
fn what_cannot_be_compared_is_said() {
    let pair = Pair::unpaired(&Setup::seeded(113));
    assert!(pair.east.refuses(&["verify", GROUP, "--to", "west"]).contains("not paired"));
    pair.create();
    pair.wait_paired();
    assert!(pair.west.refuses(&["verify", GROUP, "--to", "east"]).contains("secondary here"));
    pair.west.freeze();
    let why = pair.east.refuses(&["verify", GROUP, "--to", "west"]);
    pair.west.thaw();
    assert!(why.contains("west"), "{why}");
    pair.wait_paired();
    flip_byte(&copy_of(&pair, "a"), 5);
    assert_eq!(verify(&pair, &[]).0, 1);
}

/// In the background, at a rate: the copy stands for a slice at a time, progress is shown, and whoever goes away ends it.
#[test]
fn a_slow_comparison_shows_its_progress_lets_the_copy_follow_and_can_be_broken_off() {
    const LIMIT: Duration = Duration::from_secs(30);
    let pair = Pair::prefilled(&Setup::seeded(114));
    pair.east.ok(&["volume", "create", "n", "--size", "96MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
    pair.wait_paired();
    let marker = pair.settle();
    let load = pair.load(0);
    let (code, report) = std::thread::scope(|scope| {
        let comparing = scope.spawn(|| verify(&pair, &["--rate", "24MiB"]));
        let shown = pair.east.wait_pair(GROUP, "its progress", LIMIT, |pair| {
            pair.verify.is_some_and(|verify| verify.done_bytes > 0 && verify.seconds_left.is_some())
        });
        let total = shown.verify.expect("progress").total_bytes;
        assert!(total > 96 << 20, "{shown:?}");
        pair.east.wait_pair(GROUP, "the copy to go on meanwhile", LIMIT, |pair| {
            pair.verify.is_some() && pair.applied_marker > marker + 3
        });
        comparing.join().expect("the comparison")
    });
    assert_eq!((code, report.different_bytes), (0, 0), "{report:?}");
    assert!(report.took_seconds >= 4.0, "118 MiB at 24 MiB/s: {report:?}");
    assert_eq!(pair.east.pair(GROUP).verify, None);

    let directory = pair.east.directory().display().to_string();
    let mut command = std::process::Command::new(tidemark_tests::appliance::binary());
    command.args(["verify", GROUP, "--to", "west", "--rate", "16MiB", "--dir", &directory]);
    let mut child = command.stderr(std::process::Stdio::null()).spawn().expect("run tidemark");
    pair.east.wait_pair(GROUP, "it to begin", LIMIT, |pair| pair.verify.is_some());
    child.kill().expect("kill it");
    child.wait().expect("wait for it");
    pair.east.wait_pair(GROUP, "it to end", LIMIT, |pair| pair.verify.is_none());
    load.stop();
    pair.assert_copy_equals();
}
