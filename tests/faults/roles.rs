//! Two appliances that both believe they are primary, and what operators ask of a group that is not what they think.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tidemark_common::api::types::{FailoverReport, LostTail, PairState, RejoinReport, Role, SwitchoverReport};
use tidemark_common::catalog::{Catalog, PairStateRecord, RoleRecord};
use tidemark_common::clock::SystemClock;
use tidemark_common::wire::message::{Message, Refusal, Return, Verify};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::impairment::Weather;
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::prometheus::figures;
use tidemark_tests::wait::{check, measure_for, wait_until};

use crate::peers::{endpoint, say};

const LIMIT: Duration = Duration::from_secs(20);

fn small(seed: u64) -> Setup {
    Setup {
        volumes: vec![("a", "4MiB".into()), ("b", "4MiB".into())],
        interval: "250ms",
        seed,
        journals: None,
        on_full: "fold",
    }
}

/// West has taken over while the link was cut, which it still is.
fn taken_over(seed: u64) -> Pair {
    let pair = Pair::paired(&small(seed));
    pair.relay.cut();
    let _ = pair.failover();
    pair
}

#[test]
fn an_old_primary_that_is_called_by_the_new_one_is_fenced() {
    let pair = taken_over(241);
    let mut host = pair.east.open("a");
    host.write(0, &[1; 4096]).expect("the old primary does not know yet");
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.west.ok(&["pair", "create", GROUP, "--to", "east"]);
    pair.east.wait_fenced(GROUP);
    assert!(host.write(0, &[2; 4096]).is_err(), "a fenced primary takes no writes");
    assert_eq!(pair.west.group(GROUP).role, Role::Primary);
    let told = pair.west.wait_pair(GROUP, "the reason to be shown", LIMIT, |pair| pair.state == PairState::Error);
    assert!(told.reason.as_ref().is_some_and(|reason| reason.contains("fenced")), "{told:?}");
}

/// Nobody calls with data, on either side: the old primary asks all the same, and before that nobody says what is not known.
#[test]
fn a_suspended_primary_that_was_replaced_is_fenced() {
    for (seed, restarted) in [(251, false), (252, true)] {
        let mut pair = Pair::paired(&small(seed));
        pair.settle();
        pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
        pair.relay.cut();
        let _ = pair.failover();
        pair.east.open("a").write(0, &[1; 4096]).expect("the old primary cannot know yet");
        let states = [&pair.east, &pair.west].map(|side| side.pair(GROUP).state);
        assert_eq!(states, [PairState::Suspended, PairState::FailedOver]);
        if restarted {
            pair.east.kill9();
        }
        pair.relay.heal();
        if restarted {
            pair.east.start();
        }
        pair.east.wait_fenced(GROUP);
        assert!(pair.east.try_open("a").is_err(), "a fenced primary takes no writes");
        assert_eq!(pair.west.group(GROUP).role, Role::Primary);
        let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
        assert_eq!((returned.primary.as_str(), returned.lost_writes), ("west", 1), "{returned:?}");
        pair.wait_paired();
        pair.assert_copied(&pair.west, &pair.east);
    }
}

/// As a kill leaves it that comes when the pair has heard who took over, and the group's role is not recorded yet: an operator's change may
/// be waited for in between.
#[test]
fn an_old_primary_that_is_killed_while_it_is_being_fenced_serves_nothing_again() {
    let mut pair = taken_over(249);
    pair.east.kill9();
    {
        let catalog = Catalog::open(pair.east.directory(), &SystemClock::new()).expect("its catalogue");
        let mut record = catalog.group(GROUP).expect("read it").expect("the group");
        assert_eq!(record.role, RoleRecord::Primary);
        record.pairs[0].state = PairStateRecord::Fenced;
        catalog.put_group(&record).expect("write it");
    }
    pair.east.start();
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced);
    assert!(pair.east.try_open("a").is_err(), "it serves nothing, before it has met the other side and after");
    pair.relay.heal();
    let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    assert_eq!((returned.primary.as_str(), returned.generation), ("west", 2));
    pair.wait_paired();
    pair.assert_copied(&pair.west, &pair.east);
}

