//! Volumes of several groups at one moment: one freeze over all of them, under a load that depends across them.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::backup::types::BackupState;
use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_common::api::types::{ImageState, ImageStatus};
use tidemark_tests::appliance::{Appliance, tidemark};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::history::History;
use tidemark_tests::image::{Image, compare};
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::{Load, Profile, Target, prefill};

const LIMIT: Duration = Duration::from_secs(60);
const SOURCES: [&str; 3] = ["a", "b", "c"];
const TARGETS: [&str; 3] = ["ta", "tb", "tc"];
const GROUPS: [&str; 3] = ["ga", "gb", "gc"];

/// One appliance whose three volumes are in three groups, and the history of its hosts.
struct Place {
    side: Appliance,
    history: Arc<History>,
    profile: Profile,
    cluster: Cluster,
}

fn place(seed: u64, interval: &str) -> Place {
    let cluster = Cluster::new();
    let side = cluster.running("alone");
    let profile = Profile::seeded(seed);
    let size = profile.volume_bytes().to_string();
    for name in SOURCES {
        side.ok(&["volume", "create", name, "--size", &size]);
        side.ok(&["group", "create", &format!("g{name}"), "--volume", name, "--interval", interval]);
    }
    let history = Arc::new(History::new());
    let target = Target { address: side.nbd(), exports: SOURCES.map(str::to_owned).to_vec() };
    prefill(&history, &target, profile.writers * profile.stripe_blocks).expect("prefill the volumes");
    Place { side, history, profile, cluster }
}

impl Place {
    fn load(&self) -> Load {
        let target = Target { address: self.side.nbd(), exports: SOURCES.map(str::to_owned).to_vec() };
        Load::start(&self.history, &target, &self.profile)
    }
}

/// What a T0 copy shows of the three volumes.
fn shown(side: &Appliance, name: &str) -> Image {
    let volumes: Vec<_> = SOURCES.iter().map(|volume| side.open(&format!("{name}/{volume}")).read_all()).collect();
    Image::from_bytes(&volumes.into_iter().map(|bytes| bytes.expect("read the image")).collect::<Vec<_>>())
}

fn side_files(side: &Appliance) -> Vec<PathBuf> {
    side.files(|name| name.ends_with(".side"))
}

