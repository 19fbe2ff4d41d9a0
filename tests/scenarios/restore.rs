//! Restores onto volumes: whole, or closed to hosts until somebody says what is to become of them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::OFlags;
use rustix::pipe::fcntl_setpipe_size;
use rustix::process::{Pid, Signal, kill_process};
use tidemark_common::api::backup::types::{RestoreReport, RestoreState, RestoreStatus};
use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_common::api::types::{PairState, RejoinReport, VolumeStatus};
use tidemark_tests::appliance::{Appliance, binary, tidemark};
use tidemark_tests::cluster::Cluster;
use tidemark_tests::command::run;
use tidemark_tests::host::HostError;
use tidemark_tests::image::compare;
use tidemark_tests::noise::noise;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::wait_until;

const LIMIT: Duration = Duration::from_secs(30);
/// Long enough to be killed in the middle of.
const LARGE: u64 = 192 << 20;
const SMALL: u64 = 1 << 20;

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn gone(side: &Appliance) {
    side.wait_without_hosts(LIMIT);
}

fn put(side: &Appliance, volume: &str, content: &[u8]) {
    let mut export = side.open(volume);
    export.write_all(0, content).expect("write");
    export.flush().expect("flush");
    drop(export);
    gone(side);
}

fn held(side: &Appliance, volume: &str) -> Vec<u8> {
    let held = side.open(volume).read_all().expect("read");
    gone(side);
    held
}

fn problem(side: &Appliance, volume: &str) -> Option<String> {
    let volumes: Vec<VolumeStatus> = side.json(&["volume", "list"]);
    volumes.into_iter().find(|found| found.name == volume).expect("the volume").problem
}

/// Why a host cannot have a volume.
fn closed(side: &Appliance, volume: &str) -> String {
    match side.try_open(volume) {
        Err(HostError::Refused { message, .. }) => message,
        other => panic!("a host opened '{volume}', which is half restored: {other:?}"),
    }
}

/// Two volumes in a group, one large, and a backup of both; what they held then. They hold something else now.
struct Site {
    pair: Pair,
    archive: PathBuf,
    large: Vec<u8>,
    small: Vec<u8>,
    newer: Vec<u8>,
}

fn ones() -> Vec<u8> {
    vec![1; usize::try_from(LARGE).expect("its length")]
}

fn site(seed: u64) -> Site {
    let volumes = vec![("large", LARGE.to_string()), ("small", SMALL.to_string())];
    let pair = Pair::unpaired(&Setup { volumes, ..Setup::seeded(seed) });
    let (large, small, newer) = (noise(seed, LARGE), noise(seed + 1, SMALL), noise(seed + 2, SMALL));
    put(&pair.east, "large", &large);
    put(&pair.east, "small", &small);
    pair.east.ok(&["set", "create", "all", "small", "large"]);
    pair.east.ok(&["set", "create", "begin", "large:0+64KiB"]);
    let archive = pair.cluster.join("b.tar");
    let to = text(&archive);
    pair.east.ok(&["backup", "create", "b", "--set", "all", "--set", "begin", "--to", &to, "--wait"]);
    put(&pair.east, "large", &ones());
    put(&pair.east, "small", &newer);
    Site { pair, archive, large, small, newer }
}

impl Site {
    /// Begins to restore both, and kills the service when something of the large one is written.
    fn kill_in_the_middle(&mut self) {
        for _ in 0..10 {
            if self.killed_before_the_end() {
                return;
            }
            // The machine was faster than we looked: once more.
            self.pair.east.start();
            put(&self.pair.east, "large", &ones());
            put(&self.pair.east, "small", &self.newer);
        }
        panic!("a restore of {LARGE} bytes always ends before it is killed");
    }