#[test]
fn an_old_primary_that_does_not_run_is_fenced_too() {
    let mut pair = taken_over(246);
    let backing = pair.east.status().volumes.swap_remove(0).backing;
    pair.east.stop();
    std::fs::rename(&backing, pair.cluster.join("away")).expect("move the backing away");
    pair.east.start();
    assert!(pair.east.group(GROUP).problem.is_some());
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    pair.west.ok(&["pair", "create", GROUP, "--to", "east"]);
    pair.east.wait_fenced(GROUP);
    pair.east.stop();
    std::fs::rename(pair.cluster.join("away"), &backing).expect("put the backing back");
    pair.east.start();
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced, "it does not serve again");
    assert!(pair.east.try_open("a").is_err());
}

fn group_id(pair: &Pair) -> [u8; 16] {
    hex::decode(pair.east.group(GROUP).id).expect("hexadecimal").try_into().expect("16 bytes")
}

/// A difference is never a false alarm: what hosts write to a side that has taken over is not compared with the old primary's.
#[test]
fn a_side_that_takes_over_tells_who_compares_nothing_more_of_its_image() {
    let mut pair = Pair::paired(&small(248));
    pair.settle();
    let group = group_id(&pair);
    pair.east.stop();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = endpoint(&pair.east, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let west = pair.west.id().parse().expect("an id");
        let connection = endpoint.dial(pair.west.replication(), west).await.expect("dial");
        let (control, mut answers) = connection.open_control().await.expect("a control stream");
        let verify = Verify { version_min: 1, version_max: 1, group, generation: 1 };
        control.send(&Message::Verify(verify)).await.expect("ask to compare");
        let held = answers.recv().await;
        assert!(matches!(held, Ok(Some(Message::Held { .. }))), "{held:?}");
        let ask = Message::Ask { volume: 1, offset: 0, regions: 1 };
        control.send(&ask).await.expect("ask");
        let told = answers.recv().await;
        assert!(matches!(told, Ok(Some(Message::Digests { .. }))), "{told:?}");

        pair.west.ok(&["failover", GROUP, "--force"]);
        pair.west.open("a").write(0, &[1; 4096]).expect("write");
        // The conversation may be over before the question has left.
        let _ = control.send(&ask).await;
        let told = answers.recv().await;
        assert!(!matches!(told, Ok(Some(Message::Digests { .. }))), "{told:?}");
    });
}

/// What a side has said as a copy says nothing of what it is asked when it is a copy again, at markers whose numbers were there before.
#[test]
fn a_switchover_is_not_refused_for_what_the_other_side_said_in_an_earlier_role() {
    let pair = Pair::paired(&small(247));
    pair.east.ok(&["group", "set", GROUP, "--history", "1h"]);
    wait_until("west to keep a history", LIMIT, || {
        let history = pair.west.group(GROUP).history;
        check(history.as_ref().is_some_and(|history| history.oldest_marker.is_some()), || format!("{history:?}"))
    });
    pair.east.open("a").write(0, &[1; 4096]).expect("write");
    let older = pair.settle();
    for _ in 0..40 {
        let _ = pair.cut();
    }
    let newest = pair.settle();
    // As an old primary asks that does not know what became of its switchover.
    let group = group_id(&pair);
    let asked = Message::Return(Return { version_min: 1, version_max: 1, group, generation: 1 });
    let said = say(&pair.east, &pair.west, &asked);
    let Message::Refused(refused) = &said else { panic!("it is the copy still: {said:?}") };
    assert_eq!((refused.refusal, refused.generation), (Refusal::Conflict, 1), "{said:?}");

    let report: FailoverReport = pair.west.json(&["failover", GROUP, "--force", "--at", &older.to_string()]);
    assert_eq!(report.marker.number, older, "{report:?}");
    pair.east.wait_fenced(GROUP);
    let _: RejoinReport = pair.east.json(&["rejoin", GROUP]);
    pair.wait_paired();
    pair.west.ok(&["switchover", GROUP, "--to", "east", "--timeout", "30s"]);
    pair.wait_paired();
    let there: SwitchoverReport = pair.east.json(&["switchover", GROUP, "--to", "west", "--timeout", "30s"]);
    assert!(there.marker < newest, "at a marker that was there before: {there:?}");
    assert_eq!(pair.west.group(GROUP).role, Role::Primary);
}

