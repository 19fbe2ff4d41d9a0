//! Processor time by stage: each thread of both services has its stage's name.

use std::collections::BTreeMap;

use tidemark_tests::appliance::Appliance;

use crate::report::{Report, Stage};
use crate::servers::Ours;

/// Ticks by thread, and by stage.
type Ticks = BTreeMap<(u32, String), u64>;

const TICKS_PER_SECOND: f64 = 100.0;

/// What a thread's name says it does.
fn stage(name: &str) -> &'static str {
    match name.split(' ').next().unwrap_or_default() {
        "drain" => "capture to journal (drain: fold, compress, append)",
        "updater" => "apply (updater)",
        "feeder" => "ship (feeder: read, check)",
        "intake" => "receive (intake: check, journal)",
        "hosts" => "hosts (NBD, capture)",
        "link" => "link (QUIC, encryption)",
        // Builds before hosts had threads of their own.
        "tokio-rt-worker" | "tokio-runtime-w" => "hosts and link (NBD, capture, QUIC, encryption)",
        "rocksdb:low" | "rocksdb:high" => "catalogue",
        _ => "other",
    }
}

fn ticks(pid: u32) -> Ticks {
    let mut all = Ticks::new();
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return all };
    for task in tasks.flatten() {
        let id = task.file_name().to_string_lossy().parse().unwrap_or_default();
        // A thread may end between the two looks.
        let Ok(text) = std::fs::read_to_string(task.path().join("stat")) else { continue };
        let Some((head, fields)) = text.rsplit_once(") ") else { continue };
        let name = head.split_once('(').map_or("", |(_, name)| name);
        let used = fields.split(' ').skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        all.insert((id, name.to_owned()), used);
    }
    all
}

/// Processor seconds of each stage since a look.
fn since(before: &Ticks, now: &Ticks) -> BTreeMap<&'static str, f64> {
    let mut seconds = BTreeMap::new();
    for (thread, ticks) in now {
        let used = ticks.saturating_sub(before.get(thread).copied().unwrap_or_default());
        *seconds.entry(stage(&thread.1)).or_default() += used as f64 / TICKS_PER_SECOND;
    }
    seconds
}

/// What both sides use from here on.
pub(crate) struct Usage {
    east: Ticks,
    west: Ticks,
    raw_bytes: f64,
}

impl Usage {
    /// From now on.
    pub(crate) fn begin(ours: &Ours) -> Self {
        Self { east: ticks(ours.east.pid()), west: ticks(ours.west.pid()), raw_bytes: raw_bytes(&ours.east) }
    }

    /// Seconds of one side's stages so far.
    pub(crate) fn seconds(&self, ours: &Ours) -> [BTreeMap<&'static str, f64>; 2] {
        [since(&self.east, &ticks(ours.east.pid())), since(&self.west, &ticks(ours.west.pid()))]
    }

    /// Until now, per GiB that hosts wrote.
    pub(crate) fn end(&self, ours: &Ours, report: &mut Report) {
        let gib = (raw_bytes(&ours.east) - self.raw_bytes) / f64::from(1 << 30);
        for (side, seconds) in ["primary", "secondary"].into_iter().zip(self.seconds(ours)) {
            for (stage, seconds) in seconds.into_iter().filter(|(_, seconds)| *seconds > 0.0) {
                report.stage(Stage { side, stage: stage.into(), seconds_per_gib: seconds / gib });
            }
        }
    }
}

fn raw_bytes(side: &Appliance) -> f64 {
    Ours::counter(side, "tidemark_drain_raw_bytes_total")
}
