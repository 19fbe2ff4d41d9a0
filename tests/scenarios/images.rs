//! Images at a moment under load: T0 copies and clones show exactly their marker, whatever is written, killed and taken over
//! meanwhile; hosts and replication never notice.

use std::time::{Duration, Instant};

use tidemark_common::api::types::{ImageState, ImageStatus, PairState};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::command::run;
use tidemark_tests::history::Tick;
use tidemark_tests::host::{Connection, EPERM, HostError};
use tidemark_tests::image::{self, Image};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::wait::{check, measure_for, wait_until};

/// Hosts that write, an interval of a quarter of a second and a machine that is busy: apply moves within much less.
const PAUSE_MAX: Duration = Duration::from_secs(5);

fn open(pair: &Pair, side: &Appliance, name: &str) -> Vec<Connection> {
    pair.volumes().iter().map(|volume| side.open(&format!("{name}/{volume}"))).collect()
}

fn read(pair: &Pair, side: &Appliance, name: &str) -> Image {
    image::read(&mut open(pair, side, name)).expect("read the image")
}

fn t0(pair: &Pair, side: &Appliance, name: &str) -> (ImageStatus, Bounds) {
    let began = pair.history.tick();
    let made: ImageStatus = side.json(&["t0", "create", name, "--of", GROUP]);
    (made, Bounds::cut(began, pair.history.tick()))
}

/// A marker of east that west holds, and what its image must hold.
fn clone_at_newest(pair: &Pair, name: &str) -> (ImageStatus, Bounds) {
    let began = pair.history.tick();
    let marker = pair.cut();
    pair.wait_for(marker, "received");
    let made: ImageStatus = pair.west.json(&["clone", "create", name, "--of", GROUP]);
    assert!(made.marker >= marker, "{made:?}");
    (made, Bounds { holds_acked_before: Some(began), nothing_sent_after: Some(pair.history.tick()) })
}

#[test]
fn t0_copies_on_a_busy_primary_show_their_markers_and_come_back_after_kill_9() {
    let mut pair = Pair::unpaired(&Setup::seeded(201));
    pair.prefill();
    let load = pair.load(0);
    let mut images = Vec::new();
    for name in ["one", "two", "three"] {
        load.wait_acked(150);
        let (made, bounds) = t0(&pair, &pair.east, name);
        assert_eq!(made.exports.len(), 3, "{made:?}");
        assert!(made.exports[0].starts_with("nbd+unix:///") && made.exports[0].contains(name), "{made:?}");
        images.push((name, bounds, read(&pair, &pair.east, name)));
    }
    load.wait_acked(300);
    for (name, bounds, first) in &images {
        assert_legal(name, &pair.history.writes(), first, *bounds);
        assert_eq!(read(&pair, &pair.east, name), *first, "{name} does not change");
    }
    let refused = open(&pair, &pair.east, "one")[0].write(0, &[1; 4096]);
    assert!(matches!(refused, Err(HostError::Errno(EPERM))), "{refused:?}");
    pair.east.kill9();
    drop(load.join_broken());
    pair.east.start();
    for (name, _, first) in &images {
        assert_eq!(read(&pair, &pair.east, name), *first, "{name} after kill -9");
    }
    pair.east.ok(&["t0", "delete", "two"]);
    let load = pair.load(1);
    load.wait_acked(300);
    load.stop();
    for (name, _, first) in images.iter().filter(|image| image.0 != "two") {
        assert_eq!(read(&pair, &pair.east, name), *first, "{name} after another one was deleted");
    }
    let taken = pair.east.status().side_store.bytes;
    assert!(taken > 0);
    pair.east.ok(&["t0", "delete", "one"]);
    pair.east.ok(&["t0", "delete", "three"]);
    assert_eq!(pair.east.status().side_store.bytes, 0, "all space is given back");
    assert_eq!(pair.east.json::<Vec<ImageStatus>>(&["t0", "list"]), []);
}