#[test]
fn a_pair_that_failed_over_is_neither_suspended_nor_resumed() {
    let pair = taken_over(242);
    for verb in ["suspend", "resume"] {
        let refused = pair.west.refuses(&["pair", verb, GROUP, "--to", "east"]);
        assert!(refused.contains("failed-over") && refused.contains("pair delete"), "{refused}");
    }
    assert_eq!(pair.west.pair(GROUP).state, PairState::FailedOver);
}

#[test]
fn a_copy_is_given_up_only_with_the_name_of_its_primary() {
    let pair = Pair::paired(&small(243));
    let refused = pair.west.refuses(&["pair", "delete", GROUP, "--to", "typo"]);
    assert!(refused.contains("typo") && refused.contains("east"), "{refused}");
    assert_eq!(pair.west.group(GROUP).role, Role::Secondary);
    pair.wait_paired();
    pair.relay.cut();
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east"]);
    assert!(pair.west.try_group(GROUP).is_none());
    assert_eq!(pair.west.open("a").size(), 4 << 20, "its volumes stay, in no group");
}

#[test]
fn what_a_fenced_primary_had_is_kept_and_replaces_nothing_that_was_kept_before() {
    let pair = taken_over(244);
    pair.east.open("a").write(0, &[1; 4096]).expect("a write that is never shipped");
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let refused = pair.east.refuses(&["pair", "delete", GROUP, "--to", "typo"]);
    assert!(refused.contains("typo") && refused.contains("west"), "{refused}");
    let groups = pair.east.directory().join("groups");
    let kept_before = groups.join(format!("{}.fenced-by-2.kept", pair.east.group(GROUP).id));
    std::fs::create_dir(&kept_before).expect("what an earlier fence left");
    std::fs::write(kept_before.join("precious"), "1").expect("what an earlier fence left");
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    assert!(pair.east.try_group(GROUP).is_none());
    assert!(kept_before.join("precious").exists());
    let kept = pair.east.files(|name| name.ends_with(".segment"));
    assert!(!kept.is_empty(), "the journal is kept: {:?}", pair.east.files(|_| true));
}

/// As a kill leaves it that comes when what the group had is set aside, and the group is still in the catalogue.
#[test]
fn a_fenced_group_whose_giving_up_was_killed_is_given_up_at_the_next_start() {
    let mut pair = taken_over(254);
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let groups = pair.east.directory().join("groups");
    let id = pair.east.group(GROUP).id;
    pair.east.stop();
    let kept = groups.join(format!("{id}.fenced-by-2.kept"));
    std::fs::rename(groups.join(&id), &kept).expect("what giving up begins with");
    pair.east.start();
    wait_until("the group to be given up", LIMIT, || {
        check(pair.east.try_group(GROUP).is_none(), || format!("{:?}", pair.east.try_group(GROUP)))
    });
    assert!(kept.join("journal").is_dir() && !groups.join(&id).exists(), "what it had is kept");
    let volumes = pair.east.status().volumes;
    assert!(volumes.iter().all(|volume| volume.group.is_none()), "they are in no group: {volumes:?}");
    assert_eq!(pair.east.open("a").size(), 4 << 20, "and are served");
}

/// The same where the last step fails, and the command is given again.
#[test]
fn a_fenced_group_whose_giving_up_failed_behind_its_journal_needs_no_force() {
    let mut pair = taken_over(255);
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    // Nothing of the old primary is under way any more.
    pair.east.restart();
    let groups = pair.east.directory().join("groups");
    let id = pair.east.group(GROUP).id;
    std::fs::rename(groups.join(&id), groups.join(format!("{id}.fenced-by-2.kept"))).expect("set it aside");
    let refused = pair.east.cli(&["rejoin", GROUP]);
    assert!(refused.code != 0 && refused.stderr.contains("was being given up"), "{refused:?}");
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    assert!(pair.east.try_group(GROUP).is_none());
}

