//! A primary whose journal is damaged while it runs, where nothing of it is in memory any more (invariant 9): named by place, never
//! applied, shipped or served; hosts keep their data, and the pair mends itself where that can be.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_common::api::types::{PairState, RejoinReport};
use tidemark_tests::cluster::flip_byte;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::get;
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::{check, wait_until};

use crate::damage::assert_names;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// More than memory keeps of the newest frames and a connection that is not lost yet has read, together.
const BYTES: u64 = 192 * MIB;
/// Inside the header of a segment's first frame: nobody can tell what it wrote.
const IN_FIRST_HEADER: u64 = 4096 + 32 + 64;
/// Among the data of some frame: what it wrote is known, and not what.
const IN_DATA: u64 = 4 * MIB;

fn segments(pair: &Pair) -> Vec<PathBuf> {
    let mut segments = pair.east.files(|name| name.ends_with(".segment"));
    segments.sort();
    segments
}

fn damaged_records(pair: &Pair) -> f64 {
    let page = get(&pair.east.status().addresses.metrics, "/metrics");
    let lines = page.lines().filter(|line| line.starts_with("tidemark_journal_damaged_records_total{"));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
}

fn wait_written_back(pair: &Pair) {
    wait_until("all to be in the volumes", LIMIT, || {
        let at = pair.east.group(GROUP).positions;
        check(at.applied_seq == at.captured_seq, || format!("{at:?}"))
    });
}

/// The link is cut, and so much is written that the first of it is in no memory any more. A segment of it, by its number.
fn behind(setup: &Setup, bytes: u64, number: usize) -> (Pair, PathBuf) {
    let pair = Pair::paired(setup);
    pair.settle();
    let before = segments(&pair);
    pair.relay.cut();
    // What a connection has read already is in its memory.
    pair.east.wait_pair(GROUP, "the connection to be lost", LIMIT, |pair| !pair.connected && pair.reason.is_some());
    write_noise(&pair.east, "v", 0, bytes, 1);
    wait_written_back(&pair);
    let newer = segments(&pair).into_iter().filter(|segment| !before.contains(segment));
    let segment = newer.into_iter().nth(number).expect("segments of what was written");
    (pair, segment)
}

/// The pair becomes equal by itself, and both hold what hosts wrote.
fn assert_mended(pair: &Pair, damaged: &Path, seed: u64) {
    pair.wait_paired();
    assert_names(&pair.east.log_text(), damaged);
    assert!(damaged_records(pair) >= 1.0, "counted");
    write_noise(&pair.east, "v", 0, MIB, 7);
    pair.assert_same();
    let held = pair.east.open("v").read_all().expect("read");
    let bytes = usize::try_from(MIB).expect("small");
    assert!(held[..bytes] == noise(7, MIB)[..], "what was written last");
    assert!(held[bytes..] == noise(seed, BYTES)[bytes..], "what was written before");
}

fn a_pair_behind_a_damaged_record_is_mended(seed: u64, place: u64) {
    // Behind what a connection that is not lost yet has read, and before what is still in memory.
    let (pair, damaged) = behind(&Setup::one_volume("v", BYTES, seed).journals("512MiB", "512MiB"), BYTES, 12);
    flip_byte(&damaged, place);
    pair.relay.heal();
    wait_until("the damage to be found", LIMIT, || {
        check(damaged_records(&pair) >= 1.0, || format!("{:?}", pair.east.pair(GROUP)))
    });
    assert_mended(&pair, &damaged, 1);
}

/// What the record wrote is still known: just that, and what came after it, is copied from the volumes.
#[test]
fn a_pair_behind_a_record_whose_data_is_damaged_is_mended_from_the_volumes() {
    a_pair_behind_a_damaged_record_is_mended(261, IN_DATA);
}

/// Nobody knows what it wrote: everything is copied from the volumes.
#[test]
fn a_pair_behind_a_record_whose_header_is_damaged_is_mended_from_the_volumes() {
    a_pair_behind_a_damaged_record_is_mended(262, IN_FIRST_HEADER);
}