    fn killed_before_the_end(&mut self) -> bool {
        let directory = text(self.pair.east.directory());
        // The small one comes first, in pieces of 256 KiB.
        let some = self.pair.east.group(GROUP).positions.captured_seq + SMALL / (256 << 10);
        let words = ["backup", "restore", "b", "--set", "all", "--onto-volumes", "--dir"];
        let restoring = std::thread::spawn(move || tidemark(&[&words[..], &[directory.as_str()]].concat()));
        wait_until("the restore to write", LIMIT, || {
            let now = self.pair.east.group(GROUP).positions.captured_seq;
            if now > some { Ok(()) } else { Err(format!("{now}")) }
        });
        self.pair.east.kill9();
        restoring.join().expect("the command").code != 0
    }

    fn assert_closed(&self) {
        let east = &self.pair.east;
        for volume in ["large", "small"] {
            let why = closed(east, volume);
            for words in ["is half restored", &text(&self.archive), "backup restore --give-up"] {
                assert!(why.contains(words), "{words}: {why}");
            }
            let problem = problem(east, volume).expect("the status tells");
            assert!(problem.contains("is half restored"), "{problem}");
        }
        assert!(east.group(GROUP).problem.expect("a problem of its group").contains("is half restored"));
        let shown = east.ok(&["status"]);
        assert!(shown.contains("1 needs attention") && shown.contains("volume 'small' is half restored"), "{shown}");
    }
}

#[test]
fn a_restore_killed_in_the_middle_leaves_its_volumes_closed_until_one_ends() {
    let mut site = site(141);
    site.kill_in_the_middle();
    site.pair.east.start();
    site.assert_closed();
    let east = &site.pair.east;
    // Nothing else takes it for what it was.
    let unmade = site.pair.cluster.join("c.tar");
    for (words, say) in [
        (&["backup", "create", "c", "--set", "all", "--to", &text(&unmade)][..], "would hold neither"),
        (&["switchover", GROUP, "--to", "west"], "is half restored"),
    ] {
        let outcome = east.cli(words);
        assert!(outcome.code == 1 && outcome.stderr.contains(say), "{words:?}: {outcome:?}");
    }
    // A restore that ends well makes whole what it overwrites, and no more.
    east.ok(&["backup", "restore", "b", "--set", "begin", "--onto-volumes"]);
    assert!(closed(east, "large").contains("is half restored"));
    // Over a restart of the service as well.
    site.pair.east.restart();
    site.assert_closed();
    let east = &site.pair.east;
    let report: RestoreReport = east.json(&["backup", "restore", "b", "--set", "all", "--onto-volumes"]);
    assert_eq!((report.members, report.data_bytes), (2, LARGE + SMALL));
    assert_eq!(compare(&held(east, "large"), &site.large), Ok(()));
    assert_eq!(compare(&held(east, "small"), &site.small), Ok(()));
    assert_eq!((problem(east, "large"), east.group(GROUP).problem), (None, None));
    assert!(!east.ok(&["status"]).contains("attention"));
    // It was captured like any write: a copy made now holds it.
    site.pair.create();
    site.pair.wait_paired();
    site.pair.assert_copy_equals();
    site.pair.east.restart();
    assert_eq!(compare(&held(&site.pair.east, "small"), &site.small), Ok(()), "nothing of it comes back");
}

