//! Programs run to their end, with a time limit.

use std::ffi::OsStr;
use std::process::{Command, Stdio};
use std::time::Duration;

/// What a program left.
#[derive(Debug, Clone)]
pub struct Outcome {
    /// The command line, for messages.
    pub line: String,
    /// Exit code; -1 when a signal ended it. 124 when the time limit did.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Outcome {
    /// Standard output of a program that must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    pub fn done(self) -> String {
        assert_eq!(self.code, 0, "{} failed:\n{}{}", self.line, self.stdout, self.stderr);
        self.stdout
    }

    /// A program whose exit code is its answer.
    ///
    /// # Panics
    /// When it is another.
    pub fn code_is(&self, code: i32, what: &str) {
        assert_eq!(self.code, code, "{what}: {} answered otherwise:\n{}{}", self.line, self.stdout, self.stderr);
    }

    /// Standard error of a program that must have failed with this exit code.
    ///
    /// # Panics
    /// When it ended otherwise, or said nothing about it.
    pub fn failed_with(self, code: i32) -> String {
        assert_eq!(self.code, code, "{} ended with another code:\n{}{}", self.line, self.stdout, self.stderr);
        assert!(!self.stderr.trim().is_empty(), "{} failed without a word", self.line);
        self.stderr
    }
}

/// Runs a program to its end, killed after the limit.
///
/// # Panics
/// When it cannot be started.
pub fn run_within<S: AsRef<OsStr>>(limit: Duration, program: &str, args: &[S]) -> Outcome {
    let mut command = Command::new("timeout");
    command.args(["--kill-after=2", &format!("{}", limit.as_secs_f64()), program]).args(args);
    finish(command, program, args)
}

/// Runs a program to its end; a minute is enough for everything tests start.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> Outcome {
    run_within(Duration::from_secs(60), program, args)
}

fn finish<S: AsRef<OsStr>>(mut command: Command, program: &str, args: &[S]) -> Outcome {
    let output = command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("start {program}: {error}"));
    let words: Vec<_> = args.iter().map(|word| word.as_ref().to_string_lossy()).collect();
    Outcome {
        line: format!("{program} {}", words.join(" ")),
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}
