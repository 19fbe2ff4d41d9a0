//! Two sides that were both primary: an operator chooses either, and what the other had alone is kept and listed.

use std::time::Duration;

use tidemark_common::api::types::{LostTail, PairState, RejoinReport, Role, VerifyReport};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
const BLOCK: usize = 4096;

/// Each byte of a volume: what `blocks` says, else `rest`.
fn image(bytes: u64, rest: u8, blocks: &[(usize, u8)]) -> Vec<u8> {
    let mut image = vec![rest; usize::try_from(bytes).expect("small")];
    for (block, byte) in blocks {
        image[block * BLOCK..(block + 1) * BLOCK].fill(*byte);
    }
    image
}

fn write(side: &Appliance, blocks: &[(usize, u8)]) {
    let mut host = side.open("v");
    for (block, byte) in blocks {
        host.write((block * BLOCK) as u64, &[*byte; BLOCK]).expect("a primary takes writes");
    }
}

/// Both have 9 in each block. Then each was primary alone: east wrote blocks 1 and 3, west, which took over, 2 and 3.
fn both_primary(seed: u64) -> Pair {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, seed));
    pair.east.open("v").write_all(0, &image(MIB, 9, &[])).expect("write");
    pair.settle();
    pair.relay.cut();
    let _ = pair.failover();
    write(&pair.east, &[(1, 0xe1), (3, 0xe3)]);
    write(&pair.west, &[(2, 0xb2), (3, 0xb3)]);
    assert_eq!((pair.east.group(GROUP).role, pair.west.group(GROUP).role), (Role::Primary, Role::Primary));
    pair
}

/// What `loser` had alone is listed there, and exported as it wrote it; both sides hold what `winner` has.
fn assert_chosen(pair: &Pair, (winner, holds): (&Appliance, &[u8]), (loser, alone): (&Appliance, &[(usize, u8)])) {
    for side in [winner, loser] {
        side.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    }
    assert_eq!((winner.group(GROUP).role, loser.group(GROUP).role), (Role::Primary, Role::Secondary));
    assert!(winner.open("v").read_all().expect("read") == holds, "{} serves something else", winner.name());
    let marker = winner.ok(&["cut", GROUP]);
    winner.ok(&["wait", GROUP, "--to", loser.name(), "--marker", marker.trim(), "--timeout", "30s"]);
    assert!(pair.backing(loser)[0] == holds, "the copy on {} differs", loser.name());
    let tails: Vec<LostTail> = loser.json(&["lost", "list", GROUP]);
    let [tail] = tails.as_slice() else { panic!("one tail: {tails:?}") };
    let file = pair.cluster.join(&format!("lost-on-{}", loser.name())).display().to_string();
    loser.ok(&["lost", "export", GROUP, &tail.name, "--volume", "v", "--to", &file]);
    assert!(std::fs::read(&file).expect("read") == image(MIB, 0, alone), "the tail of {} is another", loser.name());
    assert!(winner.group(GROUP).problem.is_none(), "{:?}", winner.group(GROUP).problem);
}

#[test]
fn the_side_that_took_over_is_chosen_and_what_the_fenced_one_had_alone_is_kept() {
    let pair = both_primary(251);
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert_eq!((returned.primary.as_str(), returned.generation, returned.lost_writes), ("west", 2, 2));
    let holds = image(MIB, 9, &[(2, 0xb2), (3, 0xb3)]);
    assert_chosen(&pair, (&pair.west, &holds), (&pair.east, &[(1, 0xe1), (3, 0xe3)]));
}

#[test]
fn the_fenced_side_is_chosen_and_what_the_one_that_took_over_had_alone_is_kept() {
    let mut pair = both_primary(252);
    let refused = pair.east.refuses(&["rejoin", GROUP, "--as-primary"]);
    assert!(refused.contains("primary here"), "nothing is to be chosen yet: {refused}");
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let told = pair.east.group(GROUP).pairs[0].reason.clone().unwrap_or_default();
    assert!(told.contains("tidemark rejoin g --as-primary"), "{told}");
    let chosen: RejoinReport = pair.east.json(&["rejoin", GROUP, "--as-primary"]);
    assert_eq!((chosen.primary.as_str(), chosen.generation, chosen.whole), ("east", 3, false));
    pair.west.wait_fenced(GROUP);
    assert!(pair.west.try_open("v").is_err(), "a fenced side serves nothing");
    let says = |pair: &tidemark_common::api::types::PairStatus| {
        pair.state == PairState::Error
            && pair.reason.as_ref().is_some_and(|reason| reason.contains("tidemark rejoin g"))
    };
    pair.east.wait_pair(GROUP, "what to do over there", LIMIT, says);
    // It outlives kills of both.
    pair.east.kill9();
    pair.west.kill9();
    pair.east.start();
    pair.west.start();
    assert_eq!((pair.east.group(GROUP).role, pair.west.group(GROUP).role), (Role::Primary, Role::Fenced));
    write(&pair.east, &[(4, 0xe4)]);
    let returned: RejoinReport = pair.west.json(&["rejoin", GROUP]);
    assert_eq!((returned.primary.as_str(), returned.generation, returned.lost_writes), ("east", 3, 2));
    assert_eq!((returned.marker, returned.whole), (chosen.marker, false));
    let holds = image(MIB, 9, &[(1, 0xe1), (3, 0xe3), (4, 0xe4)]);
    assert_chosen(&pair, (&pair.east, &holds), (&pair.west, &[(2, 0xb2), (3, 0xb3)]));
}

