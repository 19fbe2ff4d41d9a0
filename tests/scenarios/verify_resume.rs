//! A comparison that is broken off, whatever breaks it off: it goes on where it was, every difference is told, and none twice.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tidemark_common::api::types::{ComparisonState, ComparisonStatus, PairState, VerifyReport};
use tidemark_common::catalog::{Catalog, VerifyRecord, VerifyStateRecord};
use tidemark_common::clock::SystemClock;
use tidemark_common::ids::GroupId;
use tidemark_tests::appliance::{Appliance, binary};
use tidemark_tests::cluster::flip_bit;
use tidemark_tests::noise::write_noise;
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const LIMIT: Duration = Duration::from_secs(60);
const MIB: u64 = 1 << 20;
const REGION: u64 = 65_536;
/// Of each of the two volumes.
const SIZE: u64 = 64 * MIB;
/// Slices of 16 MiB, so the middle lasts for seconds.
const RATE: &str = "16MiB";
/// Where the first volume's half is done.
const MIDDLE: u64 = 32 * MIB;

/// Before the place where it is broken off, and behind it, also in the other volume.
const BEFORE: [(&str, u64); 2] = [("a", 3 * MIB + 17), ("a", 20 * MIB)];
const BEHIND: [(&str, u64); 2] = [("b", 5 * MIB), ("b", SIZE - 1)];

fn settled(seed: u64) -> Pair {
    let volumes = ["a", "b"].map(|name| (name, SIZE.to_string())).to_vec();
    let pair = Pair::paired(&Setup { volumes, ..Setup::one_volume("a", SIZE, seed) });
    write_noise(&pair.east, "a", 0, MIB, seed);
    pair.settle();
    pair
}

/// The files of the copy's volumes, by their names: also of a side that does not run.
type Copies = BTreeMap<String, PathBuf>;

fn copies(pair: &Pair) -> Copies {
    pair.west.status().volumes.into_iter().map(|volume| (volume.name, volume.backing.into())).collect()
}

fn plant(copies: &Copies, places: &[(&str, u64)]) {
    for (volume, offset) in places {
        flip_bit(&copies[*volume], *offset, 3);
    }
}

/// What a report is to list: each region once, in their order.
fn listed(places: &[(&str, u64)]) -> Vec<(String, u64, u64)> {
    let mut listed: Vec<_> =
        places.iter().map(|(volume, offset)| ((*volume).to_owned(), offset / REGION * REGION, REGION)).collect();
    listed.sort();
    listed
}

fn found(report: &VerifyReport) -> Vec<(String, u64, u64)> {
    report.differences.iter().map(|found| (found.volume.clone(), found.offset, found.length)).collect()
}

/// The command, in the background.
fn begin(side: &Appliance, words: &[&str]) -> Child {
    let directory = side.directory().display().to_string();
    let mut command = Command::new(binary());
    command.args([&["verify", GROUP, "--to", "west", "--dir", &directory], words].concat());
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("run tidemark")
}

fn verify(pair: &Pair, words: &[&str]) -> (i32, VerifyReport) {
    let outcome = pair.east.cli_within(LIMIT, &[&["verify", GROUP, "--to", "west", "--json"], words].concat());
    let report = serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
    (outcome.code, report)
}

fn wait_comparison(pair: &Pair, what: &str, wanted: impl Fn(&ComparisonStatus) -> bool) -> ComparisonStatus {
    let is_so = |found: &Option<ComparisonStatus>| found.as_ref().is_some_and(&wanted);
    let status = pair.east.wait_pair(GROUP, what, LIMIT, |pair| is_so(&pair.comparison));
    status.comparison.expect("a comparison")
}

