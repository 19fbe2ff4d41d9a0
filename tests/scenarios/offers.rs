//! Which volumes of a secondary a copy may be made on: those that were offered, and what it left behind itself. Nothing else is
//! overwritten, and images keep what they show.

use std::path::PathBuf;
use std::time::Duration;

use tidemark_common::api::types::{ImageState, PairState};
use tidemark_tests::host::HostError;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
const MIB: u64 = 1 << 20;

fn two(seed: u64) -> Setup {
    let volumes = vec![("v", MIB.to_string()), ("w", MIB.to_string())];
    Setup { volumes, interval: "250ms", seed, journals: None, on_full: "fold" }
}

fn written(pair: &Pair, volume: &str, byte: u8) {
    pair.east.open(volume).write_all(0, &vec![byte; 256 << 10]).expect("write");
}

fn wait_let_go(pair: &Pair) {
    pair.settle();
    wait_until("the copy to let the volume go", LIMIT, || {
        let status = pair.west.status();
        let volume = status.volumes.into_iter().find(|volume| volume.name == "w").expect("it stays");
        check(volume.group.is_none() && status.groups[0].volumes == ["v"], || format!("{volume:?}"))
    });
}

fn wait_reason(pair: &Pair, holds: &str) {
    pair.east.wait_pair(GROUP, &format!("a reason with {holds}"), LIMIT, |pair| {
        pair.stands && pair.reason.as_ref().is_some_and(|reason| reason.contains(holds))
    });
}

#[test]
fn a_volume_taken_out_and_in_again_becomes_the_copy_it_was() {
    for wait in [false, true] {
        let pair = Pair::paired(&two(221));
        written(&pair, "w", 1);
        pair.settle();
        pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
        if wait {
            wait_let_go(&pair);
        }
        // Zeroes and other data over what is there.
        pair.east.open("w").write_all(0, &[0; 64 << 10]).expect("write");
        pair.east.open("w").write_all(512 << 10, &[2; 64 << 10]).expect("write");
        pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
        written(&pair, "v", 3);
        pair.assert_same();
        assert_eq!(pair.west.group(GROUP).volumes, ["v", "w"]);
        assert_eq!(pair.west.status().volumes.len(), 2);
        pair.east.ok(&["verify", GROUP, "--to", "west"]);
    }
}

#[test]
fn what_a_host_opened_over_there_is_overwritten_only_when_it_is_offered() {
    let mut pair = Pair::paired(&two(222));
    written(&pair, "w", 1);
    pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
    wait_let_go(&pair);
    pair.west.open("w").write(0, &[9; 4096]).expect("it is a volume like any other");
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    wait_reason(&pair, "`tidemark volume offer w --group g`");
    pair.west.restart();
    wait_reason(&pair, "`tidemark volume offer w --group g`");
    assert_eq!(pair.west.open("w").read(0, 4096).expect("read"), [9; 4096]);
    // An offer to somebody else is none, and one that was taken back neither; while a host is there it cannot be taken up.
    pair.west.ok(&["volume", "offer", "w", "--group", "other"]);
    let host = pair.west.open("w");
    pair.west.ok(&["volume", "offer", "w", "--group", GROUP]);
    pair.west.ok(&["volume", "offer", "w", "--withdraw"]);
    drop(host);
    wait_reason(&pair, "`tidemark volume offer w --group g`");
    assert_eq!(pair.west.open("w").read(0, 4096).expect("read"), [9; 4096]);
    pair.west.ok(&["volume", "offer", "w", "--group", GROUP]);
    pair.assert_same();
}

