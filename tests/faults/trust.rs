//! Trust that is taken back, and given to the same machine made anew.

use std::fs;

use tidemark_common::api::types::PairState;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

/// Refused, and the reason names what to do.
fn assert_refused(side: &Appliance, words: &[&str], names: &str) {
    let said = side.refuses(words);
    assert!(said.contains(names), "{words:?} names {names}: {said}");
}

#[test]
fn a_machine_made_anew_takes_its_old_name_once_no_group_names_it() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 4 << 20, 220));
    pair.east.open("v").write(0, &[7; 4096]).expect("write");
    pair.west.stop();
    fs::remove_dir_all(pair.west.directory()).expect("lose the directory");
    pair.west = pair.cluster.running("west");
    pair.west.trust(&pair.east, Some(pair.east.replication()));
    let (id, address) = (pair.west.id().to_owned(), pair.west.replication().to_owned());
    let add = ["peer", "add", "west", "--id", &id, "--addr", &address];
    // Each refusal names the command that helps, until nothing is refused.
    assert_refused(&pair.east, &add, "`tidemark peer remove west`");
    assert_refused(&pair.east, &["peer", "remove", "west"], "`tidemark pair delete g --to west`");
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.east.ok(&["peer", "remove", "west"]);
    assert!(pair.east.status().peers.is_empty());
    assert_refused(&pair.east, &["pair", "create", GROUP, "--to", "west"], "`tidemark peer add west --id ID");
    pair.east.ok(&add);
    pair.east.restart();
    pair.create();
    pair.assert_same();
}

#[test]
fn a_peer_that_was_removed_is_a_stranger_and_one_whose_copy_is_here_stays() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 221));
    assert_refused(&pair.west, &["peer", "remove", "east"], "`tidemark pair delete g --to east` gives the copy up");
    assert_refused(&pair.west, &["peer", "remove", "nobody"], "no peer 'nobody'");
    pair.assert_same();
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.west.ok(&["peer", "remove", "east"]);
    pair.west.ok(&["volume", "delete", "v"]);
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.create();
    pair.east.wait_pair(GROUP, "the door to be closed", COPY_LIMIT, |pair| {
        pair.state == PairState::Error
            && pair.reason.as_ref().is_some_and(|reason| reason.contains("`tidemark peer add`"))
    });
    let log = pair.west.log_text();
    assert!(log.contains("a connection was refused") && pair.west.status().groups.is_empty(), "{log}");
    pair.west.trust(&pair.east, None);
    pair.assert_same();
}

/// On the side with the slip nothing else tells: there is no pair there yet.
#[test]
fn a_peer_that_was_added_with_a_wrong_id_is_shown_with_what_to_do() {
    let cluster = Cluster::new();
    let (east, west) = (cluster.running("east"), cluster.running("west"));
    east.trust(&west, Some(west.replication()));
    // East calls from there, whatever it listens at.
    let address = "127.0.0.1:7470";
    west.ok(&["peer", "add", "east", "--id", &"07".repeat(32), "--addr", address]);
    east.ok(&["volume", "create", "v", "--size", "1MiB"]);
    east.ok(&["group", "create", GROUP, "--volume", "v", "--interval", "250ms"]);
    let told = east.cli(&["pair", "create", GROUP, "--to", "west"]);
    assert!(matches!(told.code, 0 | 1), "{told:?}");
    wait_until("the caller to be shown", COPY_LIMIT, || {
        let strangers = west.status().strangers;
        check(strangers.iter().any(|stranger| stranger.id == east.id()), || format!("{strangers:?}"))
    });
    let shown = west.ok(&["status"]).split_whitespace().collect::<Vec<_>>().join(" ");
    let add = format!("`tidemark peer add east --id {} --addr {address}`", east.id());
    assert!(shown.contains("`tidemark peer remove east`") && shown.contains(&add), "{shown}");
    west.ok(&["peer", "remove", "east"]);
    west.trust(&east, Some(east.replication()));
    assert!(west.status().strangers.is_empty(), "it is none any more");
    if told.code == 1 {
        east.ok(&["pair", "create", GROUP, "--to", "west"]);
    }
    east.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
}
