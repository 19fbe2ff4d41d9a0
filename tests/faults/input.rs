//! What operators get wrong on the command line.

use tidemark_common::api::client::Client;
use tidemark_common::api::types::Cut;
use tidemark_tests::appliance::tidemark;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::command::{Outcome, run};

/// Refused with exit 1, or 2 where the words themselves are wrong, and the reason names what was given.
fn assert_refused(outcome: &Outcome, names: &str) {
    assert!(matches!(outcome.code, 1 | 2), "{outcome:?}");
    assert!(outcome.stderr.contains(names), "says what is wrong with {names:?}: {outcome:?}");
    assert!(!outcome.stderr.contains("panicked"), "{outcome:?}");
}

#[test]
fn sizes_that_make_no_sense_are_refused() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    for size in ["0", "1000", "513", "banana", "-1", "65TiB", "99999999999999999999", "1.5GiB5"] {
        let outcome = one.cli(&["volume", "create", "v", &format!("--size={size}")]);
        assert_refused(&outcome, "");
        assert!(!outcome.stderr.trim().is_empty(), "{outcome:?}");
    }
    assert!(one.status().volumes.is_empty());
}

#[test]
fn a_volume_larger_than_its_device_is_refused() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    let file = cluster.join("small");
    std::fs::write(&file, vec![0; 1 << 20]).expect("write the file");
    let device = run("losetup", &["--find", "--show", &file.display().to_string()]).done().trim().to_owned();
    let larger = one.cli(&["volume", "create", "v", "--size", "2MiB", "--backing", &device]);
    let fitting = one.cli(&["volume", "create", "w", "--size", "1MiB", "--backing", &device]);
    let again = one.cli(&["volume", "create", "x", "--size", "1MiB", "--backing", &device]);
    drop(one);
    run("losetup", &["--detach", &device]).done();
    assert_refused(&larger, &device);
    fitting.done();
    assert_refused(&again, &device);
}

#[test]
fn names_that_are_unknown_doubled_or_no_names_are_refused() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    for name in ["../x", "a b", ".x", ""] {
        assert_refused(&one.cli(&["volume", "create", name, "--size", "1MiB"]), "");
    }
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    assert_refused(&one.cli(&["volume", "create", "a", "--size", "1MiB"]), "a");
    assert_refused(&one.cli(&["volume", "delete", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["volume", "resize", "nosuch", "--size", "2MiB"]), "nosuch");
    assert_refused(&one.cli(&["group", "create", "g", "--volume", "nosuch"]), "nosuch");
    assert!(one.try_group("g").is_none(), "a refused group is not half made");
    one.ok(&["group", "create", "g", "--volume", "a"]);
    assert_refused(&one.cli(&["group", "create", "g", "--volume", "a"]), "g");
    assert_refused(&one.cli(&["group", "create", "h", "--volume", "a"]), "a");
    assert_refused(&one.cli(&["volume", "delete", "a"]), "g");
    assert_refused(&one.cli(&["pair", "create", "g", "--to", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["pair", "suspend", "g", "--to", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["cut", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["markers", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["wait", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["group", "remove", "g", "--volume", "nosuch"]), "nosuch");
    assert_refused(&one.cli(&["group", "create", "i", "--volume", "a", "--interval", "0s"]), "");
}

#[test]
fn a_tag_that_is_none_is_refused_by_the_service_too() {
    let cluster = Cluster::new();
    let one = cluster.running("one");
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    one.ok(&["group", "create", "g", "--volume", "a", "--interval", "1h"]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let client = Client::new(one.directory());
    let cut = |tag: &str| runtime.block_on(client.cut("g", &Cut { tag: Some(tag.into()) }));
    let refused = cut(&"x".repeat(65_600)).expect_err("longer than a tag may be").to_string();
    assert!(refused.contains("at most 200"), "{refused}");
    let refused = cut("x\n9  2026-01-01").expect_err("it would forge a row").to_string();
    assert!(refused.contains("control character"), "{refused}");
    one.cli(&["cut", "g", "--tag", "\u{1b}[2J"]).failed_with(2);
    cut(&"x".repeat(200)).expect("as long as a tag may be");
    assert!(one.ok(&["markers", "g"]).contains(&"x".repeat(200)));
}

#[test]
fn peers_are_pinned_by_their_id() {
    let cluster = Cluster::new();
    let (one, two, three) = (cluster.running("one"), cluster.appliance("two"), cluster.appliance("three"));
    assert_refused(&one.cli(&["peer", "add", "two", "--id", "zz"]), "zz");
    one.trust(&two, None);
    one.trust(&two, None);
    let other = one.cli(&["peer", "add", "two", "--id", three.id()]);
    assert_refused(&other, "two");
    let own = one.cli(&["peer", "add", "self", "--id", one.id()]);
    assert_refused(&own, "");
    assert_eq!(one.status().peers.len(), 1);
}

#[test]
fn exit_codes_tell_what_happened() {
    let cluster = Cluster::new();
    let mut one = cluster.running("one");
    one.cli(&["nosuchcommand"]).failed_with(2);
    one.cli(&["volume", "create"]).failed_with(2);
    one.ok(&["volume", "create", "a", "--size", "1MiB"]);
    one.ok(&["group", "create", "g", "--volume", "a", "--interval", "1h"]);
    let late = one.cli(&["wait", "g", "--marker", "99", "--timeout", "200ms"]);
    assert!(matches!(late.code, 1 | 4), "a group without a pair has nothing to wait for, or time runs out: {late:?}");
    one.stop();
    let reason = one.cli(&["status"]).failed_with(3);
    assert!(reason.contains("serve"), "says how to start it: {reason}");
}

#[test]
fn a_directory_is_initialised_once() {
    let cluster = Cluster::new();
    let one = cluster.appliance("one");
    let dir = one.directory().display().to_string();
    assert_refused(&tidemark(&["init", &dir]), &dir);
    assert_eq!(tidemark(&["id", &dir]).done().trim(), one.id(), "the identity is untouched");
    assert_refused(&tidemark(&["serve", &cluster.join("nosuch").display().to_string()]), "nosuch");
}