/// Broken off before the second volume: what lies before has been found, and is recorded.
fn wait_in_the_middle(pair: &Pair, planted: usize) -> ComparisonStatus {
    let planted_bytes = planted as u64 * REGION;
    let middle = wait_comparison(pair, "the middle of the comparison", |found| {
        found.done_bytes >= MIDDLE && found.different_bytes == planted_bytes
    });
    assert!(middle.done_bytes < SIZE + 5 * MIB, "{middle:?}");
    middle
}

fn wait_gone(pair: &Pair, what: &str) {
    wait_until(what, LIMIT, || {
        let found =
            pair.east.try_group(GROUP).into_iter().flat_map(|group| group.pairs).find_map(|pair| pair.comparison);
        check(found.is_none(), || format!("{found:?}"))
    });
}

fn assert_went_on(report: &VerifyReport, middle: &ComparisonStatus) {
    assert!(report.complete && report.resumed > 0, "{report:?}");
    assert_eq!(report.compared_bytes, 2 * SIZE, "{report:?}");
    // Honest about when: some of it is as of a marker from before.
    assert_eq!(report.from_marker, middle.from_marker, "{report:?} {middle:?}");
    assert!(report.marker > middle.marker, "{report:?} {middle:?}");
}

/// Nobody asks for it to go on. What lies behind the place changes before it does.
fn assert_goes_on_by_itself_after(seed: u64, interrupt: impl FnOnce(&mut Pair), mend: impl FnOnce(&mut Pair)) {
    let mut pair = settled(seed);
    let copies = copies(&pair);
    plant(&copies, &BEFORE);
    let mut command = begin(&pair.east, &["--rate", RATE]);
    let middle = wait_in_the_middle(&pair, BEFORE.len());
    assert_eq!(middle.resumed, 0, "{middle:?}");
    interrupt(&mut pair);
    plant(&copies, &BEHIND);
    mend(&mut pair);
    let ended = wait_comparison(&pair, "it to end by itself", |found| found.state == ComparisonState::Ended);
    assert!(ended.resumed > 0, "{ended:?}");
    assert!(ended.resumed_at_bytes >= middle.done_bytes, "it began anew: {ended:?} {middle:?}");
    let (code, report) = verify(&pair, &["--resume"]);
    assert_eq!((code, found(&report)), (1, listed(&[BEFORE, BEHIND].concat())), "{report:?}");
    assert_went_on(&report, &middle);
    command.wait().expect("the command ends");
    // The next one begins anew, at newer markers.
    let (code, anew) = verify(&pair, &[]);
    assert_eq!((code, anew.resumed, found(&anew)), (1, 0, found(&report)), "{anew:?}");
    assert!(anew.from_marker > report.marker, "{anew:?}");
}

#[test]
fn a_comparison_goes_on_after_kill_9_of_the_primary() {
    assert_goes_on_by_itself_after(241, |pair| pair.east.kill9(), |pair| pair.east.start());
}

#[test]
fn a_comparison_goes_on_after_a_stop_of_the_primary() {
    assert_goes_on_by_itself_after(242, |pair| pair.east.stop(), |pair| pair.east.start());
}

#[test]
fn a_comparison_goes_on_after_kill_9_of_the_secondary() {
    let gone = |pair: &mut Pair| {
        pair.west.kill9();
        pair.east.wait_pair(GROUP, "the copy to be missed", LIMIT, |pair| pair.verify.is_none());
    };
    assert_goes_on_by_itself_after(243, gone, |pair| pair.west.start());
}

#[test]
fn a_comparison_goes_on_after_a_lost_link() {
    let cut = |pair: &mut Pair| {
        pair.relay.cut();
        let said = pair.east.refuses(&["verify", GROUP, "--to", "west", "--resume"]);
        assert!(said.contains("broken off") && said.contains("goes on by itself"), "{said}");
        let waits = wait_comparison(pair, "it to wait", |found| found.state == ComparisonState::Runs);
        assert!(waits.done_bytes < SIZE + 5 * MIB, "{waits:?}");
        pair.east.wait_pair(GROUP, "the round to end", LIMIT, |pair| pair.verify.is_none());
        let shown = pair.east.ok(&["status"]);
        assert!(shown.contains("waits for the pair at"), "{shown}");
    };
    assert_goes_on_by_itself_after(244, cut, |pair| pair.relay.heal());
}