/// What a return that was killed in the middle had kept by then, another one than is kept now: nothing was lost by it, whatever is chosen next.
#[test]
fn what_a_return_that_was_broken_off_has_kept_is_not_called_lost() {
    for (seed, as_primary) in [(249, true), (250, false)] {
        let pair = taken_over(seed);
        pair.east.open("a").write(0, &[1; 4096]).expect("a write that is never shipped");
        pair.relay.heal();
        pair.east.wait_fenced(GROUP);
        let group = pair.east.directory().join("groups").join(pair.east.group(GROUP).id);
        let half = group.join("lost").join("generation-1-after-marker-999999");
        std::fs::create_dir_all(&half).expect("what a kill leaves");
        std::fs::write(half.join("unfinished"), "").expect("what a kill leaves");
        let listed = || pair.east.json::<Vec<LostTail>>(&["lost", "list", GROUP]);
        assert!(listed().is_empty(), "{:?}", listed());
        if as_primary {
            pair.east.ok(&["rejoin", GROUP, "--as-primary"]);
            assert!(listed().is_empty(), "its writes are served: {:?}", listed());
        } else {
            let returned: RejoinReport = pair.east.json(&["rejoin", GROUP]);
            let [tail] = &listed()[..] else { panic!("one tail: {:?}", listed()) };
            assert_eq!((returned.lost_writes, tail.writes), (1, 1), "{tail:?}");
            let kept = std::path::PathBuf::from(returned.kept.expect("the tail is kept"));
            assert!(!kept.join("unfinished").exists(), "it is lost now");
        }
        assert!(!half.exists(), "it takes room for nothing");
    }
}