/// What tar takes out of an archive of a set.
fn taken_out(archive: &Path, set: &str, volumes: &[&str]) -> Vec<Vec<u8>> {
    let out = archive.with_extension("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&out).status().expect("run tar");
    assert!(done.success());
    volumes.iter().map(|name| std::fs::read(out.join(set).join(name)).expect("a volume")).collect()
}

#[test]
fn backups_of_several_groups_are_of_one_moment() {
    // No markers but those of the backups: what hosts were held for is held for them.
    let place = place(921, "1h");
    place.side.ok(&["set", "create", "all", "a", "b", "c"]);
    let load = place.load();
    for round in 0..8 {
        load.wait_acked(60);
        let (name, to) = (format!("b{round}"), place.cluster.join(&format!("b{round}.tar")));
        let began = place.history.tick();
        place.side.ok(&["backup", "create", &name, "--set", "all", "--to", &to.display().to_string()]);
        let bounds = Bounds::cut(began, place.history.tick());
        place.side.ok(&["backup", "wait", &name]);
        let backup = place.side.backup(&name);
        assert_eq!(backup.moments.len(), 3, "{backup:?}");
        assert_legal(&name, &place.history.writes(), &Image::from_bytes(&taken_out(&to, "all", &SOURCES)), bounds);
        assert!(backup.moments.iter().all(|moment| moment.time == backup.moments[0].time), "one freeze: {backup:?}");
    }
    load.stop();
    for group in GROUPS {
        let freeze = place.side.group(group).freeze;
        assert!(freeze.count >= 8, "{group}: {freeze:?}");
        // One of so few may have met a machine that was busy; most have not.
        assert!(freeze.p50_us > 0.0 && freeze.p50_us < 1_000.0, "{group}: microseconds by design: {freeze:?}");
    }
}

#[test]
fn a_split_of_sources_in_several_groups_is_one_moment() {
    let place = place(922, "250ms");
    let size = place.profile.volume_bytes().to_string();
    for (source, target) in SOURCES.iter().zip(TARGETS) {
        place.side.ok(&["volume", "create", target, "--size", &size]);
        place.side.ok(&["local-pair", "create", source, "--target", target]);
    }
    let load = place.load();
    for round in 0..5 {
        for target in TARGETS {
            place
                .side
                .wait_local_pair(target, "the pairs to follow", LIMIT, |shown| shown.state == LocalPairState::Pair);
        }
        load.wait_acked(60);
        let began = place.history.tick();
        place.side.ok(&["local-pair", "split", "ta", "tb", "tc"]);
        let bounds = Bounds::cut(began, place.history.tick());
        load.wait_acked(30);
        let images: Vec<_> = TARGETS.iter().map(|name| place.side.open(name).read_all().expect("read")).collect();
        assert_legal(&format!("split {round}"), &place.history.writes(), &Image::from_bytes(&images), bounds);
        for target in TARGETS {
            place.side.ok(&["local-pair", "resync", target, "--force"]);
        }
    }
    load.stop();
}

#[test]
fn t0_copies_of_several_groups_are_of_one_moment_and_come_back_after_kill_9() {
    let mut place = place(923, "250ms");
    let load = place.load();
    let mut images = Vec::new();
    for round in 0..8 {
        load.wait_acked(60);
        let name = format!("t{round}");
        let of = if round % 2 == 0 { GROUPS } else { ["c", "gb", "a"] };
        let began = place.history.tick();
        let made: ImageStatus = place.side.json(&[&["t0", "create", &name, "--of"], of.as_slice()].concat());
        let bounds = Bounds::cut(began, place.history.tick());
        assert_eq!(
            (made.exports.len(), made.moments.len(), &made.moments[1].group),
            (3, 3, &"gb".to_owned()),
            "{made:?}"
        );
        let image = shown(&place.side, &name);
        assert_legal(&name, &place.history.writes(), &image, bounds);
        images.push((name, image));
    }
    // After the images, which must show it by themselves.
    let listed: Vec<ImageStatus> = place.side.json(&["t0", "list"]);
    let at_once = |image: &ImageStatus| image.moments.iter().all(|moment| moment.time == image.marker_time);
    assert!(listed.len() == 8 && listed.iter().all(at_once), "one freeze each: {listed:?}");
    load.wait_acked(100);
    place.side.ok(&["t0", "delete", "t3"]);
    images.retain(|(name, _)| name != "t3");
    for (name, image) in &images {
        assert_eq!(shown(&place.side, name), *image, "{name} does not change");
    }
    assert!(place.side.refuses(&["group", "delete", "gb"]).contains("'t0'"), "a group of an image stays");
    place.side.kill9();
    drop(load.join_broken());
    place.side.start();
    for (name, image) in &images {
        assert_eq!(shown(&place.side, name), *image, "{name} after kill -9");
        place.side.ok(&["t0", "delete", name]);
    }
    assert_eq!(place.side.status().side_store.bytes, 0, "all space is given back");
    assert_eq!(side_files(&place.side), Vec::<PathBuf>::new());
}

#[test]
fn a_kill_in_the_middle_of_making_one_leaves_all_of_it_or_nothing() {
    // Each part has a file: killed when so many of them are there.
    for parts in [0, 1, 2, 3, 1, 2] {
        let mut place = place(924, "250ms");
        let load = place.load();
        load.wait_acked(60);
        let began = place.history.tick();
        let making = {
            let directory = place.side.directory().display().to_string();
            std::thread::spawn(move || {
                tidemark(&[&["--dir", &directory, "t0", "create", "t", "--of"], GROUPS.as_slice()].concat())
            })
        };
        wait_until("parts of the image", LIMIT, || {
            let there = side_files(&place.side).len();
            check(there >= parts || making.is_finished(), || format!("{there} parts"))
        });
        place.side.kill9();
        let _ = making.join();
        let bounds = Bounds::cut(began, place.history.tick());
        drop(load.join_broken());
        place.side.start();
        let images: Vec<ImageStatus> = place.side.json(&["t0", "list"]);
        match images.first() {
            Some(image) => {
                assert_eq!((image.state, image.moments.len()), (ImageState::Ready, 3), "{image:?}");
                assert_legal("t", &place.history.writes(), &shown(&place.side, "t"), bounds);
                place.side.ok(&["t0", "delete", "t"]);
            }
            None => assert!(place.side.try_open("t/a").is_err()),
        }
        assert_eq!(place.side.status().side_store.bytes, 0, "killed at {parts}: nothing is left");
        assert_eq!(side_files(&place.side), Vec::<PathBuf>::new(), "killed at {parts}");
    }
}

/// An appliance with volumes that are each in a group, and a side store that a large one can fill.
fn in_groups(volumes: &[(&str, &str)]) -> (Appliance, Cluster) {
    let cluster = Cluster::new();
    let mut side = cluster.running("alone");
    side.stop();
    side.configure("images", "side_store_bytes", "64MiB");
    side.start();
    for (name, size) in volumes {
        side.ok(&["volume", "create", name, "--size", size]);
        side.ok(&["group", "create", &format!("g-{name}"), "--volume", name]);
    }
    (side, cluster)
}

fn fill(side: &Appliance, volume: &str, chunks: u64, byte: u8) {
    let mut host = side.open(volume);
    for chunk in 0..chunks {
        host.write(chunk << 20, &vec![byte; 1 << 20]).expect("write");
    }
    host.flush().expect("flush");
}

fn broken(side: &Appliance, name: &str) -> ImageStatus {
    wait_until("the image to break", LIMIT, || {
        let image = side.status().images.into_iter().find(|image| image.name == name).ok_or("it is not there")?;
        if image.state == ImageState::Broken { Ok(image) } else { Err(format!("{image:?}")) }
    })
}

#[test]
fn an_image_of_several_groups_ends_whole_when_one_part_cannot_be_kept() {
    let (mut side, _cluster) = in_groups(&[("large", "96MiB"), ("small", "1MiB")]);
    fill(&side, "large", 96, 1);
    fill(&side, "small", 1, 1);
    side.ok(&["t0", "create", "both", "--of", "g-small", "large"]);
    fill(&side, "small", 1, 2);
    side.ok(&["t0", "create", "other", "--of", "small"]);
    let mut host = side.open("both/small");
    assert_eq!(host.read(0, 4096).expect("read"), [1; 4096]);
    fill(&side, "small", 1, 3);
    fill(&side, "large", 96, 2);
    let why = broken(&side, "both").reason.unwrap_or_default();
    assert!(why.contains("'g-large'") && why.contains("side_store_bytes"), "{why}");
    assert!(host.read(0, 4096).is_err(), "the part that could be kept is no image either");
    assert!(side.try_open("both/small").is_err());
    assert_eq!(side.open("other/small").read_all().expect("read"), vec![2; 1 << 20], "the image of one group stays");
    wait_until("what the other part kept to be given back", LIMIT, || {
        let bytes = side.status().side_store.bytes;
        check(bytes < 2 << 20, || format!("{bytes} bytes"))
    });
    side.kill9();
    side.start();
    assert!(broken(&side, "both").reason.unwrap_or_default().contains("'g-large'"));
    assert_eq!(side.open("other/small").read_all().expect("read"), vec![2; 1 << 20]);
    side.ok(&["t0", "delete", "both"]);
    side.ok(&["t0", "delete", "other"]);
    assert_eq!((side.status().side_store.bytes, side_files(&side)), (0, Vec::new()));
}

/// The volumes of one group wait for room in the side store while their backup stands before a pipe that nobody reads: the backup of the other
/// group, which keeps most of what is there, forgets its rate and makes room. Both are whole.
#[test]
fn backups_of_two_groups_that_fill_the_side_store_are_whole() {
    const BYTES: u64 = 48 << 20;
    const STORE: u64 = 64 << 20;
    let (side, cluster) = in_groups(&[("one", "48MiB"), ("two", "48MiB")]);
    for (volume, seed) in [("one", 1), ("two", 3)] {
        write_noise(&side, volume, 0, BYTES, seed);
        side.ok(&["set", "create", &format!("set-{volume}"), volume]);
    }
    let (file, pipe) = (cluster.join("one.tar"), cluster.join("pipe"));
    assert!(Command::new("mkfifo").arg(&pipe).status().expect("run mkfifo").success());
    let stuck = File::options().read(true).write(true).open(&pipe).expect("open the pipe");
    let backup = |name: &str, to: &Path, more: &[&str]| {
        let (set, to) = (format!("set-{name}"), to.display().to_string());
        side.ok(&[&["backup", "create", name, "--set", &set, "--to", &to], more].concat());
    };
    backup("one", &file, &["--rate", "256KiB"]);
    backup("two", &pipe, &[]);
    side.wait_backup("two", LIMIT, |backup| backup.progress.total_bytes > 0);
    let bytes = || {
        let store = side.status().side_store;
        assert!(store.bytes <= STORE, "more than there is: {store:?}");
        store.bytes
    };
    let wait_written = |group: &str| {
        wait_until("the volumes to be written", LIMIT, || {
            let positions = side.group(group).positions;
            check(bytes() > 0 && positions.applied_seq == positions.captured_seq, || format!("{positions:?}"))
        });
    };
    write_noise(&side, "one", 0, BYTES, 5);
    wait_written("g-one");
    assert!(bytes() > STORE / 2, "one of them has taken most of it");
    write_noise(&side, "two", 0, BYTES, 7);
    // At its rate that takes three minutes.
    let one = side.wait_backup("one", LIMIT, |backup| bytes() > 0 && backup.state.is_over());
    assert_eq!((one.state, &one.reason), (BackupState::Done, &None));
    wait_written("g-two");
    assert_eq!(side.backup("two").state, BackupState::Copying, "nobody has read it yet");
    let (mut reader, archive) = (File::open(&pipe).expect("open the pipe"), cluster.join("two.tar"));
    drop(stuck);
    std::io::copy(&mut reader, &mut File::create(&archive).expect("a file")).expect("read the pipe");
    let two = side.wait_backup("two", LIMIT, |backup| backup.state.is_over());
    assert_eq!((two.state, two.reason), (BackupState::Done, None));
    for (archive, volume, seeds) in [(&file, "one", [1, 5]), (&archive, "two", [3, 7])] {
        let backed_up = taken_out(archive, &format!("set-{volume}"), &[volume]).remove(0);
        compare(&backed_up, &noise(seeds[0], BYTES)).expect("it holds its moment");
        compare(&side.open(volume).read_all().expect("read"), &noise(seeds[1], BYTES)).expect("what hosts wrote");
    }
    assert_eq!((side.status().side_store.bytes, side_files(&side)), (0, Vec::new()), "all space is given back");
}

/// The updaters of both groups end images of both at once, each in the middle of a window.
#[test]
fn images_that_end_in_several_groups_at_once_hold_up_nobody() {
    let volumes = ["one", "two"];
    let (side, _cluster) = in_groups(&volumes.map(|name| (name, "96MiB")));
    // Holes need no room when they are overwritten.
    volumes.iter().for_each(|volume| fill(&side, volume, 96, 99));
    for round in 1..=3 {
        for image in ["x", "y"] {
            side.ok(&["t0", "create", image, "--of", "one", "two"]);
            volumes.iter().for_each(|volume| fill(&side, volume, 8, round));
        }
        std::thread::scope(|threads| {
            let side = &side;
            volumes.iter().for_each(|volume| drop(threads.spawn(move || fill(side, volume, 96, round + 10))));
        });
        for image in ["x", "y"] {
            broken(&side, image);
            side.ok(&["t0", "delete", image]);
        }
        wait_until("everything to be given back", LIMIT, || {
            let left = (side.status().side_store.bytes, side_files(&side));
            check(left == (0, Vec::new()), || format!("{left:?}"))
        });
        for volume in volumes {
            let whole = side.open(volume).read_all().expect("read");
            assert!(whole.iter().all(|byte| *byte == round + 10), "what hosts wrote is there");
        }
    }
}

#[test]
fn an_image_of_several_groups_that_lost_a_part_is_broken_at_the_next_start() {
    let (mut side, _cluster) = in_groups(&[("large", "96MiB"), ("small", "1MiB")]);
    for (round, lost) in ["g-large", "g-small"].into_iter().enumerate() {
        side.ok(&["t0", "create", "both", "--of", "large", "small"]);
        let folders: Vec<_> = side_files(&side);
        assert_eq!(folders.len(), 2);
        fill(&side, "large", 1, round as u8 + 1);
        fill(&side, "small", 1, round as u8 + 1);
        let id = side.group(lost).id;
        side.kill9();
        let of_it = folders.iter().find(|path| path.to_string_lossy().contains(&id)).expect("the part's file");
        std::fs::remove_file(of_it).expect("lose it");
        side.start();
        let why = broken(&side, "both").reason.unwrap_or_default();
        assert!(why.contains(lost) && why.contains("cannot be read"), "{why}");
        assert!(side.try_open("both/large").is_err() && side.try_open("both/small").is_err());
        assert_eq!((side.status().side_store.bytes, side_files(&side)), (0, Vec::new()), "the other part goes");
        side.ok(&["t0", "delete", "both"]);
    }
}