#[test]
fn a_volume_that_is_half_restored_is_opened_as_it_is_only_on_request() {
    let mut site = site(151);
    site.kill_in_the_middle();
    site.pair.east.start();
    site.assert_closed();
    let east = &site.pair.east;
    east.ok(&["volume", "create", "other", "--size", "1MiB"]);
    for (volume, say) in [("other", "is not half restored"), ("nowhere", "no volume 'nowhere'")] {
        let why = east.refuses(&["backup", "restore", "--give-up", volume]);
        assert!(why.contains(say), "{why}");
    }
    let given_up: VolumeStatus = east.json(&["backup", "restore", "--give-up", "large"]);
    assert_eq!((given_up.name.as_str(), given_up.problem), ("large", None));
    // Partly the one and partly the other, which is why it was closed.
    let half = held(east, "large");
    assert!(compare(&half, &site.large).is_err() && half.iter().any(|byte| *byte != 1));
    assert!(closed(east, "small").contains("is half restored"), "each is taken as it is by itself");
    site.pair.east.restart();
    let east = &site.pair.east;
    assert_eq!(compare(&held(east, "large"), &half), Ok(()), "it stays open");
    assert!(closed(east, "small").contains("is half restored"));
    assert!(east.ok(&["backup", "restore", "--give-up", "small"]).is_empty());
    let small = held(east, "small");
    assert!(small == site.small || small == site.newer);
    assert_eq!(east.group(GROUP).problem, None);
    assert!(east.refuses(&["backup", "restore", "--give-up", "small"]).contains("is not half restored"));
}

/// Who was taken over from in the middle of a restore has, once it is the copy, what the other side has.
#[test]
fn a_restore_that_did_not_end_says_nothing_of_a_volume_that_became_a_copy() {
    let mut site = site(161);
    site.pair.create();
    site.pair.wait_paired();
    let refused = site.pair.west.refuses(&["backup", "restore", &text(&site.archive), "--onto-volumes"]);
    assert!(refused.contains("'small' is the copy of group 'g' here: open it on the primary, 'east'"), "{refused}");
    site.kill_in_the_middle();
    let _ = site.pair.failover();
    site.pair.east.start();
    let (east, west) = (&site.pair.east, &site.pair.west);
    east.wait_fenced(GROUP);
    assert!(problem(east, "small").is_some());
    let report: RejoinReport = east.json(&["rejoin", GROUP]);
    assert_eq!(report.primary, "west");
    assert_eq!((problem(east, "small"), problem(east, "large")), (None, None));
    put(west, "small", &site.newer);
    for side in [west, east] {
        side.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    }
    west.ok(&["switchover", GROUP, "--to", "east"]);
    assert_eq!(compare(&held(east, "small"), &site.newer), Ok(()), "it is open, and what was written to it meanwhile");
    assert_eq!(east.open("large").size(), LARGE);
}

/// Volumes `a` and `b` in no group, and a backup of both, also named `b`; what they held then. `a` holds something else now.
fn backed_up(cluster: &Cluster, side: &Appliance) -> (Vec<u8>, Vec<u8>) {
    let (a, b) = (noise(1, SMALL), noise(2, SMALL));
    for (name, content) in [("a", &a), ("b", &b)] {
        side.ok(&["volume", "create", name, "--size", "1MiB"]);
        put(side, name, content);
    }
    side.ok(&["group", "create", "own", "--volume", "a", "--volume", "b"]);
    side.ok(&["set", "create", "all", "a", "b"]);
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&cluster.join("b.tar")), "--wait"]);
    side.ok(&["group", "delete", "own"]);
    put(side, "a", &vec![1; a.len()]);
    (a, b)
}

/// The second volume becomes another one, whose disk is full: a restore of both fails when `a` is written.
fn fail_half_way(cluster: &Cluster, side: &Appliance) -> (SmallDisk, String) {
    side.ok(&["volume", "delete", "b"]);
    let small = SmallDisk::mount(&cluster.join("small"), 4 << 20);
    side.ok(&["volume", "create", "b", "--size", "1MiB", "--backing", &text(&small.path().join("b"))]);
    let _ballast = small.fill();
    let why = side.refuses(&["backup", "restore", "b", "--onto-volumes"]);
    assert!(closed(side, "a").contains("is half restored"));
    (small, why)
}

