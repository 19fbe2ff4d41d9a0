//! A pair that does not go on says why, on both sides, and goes on by itself when that is mended.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_common::api::types::{PairState, PairStatus};
use tidemark_tests::impairment::Weather;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::get;
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::{check, wait_until};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(90);

/// Not to be compressed away.
fn noise(bytes: u64, seed: u64) -> Vec<u8> {
    let mixed = |at: u64| (at + seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29).to_le_bytes();
    (0..bytes / 8).flat_map(mixed).collect()
}

#[test]
fn a_suspended_pair_is_told_to_the_copy_with_what_goes_on() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 225));
    pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
    pair.west.wait_pair(GROUP, "the reason", COPY_LIMIT, |pair| {
        pair.reason
            .as_ref()
            .is_some_and(|reason| reason.contains("suspended on 'east': `tidemark pair resume g --to west`"))
    });
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west"]);
    pair.assert_same();
}

/// What it was told before a restart it does not know any more.
#[test]
fn a_copy_that_is_restarted_while_its_pair_is_suspended_is_told_again() {
    let mut pair = Pair::paired(&Setup::one_volume("v", MIB, 235));
    pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
    pair.west.kill9();
    pair.west.start();
    pair.west.wait_pair(GROUP, "the reason", COPY_LIMIT, |pair| {
        let says = |reason: &String| reason.contains("suspended on 'east': `tidemark pair resume g --to west`");
        pair.suspended_there && pair.reason.as_ref().is_some_and(says)
    });
    let shown = pair.west.ok(&["status"]);
    assert!(shown.contains("suspended") && !shown.contains("link down"), "{shown}");
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west"]);
    pair.assert_same();
    assert!(!pair.west.pair(GROUP).suspended_there, "that is over");
}

/// The disk of one of the copy's folders is full, and then has room: what the primary says of it, as soon as its reason has these words, and
/// the pair when the copy has followed.
fn with_a_full_disk(setup: &Setup, (folder, bytes): (&str, u64), words: &str, after: impl FnOnce(PairStatus, &Pair)) {
    let mut pair = Pair::unpaired(setup);
    pair.west.stop();
    let small = SmallDisk::mount(&pair.west.directory().join(folder), bytes);
    pair.west.start();
    pair.create();
    pair.wait_paired();
    let ballast = small.fill();
    pair.east.open("v").write_all(0, &noise(32 * MIB, 1)).expect("hosts do not notice");
    let said = pair.east.wait_pair(GROUP, "the primary to say why", COPY_LIMIT, |pair| {
        pair.stands && pair.reason.as_ref().is_some_and(|reason| reason.contains(words))
    });
    let reason = said.reason.as_deref().unwrap_or_default();
    for words in ["'west' says: ", "No space left", "Make room on"] {
        assert!(reason.contains(words), "{words}: {reason}");
    }
    let shown = pair.east.ok(&["status"]);
    assert!(shown.contains("1 needs attention"), "{shown}");
    let problem = pair.west.group(GROUP).problem.expect("the copy says it, too");
    assert!(problem.contains("No space left"), "{problem}");
    // One that takes nothing any more is not paired either.
    if folder == "volumes" {
        let refused = pair.east.refuses(&["switchover", GROUP, "--to", "west"]);
        assert!(refused.contains("No space left") && refused.contains("Nothing was changed"), "{refused}");
    }
    std::fs::remove_file(ballast).expect("make space");
    small.resize(128 * MIB);
    pair.assert_same();
    after(said, &pair);
}

#[test]
fn a_copy_whose_journals_disk_is_full_says_so_on_both_sides_and_goes_on_by_itself() {
    let setup = Setup::one_volume("v", 64 * MIB, 226).journals("64MiB", "64MiB");
    with_a_full_disk(&setup, ("groups", 24 * MIB), "No space left", |said, pair| {
        assert_ne!(said.state, PairState::Paired);
        assert!(!pair.east.pair(GROUP).stands && pair.west.group(GROUP).problem.is_none());
    });
}

/// Everything arrives and is safe, and the copy's volumes cannot be written: nobody calls that well.
#[test]
fn a_copy_whose_volumes_cannot_be_written_says_so_on_both_sides_and_goes_on_by_itself() {
    let setup = Setup::one_volume("v", 64 * MIB, 230);
    with_a_full_disk(&setup, ("volumes", 16 * MIB), "'west' says", |_, pair| {
        pair.east.wait_pair(GROUP, "the problem to be over", COPY_LIMIT, |pair| !pair.stands && pair.reason.is_none());
    });
}

/// A copy whose disk under a folder is full: under its journal, or under its volumes, so that what comes stays in its journal.
fn with_full(folder: &str, bytes: u64, seed: u64, journal: &'static str) -> (Pair, SmallDisk, PathBuf) {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", 96 * MIB, seed).journals("512MiB", journal));
    pair.west.stop();
    let small = SmallDisk::mount(&pair.west.directory().join(folder), bytes);
    pair.west.start();
    pair.create();
    pair.wait_paired();
    let ballast = small.fill();
    (pair, small, ballast)
}

fn mend(pair: &Pair, small: &SmallDisk, ballast: &Path) {
    std::fs::remove_file(ballast).expect("make space");
    small.resize(256 * MIB);
    pair.assert_same();
    assert!(pair.west.group(GROUP).problem.is_none(), "{:?}", pair.west.group(GROUP).problem);
}

