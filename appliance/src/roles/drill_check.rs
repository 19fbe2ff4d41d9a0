//! The check of a drill: a command for the shell, under a guard (`commands/drill/guard.rs`), with what it needs in its environment. What it
//! says is kept, bounded; when its time is over, when somebody ends the drill, or the service stops or dies, its guard ends whatever it has
//! started.

use std::ffi::OsStr;
use std::fmt;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::clock::Clock;

use super::drill_left;

/// Of what a check says, so much of its begin and so much of its end are kept.
const KEPT_BYTES: usize = 32 << 10;
/// How often it is asked whether a check has ended.
const LOOK: Duration = Duration::from_millis(20);
/// A guard says one short line.
const LINE_BYTES_MAX: usize = 64;

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

/// How the shell of a check ended, as its guard tells it in one line: `exit 3`, `signal 9`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ended {
    Code(i32),
    Signal(i32),
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Code(code) => writeln!(f, "exit {code}"),
            Self::Signal(signal) => writeln!(f, "signal {signal}"),
        }
    }
}

impl Ended {
    /// A line that is whole.
    fn from_line(line: &[u8]) -> Option<Self> {
        let (what, number) = std::str::from_utf8(line).ok()?.strip_suffix('\n')?.split_once(' ')?;
        let number = number.parse().ok()?;
        match what {
            "exit" => Some(Self::Code(number)),
            "signal" => Some(Self::Signal(number)),
            _ => None,
        }
    }

    fn code(self) -> Option<i32> {
        if let Self::Code(code) = self { Some(code) } else { None }
    }

    fn failure(self) -> Option<String> {
        match self {
            Self::Code(0) => None,
            Self::Code(code) => Some(format!("the check ended with exit code {code}")),
            Self::Signal(signal) => Some(format!("the check was ended by signal {signal}")),
        }
    }
}

/// Runs a check to its end, or until there is a reason to stop, and takes away its folder. Blocks.
pub(crate) fn run(
    command: &str,
    environment: &[(String, String)],
    folder: &Path,
    timeout: Duration,
    clock: &dyn Clock,
    stopped: &dyn Fn() -> Option<&'static str>,
) -> Checked {
    let (checked, clean) = match start(command, environment, folder) {
        Ok((guard, socket)) => attend(guard, socket, timeout, clock, stopped),
        Err(error) => {
            let failure = Some(format!("the check could not be started: {error}"));
            (Checked { failure, ..Checked::default() }, true)
        }
    };
    // A guard that ended in good order has ended all there was.
    let left = if clean { drill_left::clear(folder) } else { drill_left::end(folder, clock) };
    if let Err(error) = left {
        tracing::error!(%error, "a drill has left something behind");
    }
    checked
}

/// This program's file. When it was replaced since the service was started, that is what took its place.
pub(crate) fn program() -> io::Result<PathBuf> {
    let path = std::env::current_exe()?;
    let replaced = path.as_os_str().as_bytes().strip_suffix(b" (deleted)").filter(|_| !path.exists());
    let replaced = replaced.map(|place| PathBuf::from(OsStr::from_bytes(place)));
    Ok(replaced.unwrap_or(path))
}

/// The guard of a check, and the socket whose end it takes for an order.
fn start(command: &str, environment: &[(String, String)], folder: &Path) -> io::Result<(Child, UnixStream)> {
    let (socket, theirs) = UnixStream::pair()?;
    socket.set_nonblocking(true)?;
    let guard = Command::new(program()?)
        .args(drill_left::GUARD)
        .arg(folder)
        .arg(command)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .current_dir("/")
        .stdin(OwnedFd::from(theirs))
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0)
        .spawn()?;
    Ok((guard, socket))
}

/// Waits for the check or its time, and then for its guard: whether that says that nothing is left.
fn attend(
    mut guard: Child,
    mut socket: UnixStream,
    timeout: Duration,
    clock: &dyn Clock,
    stopped: &dyn Fn() -> Option<&'static str>,
) -> (Checked, bool) {
    let kept = Arc::new(Mutex::new(Kept::default()));
    let listeners =
        [guard.stdout.take().map(|pipe| listen(pipe, &kept)), guard.stderr.take().map(|pipe| listen(pipe, &kept))];
    let begin = clock.monotonic();
    let mut checked = Checked::default();
    let mut line = Vec::new();
    checked.failure = loop {
        let open = hear(&mut socket, &mut line);
        if let Some(ended) = Ended::from_line(&line) {
            checked.exit_code = ended.code();
            break ended.failure();
        }
        if let Some(reason) = stopped() {
            break Some(reason.into());
        }
        if !open {
            break Some("the check was ended from outside, with its guard".into());
        }
        if clock.monotonic().saturating_sub(begin) >= timeout {
            break Some(format!("the check was killed after {timeout:.1?}: raise --timeout if it needs longer"));
        }
        std::thread::sleep(LOOK);
    };
    // What it has started goes with it, also when it ended by itself.
    drop(socket);
    let clean = wait(&mut guard, clock);
    for listener in listeners.into_iter().flatten() {
        // What could not be ended may hold the pipe for ever: it is not waited for.
        let until = clock.monotonic() + Duration::from_secs(1);
        while !listener.is_finished() && clock.monotonic() < until {
            std::thread::sleep(LOOK);
        }
    }
    checked.output = kept.lock().text();
    (checked, clean)
}

/// Takes what the guard has said by now; false when nothing more will come.
fn hear(socket: &mut UnixStream, line: &mut Vec<u8>) -> bool {
    let mut bytes = [0; LINE_BYTES_MAX];
    match socket.read(&mut bytes) {
        Ok(0) => false,
        Ok(count) => {
            line.extend_from_slice(bytes.get(..count).unwrap_or_default());
            line.len() <= LINE_BYTES_MAX
        }
        Err(error) => matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted),
    }
}

/// Whether the guard ended in good order.
fn wait(guard: &mut Child, clock: &dyn Clock) -> bool {
    let begin = clock.monotonic();
    loop {
        match guard.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if clock.monotonic().saturating_sub(begin) < drill_left::GUARD_LIMIT => std::thread::sleep(LOOK),
            Ok(None) | Err(_) => {
                let _ = guard.kill();
                let _ = guard.wait();
                return false;
            }
        }
    }
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

    #[test]
    fn what_a_guard_tells_is_understood_when_it_is_whole() {
        for ended in [Ended::Code(0), Ended::Code(3), Ended::Signal(9)] {
            let line = ended.to_string();
            assert_eq!(Ended::from_line(line.as_bytes()), Some(ended));
            assert_eq!(Ended::from_line(line.trim().as_bytes()), None, "not whole");
        }
        assert_eq!(Ended::from_line(b"exit nothing\n"), None);
        assert_eq!(Ended::from_line(b"\xff 3\n"), None);
    }
}
