//! The first copy of volumes that already hold data: while hosts write, through interruptions, and cheap where nothing is.

use std::os::unix::fs::{FileExt, MetadataExt};
use std::time::{Duration, Instant};

use tidemark_common::api::types::{CopyProgress, PairState};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::impairment::Weather;
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::stamp::BLOCK_BYTES;
use tidemark_tests::workload::prefill;

const LIMIT: Duration = Duration::from_secs(40);

#[test]
fn volumes_with_data_are_copied_while_hosts_write() {
    let pair = Pair::unpaired(&Setup::seeded(61));
    pair.prefill();
    let load = pair.load(0);
    load.wait_acked(200);
    pair.create();
    pair.wait_paired();
    load.wait_acked(200);
    load.stop();
    pair.assert_copy_equals();
}

/// Waits until so much of the copy is durable on the copy side.
fn wait_copied(copy_side: &Appliance, bytes: u64) -> CopyProgress {
    let what = format!("{bytes} bytes copied");
    let wanted = |copy: CopyProgress| copy.done_bytes >= bytes;
    let pair = copy_side.wait_pair(GROUP, &what, LIMIT, |pair| pair.copy.is_some_and(wanted));
    assert_eq!(pair.state, PairState::InitialCopy, "{pair:?}");
    pair.copy.expect("a copy under way")
}

/// After an interruption the copy gets further, and what was durable is never begun again.
fn assert_goes_on(copy_side: &Appliance, before: CopyProgress) {
    copy_side.wait_pair(GROUP, "the copy to go on", LIMIT, |pair| match pair.copy {
        None => pair.state == PairState::Paired,
        Some(after) => {
            assert!(after.done_bytes >= before.done_bytes, "it began again: {before:?}, then {after:?}");
            after.done_bytes > before.done_bytes
        }
    });
}

#[test]
fn an_initial_copy_interrupted_by_kills_and_a_cut_link_goes_on_where_it_was() {
    // More than the link's windows hold, so that what was handed to the link is far from what has arrived.
    const SIZE: u64 = 48 << 20;
    let volumes = vec![("a", SIZE.to_string()), ("b", SIZE.to_string())];
    let mut pair = Pair::unpaired(&Setup { volumes, interval: "250ms", seed: 62, journals: None, on_full: "fold" });
    prefill(&pair.history, &pair.target(&pair.east), SIZE / BLOCK_BYTES as u64).expect("prefill");
    let total = 2 * SIZE;
    pair.relay.set(Weather { bytes_per_second: Some(8_000_000), ..Weather::default() });
    pair.create();

    let before = wait_copied(&pair.west, total / 5);
    assert_eq!(before.total_bytes, total);
    pair.east.kill9();
    pair.east.start();
    assert_goes_on(&pair.west, before);

    // Wherever it is by now: progress comes in steps, and a step may be the last.
    let before = pair.west.pair(GROUP).copy;
    pair.west.kill9();
    pair.west.start();
    before.into_iter().for_each(|before| assert_goes_on(&pair.west, before));

    let before = pair.west.pair(GROUP).copy;
    pair.relay.cut();
    pair.east.wait_pair(GROUP, "the loss of the link to be noticed", LIMIT, |pair| !pair.connected);
    pair.relay.heal();
    before.into_iter().for_each(|before| assert_goes_on(&pair.west, before));

    pair.relay.set(Weather::default());
    pair.wait_paired();
    pair.assert_copy_equals();
}

#[test]
fn a_huge_sparse_volume_with_little_data_copies_in_seconds() {
    const SIZE: u64 = 100 << 30;
    let setup = Setup {
        volumes: vec![("huge", SIZE.to_string())],
        interval: "250ms",
        seed: 63,
        journals: None,
        on_full: "fold",
    };
    let pair = Pair::unpaired(&setup);
    let places = [0, SIZE / 2 + 12_288, SIZE - 4096];
    let mut export = pair.east.open("huge");
    for (place, byte) in places.into_iter().zip(1..) {
        export.write(place, &[byte; 4096]).expect("write");
    }
    export.flush().expect("flush");

    let start = Instant::now();
    pair.create();
    pair.wait_paired();
    pair.settle();
    let took = start.elapsed();
    assert!(took < Duration::from_secs(10), "took {took:?}");
    assert!(pair.relay.forward().bytes() < 4 << 20, "{} bytes sent", pair.relay.forward().bytes());

    let backing =
        pair.west.status().volumes.into_iter().find(|volume| volume.name == "huge").expect("the copy").backing;
    let copy = std::fs::File::open(backing).expect("open the copy");
    assert_eq!(copy.metadata().expect("metadata").len(), SIZE);
    assert!(copy.metadata().expect("metadata").blocks() * 512 < 16 << 20, "the copy is sparse too");
    for (place, byte) in places.into_iter().zip(1..) {
        let mut block = [0; 4096];
        copy.read_exact_at(&mut block, place).expect("read the copy");
        assert_eq!(block, [byte; 4096], "at {place}");
    }
}