#[test]
fn a_comparison_that_was_broken_off_stands_and_goes_on_only_when_it_is_asked_to() {
    let mut pair = settled(245);
    let copies = copies(&pair);
    plant(&copies, &BEFORE);
    let command = begin(&pair.east, &["--rate", RATE]);
    wait_in_the_middle(&pair, BEFORE.len());
    let said = pair.east.refuses(&["verify", GROUP, "--to", "west"]);
    assert!(said.contains("somebody waits for the report"), "{said}");
    kill_process(Pid::from_child(&command), Signal::INT).expect("signal the command");
    let output = command.wait_with_output().expect("the command ends");
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(130), "{told}");
    assert!(told.contains("interrupted") && told.contains("`tidemark verify g --to west --resume` goes on"), "{told}");
    let stands = wait_comparison(&pair, "it to stand", |found| found.state == ComparisonState::Stands);
    assert_eq!(pair.east.pair(GROUP).verify, None);
    // Nothing goes on by itself, not after a start either.
    pair.east.restart();
    pair.wait_paired();
    let after = pair.east.pair(GROUP).comparison.expect("it stands still");
    assert_eq!((after.state, after.done_bytes), (ComparisonState::Stands, stands.done_bytes), "{after:?}");
    let shown = pair.east.ok(&["status"]);
    assert!(shown.contains("stands at") && shown.contains("verify g --to west --resume"), "{shown}");

    let mut command = begin(&pair.east, &["--resume", "--rate", RATE]);
    wait_comparison(&pair, "it to go on", |found| found.state == ComparisonState::Runs && found.resumed == 1);
    let (_, suspended): (_, VerifyReport) = verify(&pair, &["--suspend"]);
    assert!(!suspended.complete && suspended.compared_bytes >= stands.done_bytes, "{suspended:?}");
    assert!(!command.wait().expect("the command ends").success());
    plant(&copies, &BEHIND);
    let (code, report) = verify(&pair, &["--resume", "--rate", "1GiB"]);
    assert_eq!((code, found(&report)), (1, listed(&[BEFORE, BEHIND].concat())), "{report:?}");
    assert_went_on(&report, &stands);
    assert_eq!(report.resumed, 2, "{report:?}");
    assert_eq!(verify(&pair, &["--resume"]), (1, report), "what has ended is told again");

    // One that stands is forgotten on request, and by whoever begins anew.
    let mut command = begin(&pair.east, &["--rate", RATE]);
    wait_in_the_middle(&pair, BEFORE.len());
    verify(&pair, &["--cancel"]);
    command.wait().expect("the command ends");
    assert_eq!(pair.east.pair(GROUP).comparison, None);
    let said = pair.east.refuses(&["verify", GROUP, "--to", "west", "--resume"]);
    assert!(said.contains("no comparison"), "{said}");
    pair.east.restart();
    assert_eq!(pair.east.pair(GROUP).comparison, None);
}

/// Suspends a comparison in the middle.
fn stand(pair: &Pair, words: &[&str]) -> ComparisonStatus {
    let mut command = begin(&pair.east, &[&["--rate", RATE], words].concat());
    wait_comparison(pair, "the middle of the comparison", |found| found.done_bytes >= MIDDLE);
    pair.east.ok(&["verify", GROUP, "--to", "west", "--suspend"]);
    command.wait().expect("the command ends");
    wait_comparison(pair, "it to stand", |found| found.state == ComparisonState::Stands)
}