#[test]
fn clones_of_a_busy_copy_show_their_marker_are_written_and_survive_kill_9() {
    let mut pair = Pair::prefilled(&Setup::seeded(202));
    let load = pair.load(0);
    load.wait_acked(200);
    let (first, bounds) = clone_at_newest(&pair, "c1");
    let seen = read(&pair, &pair.west, "c1");
    assert_legal("the clone", &pair.history.writes(), &seen, bounds);
    load.wait_acked(200);
    let (second, bounds) = clone_at_newest(&pair, "c2");
    assert!(second.marker > first.marker);
    let other = read(&pair, &pair.west, "c2");
    assert_legal("the second clone", &pair.history.writes(), &other, bounds);

    let mut host = open(&pair, &pair.west, "c1").remove(0);
    host.write(512, &[7; 1024]).expect("write to a clone");
    host.write(8192, &[8; 8192]).expect("write to a clone");
    host.flush().expect("flush a clone");
    let mut expected = host.read_all().expect("read the clone");
    load.wait_acked(200);
    assert_eq!(expected[512..1536], [7; 1024]);
    pair.west.kill9();
    load.wait_acked(100);
    pair.west.start();
    let mut host = open(&pair, &pair.west, "c1").remove(0);
    assert_eq!(host.read_all().expect("read the clone"), expected, "what was flushed is there after kill -9");
    assert_eq!(read(&pair, &pair.west, "c2"), other, "and the other clone is untouched");
    host.write(0, &[9; 4096]).expect("write to a clone");
    expected[..4096].fill(9);
    assert_eq!(host.read_all().expect("read the clone"), expected);

    assert!(pair.west.refuses(&["clone", "delete", "c1"]).contains("--force"), "a host is connected");
    pair.west.ok(&["clone", "delete", "c1", "--force"]);
    assert!(host.read_all().is_err(), "its host gets errors");
    pair.west.ok(&["clone", "delete", "c2"]);
    assert_eq!(pair.west.status().side_store.bytes, 0);
    pair.wait_paired();
    load.stop();
    pair.assert_copy_equals();
}

