//! A copy that is staged beside the image it is to replace, and a bit of it that flips (invariants 4 and 9): nothing of it is applied or
//! served, its place is named and counted, and the copy is made again by itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_common::api::types::{PairState, VerifyReport};
use tidemark_tests::cluster::flip_bit;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::prometheus::figures;
use tidemark_tests::wait::{check, wait_until};

use crate::damage::assert_names;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const SIZE: u64 = 64 * MIB;
/// In the middle of a segment, among the data of its regions: a start leaves that to whoever reads it.
const IN_DATA: u64 = 4 * MIB;
/// Inside the header of a segment's first frame: a start reads all of them.
const IN_FIRST_HEADER: u64 = 4096 + 32 + 64;

fn segments(pair: &Pair) -> Vec<PathBuf> {
    pair.west.files(|name| name.ends_with(".segment"))
}

fn damaged_records(pair: &Pair) -> f64 {
    figures(&pair.west.status().addresses.metrics, "tidemark_journal_damaged_records_total").iter().sum()
}

/// A resync so slow that its end is far: the image it is to replace, and a segment of what is staged, of which nothing is in memory.
fn staged(seed: u64) -> (Pair, Vec<u8>, PathBuf) {
    let mut pair = Pair::paired(&Setup::one_volume("v", SIZE, seed).journals("64MiB", "512MiB"));
    write_noise(&pair.east, "v", 0, SIZE, 1);
    pair.settle();
    pair.relay.cut();
    for round in 0..2 {
        write_noise(&pair.east, "v", 0, SIZE, 2 + round);
    }
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    let before = segments(&pair);
    pair.relay.set(Weather { bytes_per_second: Some(5_000_000), ..Weather::default() });
    let staged = wait_until("some segments of the copy", LIMIT, || {
        let newer: Vec<_> = segments(&pair).into_iter().filter(|segment| !before.contains(segment)).collect();
        // The one behind it has begun: it is full.
        let full = newer.get(1).filter(|_| newer.len() > 2).cloned();
        full.ok_or_else(|| format!("{newer:?}: {:?}", pair.west.pair(GROUP)))
    });
    assert_eq!(pair.west.pair(GROUP).state, PairState::Resync);
    pair.west.kill9();
    (pair, noise(1, SIZE), staged)
}

/// What hosts wrote last is on both sides, and nobody has done anything for it.
fn assert_mended(pair: &Pair, damaged: &Path) {
    wait_until("the image to be given up", LIMIT, || {
        check(pair.west.log_text().contains("its image is given up"), || format!("{:?}", pair.west.try_group(GROUP)))
    });
    assert_names(&pair.west.log_text(), damaged);
    pair.assert_same();
    assert!(pair.backing(&pair.west)[0] == noise(3, SIZE), "what hosts wrote last");
    let report: VerifyReport = pair.east.json(&["verify", GROUP, "--to", "west"]);
    assert_eq!(report.different_bytes, 0, "{report:?}");
    assert!(damaged_records(pair) >= 1.0, "it counts, also when its copy was made again at once");
}

/// Sound when it came and when the service started: found when it is to be applied.
#[test]
fn a_staged_region_that_is_damaged_is_not_applied_and_its_copy_is_made_again() {
    let (mut pair, before, damaged) = staged(274);
    pair.west.start();
    pair.west.wait_pair(GROUP, "the copy to go on", LIMIT, |pair| pair.connected);
    flip_bit(&damaged, IN_DATA, 3);
    assert!(pair.backing(&pair.west)[0] == before, "the old image stays");
    pair.relay.set(Weather::default());
    assert_mended(&pair, &damaged);
}

/// Found at a start: nothing is served or changed until the primary says what follows.
#[test]
fn a_staged_region_that_is_damaged_is_found_at_a_start_and_its_copy_is_made_again() {
    let (mut pair, before, damaged) = staged(275);
    pair.relay.cut();
    flip_bit(&damaged, IN_FIRST_HEADER, 3);
    let reason = pair.west.start_damaged();
    assert_names(&reason, &damaged);
    let refused = pair.west.refuses(&["failover", GROUP, "--force"]);
    assert_names(&refused, &damaged);
    assert!(pair.west.try_open("v").is_err(), "nothing is served");
    assert!(pair.backing(&pair.west)[0] == before, "the volume is as it was");
    pair.relay.set(Weather::default());
    assert_mended(&pair, &damaged);
}
