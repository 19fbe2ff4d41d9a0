//! Comparing under load: no false alarm, every planted difference found and mended.

use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidemark_common::api::types::{PairState, VerifyReport};
use tidemark_tests::cluster::flip_byte;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};

use crate::ordeal::given;

fn verify(pair: &Pair, words: &[&str]) -> (i32, VerifyReport) {
    let outcome = pair.east.cli(&[&["verify", GROUP, "--to", "west", "--json"], words].concat());
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    (outcome.code, report)
}

fn copy_of(pair: &Pair, volume: &str) -> PathBuf {
    let status = pair.west.status().volumes.into_iter().find(|found| found.name == volume).expect("the copy");
    status.backing.into()
}

#[test]
fn a_busy_copy_is_the_same_and_nothing_is_called_different() {
    let pair = Pair::prefilled(&Setup::seeded(111));
    let load = pair.load(0);
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
        let file = std::fs::File::options().read(true).write(true).open(copy_of(&pair, volume)).expect("open the copy");
        let mut byte = [0];
        file.read_exact_at(&mut byte, offset).expect("read");
        // One bit, behind the service's back.
        file.write_all_at(&[byte[0] ^ 0x10], offset).expect("write");
    }
    let (code, report) = verify(&pair, &[]);
    assert_eq!((code, report.repaired), (1, false));
    let found: Vec<_> = report.differences.iter().map(|found| (found.volume.as_str(), found.offset)).collect();
    assert_eq!(found, places.map(|(volume, offset)| (volume, offset / 65_536 * 65_536)));
    assert!(report.differences.iter().all(|found| found.length == 65_536), "{report:?}");

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

    // And while hosts write.
    flip_byte(&copy_of(&pair, "b"), pair.profile(0).volume_bytes() - 4096);
    let load = pair.load(0);
    load.wait_acked(50);
    let (code, report) = verify(&pair, &["--repair"]);
    // Unless a host has written over it first.
    assert!(report.different_bytes == u64::from(code == 1) * 65_536, "{code}: {report:?}");
    load.stop();
    pair.wait_paired();
    pair.assert_copy_equals();
}

/// Both at length: no false alarm while hosts write, and a planted difference is found, unless a host has written over it.
#[test]
#[ignore = "long: make verifies MINUTES=60"]
fn verifies() {
    let length = Duration::from_secs(60 * given("MINUTES", 60));
    let (begun, pair) = (Instant::now(), Pair::prefilled(&Setup::seeded(given("SEED", 113))));
    let load = pair.load(0);
    let (mut comparisons, mut compared, mut skipped, mut planted, mut found) = (0, 0, 0, 0, 0);
    while begun.elapsed() < length {
        for _ in 0..20 {
            let (code, report) = verify(&pair, &[]);
            assert_eq!((code, report.different_bytes), (0, 0), "after {comparisons} comparisons: {report:?}");
            comparisons += 1;
            compared += report.compared_bytes;
            skipped += report.not_compared_bytes;
        }
        flip_byte(&copy_of(&pair, "b"), (planted * 7_919_317 + 4242) % pair.profile(0).volume_bytes());
        planted += 1;
        let (code, report) = verify(&pair, &["--repair"]);
        assert!(report.different_bytes == u64::from(code == 1) * 65_536, "{code}: {report:?}");
        found += u64::from(code == 1);
        pair.wait_paired();
        if planted.is_multiple_of(20) {
            println!("{comparisons} comparisons, {} MiB, {planted} planted, {found} found", compared >> 20);
        }
    }
    println!(
        "{} s, {} writes answered, {comparisons} comparisons of {} MiB ({} MiB too busy), {planted} planted and {found} found, no false alarm",
        begun.elapsed().as_secs(),
        load.acked(),
        compared >> 20,
        skipped >> 20
    );
    load.stop();
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
