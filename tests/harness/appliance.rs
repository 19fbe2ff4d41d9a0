//! One appliance as a process: made, started, commanded, killed.

use std::fs::{File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tidemark_common::api::backup::types::BackupInfo;
use tidemark_common::api::local_pair::types::LocalPairStatus;
use tidemark_common::api::types::{GroupStatus, PairStatus, Role, Status};

use crate::cluster::{free_tcp, free_udp};
use crate::command::{Outcome, run, run_within};
use crate::host::{Address, Connection, HostError};
use crate::wait::{check, wait_until};

/// How long a service may take to answer, or to stop.
const START_LIMIT: Duration = Duration::from_secs(20);
const STOP_LIMIT: Duration = Duration::from_secs(20);
const ROLE_LIMIT: Duration = Duration::from_secs(90);
/// Debian's libfaketime: what the clock on the wall shows is then up to a file. The monotonic clock stays.
const FAKE_CLOCK: &str = "faketime/libfaketimeMT.so.1";
/// Lines of a service's log shown when a test fails.
const LOG_LINES_SHOWN: usize = 60;

/// What `tidemark init` is told beside the name.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Further NBD addresses beside the Unix socket in the directory.
    pub nbd: Vec<String>,
    /// The QUIC address; any free one by default.
    pub replication: Option<String>,
    /// Another binary than [`binary`].
    pub binary: Option<String>,
}

/// An appliance. Dropping it kills its process and, when the test has failed, shows the end of its log.
#[derive(Debug)]
pub struct Appliance {
    name: String,
    directory: PathBuf,
    id: String,
    replication: String,
    process: Option<Child>,
    binary: String,
    /// Its rings and its log, in memory: not on the disk that a test may fill, and gone with the test.
    memory: TempDir,
}

/// The binary under test: `TIDEMARK_BIN`, or the one built beside this test.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn binary() -> String {
    if let Ok(path) = std::env::var("TIDEMARK_BIN") {
        return path;
    }
    let test = std::env::current_exe().expect("path of this test");
    let path = test.ancestors().nth(2).expect("a test lies in target/PROFILE/deps").join("tidemark");
    assert!(path.exists(), "no binary at {}: run `cargo build --release` or set TIDEMARK_BIN", path.display());
    path.display().to_string()
}

/// Runs `tidemark` with these words and nothing else.
#[must_use]
pub fn tidemark(args: &[&str]) -> Outcome {
    run(&binary(), args)
}