/// What fails half-way is as half as what was killed; what fails before its first write is not.
#[test]
fn a_restore_that_fails_leaves_closed_what_it_changed_and_nothing_else() {
    let cluster = Cluster::new();
    let mut side = cluster.running("alone");
    let (a, b) = backed_up(&cluster, &side);
    // A host on the second: neither is touched, and both stay open.
    let host = side.open("b");
    let why = side.refuses(&["backup", "restore", "b", "--onto-volumes"]);
    assert!(why.contains("hosts are connected to volume 'b'") && !why.contains("closed to hosts"), "{why}");
    drop(host);
    gone(&side);
    assert_eq!(compare(&held(&side, "a"), &vec![1; a.len()]), Ok(()));
    assert_eq!(problem(&side, "a"), None);
    let (_small, why) = fail_half_way(&cluster, &side);
    for words in ["write volume 'b' at ", "space", "What is in 'a', 'b' now", "stays closed to hosts", "--give-up"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    // The first is whole, and of another moment than the second: neither is opened.
    for restarted in [false, true] {
        if restarted {
            side.restart();
        }
        for volume in ["a", "b"] {
            assert!(closed(&side, volume).contains("is half restored"));
            assert!(problem(&side, volume).is_some());
        }
        let shown = side.ok(&["status"]);
        assert!(shown.contains("2 need attention") && shown.contains("volume 'a' is half restored"), "{shown}");
    }
    // It is nothing to be followed, nor to be offered as it is.
    side.ok(&["volume", "create", "s", "--size", "1MiB"]);
    side.ok(&["group", "create", "h", "--volume", "s"]);
    let why = side.refuses(&["local-pair", "create", "s", "--target", "b"]);
    assert!(why.contains("volume 'b' is half restored"), "{why}");
    // A volume made anew under its name has nothing of that.
    side.ok(&["volume", "delete", "b"]);
    side.ok(&["volume", "create", "b", "--size", "1MiB"]);
    assert_eq!(compare(&held(&side, "b"), &vec![0; b.len()]), Ok(()));
    assert!(closed(&side, "a").contains("is half restored"));
    side.ok(&["backup", "restore", "b", "--onto-volumes"]);
    assert_eq!((compare(&held(&side, "a"), &a), compare(&held(&side, "b"), &b)), (Ok(()), Ok(())));
    assert!(!side.ok(&["status"]).contains("attention"));
}

#[test]
fn a_target_that_is_half_restored_is_its_sources_again_after_a_resync() {
    let cluster = Cluster::new();
    let mut side = cluster.running("alone");
    backed_up(&cluster, &side);
    let source = noise(3, SMALL);
    side.ok(&["volume", "create", "s", "--size", "1MiB"]);
    side.ok(&["group", "create", "h", "--volume", "s"]);
    put(&side, "s", &source);
    let wait = |side: &Appliance| {
        side.wait_local_pair("a", "the pair to be made", LIMIT, |pair| pair.state == LocalPairState::Pair);
    };
    side.ok(&["local-pair", "create", "s", "--target", "a"]);
    wait(&side);
    side.ok(&["local-pair", "split", "a"]);
    let _small = fail_half_way(&cluster, &side);
    let why = side.refuses(&["local-pair", "reverse", "a"]);
    assert!(why.contains("volume 'a' is half restored"), "{why}");
    side.ok(&["local-pair", "resync", "a"]);
    assert!(problem(&side, "a").is_none() && problem(&side, "b").is_some());
    wait(&side);
    side.restart();
    side.ok(&["local-pair", "split", "a"]);
    assert_eq!(compare(&held(&side, "a"), &source), Ok(()));
}

#[test]
fn a_volume_that_is_half_restored_and_offered_to_a_copy_is_that_copy() {
    let mut pair = Pair::unpaired(&Setup::one_volume("a", SMALL, 171));
    let source = noise(4, SMALL);
    put(&pair.east, "a", &source);
    backed_up(&pair.cluster, &pair.west);
    let _small = fail_half_way(&pair.cluster, &pair.west);
    pair.west.ok(&["volume", "offer", "a", "--group", GROUP]);
    pair.create();
    pair.wait_paired();
    assert!(problem(&pair.west, "a").is_none() && problem(&pair.west, "b").is_some());
    pair.settle();
    pair.east.kill9();
    let _ = pair.failover();
    assert_eq!(compare(&held(&pair.west, "a"), &source), Ok(()), "it is served, and whole");
}

#[test]
fn a_restore_onto_another_volume_is_whole_and_one_that_is_too_small_is_not_begun() {
    let cluster = Cluster::new();
    let mut side = cluster.running("alone");
    let content = noise(7, 4 * SMALL);
    side.ok(&["volume", "create", "v", "--size", "4MiB"]);
    put(&side, "v", &content);
    side.ok(&["group", "create", "g", "--volume", "v"]);
    side.ok(&["set", "create", "all", "v"]);
    let to = text(&cluster.join("b.tar"));
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &to, "--wait"]);
    side.ok(&["volume", "create", "w", "--size", "2MiB"]);
    let before = noise(8, 2 * SMALL);
    put(&side, "w", &before);
    let why = side.refuses(&["backup", "restore", "b", "--onto", "w"]);
    for words in ["volume 'w' has 2097152 bytes", "reaches from 0 to 4194304", "tidemark volume resize"] {
        assert!(why.contains(words), "{words}: {why}");
    }
    assert!(!why.contains("closed to hosts"), "nothing has begun: {why}");
    assert_eq!(compare(&held(&side, "w"), &before), Ok(()), "open, and as it was");
    assert_eq!(problem(&side, "w"), None);
    side.ok(&["volume", "resize", "w", "--size", "6MiB"]);
    let report: RestoreReport = side.json(&["backup", "restore", "b", "--onto", "w"]);
    assert_eq!((report.members, report.data_bytes), (1, 4 * SMALL));
    let mut expected = content.clone();
    expected.resize(6 << 20, 0);
    assert_eq!(compare(&held(&side, "w"), &expected), Ok(()), "what lies behind is not touched");
    assert_eq!(compare(&held(&side, "v"), &content), Ok(()), "nor is the one it was read from");
    side.restart();
    assert_eq!(compare(&held(&side, "w"), &expected), Ok(()));
    assert!(side.refuses(&["backup", "restore", "b", "--onto", "nowhere"]).contains("no volume 'nowhere'"));
}

