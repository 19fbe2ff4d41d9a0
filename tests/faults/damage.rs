//! Disks that lie: what was altered is named with its place, nothing is guessed, and nothing is lost once it is restored.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tidemark_common::api::types::{PairState, VerifyReport};
use tidemark_tests::appliance::{Appliance, files_under};
use tidemark_tests::cluster::flip_byte;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::Load;

const LIMIT: Duration = Duration::from_secs(60);

/// An appliance with a group, killed under load.
pub(crate) fn killed(seed: u64) -> Pair {
    let mut pair = Pair::unpaired(&Setup::seeded(seed));
    pair.prefill();
    let load = pair.load(0);
    load.wait_acked(800);
    pair.east.kill9();
    drop(load.join_broken());
    pair
}

pub(crate) fn assert_everything_is_there(pair: &mut Pair) {
    pair.east.start();
    let image = pair.image(&pair.east);
    assert_legal("once restored", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
}

pub(crate) fn assert_names(reason: &str, path: &Path) {
    let name = path.file_name().expect("a name").to_string_lossy();
    assert!(reason.contains(&*name), "names {name}: {reason}");
    assert!(!reason.contains("panicked"), "{reason}");
}

/// Cuts a file in half while something is tried, and puts it back.
fn without_its_half<T>(path: &Path, attempt: impl FnOnce() -> T) -> T {
    let whole = std::fs::read(path).expect("read the file");
    File::options().write(true).open(path).and_then(|file| file.set_len(whole.len() as u64 / 2)).expect("truncate");
    let result = attempt();
    std::fs::write(path, whole).expect("restore the file");
    result
}

#[test]
fn a_flipped_byte_in_the_journal_is_named_with_its_position() {
    const FIRST_RECORD: u64 = 4096;
    let mut pair = killed(201);
    let segments = pair.east.files(|name| name.ends_with(".segment"));
    let segment = segments.first().expect("a journal segment");
    // Inside the first record's frame, behind its envelope.
    let place = FIRST_RECORD + 32 + 64;
    flip_byte(segment, place);
    let reason = pair.east.start_damaged();
    assert_names(&reason, segment);
    assert!(reason.contains("4096"), "names the position: {reason}");
    if pair.east.exited().is_none() {
        assert!(pair.east.try_open("a").is_err(), "nothing is served from a damaged journal");
        pair.east.stop();
    }
    flip_byte(segment, place);
    assert_everything_is_there(&mut pair);
}

#[test]
fn a_primary_that_is_damaged_for_good_is_given_up_and_becomes_the_copy_of_who_took_over() {
    let mut pair = Pair::prefilled(&Setup::seeded(207));
    pair.settle();
    pair.east.kill9();
    let segment = pair.east.files(|name| name.ends_with(".segment")).remove(0);
    flip_byte(&segment, 4096 + 32 + 64);
    pair.east.start_damaged();
    let _ = pair.failover();
    let refused = pair.east.refuses(&["pair", "delete", GROUP, "--to", "west"]);
    assert!(refused.contains("--force"), "{refused}");
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west", "--force"]);
    assert!(!pair.east.files(|name| name.ends_with(".segment")).is_empty(), "the journal is kept aside");
    for volume in pair.volumes() {
        pair.east.ok(&["volume", "offer", &volume, "--group", GROUP]);
    }
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.west.ok(&["pair", "create", GROUP, "--to", "east"]);
    for side in [&pair.east, &pair.west] {
        side.wait_pair(GROUP, "the new pair", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    }
    let marker = pair.west.ok(&["cut", GROUP]);
    pair.west.ok(&["wait", GROUP, "--to", "east", "--marker", marker.trim(), "--timeout", "30s"]);
    assert_eq!(pair.backing(&pair.east), pair.backing(&pair.west));
}

#[test]
fn a_truncated_journal_segment_is_named() {
    let mut pair = killed(202);
    let segment = pair.east.files(|name| name.ends_with(".segment")).remove(0);
    let whole = std::fs::read(&segment).expect("read the segment");
    File::options().write(true).open(&segment).and_then(|file| file.set_len(100)).expect("truncate");
    let reason = pair.east.start_damaged();
    assert_names(&reason, &segment);
    if pair.east.exited().is_none() {
        pair.east.stop();
    }
    std::fs::write(&segment, whole).expect("restore the segment");
    assert_everything_is_there(&mut pair);
}

/// As when its file system is not mounted: whatever is there instead, the volumes have been further.
#[test]
fn a_journal_that_is_gone_keeps_its_group_from_starting_on_either_side() {
    let mut pair = Pair::prefilled(&Setup::seeded(219));
    pair.settle();
    let before = pair.backing(&pair.west);
    pair.east.stop();
    pair.west.stop();
    for side in [&mut pair.east, &mut pair.west] {
        let (groups, aside) = (side.directory().join("groups"), side.directory().join("aside"));
        std::fs::rename(&groups, &aside).expect("move the journals aside");
        let reason = side.start_damaged();
        assert!(reason.contains("its end is lost") && !reason.contains("panicked"), "{reason}");
        assert!(side.try_open("a").is_err(), "nothing is served");
        side.stop();
        std::fs::remove_dir_all(&groups).expect("what was there instead");
        std::fs::rename(&aside, &groups).expect("move the journals back");
    }
    pair.west.start();
    assert!(pair.backing(&pair.west) == before, "the copy is as it was");
    assert_everything_is_there(&mut pair);
    pair.assert_same();
}

#[test]
fn a_truncated_catalogue_is_refused_and_whole_again_when_restored() {
    let mut pair = killed(203);
    let manifest = pair.east.files(|name| name.starts_with("MANIFEST-")).remove(0);
    let reason = without_its_half(&manifest, || pair.east.start_refused().failed_with(1));
    assert!(reason.contains(&pair.east.directory().display().to_string()), "names the catalogue: {reason}");
    assert!(!reason.contains("panicked"), "{reason}");
    assert_everything_is_there(&mut pair);
}

#[test]
fn a_catalogue_that_is_gone_is_not_taken_for_one_not_made_yet() {
    let mut pair = killed(220);
    let (catalog, aside) = (pair.east.directory().join("catalog"), pair.east.directory().join("aside"));
    std::fs::rename(&catalog, &aside).expect("move the catalogue aside");
    let reason = pair.east.start_refused().failed_with(1);
    assert!(reason.contains(&catalog.display().to_string()) && reason.contains("restore it"), "{reason}");
    std::fs::rename(&aside, &catalog).expect("move the catalogue back");
    assert_everything_is_there(&mut pair);
}

#[test]
fn an_altered_catalogue_is_refused_and_whole_again_when_restored() {
    /// Into the first record of a log or a table, past the name of a manifest's first.
    const PLACE: u64 = 20;
    let mut pair = killed(207);
    // The first start after a kill makes a table of what the log held.
    pair.east.start();
    pair.east.ok(&["volume", "create", "late", "--size", "1MiB"]);
    pair.east.ok(&["volume", "create", "later", "--size", "1MiB"]);
    pair.east.kill9();
    let catalogue = pair.east.directory().join("catalog");
    let length = |file: &PathBuf| file.metadata().expect("its length").len();
    for kind in ["MANIFEST", "CURRENT", "log", "sst"] {
        let fits = |name: &str| name.starts_with(kind) || name.ends_with(&format!(".{kind}"));
        // A start that fails may leave files without content.
        let file = files_under(&catalogue, fits).into_iter().max_by_key(length).expect(kind);
        let place = PLACE.min(length(&file) / 2);
        flip_byte(&file, place);
        let reason = pair.east.start_refused().failed_with(1);
        assert!(reason.contains(&catalogue.display().to_string()), "{kind}: names the catalogue: {reason}");
        assert!(!reason.contains("panicked"), "{kind}: {reason}");
        flip_byte(&file, place);
    }
    assert_everything_is_there(&mut pair);
    assert!(pair.east.status().volumes.iter().any(|volume| volume.name == "later"));
}

/// What was read of it stays in memory: hosts are served what they wrote, a command does what it is to do or says what it met, and the next start
/// serves nothing.
#[test]
fn a_catalogue_altered_while_the_service_runs_is_named_and_refused_at_the_next_start() {
    /// As above.
    const PLACE: u64 = 20;
    let mut pair = killed(227);
    let catalogue = pair.east.directory().join("catalog");
    let length = |file: &PathBuf| file.metadata().expect("its length").len();
    let mut made = Vec::new();
    // The tables first: there is one, of what the log held, and several would be merged.
    for (round, kind) in ["sst", "log", "MANIFEST", "CURRENT"].into_iter().enumerate() {
        pair.east.start();
        let create = |name: &str| pair.east.cli(&["volume", "create", name, "--size", "1MiB"]);
        // Damage at the end of a log would be what a kill leaves.
        for name in ["early", "late"] {
            create(&format!("{name}{round}")).done();
        }
        let fits = |name: &str| name.starts_with(kind) || name.ends_with(&format!(".{kind}"));
        let file = files_under(&catalogue, fits).into_iter().max_by_key(length).expect(kind);
        let place = PLACE.min(length(&file) / 2);
        flip_byte(&file, place);
        let name = format!("made{round}");
        let outcome = create(&name);
        if outcome.code == 0 {
            made.push(name);
        } else {
            let reason = outcome.failed_with(1);
            assert!(reason.contains(&catalogue.display().to_string()), "{kind}: names the catalogue: {reason}");
        }
        let image = pair.image(&pair.east);
        assert_legal("while it runs", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
        pair.east.kill9();
        let reason = pair.east.start_refused().failed_with(1);
        assert!(reason.contains(&catalogue.display().to_string()), "{kind}: names the catalogue: {reason}");
        assert!(!reason.contains("panicked"), "{kind}: {reason}");
        flip_byte(&file, place);
    }
    assert_everything_is_there(&mut pair);
    let volumes = pair.east.status().volumes;
    for name in made {
        assert!(volumes.iter().any(|volume| volume.name == name), "{name} was said to be made");
    }
}

pub(crate) fn rings(pair: &Pair) -> Vec<PathBuf> {
    // One folder for each appliance that shares the tmpfs.
    let folders = std::fs::read_dir(pair.east.rings()).expect("the rings");
    let entries = folders.flat_map(|folder| std::fs::read_dir(folder.expect("a folder").path()).expect("its rings"));
    let rings: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    assert!(!rings.is_empty(), "a killed service leaves its ring");
    rings
}

#[test]
fn a_truncated_ring_is_named_and_its_writes_come_back_when_it_is_restored() {
    let mut pair = killed(204);
    let ring = rings(&pair).remove(0);
    let whole = std::fs::read(&ring).expect("read the ring");
    File::options().write(true).open(&ring).and_then(|file| file.set_len(whole.len() as u64 / 2)).expect("truncate");
    let reason = pair.east.start_damaged();
    assert_names(&reason, &ring);
    if pair.east.exited().is_none() {
        pair.east.stop();
    }
    std::fs::write(&ring, whole).expect("restore the ring");
    assert_everything_is_there(&mut pair);
}

#[test]
fn an_altered_ring_is_named_and_its_writes_come_back_when_it_is_restored() {
    /// Whose it is, and where its entries end. Its entries have a test with the engine.
    const PLACES: [u64; 3] = [8, 1024, 1031];
    let mut pair = killed(208);
    let ring = rings(&pair).remove(0);
    for place in PLACES {
        flip_byte(&ring, place);
        let reason = pair.east.start_damaged();
        assert_names(&reason, &ring);
        if pair.east.exited().is_none() {
            assert!(pair.east.try_open("a").is_err(), "{place}: served from a damaged buffer");
            pair.east.kill9();
        }
        flip_byte(&ring, place);
    }
    assert_everything_is_there(&mut pair);
}

#[test]
fn a_backing_file_that_vanished_or_shrank_is_named() {
    let mut pair = killed(206);
    let backing = {
        pair.east.start();
        let volumes = pair.east.status().volumes;
        pair.east.stop();
        PathBuf::from(volumes.into_iter().find(|volume| volume.name == "b").expect("b").backing)
    };
    let aside = backing.with_extension("aside");
    std::fs::rename(&backing, &aside).expect("take it away");
    assert_backing_named(&mut pair, &backing);
    assert!(!backing.exists(), "an empty file in its place would hide the loss");
    std::fs::rename(&aside, &backing).expect("put it back");
    without_its_half(&backing, || assert_backing_named(&mut pair, &backing));
    assert_everything_is_there(&mut pair);
}

/// The service does not serve the volume, tells its name, and its log tells the file.
fn assert_backing_named(pair: &mut Pair, backing: &Path) {
    let reason = pair.east.start_damaged();
    assert!(reason.contains("'b'") || reason.contains("b.img"), "names the volume: {reason}");
    assert_names(&pair.east.log_text(), backing);
    if pair.east.exited().is_none() {
        assert!(pair.east.try_open("b").is_err(), "a volume without its backing is not served");
        pair.east.stop();
    }
}

/// The newest segment of a side's journal that holds more than its header, and a place inside its first record.
fn newest_segment(side: &Appliance) -> PathBuf {
    side.files(|name| name.ends_with(".segment")).into_iter().max().expect("a journal segment")
}

/// Half way into what is written in a segment.
fn middle_of(segment: &Path) -> u64 {
    let bytes = std::fs::read(segment).expect("read the segment");
    let used = bytes.iter().rposition(|byte| *byte != 0).expect("something in it");
    4096 + (used as u64 - 4096) / 2
}

/// Inside the first record's frame, behind its envelope.
const IN_FIRST_RECORD: u64 = 4096 + 32 + 64;

/// Every marker that the copy shows as its image from here on, and at its end, is one that was.
fn assert_mended(pair: &Pair, load: Load) {
    load.wait_acked(200);
    load.stop();
    let marker = pair.cut();
    pair.wait_for(marker, "applied");
    pair.assert_copy_equals();
    let report: VerifyReport = pair.east.json(&["verify", GROUP, "--to", "west"]);
    assert_eq!(report.different_bytes, 0, "{report:?}");
}

/// What is behind the damage is still in the primary's journal: only that is copied.
#[test]
fn a_copy_whose_journal_is_damaged_is_mended_from_the_other_sides_journal() {
    let mut pair = Pair::prefilled(&Setup::seeded(220));
    pair.settle();
    let load = pair.load(0);
    load.wait_acked(400);
    pair.west.kill9();
    flip_byte(&newest_segment(&pair.west), IN_FIRST_RECORD);
    let sent = pair.relay.forward().bytes();
    let reason = pair.west.start_damaged();
    assert_names(&reason, &newest_segment(&pair.west));
    pair.wait_paired();
    let all: u64 = pair.volumes().len() as u64 * pair.profile(0).volume_bytes();
    println!("{} of {all} bytes were sent", pair.relay.forward().bytes() - sent);
    assert!(pair.east.log_text().contains("cannot be read"), "the primary says why it copies");
    assert!(pair.west.log_text().contains("its image is given up"), "and the copy");
    assert_mended(&pair, load);
}

/// The primary gave up what the copy had: everything is copied.
#[test]
fn a_copy_whose_journal_cannot_be_read_at_all_is_copied_again() {
    let mut pair = Pair::prefilled(&Setup::seeded(221));
    let load = pair.load(0);
    load.wait_acked(400);
    pair.west.kill9();
    for segment in pair.west.files(|name| name.ends_with(".segment")) {
        // Its header.
        flip_byte(&segment, 16);
    }
    pair.west.start_damaged();
    pair.wait_paired();
    assert_mended(&pair, load);
}

/// Found by the updater while it runs: nothing further is served, and the pair mends itself.
#[test]
fn a_copy_that_finds_its_journal_damaged_while_it_runs_is_mended() {
    let mut pair = Pair::prefilled(&Setup::seeded(222));
    pair.settle();
    // The volumes stay behind what came.
    pair.east.ok(&["group", "set", GROUP, "--history", "1h"]);
    wait_until("west to keep a history", LIMIT, || {
        let history = pair.west.group(GROUP).history.unwrap_or_default();
        check(history.oldest_marker.is_some(), || format!("{history:?}"))
    });
    let load = pair.load(0);
    load.wait_acked(2000);
    let marker = pair.cut().to_string();
    pair.east.ok(&["wait", GROUP, "--to", "west", "--marker", &marker, "--for", "received"]);
    // Nothing of it is in memory then, and it is sound when it starts.
    pair.west.kill9();
    pair.west.start();
    pair.wait_paired();
    flip_byte(&newest_segment(&pair.west), middle_of(&newest_segment(&pair.west)));
    pair.east.ok(&["group", "set", GROUP, "--history", "off"]);
    wait_until("the copy to find it", LIMIT, || {
        check(pair.west.log_text().contains("its image is given up"), || format!("{:?}", pair.west.group(GROUP)))
    });
    pair.wait_paired();
    assert_mended(&pair, load);
}

/// As when its file system is not mounted: nothing is done before a person says so; `pair create` says so.
#[test]
fn a_copy_whose_journal_is_gone_is_made_anew_when_that_is_ordered() {
    let mut pair = Pair::prefilled(&Setup::seeded(223));
    pair.settle();
    pair.west.stop();
    std::fs::remove_dir_all(pair.west.directory().join("groups")).expect("remove the journal");
    let reason = pair.west.start_damaged();
    let groups = pair.west.directory().join("groups").display().to_string();
    assert!(reason.contains("its end is lost") && reason.contains(&groups), "{reason}");
    pair.east.wait_pair(GROUP, "it to be told", LIMIT, |pair| {
        pair.reason.as_ref().is_some_and(|reason| reason.contains("its end is lost"))
    });
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.create();
    pair.wait_paired();
    let load = pair.load(0);
    assert_mended(&pair, load);
}