/// Files anywhere under a folder whose names fit, in order.
///
/// # Panics
/// When a folder cannot be read.
#[must_use]
pub fn files_under(folder: &Path, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("read the folder") {
            let path = entry.expect("an entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if fits(&name) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// The library lies in a folder named by the machine's kind.
fn fake_clock() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("list /usr/lib").flatten();
    let found = folders.map(|folder| folder.path().join(FAKE_CLOCK)).find(|path| path.exists());
    found.expect("the package libfaketime is installed")
}

impl Appliance {
    /// `tidemark init`.
    #[must_use]
    pub fn init(directory: &Path, name: &str, options: &Options) -> Self {
        let dir = directory.display().to_string();
        let socket = format!("unix:{dir}/nbd.sock");
        let replication = options.replication.clone().unwrap_or_else(|| free_udp().to_string());
        let metrics = free_tcp().to_string();
        let mut args = vec!["init", &dir, "--name", name, "--replication", &replication, "--metrics", &metrics];
        for address in std::iter::once(&socket).chain(&options.nbd) {
            args.extend(["--nbd", address]);
        }
        let binary = options.binary.clone().unwrap_or_else(binary);
        run(&binary, &args).done();
        let id = run(&binary, &["id", &dir]).done().trim().to_owned();
        assert_eq!(id.len(), 64, "`tidemark id` prints the fingerprint: {id}");
        let memory = tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").expect("a directory on tmpfs");
        let (name, directory) = (name.into(), directory.into());
        let appliance = Self { name, directory, id, replication, process: None, binary, memory };
        let rings = appliance.rings();
        std::fs::create_dir(&rings).expect("a directory for rings");
        let ring_path = rings.display().to_string();
        appliance.configure("groups", "ring_directory", &ring_path);
        appliance
    }

    /// Sets a text setting that `init` left at its default; takes effect at the next start.
    ///
    /// # Panics
    /// When the configuration has no such table.
    pub fn configure(&self, table: &str, key: &str, value: &str) {
        let path = self.directory.join("config.toml");
        let text = std::fs::read_to_string(&path).expect("read config.toml");
        let head = format!("[{table}]\n");
        assert!(text.contains(&head), "config.toml has no [{table}]");
        let line = format!("{head}{key} = \"{value}\"\n");
        std::fs::write(&path, text.replacen(&head, &line, 1)).expect("write config.toml");
    }

    /// Has its rings lie elsewhere from the next start on.
    ///
    /// # Panics
    /// When its configuration cannot be changed.
    pub fn move_rings(&self, folder: &Path) {
        let path = self.directory.join("config.toml");
        let text = std::fs::read_to_string(&path).expect("read config.toml");
        let moved = text.replace(&self.rings().display().to_string(), &folder.display().to_string());
        std::fs::write(&path, moved).expect("write config.toml");
    }

    /// Moves its directory, as it is when nothing is served.
    ///
    /// # Panics
    /// When it cannot be moved.
    pub fn move_to(&mut self, directory: &Path) {
        std::fs::rename(&self.directory, directory).expect("move the directory");
        let before = std::mem::replace(&mut self.directory, directory.into());
        self.listen_here(&before);
    }

    /// A copy of its directory, which has its identity and its addresses.
    ///
    /// # Panics
    /// When it cannot be copied.
    #[must_use]
    pub fn copied_to(&self, directory: &Path) -> Self {
        let paths = [self.directory.display().to_string(), directory.display().to_string()];
        run("cp", &["-a", &paths[0], &paths[1]]).done();
        let copy = Self {
            name: self.name.clone(),
            directory: directory.into(),
            id: self.id.clone(),
            replication: self.replication.clone(),
            process: None,
            binary: self.binary.clone(),
            memory: tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").expect("a directory on tmpfs"),
        };
        copy.listen_here(&self.directory);
        copy
    }

    /// The socket for hosts lies in its directory.
    fn listen_here(&self, before: &Path) {
        let path = self.directory.join("config.toml");
        let text = std::fs::read_to_string(&path).expect("read config.toml");
        let text = text.replace(&before.display().to_string(), &self.directory.display().to_string());
        std::fs::write(&path, text).expect("write config.toml");
    }

    /// Where its rings lie, unless they were moved.
    #[must_use]
    pub fn rings(&self) -> PathBuf {
        self.memory.path().join("rings")
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its data directory.
    #[must_use]
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// Its id, hexadecimal.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Its QUIC address.
    #[must_use]
    pub fn replication(&self) -> &str {
        &self.replication
    }

    /// Its process.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("the appliance runs").id()
    }

    /// Starts the service and waits until it answers.
    ///
    /// # Panics
    /// When it ends instead, or does not answer.
    pub fn start(&mut self) {
        self.spawn();
        wait_until(&format!("{} to answer", self.name), START_LIMIT, || {
            if let Some(code) = self.exited() {
                panic!("{} ended with {code} while starting", self.name);
            }
            let outcome = self.cli(&["status"]);
            if outcome.code == 0 { Ok(()) } else { Err(outcome.stderr) }
        });
    }

    /// Starts a service that is expected to end by itself: its exit code and what it wrote.
    ///
    /// # Panics
    /// When it goes on running.
    pub fn start_refused(&self) -> Outcome {
        let outcome = run_within(START_LIMIT, &self.binary, &["serve", &self.directory.display().to_string()]);
        assert_ne!(outcome.code, 124, "{} runs although it should not:\n{}", outcome.line, outcome.stderr);
        outcome
    }

    /// Starts a service that may not come up whole: what it says about that, when it ends or in a group's `problem`.
    pub fn start_damaged(&mut self) -> String {
        self.spawn();
        let name = self.name.clone();
        wait_until(&format!("{name} to say what is wrong"), START_LIMIT, || {
            if let Some(code) = self.exited() {
                assert_eq!(code, 1, "{name} ends with 1 when it cannot start");
                return Ok(self.log_text());
            }
            let outcome = self.cli(&["status", "--json"]);
            let status: Status =
                serde_json::from_str(&outcome.stdout).map_err(|error| format!("{error}: {outcome:?}"))?;
            let problems: Vec<_> = status.groups.into_iter().filter_map(|group| group.problem).collect();
            if problems.is_empty() { Err("it runs and reports no problem".into()) } else { Ok(problems.join("\n")) }
        })
    }

    /// Files under its data directory whose names fit, in order.
    #[must_use]
    pub fn files(&self, fits: impl Fn(&str) -> bool) -> Vec<PathBuf> {
        files_under(&self.directory, fits)
    }

    fn spawn(&mut self) {
        assert!(self.process.is_none(), "{} runs already", self.name);
        let log = self.log();
        // setpriv becomes the service, which then dies with the test however the test ends.
        let mut command = Command::new("setpriv");
        let clock = self.clock();
        if clock.exists() {
            command.env("LD_PRELOAD", fake_clock()).env("FAKETIME_TIMESTAMP_FILE", &clock);
            let settings = ["FAKETIME_DONT_FAKE_MONOTONIC", "FAKETIME_CACHE_DURATION", "NO_FAKE_STAT"];
            command.envs(settings.map(|name| (name, "1")));
        }
        let child = command
            .args(["--pdeathsig", "KILL", &self.binary, "serve"])
            .arg(&self.directory)
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("log handle"))
            .stderr(log)
            .spawn()
            .expect("start the service");
        self.process = Some(child);
    }

    fn clock(&self) -> PathBuf {
        self.memory.path().join("clock")
    }

    /// Puts the clock on its wall so many seconds before or after the right time: within a second when it was done before
    /// its last start, else from the next start on.
    ///
    /// # Panics
    /// When the clock cannot be set.
    pub fn set_clock(&self, seconds: i64) {
        std::fs::write(self.clock(), format!("{seconds:+}\n")).expect("set the clock");
    }

    fn log(&self) -> File {
        OpenOptions::new().create(true).append(true).open(self.log_path()).expect("open the service's log")
    }

    fn log_path(&self) -> PathBuf {
        self.memory.path().join("log")
    }

    /// Everything the service has written so far.
    #[must_use]
    pub fn log_text(&self) -> String {
        std::fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    /// Its exit code, when it has ended by itself (-1: by a signal).
    pub fn exited(&mut self) -> Option<i32> {
        let status = self.process.as_mut()?.try_wait().expect("look at the service")?;
        self.process = None;
        Some(status.code().unwrap_or(-1))
    }

    /// Waits until the service has ended by itself.
    pub fn wait_exit(&mut self) -> i32 {
        let name = self.name.clone();
        wait_until(&format!("{name} to end"), STOP_LIMIT, || self.exited().ok_or_else(|| "still running".into()))
    }

    /// `kill -9`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill9(&mut self) {
        let mut child = self.process.take().expect("the appliance runs");
        child.kill().expect("kill the service");
        child.wait().expect("reap the service");
    }

    /// SIGTERM, which must end it cleanly.
    ///
    /// # Panics
    /// When it exits with anything but 0.
    pub fn stop(&mut self) {
        self.signal(Signal::TERM);
        let code = self.wait_exit();
        assert_eq!(code, 0, "{} did not stop cleanly", self.name);
    }

    /// Stops it cleanly and starts it again.
    pub fn restart(&mut self) {
        self.stop();
        self.start();
    }

    /// SIGSTOP: the machine hangs.
    pub fn freeze(&self) {
        self.signal(Signal::STOP);
    }

    /// SIGCONT: the machine goes on.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("signal the service");
    }

    /// Runs an administration command.
    #[must_use]
    pub fn cli(&self, args: &[&str]) -> Outcome {
        let dir = self.directory.display().to_string();
        run(&self.binary, &[args, &["--dir", &dir]].concat())
    }

    /// Runs one that may take this long.
    #[must_use]
    pub fn cli_within(&self, limit: Duration, args: &[&str]) -> Outcome {
        let dir = self.directory.display().to_string();
        run_within(limit, &self.binary, &[args, &["--dir", &dir]].concat())
    }

    /// Runs one that must succeed: its standard output.
    pub fn ok(&self, args: &[&str]) -> String {
        self.cli(args).done()
    }

    /// Runs one that must be refused (exit 1): what it says.
    pub fn refuses(&self, args: &[&str]) -> String {
        self.cli(args).failed_with(1)
    }

    /// Runs one with `--json` that must succeed.
    ///
    /// # Panics
    /// When the answer is not what it should be.
    pub fn json<T: DeserializeOwned>(&self, args: &[&str]) -> T {
        let text = self.ok(&[args, &["--json"]].concat());
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("tidemark {args:?}: {error}: {text}"))
    }

    /// `status`.
    #[must_use]
    pub fn status(&self) -> Status {
        self.json(&["status"])
    }

    /// One group's status.
    ///
    /// # Panics
    /// When there is no such group.
    #[must_use]
    pub fn group(&self, name: &str) -> GroupStatus {
        self.try_group(name).unwrap_or_else(|| panic!("{} has no group {name}", self.name))
    }

    /// One group's status, when there is such a group.
    #[must_use]
    pub fn try_group(&self, name: &str) -> Option<GroupStatus> {
        self.status().groups.into_iter().find(|group| group.name == name)
    }

    /// The one pair of a group.
    ///
    /// # Panics
    /// When it has none.
    #[must_use]
    pub fn pair(&self, group: &str) -> PairStatus {
        let name = &self.name;
        self.group(group).pairs.into_iter().next().unwrap_or_else(|| panic!("{group} has no pair on {name}"))
    }

    /// Waits until this side has that role for a group: others are met within seconds.
    pub fn wait_role(&self, group: &str, role: Role) {
        wait_until(&format!("{}: to be {role:?}", self.name), ROLE_LIMIT, || {
            let found = self.try_group(group).ok_or_else(|| "no such group".to_owned())?;
            check(found.role == role, || format!("{found:?}"))
        });
    }

    /// Waits until this side, primary once, knows that another one took over.
    pub fn wait_fenced(&self, group: &str) {
        self.wait_role(group, Role::Fenced);
    }

    /// Waits until the pair of a group is as wanted.
    pub fn wait_pair(
        &self,
        group: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(&PairStatus) -> bool,
    ) -> PairStatus {
        wait_until(&format!("{}: {what}", self.name), within, || {
            let found = self.try_group(group).and_then(|group| group.pairs.into_iter().next());
            let pair = found.ok_or_else(|| "no pair".to_owned())?;
            if wanted(&pair) { Ok(pair) } else { Err(format!("{pair:?}")) }
        })
    }

    /// The same of the pair with one peer of several.
    pub fn wait_pair_with(
        &self,
        group: &str,
        peer: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(&PairStatus) -> bool,
    ) -> PairStatus {
        wait_until(&format!("{}: {what}", self.name), within, || {
            let pairs = self.try_group(group).map(|group| group.pairs).unwrap_or_default();
            let pair = pairs.into_iter().find(|pair| pair.peer == peer).ok_or_else(|| "no pair".to_owned())?;
            if wanted(&pair) { Ok(pair) } else { Err(format!("{pair:?}")) }
        })
    }

    /// Waits until this side has noticed that the hosts of its volumes are gone.
    pub fn wait_without_hosts(&self, within: Duration) {
        wait_until(&format!("{}: hosts to be gone", self.name), within, || {
            let connections: u64 = self.status().volumes.iter().map(|volume| volume.connections).sum();
            check(connections == 0, || format!("{connections} connections"))
        });
    }

    /// A backup.
    #[must_use]
    pub fn backup(&self, name: &str) -> BackupInfo {
        self.json(&["backup", "show", name])
    }

    /// Waits until a backup is as wanted.
    pub fn wait_backup(&self, name: &str, within: Duration, wanted: impl Fn(&BackupInfo) -> bool) -> BackupInfo {
        wait_until(&format!("{}: backup {name}", self.name), within, || {
            let backup = self.backup(name);
            if wanted(&backup) { Ok(backup) } else { Err(format!("{backup:?}")) }
        })
    }

    /// The local pair of a target.
    #[must_use]
    pub fn local_pair(&self, target: &str) -> LocalPairStatus {
        self.json(&["local-pair", "show", target])
    }

    /// Waits until the local pair of a target is as wanted.
    pub fn wait_local_pair(
        &self,
        target: &str,
        what: &str,
        within: Duration,
        wanted: impl Fn(&LocalPairStatus) -> bool,
    ) -> LocalPairStatus {
        wait_until(&format!("{}: {what}", self.name), within, || {
            let pair = self.local_pair(target);
            if wanted(&pair) { Ok(pair) } else { Err(format!("{pair:?}")) }
        })
    }

    /// Trusts another appliance.
    pub fn trust(&self, other: &Self, address: Option<&str>) {
        let mut args = vec!["peer", "add", other.name(), "--id", other.id()];
        args.extend(address.iter().flat_map(|address| ["--addr", address]));
        self.ok(&args);
    }

    /// Where it serves NBD.
    #[must_use]
    pub fn nbd(&self) -> Address {
        Address::Unix(self.directory.join("nbd.sock"))
    }

    /// The URI of an export, for other people's clients.
    #[must_use]
    pub fn uri(&self, export: &str) -> String {
        format!("nbd+unix:///{export}?socket={}/nbd.sock", self.directory.display())
    }

    /// Attaches to an export.
    ///
    /// # Errors
    /// [`HostError`] when it is refused.
    pub fn try_open(&self, export: &str) -> Result<Connection, HostError> {
        Connection::open(&self.nbd(), export)
    }

    /// Attaches to an export that must be served.
    ///
    /// # Panics
    /// When it is not.
    #[must_use]
    pub fn open(&self, export: &str) -> Connection {
        self.try_open(export).unwrap_or_else(|error| panic!("{} does not serve {export}: {error}", self.name))
    }
}

impl Drop for Appliance {
    fn drop(&mut self) {
        if let Some(mut child) = self.process.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let text = self.log_text();
            let lines: Vec<_> = text.lines().collect();
            let shown = &lines[lines.len().saturating_sub(LOG_LINES_SHOWN)..];
            eprintln!("--- {}'s log, last {} lines\n{}\n---", self.name, shown.len(), shown.join("\n"));
        }
    }
}