#[test]
fn a_fence_does_not_wait_for_an_operators_change_that_waits_for_hosts() {
    let mut pair = Pair::unpaired(&small(245));
    // A journal that is full stays full: nothing is given up for the pair.
    pair.east.stop();
    pair.east.configure("groups", "segment_bytes", "8MiB");
    pair.east.configure("groups", "journal_bytes", "32MiB");
    pair.east.configure("groups", "write_buffer_bytes", "16MiB");
    pair.east.start();
    for name in ["c", "d"] {
        pair.east.ok(&["volume", "create", name, "--size", "64MiB"]);
    }
    pair.east.ok(&["group", "create", "t", "--volume", "c", "--volume", "d", "--on-full", "throttle"]);
    pair.east.ok(&["pair", "create", "t", "--to", "west"]);
    let paired = |pair: &tidemark_common::api::types::PairStatus| pair.state == PairState::Paired;
    pair.west.wait_pair("t", "the pair to be paired", LIMIT, paired);
    // The other side answers, so hosts wait for it.
    pair.relay.set(Weather { bytes_per_second: Some(200_000), ..Weather::default() });
    let host = std::thread::spawn({
        let mut host = pair.east.open("c");
        move || {
            let block: Vec<u8> =
                (0..1_u32 << 18).flat_map(|word| word.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
            (0..).find_map(|round: u64| host.write((round % 64) << 20, &block).err())
        }
    });
    wait_until("the journal and the buffer to be full", LIMIT, || {
        let group = pair.east.group("t");
        let full = group.problem.is_some() && group.buffer.bytes + (2 << 20) > group.buffer.capacity_bytes;
        check(full, || format!("{:?} {:?}", group.problem, group.buffer))
    });
    let directory = pair.east.directory().display().to_string();
    let change = std::thread::spawn(move || {
        tidemark_tests::appliance::tidemark(&["group", "remove", "t", "--volume", "c", "--dir", &directory])
    });
    pair.relay.cut();
    wait_until("the takeover", LIMIT, || {
        let outcome = pair.west.cli(&["failover", "t"]);
        check(outcome.code == 0, || outcome.stderr)
    });
    pair.relay.heal();
    let error = host.join().expect("the host ends").expect("with an error");
    assert!(matches!(error, tidemark_tests::host::HostError::Errno(_)), "{error}");
    let outcome = change.join().expect("the change ends");
    assert_ne!(outcome.code, 0, "nothing is taken out of a fenced group: {outcome:?}");
    pair.east.wait_fenced("t");
}

/// Two copies of one group, both taken over: they know nothing of each other, and the old primary knows both.
#[test]
fn two_copies_that_were_both_taken_over_are_told_on_all_three_and_the_advice_ends_it() {
    let pair = Pair::paired(&small(230));
    let north = pair.cluster.running("north");
    for (one, other) in [(&pair.east, &north), (&north, &pair.east), (&pair.west, &north), (&north, &pair.west)] {
        one.trust(other, Some(other.replication()));
    }
    pair.east.ok(&["pair", "create", GROUP, "--to", "north"]);
    north.wait_pair(GROUP, "the second copy", LIMIT, |pair| pair.state == PairState::Paired);
    pair.west.ok(&["failover", GROUP, "--force"]);
    north.ok(&["failover", GROUP, "--force"]);
    let problem_of = |side: &Appliance, holds: &[&str]| {
        wait_until(&format!("{} to say {holds:?}", side.name()), LIMIT, || {
            let problem = side.group(GROUP).problem.unwrap_or_default();
            check(holds.iter().all(|part| problem.contains(part)), || problem.clone())
        });
    };
    problem_of(&pair.east, &["'west' (generation 2)", "'north' (generation 2)", "tidemark group delete g"]);
    let refused = pair.east.refuses(&["rejoin", GROUP]);
    assert!(refused.contains("several have taken over"), "{refused}");
    // They meet when one is to have the other's copy.
    pair.west.ok(&["pair", "create", GROUP, "--to", "north"]);
    let told = pair.west.wait_pair_with(GROUP, "north", "the reason", LIMIT, |pair| pair.state == PairState::Error);
    assert!(told.reason.is_some_and(|reason| reason.contains("it is primary there, too")));
    problem_of(&north, &["'west' is primary for this group, too", "tidemark group delete g"]);
    // Whichever side calls, and whoever is asked what to do: pairs and group, by their names.
    north.ok(&["pair", "create", GROUP, "--to", "west"]);
    let told = north.wait_pair_with(GROUP, "west", "the reason", LIMIT, |pair| pair.state == PairState::Error);
    let gives_way = "on 'west' `tidemark pair delete g --to east` and `tidemark pair delete g --to north` and `tidemark group delete g`";
    assert!(told.reason.as_ref().is_some_and(|reason| reason.contains(gives_way)), "{told:?}");
    for side in [&pair.west, &north] {
        let refused = side.refuses(&["rejoin", GROUP]);
        assert!(refused.contains("is primary") && refused.contains("tidemark group delete g"), "{refused}");
    }
    // What they say is done: north gives up, the old primary follows west, and north becomes a copy again.
    north.ok(&["pair", "delete", GROUP, "--to", "east"]);
    north.ok(&["pair", "delete", GROUP, "--to", "west"]);
    north.ok(&["group", "delete", GROUP]);
    for volume in ["a", "b"] {
        north.ok(&["volume", "offer", volume, "--group", GROUP]);
    }
    pair.east.ok(&["rejoin", GROUP]);
    for peer in ["east", "north"] {
        pair.west
            .wait_pair_with(GROUP, peer, "the copies of the one chosen", LIMIT, |pair| pair.state == PairState::Paired);
    }
    assert_eq!(pair.east.group(GROUP).role, Role::Secondary);
    wait_until("the other primary to be forgotten", LIMIT, || {
        let problem = pair.west.group(GROUP).problem;
        check(problem.is_none(), || format!("{problem:?}"))
    });
}

/// Who took over is asked every ten seconds by one, and not by one for each time that somebody tried to return.
#[test]
fn a_fenced_side_asks_who_took_over_no_more_often_for_having_tried_to_return() {
    let pair = Pair::paired(&small(250));
    let north = pair.cluster.running("north");
    for (one, other) in [(&pair.east, &north), (&north, &pair.east)] {
        one.trust(other, Some(other.replication()));
    }
    pair.east.ok(&["pair", "create", GROUP, "--to", "north"]);
    north.wait_pair(GROUP, "the second copy", LIMIT, |pair| pair.state == PairState::Paired);
    pair.relay.cut();
    let _ = pair.failover();
    pair.east.open("a").write(0, &[1; 4096]).expect("a write that west never gets");
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    // It has nowhere to keep that.
    let lost = pair.east.directory().join("groups").join(pair.east.group(GROUP).id).join("lost");
    std::fs::write(&lost, "in the way").expect("put something in the way");
    for _ in 0..8 {
        let refused = pair.east.refuses(&["rejoin", GROUP]);
        assert!(refused.contains("lost"), "{refused}");
    }
    let metrics = pair.west.status().addresses.metrics;
    let asked = || figures(&metrics, "tidemark_peers_refused_total").iter().sum::<f64>();
    let before = asked();
    measure_for(Duration::from_secs(12));
    let times = asked() - before;
    assert!(times < 5.0, "asked {times} times in twelve seconds");
    std::fs::remove_file(&lost).expect("take it away");
    pair.east.ok(&["rejoin", GROUP]);
}

/// West took over from east, north from west, and north is out of reach: east knows of north's generation by asking west.
#[test]
fn a_side_that_goes_on_without_those_who_took_over_is_above_all_that_is_known_of_them() {
    let pair = Pair::paired(&small(232));
    let mut north = pair.cluster.running("north");
    for (one, other) in [(&pair.west, &north), (&north, &pair.west)] {
        one.trust(other, Some(other.replication()));
    }
    pair.relay.cut();
    let _ = pair.failover();
    pair.west.ok(&["pair", "create", GROUP, "--to", "north"]);
    north.wait_pair(GROUP, "the copy of the copy", LIMIT, |pair| pair.state == PairState::Paired);
    north.ok(&["failover", GROUP, "--force"]);
    pair.west.wait_fenced(GROUP);
    assert_eq!(north.group(GROUP).generation, 3);
    north.kill9();
    pair.relay.heal();
    pair.east.wait_fenced(GROUP);
    let refused = pair.east.refuses(&["rejoin", GROUP]);
    assert!(refused.contains("is fenced on 'west', too, by generation 3"), "{refused}");
    let refused = pair.east.refuses(&["rejoin", GROUP, "--as-primary"]);
    assert!(refused.contains("by generation 3") && refused.contains("--force"), "{refused}");
    let chosen: RejoinReport = pair.east.json(&["rejoin", GROUP, "--as-primary", "--force"]);
    assert_eq!((chosen.generation, chosen.whole), (4, true));
}

/// The one that took over is away, and a copy that did not is asked first: a fenced side does not serve again for that.
#[test]
fn a_fenced_side_with_two_copies_waits_for_the_one_that_took_over() {
    let mut pair = Pair::paired(&small(231));
    let north = pair.cluster.running("north");
    for (one, other) in [(&pair.east, &north), (&north, &pair.east)] {
        one.trust(other, Some(other.replication()));
    }
    pair.east.ok(&["pair", "create", GROUP, "--to", "north"]);
    north.wait_pair(GROUP, "the second copy", LIMIT, |pair| pair.state == PairState::Paired);
    // So that the copy that did not take over is the first.
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.east.ok(&["pair", "create", GROUP, "--to", "west"]);
    pair.west.wait_pair(GROUP, "the first copy again", LIMIT, |pair| pair.state == PairState::Paired);
    pair.west.ok(&["failover", GROUP, "--force"]);
    pair.east.wait_fenced(GROUP);
    pair.west.kill9();
    let refused = pair.east.refuses(&["rejoin", GROUP]);
    assert!(refused.contains("nobody who answers has taken it over"), "{refused}");
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced);
    pair.west.start();
    pair.east.ok(&["rejoin", GROUP]);
    assert_eq!(pair.east.group(GROUP).role, Role::Secondary);
}
