//! A side store that fills while a split target still lacks most.

use std::path::PathBuf;

use tidemark_common::api::backup::types::BackupState;
use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::noise::write_noise;
use tidemark_tests::pair::GROUP;
use tidemark_tests::wait::wait_until;

use super::{CRAWL, LIMIT, assert_closed, assert_same, bytes, wait_alone, wait_shown};

/// An appliance with the smallest side store, a source of noise, and a target that was split from it and has hardly anything yet.
fn squeezed(cluster: &Cluster, journal: &str) -> (Appliance, PathBuf, Vec<u8>) {
    let mut alone = cluster.appliance("alone");
    alone.configure("images", "side_store_bytes", "64MiB");
    alone.configure("groups", "segment_bytes", "8MiB");
    alone.configure("groups", "journal_bytes", journal);
    alone.start();
    let backing = cluster.join("ta.image");
    alone.ok(&["volume", "create", "a", "--size", "80MiB"]);
    alone.ok(&["volume", "create", "ta", "--size", "80MiB", "--backing", &backing.display().to_string()]);
    alone.ok(&["group", "create", GROUP, "--volume", "a"]);
    write_noise(&alone, "a", 0, 80 << 20, 1);
    let held = alone.open("a").read_all().expect("read the source");
    alone.ok(&["local-pair", "create", "a", "--target", "ta", "--rate", CRAWL]);
    alone.ok(&["local-pair", "split", "ta"]);
    (alone, backing, held)
}

/// Hosts overwrite more than the side store has room for: the volumes wait, the target is copied whatever the pair's rate, and is
/// whole, and so is what a backup reads of it meanwhile. Hosts do not notice.
#[test]
fn a_split_whose_side_store_fills_hurries_and_is_whole() {
    let cluster = Cluster::new();
    let (alone, _, held) = squeezed(&cluster, "1GiB");
    alone.ok(&["set", "create", "s", "ta"]);
    let to = cluster.path().display().to_string();
    alone.ok(&["backup", "create", "b", "--set", "s", "--to", &to, "--rate", "8MiB", "--while-differential", "merge"]);
    write_noise(&alone, "a", 0, 80 << 20, 2);
    let newest = alone.open("a").read_all().expect("read the source");
    let shown = wait_shown(&alone, "ta", "complete", |shown| shown.differential_bytes == 0);
    assert_eq!((shown.state, shown.saved_bytes), (LocalPairState::Split, 0), "{shown:?}");
    wait_shown(&alone, "ta", "at ease again", |shown| shown.reason.is_none());
    assert!(alone.log_text().contains("what the target lacks is copied as fast as it can be"), "it tells");
    assert_same("the target", &bytes(&alone, &["ta"]), std::slice::from_ref(&held));
    let backup = alone.wait_backup("b", LIMIT, |backup| backup.state.is_over());
    assert_eq!((backup.state, backup.reason), (BackupState::Done, None));
    assert_same("the backup", &[std::fs::read(cluster.join("b/s/ta")).expect("a raw file")], &[held]);
    assert_same("the source", &bytes(&alone, &["a"]), &[newest]);
    wait_until("the source to be written", LIMIT, || {
        let positions = alone.group(GROUP).positions;
        if positions.applied_seq == positions.captured_seq { Ok(()) } else { Err(format!("{positions:?}")) }
    });
    assert_eq!(alone.status().side_store.bytes, 0, "its space is given back");
}

/// Nobody can copy what the target lacks, because its backing is gone: the volumes wait until the journal is half full, then the image
/// ends, loudly. Hosts do not notice.
#[test]
fn a_side_store_that_fills_ends_an_image_that_cannot_hurry_and_harms_nobody_else() {
    let cluster = Cluster::new();
    let (mut alone, backing, held) = squeezed(&cluster, "256MiB");
    alone.kill9();
    let aside = cluster.join("aside.image");
    std::fs::rename(&backing, &aside).expect("take the backing away");
    alone.start();
    write_noise(&alone, "a", 0, 80 << 20, 2);
    wait_until("the side store to be full", LIMIT, || {
        let (positions, store) = (alone.group(GROUP).positions, alone.status().side_store);
        // A window saves up to some megabytes at once.
        let full = store.bytes > (48 << 20) && positions.applied_seq < positions.captured_seq;
        if full { Ok(()) } else { Err(format!("{positions:?}, {store:?}")) }
    });
    assert_eq!(alone.local_pair("ta").state, LocalPairState::Split, "the journal is not half full");
    // Who mends it now has lost nothing.
    alone.kill9();
    std::fs::rename(&aside, &backing).expect("bring the backing back");
    alone.start();
    assert_same("the target", &bytes(&alone, &["ta"]), &[held]);
    wait_shown(&alone, "ta", "complete", |shown| shown.differential_bytes == 0);
    wait_alone(&alone, "ta");
    // Again, and nobody mends it.
    alone.ok(&["local-pair", "delete", "ta"]);
    alone.ok(&["local-pair", "create", "a", "--target", "ta", "--rate", CRAWL]);
    alone.ok(&["local-pair", "split", "ta"]);
    alone.kill9();
    std::fs::rename(&backing, &aside).expect("take the backing away");
    alone.start();
    for round in 0..4 {
        write_noise(&alone, "a", 0, 80 << 20, 10 + round);
    }
    let newest = alone.open("a").read_all().expect("read the source");
    wait_until("the image to be given up", LIMIT, || {
        let store = alone.status().side_store;
        if store.bytes == 0 { Ok(()) } else { Err(format!("{store:?}")) }
    });
    alone.kill9();
    std::fs::rename(&aside, &backing).expect("bring the backing back");
    alone.start();
    let shown = alone.local_pair("ta");
    assert_eq!(shown.state, LocalPairState::Error, "{shown:?}");
    let reason = shown.reason.expect("a reason");
    assert!(reason.contains("side_store_bytes") && reason.contains("local-pair resync ta"), "{reason}");
    assert_closed(&alone, "ta", "local-pair show ta");
    assert_same("the source", &bytes(&alone, &["a"]), &[newest]);
    alone.ok(&["local-pair", "delete", "ta"]);
    alone.ok(&["local-pair", "create", "a", "--target", "ta"]);
    wait_shown(&alone, "ta", "a pair", |shown| shown.state == LocalPairState::Pair);
    alone.ok(&["local-pair", "split", "ta"]);
    assert_eq!(bytes(&alone, &["ta"]), bytes(&alone, &["a"]));
}