#[test]
fn a_copy_is_made_on_a_file_that_was_offered_and_on_no_other() {
    let pair = Pair::unpaired(&Setup::one_volume("v", 4 * MIB, 223));
    pair.east.open("v").write_all(MIB, &vec![5; 1 << 20]).expect("write");
    let backing = pair.cluster.join("device");
    std::fs::write(&backing, vec![0xee; 16 << 20]).expect("make the device");
    let path = backing.display().to_string();
    pair.west.ok(&["volume", "create", "v", "--size", "8MiB", "--backing", &path]);
    pair.create();
    let refused = |pair: &tidemark_common::api::types::PairStatus| {
        let named = pair.reason.as_ref().is_some_and(|reason| reason.contains("`tidemark volume offer v --group g`"));
        pair.state == PairState::Error && named
    };
    pair.east.wait_pair(GROUP, "the refusal", LIMIT, refused);
    assert!(std::fs::read(&backing).expect("read").iter().all(|byte| *byte == 0xee), "nothing is overwritten unasked");
    // While hosts use it, it is theirs.
    let host = pair.west.open("v");
    pair.west.ok(&["volume", "offer", "v", "--group", GROUP]);
    pair.east.wait_pair(GROUP, "the hosts to be named", LIMIT, |pair| {
        pair.reason.as_ref().is_some_and(|reason| reason.contains("hosts are connected"))
    });
    drop(host);
    pair.wait_paired();
    pair.settle();
    let found = pair.west.status().volumes.into_iter().find(|volume| volume.name == "v").expect("the copy");
    assert_eq!((found.backing, found.size, found.group.as_deref()), (path, 4 * MIB, Some(GROUP)));
    let copy = std::fs::read(&backing).expect("read");
    assert!(copy[..4 << 20] == pair.east.open("v").read_all().expect("read"), "the copy is the volume");
    assert!(copy[4 << 20..].iter().all(|byte| *byte == 0xee), "and nothing else is touched");
    assert!(matches!(pair.west.try_open("v"), Err(HostError::Refused { .. })), "a copy is closed to hosts");
    // Its file is somebody's: it outlives the copy.
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.west.ok(&["volume", "delete", "v"]);
    assert!(PathBuf::from(&backing).exists());
}

/// The file it was made on is larger, and holds something where the volume grows to. The primary's has nothing there.
#[test]
fn a_copy_that_grows_over_what_its_file_held_shows_nothing_of_that() {
    let pair = Pair::unpaired(&Setup::one_volume("v", 4 * MIB, 226));
    let backing = pair.cluster.join("device");
    std::fs::write(&backing, vec![0xee; 16 << 20]).expect("make the device");
    let path = backing.display().to_string();
    pair.west.ok(&["volume", "create", "v", "--size", "8MiB", "--backing", &path]);
    pair.west.ok(&["volume", "offer", "v", "--group", GROUP]);
    pair.create();
    pair.wait_paired();
    pair.east.ok(&["volume", "resize", "v", "--size", "12MiB"]);
    pair.east.open("v").write(9 * MIB, &[7; 4096]).expect("write behind the old end");
    pair.settle();
    let original = pair.east.open("v").read_all().expect("read");
    let copy = std::fs::read(&backing).expect("read the copy");
    assert!(copy[..12 << 20] == original, "the copy is the volume");
    assert!(copy[12 << 20..].iter().all(|byte| *byte == 0xee), "and nothing else is touched");
    pair.east.ok(&["verify", GROUP, "--to", "west"]);
}

#[test]
fn images_of_a_copy_outlive_a_volume_that_leaves_its_group() {
    let mut pair = Pair::paired(&two(224));
    written(&pair, "w", 7);
    pair.settle();
    pair.west.ok(&["clone", "create", "c", "--of", GROUP]);
    let original = pair.west.open("c/w").read_all().expect("read the clone");
    pair.east.ok(&["group", "remove", GROUP, "--volume", "w"]);
    wait_let_go(&pair);
    for _ in 0..2 {
        let image = pair.west.status().images.into_iter().find(|image| image.name == "c").expect("the clone");
        assert_eq!(image.state, ImageState::Ready, "{image:?}");
        assert!(pair.west.open("c/w").read_all().expect("read the clone") == original);
        match pair.west.try_open("w") {
            Err(HostError::Refused { message, .. }) => assert!(message.contains("'c' still shows"), "{message}"),
            other => panic!("a host opened what an image stands on: {other:?}"),
        }
        assert!(pair.west.refuses(&["volume", "delete", "w"]).contains("'c' still shows"));
        pair.west.kill9();
        pair.west.start();
    }
    // What would overwrite it waits, and says for what.
    written(&pair, "w", 8);
    pair.east.ok(&["group", "add", GROUP, "--volume", "w"]);
    wait_reason(&pair, "'c' still shows");
    assert!(pair.west.open("c/w").read_all().expect("read the clone") == original);
    pair.west.ok(&["clone", "delete", "c"]);
    pair.east.wait_pair(GROUP, "the pair to go on", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    pair.assert_same();
}