#[test]
fn a_fenced_side_goes_on_without_the_one_that_took_over_only_when_forced_and_fences_it_when_it_returns() {
    let mut pair = both_primary(253);
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    pair.west.kill9();
    let refused = pair.east.refuses(&["rejoin", GROUP, "--as-primary"]);
    assert!(refused.contains("west") && refused.contains("--force"), "{refused}");
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced);
    let chosen: RejoinReport = pair.east.json(&["rejoin", GROUP, "--as-primary", "--force"]);
    assert_eq!((chosen.generation, chosen.whole), (3, true));
    write(&pair.east, &[(4, 0xe4)]);
    // It believes to be primary until it is met.
    pair.west.start();
    pair.west.wait_fenced(GROUP);
    let returned: RejoinReport = pair.west.json(&["rejoin", GROUP]);
    assert!(returned.whole && returned.lost_writes >= 2, "{returned:?}");
    for side in [&pair.east, &pair.west] {
        side.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    }
    pair.assert_same();
    let holds = image(MIB, 9, &[(1, 0xe1), (3, 0xe3), (4, 0xe4)]);
    assert!(pair.east.open("v").read_all().expect("read") == holds);
    let tails: Vec<LostTail> = pair.west.json(&["lost", "list", GROUP]);
    assert_eq!((tails.len(), tails[0].writes), (1, returned.lost_writes), "{tails:?}");
}

/// West took over by mistake, and nothing was written there: what east wrote since is in its journal, of the generation before.
#[test]
fn a_side_that_is_primary_again_brings_one_that_wrote_nothing_on_from_its_journal() {
    let pair = Pair::paired(&Setup::one_volume("v", MIB, 255));
    pair.east.open("v").write_all(0, &image(MIB, 9, &[])).expect("write");
    pair.settle();
    pair.relay.cut();
    let _ = pair.failover();
    write(&pair.east, &[(1, 0xe1), (3, 0xe3)]);
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let chosen: RejoinReport = pair.east.json(&["rejoin", GROUP, "--as-primary"]);
    assert_eq!((chosen.generation, chosen.whole), (3, false));
    write(&pair.east, &[(4, 0xe4)]);
    pair.west.wait_fenced(GROUP);
    let returned: RejoinReport = pair.west.json(&["rejoin", GROUP]);
    assert_eq!((returned.lost_writes, returned.whole, returned.kept), (0, false, None));
    for side in [&pair.east, &pair.west] {
        side.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    }
    pair.settle();
    assert!(pair.backing(&pair.west)[0] == image(MIB, 9, &[(1, 0xe1), (3, 0xe3), (4, 0xe4)]));
}

/// West went back to an older marker, whose place has left east's journal: everything is copied to it.
#[test]
fn a_fenced_side_that_no_longer_holds_the_place_copies_everything_to_who_returns() {
    let pair = Pair::unpaired(&Setup::one_volume("v", 48 * MIB, 254).journals("32MiB", "256MiB"));
    pair.east.ok(&["group", "set", GROUP, "--history", "1h"]);
    pair.create();
    pair.wait_paired();
    write_noise(&pair.east, "v", 0, 16 * MIB, 1);
    let older = pair.settle();
    write_noise(&pair.east, "v", 0, 48 * MIB, 2);
    pair.settle();
    wait_until("the place to leave the journal of east", LIMIT, || {
        let journal = pair.east.group(GROUP).journal;
        check(journal.bytes < 24 * MIB, || format!("{journal:?}"))
    });
    pair.west.ok(&["failover", GROUP, "--force", "--at", &older.to_string()]);
    pair.east.wait_fenced(GROUP);
    // Nothing is written there: it stands exactly at that marker.
    let chosen: RejoinReport = pair.east.json(&["rejoin", GROUP, "--as-primary"]);
    assert_eq!(chosen.marker, older);
    pair.west.wait_fenced(GROUP);
    let returned: RejoinReport = pair.west.json(&["rejoin", GROUP]);
    assert_eq!((returned.marker, returned.lost_writes, returned.kept), (older, 0, None));
    pair.wait_paired();
    let compared: VerifyReport = pair.east.json(&["verify", GROUP, "--to", "west"]);
    assert_eq!(compared.different_bytes, 0, "{compared:?}");
    assert!(pair.east.open("v").read_all().expect("read") == noise(2, 48 * MIB), "what east had is served");
}