/// Its volumes take a little more now and then, and the journal a little of what waits: it is full all the time.
#[test]
fn a_copy_whose_journal_stays_full_says_so_once() {
    let (pair, small, ballast) = with_full("volumes", 16 * MIB, 231, "32MiB");
    pair.east.open("v").write_all(0, &noise(96 * MIB, 4)).expect("hosts do not notice");
    let journaled = || pair.west.group(GROUP).positions.journaled_seq;
    let said = || pair.west.log_text().lines().filter(|line| line.contains("the journal is full")).count();
    wait_until("the journal to be full", LIMIT, || check(said() > 0, || format!("{:?}", pair.west.group(GROUP))));
    for step in 1..=4 {
        let before = journaled();
        small.resize((16 + 10 * step) * MIB);
        wait_until("more to come, and the journal to be full of it", LIMIT, || {
            let group = pair.west.group(GROUP);
            let is_full = group.journal.bytes + 8 * MIB > group.journal.capacity_bytes;
            check(is_full && group.positions.journaled_seq > before, || format!("{group:?}"))
        });
    }
    assert_eq!(said(), 1, "{}", pair.west.log_text());
    wait_until("the copy to say what there is to do", LIMIT, || {
        let problem = pair.west.group(GROUP).problem.unwrap_or_default();
        let words = ["goes on by itself", "volumes' disks", "tidemark leases", "journal_bytes"];
        check(words.iter().all(|word| problem.contains(word)), || problem)
    });
    mend(&pair, &small, &ballast);
}

#[test]
fn a_copy_forecasts_when_its_journal_is_full() {
    let (pair, small, ballast) = with_full("volumes", 16 * MIB, 232, "256MiB");
    let metric = || {
        let page = get(&pair.west.status().addresses.metrics, "/metrics");
        let line = page.lines().find(|line| line.starts_with("tidemark_journal_full_in_seconds{")).map(str::to_owned);
        line.and_then(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).expect("the metric")
    };
    assert!(metric().is_infinite() && pair.west.group(GROUP).journal.full_in_seconds.is_none(), "it does not fill");
    pair.relay.set(Weather { bytes_per_second: Some(6_000_000), ..Weather::default() });
    pair.east.open("v").write_all(0, &noise(96 * MIB, 5)).expect("write");
    wait_until("a forecast", LIMIT, || {
        let (seconds, metric) = (pair.west.group(GROUP).journal.full_in_seconds, metric());
        let told = seconds.is_some_and(|seconds| (1.0..600.0).contains(&seconds)) && metric.is_finite();
        check(told, || format!("{seconds:?} {metric}"))
    });
    pair.relay.set(Weather::default());
    mend(&pair, &small, &ballast);
    wait_until("the forecast to be over", LIMIT, || check(metric().is_infinite(), || metric().to_string()));
}

#[test]
fn both_sides_of_a_copy_show_how_fast_it_is() {
    let pair = Pair::unpaired(&Setup::one_volume("v", 32 * MIB, 227));
    pair.east.open("v").write_all(0, &noise(32 * MIB, 2)).expect("write");
    pair.relay.set(Weather { bytes_per_second: Some(4_000_000), ..Weather::default() });
    pair.create();
    for side in [&pair.east, &pair.west] {
        side.wait_pair(GROUP, "a rate", COPY_LIMIT, |pair| {
            pair.copy.is_some_and(|copy| copy.bytes_per_second > 100_000.0 && copy.seconds_left.is_some())
        });
    }
    pair.relay.set(Weather::default());
    pair.assert_same();
}

#[test]
fn a_comparison_with_a_side_that_is_not_up_ends_at_once_and_says_why() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 228));
    pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
    let said = pair.east.refuses(&["verify", GROUP, "--to", "west"]);
    assert!(said.contains("is suspended") && said.contains("tidemark pair resume g --to west"), "{said}");
    let waited = pair.east.cli(&["verify", GROUP, "--to", "west", "--wait", "50ms"]);
    assert_eq!(waited.code, 4, "{waited:?}");
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west"]);
    pair.east.ok(&["verify", GROUP, "--to", "west", "--wait", "30s"]);
    let said = pair.east.refuses(&["verify", GROUP, "--to", "west", "--rate", "0"]);
    assert!(said.contains("never ends"), "{said}");
}

#[test]
fn a_comparison_whose_pair_goes_down_is_broken_off_with_the_pairs_reason() {
    let pair = Pair::unpaired(&Setup::one_volume("v", 64 * MIB, 229));
    pair.east.open("v").write_all(0, &noise(64 * MIB, 3)).expect("write");
    pair.create();
    pair.wait_paired();
    let said = std::thread::scope(|scope| {
        // Slow enough to be still at it.
        let verify = scope.spawn(|| pair.east.refuses(&["verify", GROUP, "--to", "west", "--rate", "1MiB"]));
        wait_until("the comparison to begin", COPY_LIMIT, || {
            check(pair.east.pair(GROUP).verify.is_some(), || "not yet".into())
        });
        pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
        verify.join().expect("it ends")
    });
    assert!(said.contains("broken off") && said.contains("is suspended"), "{said}");
}
