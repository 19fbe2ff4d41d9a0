//! `tidemark drill guard`: the process between the service and a check, so that a check never outlives its drill.
//!
//! ```text
//! service ◀── how the shell ended ── guard ── /bin/sh -c CHECK ── whatever it starts
//!         ── (nothing; its end) ──▶
//! ```
//!
//! Whatever leaves its parent, as daemons do, becomes a child of the guard. When the shell has ended, when the service closes its end of the
//! socket, or when it is gone with the service, the guard ends its children until it has none, takes away what is mounted, and ends.

use std::collections::BTreeSet;
use std::io::Write;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, getpid, kill_process, set_child_subreaper, wait};
use tidemark_common::clock::{Clock, SystemClock};
use tokio::net::UnixStream;
use tokio::runtime;
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::timeout;

use crate::failure::Failure;
use crate::roles::{drill_check::Ended, drill_left};

/// Those that use what is mounted.
const USERS: Rounds =
    Rounds { servers: false, tell: Duration::ZERO, kill: Duration::from_secs(5), leave: Duration::from_secs(10) };
/// All that are left: first of all what serves a file system, which ends by itself when that is unmounted.
const ALL: Rounds = Rounds {
    servers: true,
    tell: Duration::from_secs(1),
    kill: Duration::from_secs(5),
    leave: Duration::from_secs(20),
};
/// So long for unmounting, which waits for a file system's server; it waits no more when that is killed.
const UNMOUNT: Duration = Duration::from_secs(10);
/// Between two looks for children: nothing tells of one that came from a process that has ended.
const LOOK: Duration = Duration::from_millis(20);

/// Runs a check in its folder; stdin is the socket to the service.
pub(crate) fn run(folder: &Path, command: &str) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let outcome = runtime.block_on(guard(folder, command));
    // A thread that waits for a disk is left behind.
    runtime.shutdown_background();
    Ok(outcome?)
}

async fn guard(folder: &Path, command: &str) -> anyhow::Result<()> {
    set_child_subreaper(Some(getpid())).context("keep whatever the check starts")?;
    let mut children = signal(SignalKind::child()).context("listen for SIGCHLD")?;
    // Whoever ends the guard ends the check.
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let mut socket = std::os::unix::net::UnixStream::from(std::io::stdin().as_fd().try_clone_to_owned()?);
    socket.set_nonblocking(true).context("listen to the service")?;
    let service = UnixStream::from_std(socket.try_clone()?).context("listen to the service")?;
    let shell = Command::new("/bin/sh")
        .args(["-c", command])
        .current_dir(folder)
        .stdin(Stdio::null())
        .process_group(0)
        .spawn()
        .context("start /bin/sh")?;
    let shell = Pid::from_child(&shell);
    loop {
        if let Some(ended) = reap(shell).ended {
            // Before anything is ended: how long that takes is not the check's time. Whoever is gone need not hear it.
            let _ = socket.write_all(ended.to_string().as_bytes());
            break;
        }
        tokio::select! {
            _ = children.recv() => {}
            () = closed(&service) => break,
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    // In this order the kernel finds no disk missing. What cannot be unmounted now is when nothing uses it any more.
    end(&mut children, &USERS).await;
    let place = folder.to_owned();
    let _ = timeout(UNMOUNT, tokio::task::spawn_blocking(move || drill_left::unmount_below(&place, &[]))).await;
    let left = end(&mut children, &ALL).await;
    if !left.is_empty() {
        bail!("processes that the check has started could not be ended: {left:?}. Find out what they wait for");
    }
    drill_left::clear(folder).map_err(anyhow::Error::msg)
}

/// The service wants the check to end, or is gone.
async fn closed(service: &UnixStream) {
    while service.readable().await.is_ok() {
        match service.try_read(&mut [0; 16]) {
            Ok(1..) => {}
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            Ok(0) | Err(_) => return,
        }
    }
}

#[derive(Default)]
struct Reaped {
    /// How the shell ended, if it was among them.
    ended: Option<Ended>,
    /// There is no child left.
    none: bool,
}

fn reap(shell: Pid) -> Reaped {
    let mut reaped = Reaped::default();
    loop {
        match wait(WaitOptions::NOHANG) {
            Ok(Some((pid, status))) if pid == shell => reaped.ended = Some(ended(status)),
            Ok(Some(_)) | Err(Errno::INTR) => {}
            Ok(None) => return reaped,
            Err(_) => return Reaped { none: true, ..reaped },
        }
    }
}

fn ended(status: WaitStatus) -> Ended {
    status.exit_status().map_or_else(|| Ended::Signal(status.terminating_signal().unwrap_or(0)), Ended::Code)
}

/// When children are told to end, when they are killed, and when they are left alone, counted from the begin.
struct Rounds {
    /// Whether those that serve a file system are meant, too.
    servers: bool,
    tell: Duration,
    kill: Duration,
    leave: Duration,
}

/// Ends children, and what becomes a child when its parent has ended. Those that could not be ended come back.
///
/// Only children are sent signals: until they are reaped here, their numbers belong to nobody else.
async fn end(children: &mut unix::Signal, rounds: &Rounds) -> Vec<i32> {
    let clock = SystemClock::new();
    let begin = clock.monotonic();
    let mut told = BTreeSet::new();
    loop {
        if reap(getpid()).none {
            return Vec::new();
        }
        let mut left = own_children();
        left.retain(|child| rounds.servers || !is_server(*child));
        let passed = clock.monotonic().saturating_sub(begin);
        if passed >= rounds.leave || (left.is_empty() && !rounds.servers) {
            return left.into_iter().map(Pid::as_raw_pid).collect();
        }
        for child in left {
            if passed >= rounds.kill {
                let _ = kill_process(child, Signal::KILL);
            } else if passed >= rounds.tell && told.insert(child.as_raw_pid()) {
                let _ = kill_process(child, Signal::TERM);
            }
        }
        let _ = timeout(LOOK, children.recv()).await;
    }
}

/// Whether a process serves a file system (FUSE).
fn is_server(pid: Pid) -> bool {
    let Ok(files) = std::fs::read_dir(format!("/proc/{}/fd", pid.as_raw_pid())) else { return false };
    files.flatten().any(|file| std::fs::read_link(file.path()).is_ok_and(|path| path == Path::new("/dev/fuse")))
}

fn own_children() -> Vec<Pid> {
    let own = getpid().as_raw_pid();
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    let children = entries.flatten().filter_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = std::fs::read(entry.path().join("stat")).ok()?;
        (parent(&stat)? == own).then(|| Pid::from_raw(pid))?
    });
    children.collect()
}

/// The parent in a `/proc/PID/stat`: `PID (NAME) STATE PARENT ...`. A name may hold anything.
fn parent(stat: &[u8]) -> Option<i32> {
    let end = stat.iter().rposition(|byte| *byte == b')')?;
    let rest = std::str::from_utf8(stat.get(end + 1..)?).ok()?;
    rest.split_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parent_is_found_behind_any_name() {
        assert_eq!(parent(b"77 (sleep) S 41 77 77 0 -1"), Some(41));
        assert_eq!(parent(b"77 (a) S 1 (b) c) R 42 77"), Some(42));
        assert_eq!(parent(b"77 (\xff\xfe) D 43 77"), Some(43));
        assert_eq!(parent(b"77 (a) S"), None);
        assert_eq!(parent(b""), None);
    }
}