#[test]
fn a_clone_survives_the_failover_and_the_old_primary_keeps_its_t0_copy_when_it_returns() {
    let mut pair = Pair::prefilled(&Setup::seeded(203));
    let load = pair.load(0);
    load.wait_acked(200);
    let (_, bounds) = t0(&pair, &pair.east, "east-t0");
    let kept = read(&pair, &pair.east, "east-t0");
    assert_legal("the T0 copy", &pair.history.writes(), &kept, bounds);
    let (_, bounds) = clone_at_newest(&pair, "west-clone");
    let cloned = read(&pair, &pair.west, "west-clone");
    assert_legal("the clone", &pair.history.writes(), &cloned, bounds);
    load.wait_acked(100);
    pair.east.kill9();
    drop(load.join_broken());
    let _ = pair.failover();
    assert_eq!(read(&pair, &pair.west, "west-clone"), cloned, "after the failover");
    let load = pair.load_on(&pair.west, 1);
    load.wait_acked(200);
    assert_eq!(read(&pair, &pair.west, "west-clone"), cloned, "while the new primary is written");
    pair.east.start();
    pair.east.wait_fenced(GROUP);
    assert_eq!(read(&pair, &pair.east, "east-t0"), kept, "on the fenced side");
    pair.east.ok(&["rejoin", GROUP]);
    pair.west.wait_pair(GROUP, "the old primary to follow", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    load.wait_acked(200);
    load.stop();
    assert_eq!(read(&pair, &pair.east, "east-t0"), kept, "after it has become the copy");
    assert_eq!(read(&pair, &pair.west, "west-clone"), cloned);
    pair.east.kill9();
    pair.east.start();
    assert_eq!(read(&pair, &pair.east, "east-t0"), kept, "and after kill -9");
}

#[test]
fn what_cannot_be_had_is_said() {
    let pair = Pair::prefilled(&Setup::seeded(204));
    pair.settle();
    let west = &pair.west;
    assert!(west.refuses(&["clone", "create", "c", "--of", "nothing"]).contains("no group"));
    assert_eq!(west.cli(&["clone", "create", "a/b", "--of", GROUP]).code, 2);
    let why = west.refuses(&["clone", "create", "c", "--of", GROUP, "--marker", "999999"]);
    assert!(why.contains("not held") && why.contains("marker"), "{why}");
    west.ok(&["clone", "create", "c", "--of", GROUP]);
    assert!(west.refuses(&["t0", "create", "c", "--of", GROUP]).contains("already"));
    assert!(west.refuses(&["clone", "delete", "d"]).contains("no image"));
    assert!(west.refuses(&["pair", "delete", GROUP, "--to", "east"]).contains("'c'"));
    pair.east.ok(&["volume", "create", "alone", "--size", "1MiB"]);
    assert!(pair.east.refuses(&["t0", "create", "t", "--of", "alone"]).contains("in no group"));
    pair.east.ok(&["t0", "create", "t", "--of", "a", "b"]);
    assert!(matches!(pair.east.try_open("t/c"), Err(HostError::Refused { .. })));
    assert!(pair.east.refuses(&["group", "remove", GROUP, "--volume", "a"]).contains("'t'"));
    pair.east.ok(&["group", "remove", GROUP, "--volume", "c"]);
    assert!(pair.east.refuses(&["t0", "create", "u", "--of", "a", GROUP]).contains("or volumes of it"));
    west.ok(&["volume", "create", "own", "--size", "1MiB"]);
    west.ok(&["group", "create", "own", "--volume", "own"]);
    let why = west.refuses(&["t0", "create", "u", "--of", GROUP, "own"]);
    assert!(why.contains("not primary here"), "{why}");
}

/// Markers that the copy has passed and keeps no history of: each way of asking for one says so, and leaves nothing.
#[test]
fn a_marker_that_is_no_longer_held_is_refused_and_leaves_nothing() {
    let pair = Pair::prefilled(&Setup::seeded(210));
    let first = pair.cut();
    pair.wait_for(first, "applied");
    pair.east.open("a").write(0, &[4; 4096]).expect("write");
    let second = pair.cut();
    pair.wait_for(second, "applied");
    let west = &pair.west;
    let marker = first.to_string();
    for words in [["clone", "create", "c", "--of", GROUP], ["drill", "run", GROUP, "--check", "true"]] {
        let why = west.refuses(&[words.as_slice(), &["--marker", &marker]].concat());
        assert!(why.contains(&format!("{marker} is not held")) && why.contains("newest"), "{words:?}: {why}");
    }
    let why = west.refuses(&["clone", "create", "c", "--of", GROUP, "--at", "2001-01-01T00:00:00Z"]);
    assert!(why.contains("not held"), "{why}");
    // A year that is mistyped is not the newest marker.
    for words in [["clone", "create", "c", "--of", GROUP].as_slice(), &["failover", GROUP, "--force"]] {
        let why = west.refuses(&[words, &["--at", "2199-01-01T00:00:00Z"]].concat());
        assert!(why.contains("has not come") && why.contains("are held"), "{words:?}: {why}");
    }
    let why = pair.east.refuses(&["clone", "create", "c", "--of", GROUP, "--at", "2199-01-01T00:00:00Z"]);
    assert!(!why.contains("passed") && why.contains("leave --at and --marker out"), "nothing has passed that: {why}");
    let status = west.status();
    assert_eq!((status.images.len(), status.side_store.bytes), (0, 0), "{:?}", status.images);
    assert_eq!(west.files(|name| name.ends_with(".side")), Vec::<std::path::PathBuf>::new());
    west.ok(&["clone", "create", "c", "--of", GROUP]);
    pair.assert_copy_equals();
}

#[test]
fn a_full_side_store_breaks_the_image_loudly_and_nothing_else() {
    let mut pair = Pair::unpaired(&Setup::one_volume("a", 160 << 20, 205));
    pair.east.stop();
    pair.east.configure("images", "side_store_bytes", "64MiB");
    pair.east.start();
    let mut host = pair.east.open("a");
    let fill = |host: &mut Connection, byte: u8| {
        for chunk in 0..80 {
            host.write(chunk << 20, &vec![byte; 1 << 20]).expect("write");
        }
        host.flush().expect("flush");
    };
    fill(&mut host, 1);
    pair.east.ok(&["t0", "create", "t", "--of", GROUP]);
    let mut image = pair.east.open("t/a");
    fill(&mut host, 2);
    let broken = wait_until("the image to break", Duration::from_secs(30), || {
        let image = pair.east.status().images.remove(0);
        if image.state == ImageState::Broken { Ok(image) } else { Err(format!("{image:?}")) }
    });
    assert!(broken.reason.as_deref().unwrap_or_default().contains("side_store_bytes"), "{broken:?}");
    assert!(image.read(0, 4096).is_err());
    assert_eq!(pair.east.status().side_store.bytes, 0, "its space is given back");
    assert_eq!(host.read(79 << 20, 4096).expect("read"), [2; 4096]);
    pair.east.kill9();
    pair.east.start();
    assert_eq!(pair.east.status().images[0].state, ImageState::Broken);
    pair.east.ok(&["t0", "delete", "t"]);
}

/// Each clone may take more than there is for all: hosts of clones find no space, new clones are refused, and a deletion makes room.
#[test]
fn all_clones_together_take_no_more_than_they_are_given() {
    let mut pair = Pair::unpaired(&Setup::one_volume("a", 64 << 20, 209));
    pair.east.stop();
    pair.east.configure("images", "all_clones_bytes", "64MiB");
    pair.east.start();
    let east = &pair.east;
    for name in ["one", "other"] {
        east.ok(&["clone", "create", name, "--of", GROUP]);
    }
    let fill = |east: &Appliance, name: &str, chunks: u64| {
        let mut host = east.open(&format!("{name}/a"));
        (0..chunks).take_while(|chunk| host.write(chunk << 20, &vec![7; 1 << 20]).is_ok()).count()
    };
    assert_eq!((fill(east, "one", 40), fill(east, "other", 40)), (40, 24));
    let store = east.status().clone_store;
    assert_eq!((store.bytes, store.capacity_bytes), (64 << 20, 64 << 20));
    let why = east.refuses(&["clone", "create", "third", "--of", GROUP]);
    assert!(why.contains("all_clones_bytes"), "{why}");
    pair.east.restart();
    let east = &pair.east;
    assert_eq!(east.status().clone_store.bytes, 64 << 20);
    east.ok(&["clone", "delete", "one"]);
    wait_until("its space to be given back", Duration::from_secs(30), || {
        let store = east.status().clone_store;
        if store.bytes == 24 << 20 { Ok(()) } else { Err(format!("{store:?}")) }
    });
    // One that is given less finds that less, and so does who looks at it.
    east.ok(&["clone", "create", "third", "--of", GROUP, "--space", "4MiB"]);
    let figures = || {
        let listed: Vec<ImageStatus> = east.json(&["clone", "list"]);
        let third = listed.into_iter().find(|image| image.name == "third").expect("it is listed");
        (third.written_bytes, third.space_bytes)
    };
    assert_eq!(figures(), (0, 4 << 20));
    assert_eq!((fill(east, "third", 40), figures()), (4, (4 << 20, 4 << 20)));
}

/// A clone is there in less than a second, also behind a backlog, and apply goes on.
#[test]
fn a_clone_is_there_at_once_and_apply_goes_on() {
    let pair = Pair::prefilled(&Setup::seeded(206));
    let load = pair.load(0);
    load.wait_acked(300);
    let before: Tick = pair.history.tick();
    let applied = || pair.west.group(GROUP).positions.applied_seq;
    let goes_on = |what: &str| {
        let from = applied();
        wait_until(&format!("apply to go on beside {what}"), PAUSE_MAX, || {
            let now = applied();
            check(now > from, || format!("{now}"))
        });
    };
    for number in 0..5 {
        let name = format!("c{number}");
        // From the request on, and until it can be read.
        let begin = Instant::now();
        let made: ImageStatus = pair.west.json(&["clone", "create", &name, "--of", GROUP]);
        let _ = pair.west.open(&format!("{name}/a")).read(0, 4096).expect("read the clone");
        let took = begin.elapsed();
        assert!(took < Duration::from_secs(1), "{took:?}: {made:?}");
        goes_on("a new clone");
        load.wait_acked(50);
    }
    for name in ["c0", "c1", "c2"] {
        pair.west.ok(&["clone", "delete", name, "--force"]);
        goes_on("a deleted clone");
    }
    measure_for(Duration::from_millis(1));
    let marker = pair.cut();
    pair.wait_for(marker, "applied");
    assert!(pair.history.tick() > before);
    load.stop();
    pair.assert_copy_equals();
    let listed: Vec<ImageStatus> = pair.west.json(&["clone", "list"]);
    assert_eq!(listed.len(), 2);
}

/// What could not be removed of a deleted clone is not in the next one of its name.
#[test]
fn a_clone_holds_nothing_of_an_earlier_one_of_its_name() {
    let pair = Pair::unpaired(&Setup::one_volume("a", 8 << 20, 211));
    let east = &pair.east;
    east.open("a").write(0, &[1; 4096]).expect("write");
    east.ok(&["clone", "create", "c", "--of", GROUP]);
    let mut host = east.open("c/a");
    host.write(0, &[7; 4096]).expect("write to a clone");
    host.flush().expect("flush a clone");
    drop(host);
    let text = |path: std::path::PathBuf| path.display().to_string();
    let (files, aside) = (text(east.directory().join("images/clones/c")), text(pair.cluster.join("aside")));
    run("cp", &["-r", &files, &aside]).done();
    east.ok(&["clone", "delete", "c", "--force"]);
    run("cp", &["-r", &aside, &files]).done();
    east.ok(&["clone", "create", "c", "--of", GROUP]);
    assert_eq!(east.open("c/a").read(0, 4096).expect("read a clone"), [1; 4096]);
}