#[test]
fn what_is_mended_after_an_interruption_differs_at_one_marker() {
    let pair = settled(246);
    let copies = copies(&pair);
    plant(&copies, &BEFORE);
    stand(&pair, &["--repair"]);
    plant(&copies, &BEHIND);
    // A host writes all of a region that was found: both sides hold the same again.
    write_noise(&pair.east, "a", 20 * MIB, REGION, 9);
    pair.settle();
    let sent = pair.relay.forward().bytes();
    let (code, report) = verify(&pair, &["--resume", "--rate", "1GiB"]);
    assert_eq!((code, found(&report)), (1, listed(&[BEFORE, BEHIND].concat())), "{report:?}");
    assert_eq!((report.repaired, report.repaired_bytes), (true, 3 * REGION), "{report:?}");
    pair.east
        .wait_pair(GROUP, "the repair", LIMIT, |pair| pair.state == PairState::Paired && pair.differential_bytes == 0);
    let sent = pair.relay.forward().bytes() - sent;
    assert!(sent < 4 << 20, "{sent} bytes sent to mend three regions");
    pair.assert_copy_equals();
    assert_eq!(verify(&pair, &[]).0, 0);
}

/// The record as a kill leaves it that comes when the pair is told what to copy: a part of it may be the same by then.
#[test]
fn what_was_to_be_mended_when_the_service_was_killed_is_mended() {
    let mut pair = settled(247);
    let copies = copies(&pair);
    plant(&copies, &BEFORE);
    stand(&pair, &["--repair"]);
    let group = GroupId(hex::decode(pair.east.group(GROUP).id).expect("hexadecimal").try_into().expect("16 bytes"));
    pair.east.stop();
    {
        let catalog = Catalog::open(pair.east.directory(), &SystemClock::new()).expect("its catalogue");
        let record = catalog.verify_of(group, "west").expect("read it").expect("a comparison");
        let mends = Some(record.different.clone());
        let left = VerifyRecord { state: VerifyStateRecord::Runs, cursor: (2, SIZE), mends, ..record };
        catalog.put_verify(group, "west", &left).expect("write it");
    }
    plant(&copies, &BEFORE[..1]);
    pair.east.start();
    let ended = wait_comparison(&pair, "it to end", |found| found.state == ComparisonState::Ended);
    assert_eq!((ended.repaired_bytes, ended.different_bytes), (2 * REGION, 2 * REGION), "{ended:?}");
    pair.east
        .wait_pair(GROUP, "the repair", LIMIT, |pair| pair.state == PairState::Paired && pair.differential_bytes == 0);
    pair.assert_copy_equals();
}

#[test]
fn a_comparison_is_forgotten_with_what_it_is_about() {
    let mut pair = settled(248);
    stand(&pair, &[]);
    pair.east.ok(&["volume", "resize", "b", "--size", "65MiB"]);
    wait_gone(&pair, "the comparison of another size to go");
    pair.wait_paired();

    stand(&pair, &[]);
    pair.east.ok(&["group", "remove", GROUP, "--volume", "b"]);
    wait_gone(&pair, "the comparison of a volume that left to go");
    let said = pair.east.refuses(&["verify", GROUP, "--to", "west", "--resume"]);
    assert!(said.contains("no comparison"), "{said}");
    pair.east.ok(&["group", "add", GROUP, "--volume", "b"]);
    pair.wait_paired();

    // Also one that runs.
    let mut command = begin(&pair.east, &["--rate", RATE]);
    wait_comparison(&pair, "it to begin", |found| found.done_bytes > 0);
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    assert!(!command.wait().expect("the command ends").success());
    pair.create();
    pair.wait_paired();
    assert_eq!(pair.east.pair(GROUP).comparison, None);

    stand(&pair, &[]);
    pair.east.ok(&["switchover", GROUP, "--to", "west"]);
    pair.wait_paired();
    pair.west.ok(&["switchover", GROUP, "--to", "east", "--timeout", "30s"]);
    wait_gone(&pair, "the comparison of another generation to go");
    pair.east.restart();
    wait_gone(&pair, "nothing to come back");
}
