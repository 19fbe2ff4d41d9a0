//! Disks that fill up: reported, survived, and nothing acknowledged is lost.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{ComparisonState, PairState, Role};
use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::history::History;
use tidemark_tests::host::{ENOSPC, HostError};
use tidemark_tests::image;
use tidemark_tests::noise::write_noise;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::{Load, Profile, Target, prefill};

const LIMIT: Duration = Duration::from_secs(30);
const VOLUMES: [&str; 2] = ["a", "b"];
const MIB: u64 = 1 << 20;

/// An appliance whose directory and volumes may lie on different disks, with a prefilled group on it.
struct Site {
    appliance: Appliance,
    history: Arc<History>,
    profile: Profile,
}

impl Site {
    fn new(directory: &Path, backings: &Path, seed: u64) -> Self {
        Self::over(Appliance::init(directory, "east", &Options::default()), backings, seed)
    }

    /// On an appliance that does not run yet.
    fn over(mut appliance: Appliance, backings: &Path, seed: u64) -> Self {
        appliance.configure("groups", "segment_bytes", "8MiB");
        appliance.configure("groups", "journal_bytes", "256MiB");
        appliance.configure("groups", "write_buffer_bytes", "16MiB");
        appliance.start();
        let profile = Profile { stripe_blocks: 320, ..Profile::seeded(seed) };
        let size = profile.volume_bytes().to_string();
        let mut words = vec!["group", "create", GROUP, "--interval", "250ms"];
        for name in VOLUMES {
            let backing = backings.join(name).display().to_string();
            appliance.ok(&["volume", "create", name, "--size", &size, "--backing", &backing]);
            words.extend(["--volume", name]);
        }
        appliance.ok(&words);
        Self { appliance, history: Arc::new(History::new()), profile }
    }

    fn target(&self) -> Target {
        Target { address: self.appliance.nbd(), exports: VOLUMES.map(ToOwned::to_owned).to_vec() }
    }

    fn prefill(&self) {
        let blocks = self.profile.writers * self.profile.stripe_blocks;
        prefill(&self.history, &self.target(), blocks).expect("prefill");
        self.target().open().expect("open")[0].flush().expect("flush");
    }

    fn load(&self, number: u64) -> Load {
        Load::start(
            &self.history,
            &self.target(),
            &Profile { seed: self.profile.seed * 101 + number, ..self.profile.clone() },
        )
    }

    /// Runs a load until the full disk is reported, or hosts are told that there is no space.
    fn run_until_full(&self) {
        let load = self.load(0);
        wait_until("the full disk to be reported", LIMIT, || {
            let problem = self.appliance.group(GROUP).problem.unwrap_or_default();
            if problem.contains("space") || load.ended_early() { Ok(()) } else { Err(format!("problem: {problem:?}")) }
        });
        for end in load.end() {
            assert!(matches!(end, HostError::Errno(ENOSPC)), "a host is told that there is no space, not: {end}");
        }
    }

    /// What was answered with an error is there or is not: from here on that is known, and others may write there.
    fn settle_while_full(&self) {
        let verdict = assert_legal("while full", &self.history.writes(), &self.image(), Bounds::EVERYTHING_ACKED);
        self.history.settle(&verdict);
    }

    fn assert_recovers(&self) {
        wait_until("the problem to be over", LIMIT, || match self.appliance.group(GROUP).problem {
            None => Ok(()),
            Some(problem) => Err(problem),
        });
        // Whatever was answered with an error may be there or not; from here on everything must be.
        let verdict =
            assert_legal("after the full disk", &self.history.writes(), &self.image(), Bounds::EVERYTHING_ACKED);
        self.history.settle(&verdict);
        let load = self.load(1);
        load.wait_acked(300);
        load.stop();
        assert_legal("going on", &self.history.writes(), &self.image(), Bounds::EVERYTHING_ACKED);
    }

    fn image(&self) -> image::Image {
        image::read(&mut self.target().open().expect("open")).expect("read the image")
    }
}

