//! The load: a host that writes one transaction after the other until its connection breaks, and remembers each write.
//!
//! What goes out is a history: when each write was sent and when it was answered. One write is under way at a time, so the
//! order of the history is the order of the writes, and any image must be the state after some prefix of it.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use tidemark_common::clock::{Clock, SystemClock, unix_ns};

use super::book::{self, TRANSACTIONS_MAX, TRANSACTIONS_PER_SECOND_MAX, Volume};
use super::host::{Host, HostError};

/// Both volumes, opened at one appliance.
#[derive(Debug)]
pub(super) struct Hosts {
    /// `files`.
    pub(super) files: Host,
    /// `log`.
    pub(super) log: Host,
}

impl Hosts {
    /// Opens both.
    pub(super) fn open(socket: &Path) -> Result<Self, HostError> {
        let open = |volume: Volume| Host::open(socket, volume.name());
        Ok(Self { files: open(Volume::Files)?, log: open(Volume::Log)? })
    }

    /// The one for a volume.
    pub(super) const fn of(&mut self, volume: Volume) -> &mut Host {
        match volume {
            Volume::Files => &mut self.files,
            Volume::Log => &mut self.log,
        }
    }
}

/// One write of the history. Times are the wall clock's, nanoseconds, to be compared with a marker's.
#[derive(Debug, Clone, Copy)]
pub(super) struct Moment {
    /// When it was sent.
    pub(super) sent_ns: i64,
    /// When it was answered, if it was.
    pub(super) answered_ns: Option<i64>,
    /// Whether the answer means durable.
    pub(super) fua: bool,
}

impl Moment {
    /// How long the host waited.
    pub(super) fn waited(&self) -> Option<Duration> {
        let waited = self.answered_ns?.saturating_sub(self.sent_ns);
        Some(Duration::from_nanos(waited.max(0).unsigned_abs()))
    }
}

/// What a host did.
#[derive(Debug, Default)]
pub(super) struct History {
    /// Every write, in order.
    pub(super) moments: Vec<Moment>,
    /// For each committed transaction, when it was answered.
    pub(super) commits_ns: Vec<i64>,
}

impl History {
    /// Transactions answered.
    pub(super) const fn committed(&self) -> u64 {
        self.commits_ns.len() as u64
    }
}

/// What others see of a load while it runs.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Transactions answered.
    pub(super) committed: AtomicU64,
    /// Bytes written.
    pub(super) bytes: AtomicU64,
}

/// A load that runs.
#[derive(Debug)]
pub(super) struct Load {
    /// How far it is.
    pub(super) progress: Arc<Progress>,
    thread: JoinHandle<(History, HostError)>,
}

impl Load {
    /// Starts writing, from transaction 1.
    pub(super) fn start(hosts: Hosts) -> std::io::Result<Self> {
        let progress = Arc::new(Progress::default());
        let seen = Arc::clone(&progress);
        let thread = thread::Builder::new().name("demo-host".into()).spawn(move || run(hosts, &seen))?;
        Ok(Self { progress, thread })
    }

    /// Whether it has ended, which it only does when its connection breaks.
    pub(super) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// What it did, and what ended it. Waits for the end.
    pub(super) fn end(self) -> thread::Result<(History, HostError)> {
        self.thread.join()
    }
}

fn run(hosts: Hosts, progress: &Progress) -> (History, HostError) {
    let clock = SystemClock::new();
    let mut writer = Writer { hosts, history: History::default() };
    let between = Duration::from_secs(1) / TRANSACTIONS_PER_SECOND_MAX;
    let mut due = clock.monotonic();
    for number in 1..=TRANSACTIONS_MAX {
        thread::sleep(due.saturating_sub(clock.monotonic()));
        // A host that was held up does not hurry to catch up.
        due = (due + between).max(clock.monotonic());
        match writer.transact(number, &clock) {
            Ok(bytes) => {
                progress.committed.store(number, Ordering::Relaxed);
                progress.bytes.fetch_add(bytes, Ordering::Relaxed);
            }
            Err(error) => return (writer.history, error),
        }
    }
    let full = HostError::Garbled { what: format!("answers to {TRANSACTIONS_MAX} transactions: the volumes are full") };
    (writer.history, full)
}

/// Carries out transactions.
#[derive(Debug)]
pub(super) struct Writer {
    /// Where.
    pub(super) hosts: Hosts,
    /// What was done.
    pub(super) history: History,
}

impl Writer {
    /// One transaction; the bytes it wrote.
    pub(super) fn transact(&mut self, number: u64, clock: &dyn Clock) -> Result<u64, HostError> {
        let mut bytes = 0;
        for write in book::writes(number) {
            let fua = write.fua;
            self.history.moments.push(Moment { sent_ns: now_ns(clock), answered_ns: None, fua });
            self.hosts.of(write.volume).write(write.offset, &write.bytes, fua)?;
            let answered_ns = now_ns(clock);
            if let Some(moment) = self.history.moments.last_mut() {
                moment.answered_ns = Some(answered_ns);
            }
            if fua {
                self.history.commits_ns.push(answered_ns);
            }
            bytes += write.bytes.len() as u64;
        }
        Ok(bytes)
    }
}

/// The wall clock, as markers have it.
pub(super) fn now_ns(clock: &dyn Clock) -> i64 {
    unix_ns(clock.wall())
}
