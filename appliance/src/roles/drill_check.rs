//! The check of a drill: a command for the shell, in a process group of its own, with what it needs in its environment. What it
//! says is kept, bounded; when its time is over, or the service stops, the whole group is killed.

use std::io::{self, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::process::{Pid, Signal, kill_process_group};
use tidemark_common::clock::Clock;
use tokio_util::sync::CancellationToken;

/// Of what a check says, so much of its begin and so much of its end are kept.
const KEPT_BYTES: usize = 32 << 10;
/// How often it is asked whether a check has ended.
const LOOK: Duration = Duration::from_millis(20);

/// How a check ended.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    /// What it ended with, if it ended by itself.
    pub(crate) exit_code: Option<i32>,
    /// Why it does not count as passed.
    pub(crate) failure: Option<String>,
    /// What it said.
    pub(crate) output: String,
}

/// The begin and the end of what was said.
#[derive(Debug, Default)]
struct Kept {
    begin: Vec<u8>,
    end: Vec<u8>,
    left_out: u64,
}

impl Kept {
    fn take(&mut self, bytes: &[u8]) {
        let room = KEPT_BYTES.saturating_sub(self.begin.len()).min(bytes.len());
        let (begin, rest) = bytes.split_at(room);
        self.begin.extend_from_slice(begin);
        self.end.extend_from_slice(rest);
        if self.end.len() > 2 * KEPT_BYTES {
            self.cut();
        }
    }

    fn cut(&mut self) {
        let over = self.end.len().saturating_sub(KEPT_BYTES);
        self.end.drain(..over);
        self.left_out += over as u64;
    }

    fn text(&mut self) -> String {
        self.cut();
        let begin = String::from_utf8_lossy(&self.begin);
        let end = String::from_utf8_lossy(&self.end);
        match self.left_out {
            0 => format!("{begin}{end}"),
            bytes => format!("{begin}\n[… {bytes} bytes left out …]\n{end}"),
        }
    }
}

/// Runs a check to its end. Blocks; the thread must live as long as the check, which is killed with it.
pub(crate) fn run(
    command: &str,
    environment: &[(String, String)],
    folder: &Path,
    timeout: Duration,
    clock: &dyn Clock,
    stop: &CancellationToken,
) -> Checked {
    match start(command, environment, folder) {
        Ok(child) => attend(child, timeout, clock, stop),
        Err(error) => {
            Checked { failure: Some(format!("the check could not be started: {error}")), ..Checked::default() }
        }
    }
}

/// Takes away the folder of a check, and before that whatever it has left mounted there.
pub(crate) fn clear(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let below = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(Path::new);
    let mut mounted: Vec<&Path> = below.filter(|place| place.starts_with(folder)).collect();
    // The youngest first: a disk is mounted before what lies in it.
    mounted.reverse();
    for place in mounted {
        let done = Command::new("umount").arg("--lazy").arg(place).stdin(Stdio::null()).status();
        if !done.is_ok_and(|status| status.success()) {
            tracing::error!(place = %place.display(), "what a drill's check has mounted could not be unmounted: do it by hand");
            return;
        }
    }
    match std::fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(folder = %folder.display(), %error, "the folder of a drill could not be removed");
        }
        _ => {}
    }
}

fn start(command: &str, environment: &[(String, String)], folder: &Path) -> io::Result<Child> {
    // By way of this program, which has itself killed when the service dies, and then becomes the shell.
    Command::new(std::env::current_exe()?)
        .args(["drill", "shell", command])
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()
}

fn attend(mut child: Child, timeout: Duration, clock: &dyn Clock, stop: &CancellationToken) -> Checked {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let listeners =
        [child.stdout.take().map(|pipe| listen(pipe, &kept)), child.stderr.take().map(|pipe| listen(pipe, &kept))];
    let begin = clock.monotonic();
    let mut checked = Checked::default();
    loop {
        match child.try_wait() {
            Ok(Some(status)) => {
                checked.exit_code = status.code();
                checked.failure = match (status.code(), status.signal()) {
                    (Some(0), _) => None,
                    (Some(code), _) => Some(format!("the check ended with exit code {code}")),
                    (None, signal) => Some(format!("the check was ended by signal {}", signal.unwrap_or(0))),
                };
                break;
            }
            Ok(None) if stop.is_cancelled() => {
                checked.failure = Some("interrupted: the service stopped".into());
                break;
            }
            Ok(None) if clock.monotonic().saturating_sub(begin) >= timeout => {
                checked.failure =
                    Some(format!("the check was killed after {timeout:?}: raise --timeout if it needs longer"));
                break;
            }
            Ok(None) => std::thread::sleep(LOOK),
            Err(error) => {
                checked.failure = Some(format!("the check could not be waited for: {error}"));
                break;
            }
        }
    }
    // What it has started goes with it, also when it ended by itself.
    if let Some(group) = i32::try_from(child.id()).ok().and_then(Pid::from_raw) {
        let _ = kill_process_group(group, Signal::KILL);
    }
    let _ = child.wait();
    for listener in listeners.into_iter().flatten() {
        // One that left the group may hold the pipe for ever: it is not waited for.
        let until = clock.monotonic() + Duration::from_secs(1);
        while !listener.is_finished() && clock.monotonic() < until {
            std::thread::sleep(LOOK);
        }
    }
    checked.output = kept.lock().text();
    checked
}

fn listen(mut pipe: impl Read + Send + 'static, kept: &Arc<Mutex<Kept>>) -> std::thread::JoinHandle<()> {
    let kept = Arc::clone(kept);
    std::thread::spawn(move || {
        let mut bytes = [0; 4096];
        while let Ok(count @ 1..) = pipe.read(&mut bytes) {
            kept.lock().take(bytes.get(..count).unwrap_or_default());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_much_the_begin_and_the_end_are_kept() {
        let mut kept = Kept::default();
        for number in 0..100_000 {
            kept.take(format!("line {number}\n").as_bytes());
        }
        let text = kept.text();
        assert!(text.starts_with("line 0\nline 1\n") && text.ends_with("line 99998\nline 99999\n"));
        assert!(text.len() < 3 * KEPT_BYTES && text.contains("bytes left out"), "{}", text.len());
        let mut little = Kept::default();
        little.take(b"all is well");
        assert_eq!(little.text(), "all is well");
    }
}
