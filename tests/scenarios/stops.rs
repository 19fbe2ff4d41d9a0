//! `systemctl stop` while images and pairs of volumes are in use: what a kill would keep, a stop keeps.

use std::time::Duration;

use tidemark_common::api::backup::types::BackupState;
use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::image::{Image, compare};
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
/// A rate at which nothing is ever done copying within a test.
const CRAWL: &str = "256KiB";

fn content(side: &Appliance, export: &str) -> Vec<u8> {
    side.open(export).read_all().expect("read an export")
}

fn assert_holds(side: &Appliance, export: &str, expected: &[u8], what: &str) {
    compare(&content(side, export), expected).unwrap_or_else(|difference| panic!("{export} {what}: {difference}"));
}

/// What hosts overwrite is more than the side store takes, and nobody can copy what a target lacks, because its backing is gone: the
/// volumes wait for it. The service is stopped, the backing is brought back, and nothing is missing.
#[test]
fn a_stop_while_volumes_wait_for_a_split_ends_no_image() {
    let cluster = Cluster::new();
    let mut side = cluster.appliance("alone");
    side.configure("images", "side_store_bytes", "64MiB");
    side.configure("groups", "segment_bytes", "8MiB");
    side.configure("groups", "journal_bytes", "1GiB");
    side.start();
    let (backing, aside) = (cluster.join("t.image"), cluster.join("aside.image"));
    side.ok(&["volume", "create", "a", "--size", "80MiB"]);
    side.ok(&["volume", "create", "b", "--size", "8MiB"]);
    side.ok(&["volume", "create", "t", "--size", "80MiB", "--backing", &backing.display().to_string()]);
    side.ok(&["group", "create", "g", "--volume", "a", "--volume", "b"]);
    write_noise(&side, "a", 0, 80 * MIB, 1);
    write_noise(&side, "b", 0, 8 * MIB, 2);
    // Images of the same group, and older: they would be the first to end.
    side.ok(&["t0", "create", "i", "--of", "b"]);
    side.ok(&["clone", "create", "c", "--of", "b"]);
    side.ok(&["local-pair", "create", "a", "--target", "t", "--rate", CRAWL]);
    side.ok(&["local-pair", "split", "t"]);
    side.kill9();
    std::fs::rename(&backing, &aside).expect("take the backing away");
    side.start();
    let mut cloned = noise(2, 8 * MIB);
    side.open("c/b").write(MIB, &[7; 4096]).expect("write to a clone");
    cloned[MIB as usize..MIB as usize + 4096].fill(7);
    write_noise(&side, "b", 0, MIB, 3);
    let begin = ["backup", "create", "bk", "--set", "s", "--rate", CRAWL, "--to"];
    side.ok(&["set", "create", "s", "b"]);
    side.ok(&[&begin[..], &[&cluster.join("bk.tar").display().to_string()]].concat());
    write_noise(&side, "a", 0, 80 * MIB, 4);
    wait_until("the volumes to wait", LIMIT, || {
        let (positions, store) = (side.group("g").positions, side.status().side_store);
        // A window saves up to some megabytes at once.
        let full = store.bytes > 48 * MIB && positions.applied_seq < positions.captured_seq;
        if full { Ok(()) } else { Err(format!("{positions:?}, {store:?}")) }
    });
    side.stop();
    std::fs::rename(&aside, &backing).expect("bring the backing back");
    side.start();
    assert_eq!(side.local_pair("t").state, LocalPairState::Split);
    assert_holds(&side, "t", &noise(1, 80 * MIB), "after the stop");
    assert_holds(&side, "i/b", &noise(2, 8 * MIB), "after the stop");
    assert_holds(&side, "c/b", &cloned, "after the stop");
    // It hurries while nothing more can be saved for it: it was over before the stop, whole, or has ended with the service.
    let backup = side.backup("bk");
    if backup.state == BackupState::Done {
        side.ok(&["backup", "verify", "bk"]);
    } else {
        assert_eq!(backup.state, BackupState::Failed, "one that is under way ends with the service: {backup:?}");
        assert!(!cluster.join("bk.tar").exists(), "and nothing is left of it");
    }
    // The volumes go on where they were.
    wait_until("all of it to be there", LIMIT, || {
        let (shown, positions) = (side.local_pair("t"), side.group("g").positions);
        let over = shown.differential_bytes == 0 && positions.applied_seq == positions.captured_seq;
        if over { Ok(()) } else { Err(format!("{shown:?}, {positions:?}")) }
    });
    assert_holds(&side, "t", &noise(1, 80 * MIB), "complete");
    assert_holds(&side, "i/b", &noise(2, 8 * MIB), "at last");
    assert_holds(&side, "a", &noise(4, 80 * MIB), "at last");
}

/// Stops in the middle of a load, with most of a split still to be copied, and images that hosts overwrite and write to.
#[test]
fn a_stop_and_a_start_change_no_image_no_clone_and_no_target() {
    let mut pair = Pair::prefilled(&Setup::seeded(219));
    let load = pair.load(0);
    load.wait_acked(100);
    let began = pair.history.tick();
    pair.east.ok(&["t0", "create", "i", "--of", GROUP]);
    let bounds = Bounds::cut(began, pair.history.tick());
    pair.east.ok(&["clone", "create", "c", "--of", GROUP]);
    let size = pair.profile(0).volume_bytes().to_string();
    pair.east.ok(&["volume", "create", "t", "--size", &size]);
    pair.east.ok(&["local-pair", "create", "a", "--target", "t", "--rate", CRAWL]);
    pair.east.ok(&["local-pair", "split", "t"]);
    load.stop();
    let names = ["i/a", "i/b", "i/c", "c/a", "c/b", "c/c", "t"];
    let read = |side: &Appliance| names.map(|name| content(side, name));
    let mut expected = read(&pair.east);
    assert_legal("the image", &pair.history.writes(), &Image::from_bytes(&expected[..3]), bounds);
    for round in 1..4_u8 {
        let at = usize::from(round) * 70_144;
        // Nobody flushes these.
        for (number, name) in [(4, "c/b"), (6, "t")] {
            pair.east.open(name).write(at as u64, &[round; 1024]).expect("write to an image");
            expected[number][at..at + 1024].fill(round);
        }
        let load = pair.load(round.into());
        load.wait_acked(150);
        assert!(round > 1 || pair.east.local_pair("t").differential_bytes > MIB, "most of it is still to be copied");
        pair.east.stop();
        drop(load.join_broken());
        pair.east.start();
        for (name, (found, expected)) in names.iter().zip(read(&pair.east).iter().zip(&expected)) {
            compare(found, expected).unwrap_or_else(|difference| panic!("{name}, stop {round}: {difference}"));
        }
        let sources = Image::from_bytes(&["a", "b", "c"].map(|name| content(&pair.east, name)));
        let verdict = assert_legal("the sources", &pair.history.writes(), &sources, Bounds::EVERYTHING_ACKED);
        pair.history.settle(&verdict);
    }
    pair.wait_paired();
    pair.assert_copy_equals();
}