/// Of a volume that is restored out of a pipe.
const PIPED: u64 = 16 << 20;
/// What a pipe is given at once.
const PIECE: usize = 64 << 10;

/// A volume that holds something newer than its backup.
struct Newer {
    side: Appliance,
    archive: PathBuf,
    /// The archive, up to the last byte that is looked at.
    bytes: Vec<u8>,
    backed_up: Vec<u8>,
    newer: Vec<u8>,
    cluster: Cluster,
}

impl Newer {
    fn new() -> Self {
        let cluster = Cluster::new();
        let side = cluster.running("alone");
        let (backed_up, newer) = (noise(21, PIPED), noise(22, PIPED));
        side.ok(&["volume", "create", "v", "--size", &PIPED.to_string()]);
        side.ok(&["group", "create", "g", "--volume", "v"]);
        put(&side, "v", &backed_up);
        side.ok(&["set", "create", "all", "v"]);
        let archive = cluster.join("b.tar");
        side.ok(&["backup", "create", "b", "--set", "all", "--to", &text(&archive), "--wait"]);
        put(&side, "v", &newer);
        let mut bytes = std::fs::read(&archive).expect("read the backup");
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("the manifest's digest is the last") + 1;
        bytes.truncate(used);
        Self { side, archive, bytes, backed_up, newer, cluster }
    }