#[test]
fn a_full_disk_behind_the_volumes_holds_up_the_write_back_and_loses_nothing() {
    let cluster = Cluster::new();
    // Room for both volumes, until the ballast takes it.
    let small = SmallDisk::mount(&cluster.join("small"), 12 << 20);
    let site = Site::new(&cluster.join("east"), small.path(), 221);
    let ballast = small.fill();
    let filled = std::thread::scope(|scope| {
        let prefilling = scope.spawn(|| site.prefill());
        wait_until("the full disk to be reported", LIMIT, || {
            let problem = site.appliance.group(GROUP).problem.unwrap_or_default();
            if problem.contains("space") { Ok(()) } else { Err(format!("problem: {problem:?}")) }
        });
        std::fs::remove_file(&ballast).expect("make space");
        prefilling.join()
    });
    assert!(filled.is_ok(), "the volumes were filled in the end");
    site.assert_recovers();
}

#[test]
fn an_old_primary_whose_volumes_are_not_up_to_date_is_not_given_up_unasked_and_returns_as_an_exact_copy() {
    let setup = Setup::one_volume("v", 32 * MIB, 335).journals("128MiB", "128MiB");
    let mut pair = Pair::unpaired(&setup);
    let volumes = pair.east.directory().join("volumes");
    pair.east.stop();
    // The volume's file is sparse; it is made again on a disk that will be full.
    let image = std::fs::read_dir(&volumes).expect("volumes").next().expect("one").expect("a file").path();
    let disk = SmallDisk::mount(&volumes, 64 * MIB);
    std::fs::File::create(&image).and_then(|file| file.set_len(32 * MIB)).expect("a sparse file");
    pair.east.start();
    pair.create();
    pair.wait_paired();
    let ballast = disk.fill();
    write_noise(&pair.east, "v", 0, 16 * MIB, 1);
    let marker = pair.cut();
    pair.wait_for(marker, "received");
    pair.west.ok(&["failover", GROUP, "--force"]);
    pair.east.wait_fenced(GROUP);
    let given_up = pair.east.refuses(&["pair", "delete", GROUP, "--to", "west"]);
    assert!(given_up.contains("could not be put into the volumes") && given_up.contains("--force"), "{given_up}");
    std::fs::remove_file(ballast).expect("make space");
    assert_eq!(pair.east.group(GROUP).role, Role::Fenced, "as it was");
    // What it lacks of before the parting is either put there first, or all is copied.
    pair.east.ok(&["rejoin", GROUP]);
    pair.east.wait_pair(GROUP, "the copy", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    assert!(pair.backing(&pair.east)[0] == pair.backing(&pair.west)[0], "the copy is what it was copied from");
}

#[test]
fn a_full_disk_under_the_journal_is_reported_and_loses_nothing() {
    let cluster = Cluster::new();
    let small = SmallDisk::mount(&cluster.join("small"), 256 << 20);
    let mut site = Site::new(&small.path().join("east"), &cluster.join(""), 222);
    site.prefill();
    let mut west = cluster.running("west");
    site.appliance.trust(&west, Some(west.replication()));
    west.trust(&site.appliance, None);
    site.appliance.ok(&["pair", "create", GROUP, "--to", "west"]);
    site.appliance.wait_pair(GROUP, "the pair to be paired", LIMIT, |pair| pair.state == PairState::Paired);
    // From here on the journal has to be kept.
    west.kill9();
    let ballast = small.fill();
    site.run_until_full();
    let place = format!("file system of {}", small.path().display());
    let names_it = |said: &str| said.contains("ENOSPC") && said.contains(&place);
    site.settle_while_full();
    // The catalogue on the same disk may have been the first to say it.
    let load = site.load(2);
    wait_until("the full disk under the journal to be told", LIMIT, || {
        let problem = site.appliance.group(GROUP).problem.unwrap_or_default();
        if names_it(&problem) { Ok(()) } else { Err(problem) }
    });
    for end in load.end() {
        assert!(matches!(end, HostError::Errno(ENOSPC)), "a host is told that there is no space, not: {end}");
    }
    for asked in [vec!["cut", GROUP], vec!["t0", "create", "i", "--of", GROUP]] {
        let refused = site.appliance.refuses(&asked);
        assert!(names_it(&refused), "{asked:?}: {refused}");
    }
    site.appliance.kill9();
    site.appliance.start();
    std::fs::remove_file(&ballast).expect("make space");
    site.assert_recovers();
    site.appliance.ok(&["cut", GROUP]);
    west.start();
    site.appliance.wait_pair(GROUP, "the pair to be paired again", LIMIT, |pair| pair.state == PairState::Paired);
}

#[test]
fn a_full_memory_under_the_write_buffer_is_reported_and_loses_nothing() {
    let cluster = Cluster::new();
    // A quarter of what the buffer may grow to.
    let small = SmallDisk::mount(&cluster.join("small"), 4 << 20);
    let appliance = Appliance::init(&cluster.join("east"), "east", &Options::default());
    appliance.move_rings(small.path());
    let mut site = Site::over(appliance, &cluster.join(""), 223);
    site.run_until_full();
    // What the drain gives back may have ended the lack by now: then the log has it.
    let said = site.appliance.group(GROUP).problem.unwrap_or_else(|| site.appliance.log_text());
    assert!(said.contains("write buffer") && said.contains(&small.path().display().to_string()), "{said}");
    site.settle_while_full();
    site.appliance.kill9();
    site.appliance.start();
    small.resize(64 << 20);
    site.assert_recovers();
}

#[test]
fn a_group_whose_write_buffer_finds_no_space_at_all_is_refused() {
    let cluster = Cluster::new();
    let small = SmallDisk::mount(&cluster.join("small"), 1 << 20);
    let mut east = Appliance::init(&cluster.join("east"), "east", &Options::default());
    east.move_rings(small.path());
    east.start();
    east.ok(&["volume", "create", "a", "--size", "1MiB"]);
    let ballast = small.fill();
    let refused = east.refuses(&["group", "create", GROUP, "--volume", "a"]);
    assert!(refused.contains("write buffer") && refused.contains(&small.path().display().to_string()), "{refused}");
    east.open("a").write(0, &[1; 4096]).expect("the volume is served as before");
    std::fs::remove_file(ballast).expect("make space");
    east.ok(&["group", "create", GROUP, "--volume", "a"]);
    assert_eq!(east.open("a").read(0, 4096).expect("read"), [1; 4096]);
}

/// Fills the catalogue's disk and what room its log has of its own: the ballast.
fn fill_catalogue(small: &SmallDisk, appliance: &Appliance) -> PathBuf {
    let ballast = small.fill();
    let create = |number| appliance.cli(&["volume", "create", &format!("f{number}"), "--size", "1MiB"]);
    let refused = (0..200).map(create).find(|outcome| outcome.code != 0).expect("the catalogue is full");
    assert!(refused.stderr.contains("space") && refused.stderr.contains("catalog"), "{refused:?}");
    ballast
}

#[test]
fn a_full_disk_under_the_catalogue_is_reported_and_loses_nothing() {
    for killed in [false, true] {
        let cluster = Cluster::new();
        let directory = cluster.join("east");
        let appliance = Appliance::init(&directory, "east", &Options::default());
        let small = SmallDisk::mount(&directory.join("catalog"), 1 << 20);
        let mut site = Site::over(appliance, &cluster.join(""), 224);
        site.prefill();
        let ballast = fill_catalogue(&small, &site.appliance);
        site.run_until_full();
        if killed {
            site.appliance.kill9();
            let reason = site.appliance.start_refused().failed_with(1);
            assert!(reason.contains("no space") && reason.contains("catalog"), "{reason}");
        }
        std::fs::remove_file(&ballast).expect("make space");
        small.resize(64 << 20);
        if killed {
            site.appliance.start();
        }
        site.assert_recovers();
    }
}

#[test]
fn a_group_that_the_catalogue_cannot_take_is_none_and_leaves_nothing_behind() {
    let cluster = Cluster::new();
    let directory = cluster.join("east");
    let mut east = Appliance::init(&directory, "east", &Options::default());
    let small = SmallDisk::mount(&directory.join("catalog"), 1 << 20);
    east.start();
    east.ok(&["volume", "create", "a", "--size", "1MiB"]);
    let ballast = fill_catalogue(&small, &east);
    let refused = east.refuses(&["group", "create", GROUP, "--volume", "a"]);
    assert!(refused.contains("space"), "{refused}");
    let tasks = format!("/proc/{}/task", east.pid());
    let names = std::fs::read_dir(tasks)
        .expect("its threads")
        .filter_map(|task| std::fs::read_to_string(task.expect("a thread").path().join("comm")).ok());
    let of_groups: Vec<_> = names.filter(|name| name.starts_with("drain") || name.starts_with("updater")).collect();
    assert!(of_groups.is_empty(), "threads of a group that is none: {of_groups:?}");
    assert!(east.files(|name| name.ends_with(".segment")).is_empty(), "{:?}", east.files(|_| true));
    east.open("a").write(0, &[1; 4096]).expect("the volume is served as before");
    std::fs::remove_file(ballast).expect("make space");
    east.kill9();
    east.start();
    east.ok(&["group", "create", GROUP, "--volume", "a"]);
    assert_eq!(east.open("a").read(0, 4096).expect("read"), [1; 4096]);
}

/// The catalogue of an appliance that does not run moves to a disk of its own.
fn move_catalogue(appliance: &Appliance, bytes: u64) -> SmallDisk {
    let (catalog, aside) = (appliance.directory().join("catalog"), appliance.directory().join("catalog-before"));
    std::fs::rename(&catalog, &aside).expect("move it aside");
    let disk = SmallDisk::mount(&catalog, bytes);
    for file in std::fs::read_dir(&aside).expect("its files").flatten() {
        std::fs::copy(file.path(), catalog.join(file.file_name())).expect("copy it");
    }
    disk
}

/// Nothing runs any more, and that is what is said; it goes on when it is asked to.
#[test]
fn a_comparison_whose_record_cannot_be_written_stands_and_says_why() {
    let mut pair = Pair::paired(&Setup::one_volume("v", 256 * MIB, 336));
    pair.east.stop();
    let small = move_catalogue(&pair.east, MIB);
    pair.east.start();
    pair.wait_paired();
    let ballast = std::thread::scope(|scope| {
        scope.spawn(|| drop(pair.east.cli_within(LIMIT * 4, &["verify", GROUP, "--to", "west", "--rate", "4MiB"])));
        let comparison = || pair.east.pair(GROUP).comparison;
        wait_until("the comparison to begin", LIMIT, || {
            let found = comparison();
            check(found.as_ref().is_some_and(|found| found.done_bytes > 0), || format!("{found:?}"))
        });
        let ballast = fill_catalogue(&small, &pair.east);
        wait_until("the comparison to stand", LIMIT, || {
            let found = comparison();
            let stands = found.as_ref().is_some_and(|found| {
                found.state == ComparisonState::Stands
                    && found.reason.as_ref().is_some_and(|reason| reason.contains("space"))
            });
            check(stands, || format!("{found:?}"))
        });
        ballast
    });
    std::fs::remove_file(ballast).expect("make space");
    small.resize(64 * MIB);
    wait_until("the comparison to go on and to end", LIMIT, || {
        let words = ["verify", GROUP, "--to", "west", "--resume", "--rate", "1GiB"];
        let outcome = pair.east.cli_within(LIMIT, &words);
        check(outcome.code == 0, || outcome.stderr)
    });
}