/// The journal is full and cannot be read for the pair that needs it: hosts go on all the same.
#[test]
fn a_damaged_record_does_not_keep_a_full_journal_from_making_room() {
    let (pair, damaged) = behind(&Setup::one_volume("v", BYTES, 263).journals("96MiB", "256MiB"), 64 * MIB, 1);
    flip_byte(&damaged, IN_FIRST_HEADER);
    write_noise(&pair.east, "v", 0, BYTES, 2);
    pair.east.wait_pair(GROUP, "the fall back", LIMIT, |pair| pair.state == PairState::Differential);
    pair.relay.heal();
    assert_mended(&pair, &damaged, 2);
}

/// East's volumes cannot be written, and what hosts wrote is in its journal, of which the second segment is damaged once nothing of it is in
/// memory. West has received it all.
fn unapplied(seed: u64) -> (Pair, SmallDisk, PathBuf) {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", BYTES, seed).journals("512MiB", "512MiB"));
    pair.east.stop();
    let volumes = pair.east.directory().join("volumes");
    let held: Vec<_> =
        std::fs::read_dir(&volumes).expect("volumes").map(|entry| entry.expect("a file").path()).collect();
    let aside = pair.cluster.join("aside");
    std::fs::create_dir(&aside).expect("a folder");
    let moved = |from: &Path, to: &Path| {
        let target = to.join(from.file_name().expect("a name"));
        let file = std::fs::File::create(&target).expect("a sparse file");
        file.set_len(from.metadata().expect("its size").len()).expect("its size");
    };
    held.iter().for_each(|file| moved(file, &aside));
    let small = SmallDisk::mount(&volumes, 16 * MIB);
    held.iter().for_each(|file| moved(&aside.join(file.file_name().expect("a name")), &volumes));
    pair.east.start();
    pair.create();
    pair.wait_paired();
    let before = segments(&pair);
    let ballast = small.fill();
    write_noise(&pair.east, "v", 0, BYTES, 1);
    let marker = pair.cut();
    pair.wait_for(marker, "applied");
    let newer = segments(&pair).into_iter().filter(|segment| !before.contains(segment));
    let damaged = newer.into_iter().nth(1).expect("segments of what was written");
    flip_byte(&damaged, IN_DATA);
    std::fs::remove_file(ballast).expect("make space");
    small.resize(256 * MIB);
    (pair, small, damaged)
}

/// The problem says where and what to do; of the damaged record hosts get an error, never anything else.
fn assert_told(pair: &Pair, damaged: &Path) {
    wait_until("the damage to be told", LIMIT, || {
        let problem = pair.east.group(GROUP).problem.unwrap_or_default();
        let told = problem.contains("is damaged") && problem.contains("tidemark failover g --force");
        check(told, || problem.clone())
    });
    assert_names(&pair.east.group(GROUP).problem.expect("told"), damaged);
    assert!(damaged_records(pair) >= 1.0, "counted");
    let (mut host, written) = (pair.east.open("v"), noise(1, BYTES));
    let mut errors = 0;
    for (at, block) in (0..).step_by(1 << 16).zip(written.chunks(1 << 16)) {
        match host.read(at, 1 << 16) {
            Ok(read) => assert!(read == block, "{at}: a block is served that was never written"),
            Err(_) => errors += 1,
        }
    }
    assert!((1..64).contains(&errors), "{errors} blocks are not served");
}

#[test]
fn what_a_damaged_record_of_the_journal_kept_from_the_volumes_is_on_the_copy() {
    let (pair, _small, damaged) = unapplied(264);
    assert_told(&pair, &damaged);
    pair.west.ok(&["failover", GROUP, "--force"]);
    assert!(pair.west.open("v").read_all().expect("read") == noise(1, BYTES), "nothing is lost there");
    // East's volumes lack what the damaged record kept from them, also of before the place that both have.
    pair.east.wait_fenced(GROUP);
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert!(returned.whole, "{returned:?}");
    pair.east.wait_pair(GROUP, "the copy of everything", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    assert!(pair.backing(&pair.east)[0] == noise(1, BYTES), "the copy is what it was copied from");
}

#[test]
fn a_journal_that_was_damaged_and_is_restored_is_applied_by_itself() {
    let (pair, _small, damaged) = unapplied(265);
    assert_told(&pair, &damaged);
    flip_byte(&damaged, IN_DATA);
    wait_written_back(&pair);
    assert!(pair.east.group(GROUP).problem.is_none(), "{:?}", pair.east.group(GROUP).problem);
    assert!(pair.east.open("v").read_all().expect("read") == noise(1, BYTES));
    pair.assert_same();
}