    /// A restore out of a pipe: how far it comes is up to the test.
    fn restore(&self, pipe: &str) -> Piped<'_> {
        let path = self.cluster.join(pipe);
        run("mkfifo", &[text(&path)]).done();
        let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).expect("a flag");
        // For reading, too: the service then finds neither a pipe that nobody writes nor its end.
        let opened = File::options().read(true).write(true).custom_flags(nonblocking).open(&path);
        let pipe = opened.expect("open the pipe");
        fcntl_setpipe_size(&pipe, 1 << 20).expect("make the pipe larger");
        let words = ["backup", "restore", text(&path).as_str(), "--onto-volumes"].map(str::to_owned).to_vec();
        let mut command = Command::new(binary());
        command.args(&words).arg("--dir").arg(self.side.directory());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let command = command.spawn().expect("run tidemark");
        Piped { of: self, words, pipe, left: &self.bytes, command }
    }
}

/// A restore that reads the backup out of a pipe: once to verify it, and once more.
struct Piped<'a> {
    of: &'a Newer,
    words: Vec<String>,
    pipe: File,
    /// What it was not given yet, this time.
    left: &'a [u8],
    command: Child,
}

impl Piped<'_> {
    /// Gives it what the pipe takes now of so many bytes; how many are left of them.
    fn feed_some(&mut self, bytes: usize) -> usize {
        let mut bytes = bytes.min(self.left.len());
        while bytes > 0 {
            match self.pipe.write(&self.left[..bytes]) {
                Ok(taken) => (self.left, bytes) = (&self.left[taken..], bytes - taken),
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => break,
                Err(error) => panic!("write to the pipe: {error}"),
            }
        }
        bytes
    }

    /// Gives it so many bytes more.
    fn feed(&mut self, bytes: usize) {
        let mut bytes = bytes.min(self.left.len());
        wait_until("the service to read the pipe", LIMIT, || {
            bytes = self.feed_some(bytes);
            if bytes == 0 { Ok(()) } else { Err(format!("{bytes} bytes are left")) }
        });
    }

    fn wait(&self, what: &str, wanted: impl Fn(&RestoreStatus) -> bool) -> RestoreStatus {
        wait_until(what, LIMIT, || {
            let restores = self.of.side.status().restores;
            restores.iter().find(|restore| wanted(restore)).cloned().ok_or_else(|| format!("{restores:?}"))
        })
    }

    /// Until half of it is written.
    fn half_way(&mut self) -> RestoreStatus {
        self.feed(usize::MAX);
        self.wait("the backup to be verified", |restore| restore.volumes == ["v"]);
        self.left = &self.of.bytes;
        self.feed(self.left.len() / 2);
        let writes =
            |restore: &RestoreStatus| restore.state == RestoreState::Writing && restore.progress.done_bytes > 0;
        self.wait("the restore to write", writes)
    }

    /// Its words, with `--cancel`.
    fn cancelling(&self) -> Vec<&str> {
        self.words.iter().map(String::as_str).chain(["--cancel"]).collect()
    }

    /// `--cancel`, while what is read comes slowly.
    fn cancel(&mut self) -> RestoreStatus {
        let side = &self.of.side;
        let words: Vec<String> = self.cancelling().into_iter().map(str::to_owned).collect();
        std::thread::scope(|scope| {
            let cancelling = scope.spawn(|| {
                let words: Vec<&str> = words.iter().map(String::as_str).collect();
                side.json::<RestoreStatus>(&words)
            });
            wait_until("the restore to be ended", LIMIT, || {
                self.feed_some(PIECE);
                if cancelling.is_finished() { Ok(()) } else { Err(format!("{} bytes are left", self.left.len())) }
            });
            cancelling.join().expect("the command")
        })
    }

    /// A signal to the command, which ends though its restore does not: its exit code, and what it said.
    fn break_off(&mut self, signal: Signal) -> (Option<i32>, String) {
        kill_process(Pid::from_child(&self.command), signal).expect("signal the command");
        self.ended()
    }

    fn ended(&mut self) -> (Option<i32>, String) {
        let status = wait_until("the command to end", LIMIT, || {
            self.command.try_wait().expect("look at the command").ok_or_else(|| "it runs".to_owned())
        });
        let mut told = String::new();
        self.command.stderr.take().expect("its stderr").read_to_string(&mut told).expect("what it said");
        (status.code(), told)
    }
}

