//! Copies that were interrupted while they were made: nobody can write them meanwhile, and they are finished.

use std::path::Path;

use tidemark_common::api::types::PairState;
use tidemark_tests::appliance::files_under;
use tidemark_tests::host::HostError;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

/// So many that a kill finds some of them made and some not.
const VOLUMES: usize = 120;

fn images(side: &Path) -> usize {
    let folder = side.join("volumes");
    if folder.exists() { files_under(&folder, |name| name.ends_with(".img")).len() } else { 0 }
}

#[test]
fn a_secondary_killed_while_it_makes_the_copy_volumes_finishes_them() {
    let mut pair = Pair::unpaired(&Setup {
        volumes: vec![("a", "1MiB".into())],
        interval: "250ms",
        seed: 231,
        journals: None,
        on_full: "fold",
    });
    pair.east.open("a").write(4096, &[7; 4096]).expect("old content");
    let names: Vec<String> = (1..VOLUMES).map(|number| format!("v{number}")).collect();
    let mut words = vec!["group", "create", "many", "--interval", "250ms"];
    for name in &names {
        pair.east.ok(&["volume", "create", name, "--size", "1MiB"]);
        words.extend(["--volume", name]);
    }
    pair.east.ok(&words);
    pair.east.open(&names[0]).write(8192, &[9; 4096]).expect("old content");
    pair.east.ok(&["pair", "create", "many", "--to", "west"]);
    wait_until("some copy volumes to be made", COPY_LIMIT, || {
        check(images(pair.west.directory()) > 5, || "too few".into())
    });
    pair.west.kill9();
    let made = images(pair.west.directory());
    assert!(made < names.len(), "killed too late to see anything: {made}");
    pair.relay.cut();
    pair.west.start();
    for volume in pair.west.status().volumes {
        assert_eq!(volume.group.as_deref(), Some("many"), "{volume:?}");
        match pair.west.try_open(&volume.name) {
            Err(HostError::Refused { message, .. }) => assert!(message.contains("copy"), "{message}"),
            other => panic!("a host opened the copy volume {}: {other:?}", volume.name),
        }
    }
    pair.relay.heal();
    let paired = |pair: &tidemark_common::api::types::PairStatus| pair.state == PairState::Paired;
    pair.west.wait_pair("many", "the copy to be complete", COPY_LIMIT, paired);
    assert_eq!(pair.west.group("many").volumes.len(), names.len());
    let copy = pair.west.directory().join("volumes").join("v1.img");
    assert_eq!(std::fs::read(copy).expect("read the copy")[8192..12288], [9; 4096]);
}

#[test]
fn an_empty_file_that_no_volume_names_is_taken_over_and_one_with_data_is_not() {
    let pair = Pair::unpaired(&Setup {
        volumes: vec![("a", "1MiB".into()), ("b", "1MiB".into())],
        interval: "250ms",
        seed: 232,
        journals: None,
        on_full: "fold",
    });
    let folder = pair.west.directory().join("volumes");
    std::fs::create_dir_all(&folder).expect("make the folder");
    // As a kill between the file and its record leaves it; what it is as long as is not what is asked for now.
    std::fs::File::create(folder.join("a.img")).and_then(|file| file.set_len(3 << 20)).expect("a file without data");
    std::fs::write(folder.join("c.img"), [5; 4096]).expect("a file with data");
    pair.create();
    pair.wait_paired();
    pair.assert_copy_equals();

    let refused = pair.west.refuses(&["volume", "create", "c", "--size", "1MiB"]);
    assert!(refused.contains("c.img"), "names what is in the way: {refused}");
    assert_eq!(std::fs::read(folder.join("c.img")).expect("read it"), [5; 4096], "it was not touched");
    assert_eq!(pair.west.group(GROUP).volumes, pair.volumes());
}

#[test]
fn a_volume_that_left_the_group_is_free_on_the_copy_side_also_after_a_restart() {
    let mut pair = Pair::paired(&Setup {
        volumes: vec![("a", "1MiB".into()), ("b", "1MiB".into())],
        interval: "250ms",
        seed: 233,
        journals: None,
        on_full: "fold",
    });
    pair.east.ok(&["group", "remove", GROUP, "--volume", "b"]);
    wait_until("the copy side to let it go", COPY_LIMIT, || pair.west.try_open("b").map_err(|error| error.to_string()));
    assert_eq!(pair.west.group(GROUP).volumes, ["a"]);
    pair.west.open("b").write(0, &[1; 4096]).expect("a volume in no group is served");
    pair.west.restart();
    assert_eq!(pair.west.open("b").read(0, 4096).expect("served after the restart"), [1; 4096]);
    pair.west.ok(&["group", "create", "other", "--volume", "b"]);
    pair.west.open("b").write(0, &[2; 4096]).expect("and usable for another group");
}
