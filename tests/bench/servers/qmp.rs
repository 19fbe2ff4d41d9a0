//! QEMU's monitor, as far as mirror and backup jobs need it.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};
use tidemark_tests::wait::{check, wait_until};

const READY_LIMIT: Duration = Duration::from_secs(120);

/// A connected monitor.
#[derive(Debug)]
pub(crate) struct Monitor {
    reader: BufReader<UnixStream>,
    writer: UnixStream,
}

impl Monitor {
    /// Connects and agrees on capabilities.
    pub(crate) fn connect(path: &Path) -> Self {
        let writer = UnixStream::connect(path).expect("connect to the monitor");
        let reader = BufReader::new(writer.try_clone().expect("the monitor's handle"));
        let mut monitor = Self { reader, writer };
        monitor.line();
        monitor.ask(&json!({"execute": "qmp_capabilities"}));
        monitor
    }

    /// Starts a mirror job and waits until everything has been copied once.
    pub(crate) fn mirror(&mut self, from: &str, to: &str, mode: &str) {
        self.ask(&json!({"execute": "blockdev-mirror", "arguments":
            {"job-id": "m", "device": from, "target": to, "sync": "full", "copy-mode": mode}}));
        wait_until("the mirror to be ready", READY_LIMIT, || {
            let jobs = self.ask(&json!({"execute": "query-jobs"}));
            let ready = jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job["status"] == "ready"));
            check(ready, || jobs.to_string())
        });
    }

    /// Begins a backup that copies what hosts are about to overwrite before they do.
    pub(crate) fn back_up(&mut self, from: &str, to: &str, bytes_per_second: u64) {
        self.ask(&json!({"execute": "blockdev-backup", "arguments":
            {"job-id": "b", "device": from, "target": to, "sync": "full", "speed": bytes_per_second}}));
    }

    /// Whether a job is under way.
    pub(crate) fn is_running(&mut self) -> bool {
        let jobs = self.ask(&json!({"execute": "query-jobs"}));
        jobs.as_array().is_some_and(|jobs| jobs.iter().any(|job| job["status"] == "running"))
    }

    fn ask(&mut self, command: &Value) -> Value {
        writeln!(self.writer, "{command}").expect("ask the monitor");
        loop {
            let answer = self.line();
            assert!(answer.get("error").is_none(), "{command}: {answer}");
            if let Some(value) = answer.get("return") {
                return value.clone();
            }
        }
    }

    fn line(&mut self) -> Value {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("read from the monitor");
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("the monitor's line {line:?}: {error}"))
    }
}
