//! Two ways of keeping a history on a copy (decision 9): what undo data costs the updater, and what an index over kept frames
//! costs a failover and clones of older markers. Scattered 4 KiB writes, which are the worst for both.

use std::path::Path;
use std::time::{Duration, Instant};

use tidemark_tests::figures::peak_resident_kib;
use tidemark_tests::wait::wait_until;

use crate::load::{self, DEEP};
use crate::plan::Plan;
use crate::report::{Report, Row, Target, median};
use crate::servers::{Group, Ours};

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    let rounds: Vec<_> = (0..plan.history_rounds)
        .map(|round| {
            let rate = |undo: bool| applied(plan, &folder.join(format!("apply{round}{undo}")), undo);
            (rate(true), rate(false))
        })
        .collect();
    let what = "apply of scattered 4 KiB writes, old content saved first";
    report.add(Row::against(what, "MB/s", &rounds, Target::Told, "the same without saving"));
    let rounds: Vec<_> =
        (0..plan.history_rounds).map(|round| indexed(plan, &folder.join(format!("index{round}")))).collect();
    let writes = median(rounds.iter().map(|round| round.0));
    let note = format!("{writes:.0} writes in kept frames");
    let per_million = |of: fn(&(f64, f64, f64)) -> f64| median(rounds.iter().map(|round| of(round) / round.0 * 1e6));
    let failover = "failover until the first read, for each million of scattered writes kept";
    report.add(Row::alone(failover, "s", per_million(|round| round.1), Target::Told, &note));
    let memory = "memory of its index, for each million of scattered writes kept";
    report.add(Row::alone(memory, "MiB", per_million(|round| round.2), Target::Told, &note));
    let (writes, alone, together) = cloned(plan, &folder.join("clones"));
    let note = format!("{writes:.0} scattered writes in kept frames, three quarters of them before its marker");
    report.add(Row::alone("clone create of an older marker", "s", alone, Target::AtMost(1.0), &note));
    let note = "of markers behind a quarter, a half and all of them; the slowest";
    report.add(Row::alone("three clones of other markers at a time", "s", together, Target::AtMost(1.0), note));
}

/// How soon a copy keeps a history.
const HISTORY_LIMIT: Duration = Duration::from_secs(60);

/// Writes kept, seconds until a clone behind three quarters of them can be read, and of the slowest of three others at a time.
fn cloned(plan: &Plan, folder: &Path) -> (f64, f64, f64) {
    let bytes = (plan.copy_bytes * 2).min(BYTES_MAX);
    let ours =
        Ours::paired(folder, &Group { bytes, interval: "250ms", backing: None, binary: None, journal: Some("32GiB") });
    ours.east.ok(&["group", "set", ours.group(), "--history", "1h"]);
    wait_until("the copy to keep a history", HISTORY_LIMIT, || {
        if ours.west.group(ours.group()).history.is_some() { Ok(()) } else { Err("none yet".into()) }
    });
    let begun = ours.east.group(ours.group()).positions.captured_seq;
    let markers: Vec<String> = (0..4)
        .map(|_| {
            load::run(&ours.uri(), &DEEP, plan.half_seconds.div_ceil(4), bytes, None);
            ours.east.ok(&["cut", ours.group()]).trim().to_owned()
        })
        .collect();
    ours.wait_for(&markers[3], "applied");
    let writes = ours.east.group(ours.group()).positions.captured_seq - begun;
    let clone = |part: usize| {
        let (name, begin) = (format!("c{part}"), Instant::now());
        ours.west.ok(&["clone", "create", &name, "--of", ours.group(), "--marker", &markers[part]]);
        ours.west.open(&format!("{name}/v")).read(0, 4096).expect("read a clone");
        begin.elapsed().as_secs_f64()
    };
    let alone = clone(2);
    let together = std::thread::scope(|scope| {
        let others: Vec<_> = [0, 1, 3].map(|part| scope.spawn(move || clone(part))).into_iter().collect();
        others.into_iter().map(|other| other.join().expect("a clone")).fold(0.0, f64::max)
    });
    drop(ours);
    let _ = std::fs::remove_dir_all(folder);
    (writes as f64, alone, together)
}

/// MB/s of the updater over a backlog; with an image of the copy from before it, what is overwritten is saved.
fn applied(plan: &Plan, folder: &Path, undo: bool) -> f64 {
    let ours = backlog(plan, folder, "250ms");
    if undo {
        ours.west.ok(&["t0", "create", "before", "--of", ours.group()]);
    }
    let figure = |name: &str| Ours::counter(&ours.west, name);
    let before = [figure("tidemark_apply_bytes_total"), figure("tidemark_apply_duration_seconds_sum")];
    ours.east.ok(&["pair", "resume", ours.group(), "--to", "west"]);
    ours.apply();
    let bytes = figure("tidemark_apply_bytes_total") - before[0];
    let rate = bytes / 1e6 / (figure("tidemark_apply_duration_seconds_sum") - before[1]);
    drop(ours);
    let _ = std::fs::remove_dir_all(folder);
    rate
}

/// Writes kept, seconds of the failover over them, MiB that its index takes.
fn indexed(plan: &Plan, folder: &Path) -> (f64, f64, f64) {
    let mut ours = backlog(plan, folder, "1h");
    ours.east.ok(&["pair", "resume", ours.group(), "--to", "west"]);
    let marker = ours.east.ok(&["cut", ours.group()]);
    ours.wait_for(marker.trim(), "received");
    let writes = ours.west.group(ours.group()).positions.captured_seq as f64;
    ours.east.kill9();
    let before = peak_resident_kib(ours.west.pid());
    let begin = Instant::now();
    ours.west.ok(&["failover", ours.group(), "--force"]);
    ours.west.open("v").read(0, 4096).expect("read after the failover");
    let took = begin.elapsed().as_secs_f64();
    let memory = peak_resident_kib(ours.west.pid()).saturating_sub(before) as f64 / 1024.0;
    drop(ours);
    let _ = std::fs::remove_dir_all(folder);
    (writes, took, memory)
}

/// What is told is for each write: more of them say the same, and saving for each takes minutes.
const BYTES_MAX: u64 = 1 << 30;
const SECONDS_MAX: u64 = 3;

/// A copy to which nothing has been sent of what hosts wrote since.
fn backlog(plan: &Plan, folder: &Path, interval: &str) -> Ours {
    let group =
        Group { bytes: (plan.copy_bytes * 2).min(BYTES_MAX), interval, backing: None, binary: None, journal: None };
    let ours = Ours::unpaired(folder, &group);
    load::fill(&ours.uri(), group.bytes);
    ours.copy();
    ours.settle();
    ours.east.ok(&["pair", "suspend", ours.group(), "--to", "west"]);
    load::run(&ours.uri(), &DEEP, plan.half_seconds.min(SECONDS_MAX), group.bytes, None);
    ours
}
