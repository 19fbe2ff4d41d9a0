//! Volumes of a running pair: resized, added, removed, refused where they are copies.

use std::time::Duration;

use tidemark_tests::host::HostError;
use tidemark_tests::image;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::wait_until;

const SIZE: u64 = 4 << 20;
const LIMIT: Duration = Duration::from_secs(20);

fn pair(seed: u64) -> Pair {
    Pair::paired(&Setup {
        volumes: vec![("a", SIZE.to_string()), ("b", SIZE.to_string())],
        interval: "250ms",
        seed,
        journals: None,
        on_full: "fold",
    })
}

/// The size of a volume as one side knows it.
fn known_size(side: &tidemark_tests::appliance::Appliance, name: &str) -> Result<u64, String> {
    let volumes = side.status().volumes;
    let found = volumes.iter().find(|volume| volume.name == name).map(|volume| volume.size);
    found.ok_or_else(|| format!("no volume {name}: {volumes:?}"))
}

#[test]
fn a_copy_volume_is_not_exported_and_says_why() {
    let pair = pair(111);
    let Err(HostError::Refused { message, .. }) = pair.west.try_open("a") else {
        panic!("a copy volume must be refused with a reason");
    };
    assert!(message.contains("copy") && message.contains("primary"), "says what it is and where to go: {message}");
    let Err(HostError::Refused { message, .. }) = pair.west.try_open("nosuch") else {
        panic!("an unknown export must be refused with a reason");
    };
    assert!(message.contains("nosuch"), "{message}");
}

#[test]
fn a_volume_grows_under_a_connected_host_and_so_does_its_copy() {
    const LARGER: u64 = 2 * SIZE;
    let pair = pair(112);
    let mut before = pair.east.open("a");
    before.write(0, &[1; 4096]).expect("write before");
    pair.east.ok(&["volume", "resize", "a", "--size", "8MiB"]);
    let mut after = pair.east.open("a");
    assert_eq!(after.size(), LARGER);
    after.write(LARGER - 4096, &[2; 4096]).expect("write into the new part");
    before.write(4096, &[3; 4096]).expect("the old connection goes on");
    wait_until("the copy to grow", LIMIT, || match known_size(&pair.west, "a")? {
        LARGER => Ok(()),
        other => Err(format!("{other} bytes")),
    });
    pair.assert_copy_equals();
    let refused = pair.east.refuses(&["volume", "resize", "a", "--size", "1MiB"]);
    assert!(refused.contains("shrink") || refused.contains("grow"), "{refused}");
}

#[test]
fn a_volume_with_data_joins_and_leaves_a_running_pair() {
    let pair = Pair::prefilled(&Setup::seeded(113));
    let load = pair.load(0);
    load.wait_acked(100);
    pair.east.ok(&["volume", "create", "late", "--size", "4MiB"]);
    let mut late = pair.east.open("late");
    late.write_all(0, &vec![7; SIZE as usize]).expect("data before it joins");
    pair.east.ok(&["group", "add", GROUP, "--volume", "late"]);
    let mut late = pair.east.open("late");
    late.write(8192, &[8; 4096]).expect("a write as a member");
    wait_until("the copy side to have the volume", COPY_LIMIT, || known_size(&pair.west, "late").map(drop));
    pair.wait_paired();
    load.wait_acked(100);
    load.stop();
    pair.assert_copy_equals();
    assert_legal("the others", &pair.history.writes(), &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
    let backing = pair.west.status().volumes.into_iter().find(|volume| volume.name == "late").expect("late").backing;
    let copy = std::fs::read(backing).expect("read the copy");
    assert!(copy[8192..12288].iter().all(|byte| *byte == 8) && copy[12288..].iter().all(|byte| *byte == 7));

    let removed = pair.east.cli(&["group", "remove", GROUP, "--volume", "late"]);
    assert!(removed.code == 0 && removed.stderr.contains("is still open over NBD"), "{removed:?}");
    late.write(4096, &[8; 4096]).expect("its host goes on");
    assert_eq!(pair.east.group(GROUP).volumes, pair.volumes());
    let mut late = pair.east.open("late");
    late.write(0, &[9; 4096]).expect("a volume in no group is served");
    wait_until("the copy side to follow", LIMIT, || {
        let volumes = pair.west.group(GROUP).volumes;
        if volumes == pair.volumes() { Ok(()) } else { Err(format!("{volumes:?}")) }
    });
    pair.assert_copy_equals();
}

#[test]
fn a_volume_around_an_existing_file_keeps_what_it_holds() {
    let pair = pair(114);
    let path = pair.cluster.join("existing");
    std::fs::write(&path, vec![5; SIZE as usize]).expect("write the file");
    let backing = path.display().to_string();
    pair.east.ok(&["volume", "create", "old", "--size", "4MiB", "--backing", &backing]);
    pair.east.ok(&["group", "create", "other", "--volume", "old", "--interval", "250ms"]);
    assert_eq!(pair.east.open("old").read(0, 4096).expect("read"), vec![5; 4096]);
    pair.east.ok(&["pair", "create", "other", "--to", "west"]);
    pair.east.ok(&["cut", "other"]);
    pair.east.ok(&["wait", "other", "--to", "west", "--timeout", "30s"]);
    let copy = pair.west.status().volumes.into_iter().find(|volume| volume.name == "old").expect("old").backing;
    let copy = std::fs::read(copy).expect("read the copy");
    image::compare(&vec![5; SIZE as usize], &copy).expect("the copy holds what the file held");
}

#[test]
fn a_group_is_deleted_when_nobody_needs_it_and_its_volumes_keep_what_was_answered() {
    let pair = pair(114);
    let refused = pair.east.refuses(&["group", "delete", GROUP]);
    assert!(refused.contains("pair delete"), "{refused}");
    let refused = pair.west.refuses(&["group", "delete", GROUP]);
    assert!(refused.contains("pair delete"), "{refused}");
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    let mut host = pair.east.open("a");
    host.write(4096, &[7; 8192]).expect("a write that is not flushed");
    let refused = pair.east.refuses(&["group", "delete", GROUP]);
    assert!(refused.contains("NBD connection"), "{refused}");
    drop(host);
    wait_until("the host to be gone", LIMIT, || {
        let told = pair.east.cli(&["group", "delete", GROUP]);
        if told.code == 0 { Ok(()) } else { Err(told.stderr) }
    });
    assert!(pair.east.status().groups.is_empty());
    let kept = pair.east.open("a").read_all().expect("read it");
    assert!(kept[4096..12288].iter().all(|byte| *byte == 7), "what was answered is in the volume");
    // The name, and the volumes, are free.
    pair.east.ok(&["group", "create", GROUP, "--volume", "a"]);
    let refused = pair.east.refuses(&["group", "remove", GROUP, "--volume", "a"]);
    assert!(refused.contains(&format!("tidemark group delete {GROUP}")), "{refused}");
    pair.east.ok(&["volume", "delete", "b"]);
    // The copy, given up where it is, makes room for another as the messages say.
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.east.ok(&["pair", "create", GROUP, "--to", "west"]);
    pair.east.wait_pair(GROUP, "the name that is taken", LIMIT, |pair| {
        pair.reason.as_deref().is_some_and(|why| why.contains("tidemark volume delete a"))
    });
    pair.west.ok(&["volume", "delete", "a"]);
    pair.wait_paired();
}
