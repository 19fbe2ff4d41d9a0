//! A PostgreSQL server (Debian's) with its data and its WAL in two directories, run as the user `postgres`.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::command::{Outcome, run, run_within};
use crate::wait::wait_until;

const START_LIMIT: Duration = Duration::from_secs(30);
const USER: &str = "postgres";

/// A running server; dropping it shuts it down at once, as a crash would.
#[derive(Debug)]
pub struct Postgres {
    server: Child,
    sockets: PathBuf,
}

fn program(name: &str) -> String {
    format!("/usr/lib/postgresql/15/bin/{name}")
}

/// Runs one of PostgreSQL's programs as its user.
fn as_user(limit: Duration, name: &str, args: &[&str]) -> Outcome {
    let program = program(name);
    let words: Vec<&str> = ["-u", USER, "--", &program].into_iter().chain(args.iter().copied()).collect();
    run_within(limit, "runuser", &words)
}

/// Makes a database cluster with its data in one directory and its WAL in another.
pub fn init(data: &Path, wal: &Path) {
    for directory in [data, wal] {
        std::fs::create_dir_all(directory).expect("make the directory");
        run("chown", &[USER, &directory.display().to_string()]).done();
    }
    let (data, wal) = (data.display().to_string(), wal.display().to_string());
    as_user(START_LIMIT, "initdb", &["-D", &data, "-X", &wal, "--auth=trust", "--data-checksums"]).done();
}

impl Postgres {
    /// Starts the server and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn start(data: &Path, sockets: &Path) -> Self {
        std::fs::create_dir_all(sockets).expect("make the socket directory");
        run("chown", &[USER, &sockets.display().to_string()]).done();
        let server = Command::new("setpriv")
            .args([
                "--reuid",
                USER,
                "--regid",
                USER,
                "--clear-groups",
                "--pdeathsig",
                "QUIT",
                &program("postgres"),
                "-D",
            ])
            .arg(data)
            .arg("-k")
            .arg(sockets)
            .args(["-c", "listen_addresses=", "-c", "max_wal_size=96MB", "-c", "shared_buffers=32MB"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(sockets.join("log")).expect("make the log"))
            .spawn()
            .expect("start PostgreSQL");
        let started = Self { server, sockets: sockets.into() };
        let host = started.host();
        wait_until("PostgreSQL to answer", START_LIMIT, || {
            let outcome = run(&program("pg_isready"), &["-h", &host]);
            let log = || std::fs::read_to_string(sockets.join("log")).unwrap_or_default();
            if outcome.code == 0 { Ok(()) } else { Err(log()) }
        });
        started
    }

    fn host(&self) -> String {
        self.sockets.display().to_string()
    }

    /// Runs SQL: what it answers, bare.
    #[must_use]
    pub fn sql(&self, text: &str) -> Outcome {
        run(&program("psql"), &["-h", &self.host(), "-U", USER, "-X", "-q", "-A", "-t", "-c", text])
    }

    /// Runs one of its client programs to its end.
    #[must_use]
    pub fn client(&self, limit: Duration, name: &str, args: &[&str]) -> Outcome {
        let host = self.host();
        let words: Vec<&str> = ["-h", &host, "-U", USER].into_iter().chain(args.iter().copied()).collect();
        run_within(limit, &program(name), &words)
    }

    /// Starts pgbench beside it; it ends with the server or the seconds given.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn bench(&self, seconds: u32) -> Child {
        Command::new("setpriv")
            .args(["--pdeathsig", "KILL", &program("pgbench"), "-h", &self.host(), "-U", USER, "-n", "-c", "2"])
            .args(["-T", &seconds.to_string(), USER])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start pgbench")
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // SIGQUIT is PostgreSQL's immediate shutdown; its children follow.
        let _ = run("kill", &["-QUIT", &self.server.id().to_string()]);
        let mut left = 200;
        while left > 0 && matches!(self.server.try_wait(), Ok(None)) {
            std::thread::sleep(Duration::from_millis(50));
            left -= 1;
        }
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- PostgreSQL's log\n{}",
                std::fs::read_to_string(self.sockets.join("log")).unwrap_or_default()
            );
        }
    }
}