#[test]
fn a_restore_whose_command_is_broken_off_goes_on_and_says_so() {
    let newer = Newer::new();
    let side = &newer.side;
    let mut piped = newer.restore("pipe");
    let restore = piped.half_way();
    let progress = restore.progress;
    assert!(progress.total_bytes == PIPED && progress.done_bytes < PIPED, "{restore:?}");
    assert!(progress.bytes_per_second > 0.0 && progress.seconds_left.is_some(), "{restore:?}");
    assert_eq!((restore.from.as_str(), restore.set, restore.onto), (piped.words[2].as_str(), None, None));
    let shown = side.ok(&["status"]);
    let shown = shown.split_whitespace().collect::<Vec<_>>().join(" ");
    let ends = format!("`tidemark {}` ends it", piped.cancelling().join(" "));
    assert!(shown.contains("of 16 MiB") && shown.contains(" left v from ") && shown.contains(&ends), "{shown}");

    let (code, told) = piped.break_off(Signal::INT);
    assert_eq!(code, Some(130), "{told}");
    for words in [" onto v goes on in the service", "`tidemark status`", ends.as_str(), "half restored"] {
        assert!(told.contains(words), "{words}: {told}");
    }
    assert!(closed(side, "v").contains("is being restored"));
    assert_eq!(side.status().restores.len(), 1);
    piped.feed(usize::MAX);
    wait_until("the restore to end", LIMIT, || {
        let restores = side.status().restores;
        if restores.is_empty() { Ok(()) } else { Err(format!("{restores:?}")) }
    });
    assert_eq!(compare(&held(side, "v"), &newer.backed_up), Ok(()), "it is whole, and open");
    assert_eq!(problem(side, "v"), None);
}

#[test]
fn a_restore_is_ended_on_request_and_what_it_wrote_stays_closed() {
    let newer = Newer::new();
    let side = &newer.side;
    // While it is verified, nothing is changed yet. Breaking the command off with another signal ends no more than that, either.
    let mut piped = newer.restore("first");
    piped.feed(newer.bytes.len() / 2);
    let restore = piped.wait("the backup to be read", |restore| restore.progress.done_bytes > 0);
    assert_eq!((restore.state, restore.progress.total_bytes), (RestoreState::Verifying, 0), "{restore:?}");
    let shown = side.ok(&["status"]);
    assert!(shown.contains(" read\n") && shown.contains("nothing is changed yet"), "{shown}");
    let (code, told) = piped.break_off(Signal::TERM);
    assert_eq!(code, Some(143), "{told}");
    assert!(told.contains("before anything is changed"), "{told}");
    let ended = piped.cancel();
    assert_eq!((ended.state, ended.volumes.len()), (RestoreState::Verifying, 0), "{ended:?}");
    assert_eq!(compare(&held(side, "v"), &newer.newer), Ok(()), "open, and as it was");

    let mut piped = newer.restore("second");
    piped.half_way();
    let ended = piped.cancel();
    assert_eq!((ended.state, ended.volumes), (RestoreState::Writing, vec!["v".to_owned()]));
    let (code, told) = piped.ended();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("cancelled by the operator") && told.contains("stays closed to hosts"), "{told}");
    assert!(side.status().restores.is_empty());
    assert!(closed(side, "v").contains("is half restored"));
    assert!(problem(side, "v").is_some());
    assert!(side.refuses(&piped.cancelling()).contains("no such restore"));
    let report: RestoreReport = side.json(&["backup", "restore", &text(&newer.archive), "--onto-volumes"]);
    assert_eq!((report.members, report.data_bytes), (1, PIPED));
    assert_eq!(compare(&held(side, "v"), &newer.backed_up), Ok(()));
}
