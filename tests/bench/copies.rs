//! Copies of whole volumes: our initial copy, which encrypts, checks and journals, beside tools that only copy; and what the
//! secondary applies.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::api::types::{PairState, PairStatus};
use tidemark_tests::command::run_within;

use crate::load::{self, SEQUENTIAL};
use crate::plan::Plan;
use crate::report::{OTHER_BUILD, Report, Row, Target, median};
use crate::servers::{Group, Kind, Ours, Peer, preallocated, write_back};
use crate::stages::Usage;
use crate::wire::{self, Source};

const LIMIT: Duration = Duration::from_secs(300);
const BLOCK: usize = 4096;
/// Less than what is written while a pair is suspended takes, in either form.
const SMALL_JOURNAL: &str = "128MiB";

/// Ours beside `nbdcopy` and `qemu-img convert`, between two servers each.
pub(crate) fn against_peers(plan: &Plan, folder: &Path, report: &mut Report) {
    let image = image(&folder.join("image"), plan.copy_bytes);
    let mut all = Vec::new();
    for _ in 0..plan.copy_rounds {
        let ours = first_copy(plan, folder, &image, None);
        all.push((
            ours,
            tool("nbdcopy", folder, &image, plan.copy_bytes),
            tool("qemu-img", folder, &image, plan.copy_bytes),
        ));
    }
    let rate = |seconds: f64| plan.copy_bytes as f64 / 1e6 / seconds;
    let nbdcopy: Vec<_> = all.iter().map(|round| (rate(round.0), rate(round.1))).collect();
    let convert: Vec<_> = all.iter().map(|round| (rate(round.0), rate(round.2))).collect();
    report.add(Row::against("initial copy", "MB/s", &nbdcopy, Target::RatioAtLeast(0.8), "nbdcopy between two nbdkit"));
    report.add(Row::against("initial copy", "MB/s", &convert, Target::Told, "qemu-img convert between two nbdkit"));
    let nbdcopy = median(all.iter().map(|round| rate(round.1)));
    // `scripts/profile` counts on this order.
    apply(plan, folder, nbdcopy, report);
    resync(plan, folder, nbdcopy, report);
}

/// All of a volume is written while its pair is suspended, more than the journal keeps: the bitmap says what differs, and it is copied beside the
/// old image, which stays usable until the end; what the journal still keeps follows.
fn resync(plan: &Plan, folder: &Path, nbdcopy: f64, report: &mut Report) {
    let group = Group { bytes: plan.copy_bytes, interval: "250ms", backing: None, binary: None, journal: None };
    let place = folder.join("resync");
    let mut ours = Ours::paired(&place, &group);
    load::fill(&ours.uri(), plan.copy_bytes);
    ours.settle();
    ours.east.configure("groups", "journal_bytes", SMALL_JOURNAL);
    ours.east.restart();
    ours.wait_paired();
    ours.east.ok(&["pair", "suspend", ours.group(), "--to", "west"]);
    (0..2).for_each(|_| load::fill(&ours.uri(), plan.copy_bytes));
    let is_marked = |pair: &PairStatus| pair.differential_bytes > 0;
    let marked = ours.east.wait_pair(ours.group(), "differences to be marked", LIMIT, is_marked).differential_bytes;
    ours.write_back();
    eprintln!("the resync begins");
    let begin = Instant::now();
    ours.east.ok(&["pair", "resume", ours.group(), "--to", "west"]);
    ours.east.wait_pair(ours.group(), "the resync", LIMIT, |pair| {
        pair.state == PairState::Paired && pair.differential_bytes == 0
    });
    let rate = (plan.copy_bytes as f64 / 1e6 / begin.elapsed().as_secs_f64(), nbdcopy);
    drop(ours);
    let _ = std::fs::remove_dir_all(place);
    let peer = format!("nbdcopy between two nbdkit; all of the volume differs, {} MiB by the bitmap", marked >> 20);
    report.add(Row::against("resync", "MB/s", &[rate], Target::RatioAtLeast(0.8), &peer));
}

/// Two builds' initial copies.
pub(crate) fn against_build(plan: &Plan, folder: &Path, binary: &str, report: &mut Report) {
    let image = image(&folder.join("image"), plan.copy_bytes);
    let rate = |seconds: f64| plan.copy_bytes as f64 / 1e6 / seconds;
    let round = |_| {
        let ours = first_copy(plan, folder, &image, None);
        (rate(ours), rate(first_copy(plan, folder, &image, Some(binary))))
    };
    let rounds: Vec<_> = (0..plan.copy_rounds).map(round).collect();
    report.add(Row::against("initial copy", "MB/s", &rounds, Target::RatioAtLeast(0.9), OTHER_BUILD));
}

/// Half of each block is noise.
fn image(path: &Path, bytes: u64) -> PathBuf {
    let mut random = StdRng::seed_from_u64(4);
    let mut file = std::io::BufWriter::new(File::create(path).expect("make the image"));
    let mut block = [0_u8; BLOCK];
    for _ in 0..bytes / BLOCK as u64 {
        random.fill_bytes(&mut block[..BLOCK / 2]);
        file.write_all(&block).expect("write the image");
    }
    file.flush().expect("write the image");
    path.to_owned()
}

/// Seconds from `pair create` until both sides say that the copy is good.
fn first_copy(plan: &Plan, folder: &Path, image: &Path, binary: Option<&str>) -> f64 {
    let group = Group { bytes: plan.copy_bytes, interval: "250ms", backing: Some(image), binary, journal: None };
    let place = folder.join("copy");
    let ours = Ours::unpaired(&place, &group);
    write_back(image);
    let begin = Instant::now();
    ours.copy();
    let took = begin.elapsed().as_secs_f64();
    drop(ours);
    let _ = std::fs::remove_dir_all(place);
    took
}

/// Seconds of a tool between two servers, with the target's blocks on disk at the end: ours are, too.
fn tool(program: &str, folder: &Path, image: &Path, bytes: u64) -> f64 {
    let target = folder.join("tool.img");
    let _ = std::fs::remove_file(&target);
    let from = Peer::over(Kind::Nbdkit, &folder.join("from.sock"), image, bytes);
    let to = Peer::over(Kind::Nbdkit, &folder.join("to.sock"), &preallocated(&target, bytes), bytes);
    let (from, to) = ((from.uri(), from), (to.uri(), to));
    let words = match program {
        "nbdcopy" => vec!["--flush", &from.0, &to.0],
        _ => vec!["convert", "-n", "-f", "raw", "-O", "raw", &from.0, &to.0],
    };
    let begin = Instant::now();
    run_within(LIMIT, program, &words).done();
    let took = begin.elapsed().as_secs_f64();
    drop((from, to));
    let _ = std::fs::remove_file(target);
    for socket in ["from.sock", "to.sock"] {
        let _ = std::fs::remove_file(folder.join(socket));
    }
    took
}

/// A backlog shipped, received and applied with nobody writing: the updater's rate, and what shipping costs.
fn apply(plan: &Plan, folder: &Path, nbdcopy: f64, report: &mut Report) {
    let group = Group { bytes: plan.copy_bytes, interval: "250ms", backing: None, binary: None, journal: None };
    let ours = Ours::paired(&folder.join("apply"), &group);
    ours.east.ok(&["pair", "suspend", ours.group(), "--to", "west"]);
    let seconds = plan.seconds.max(2);
    load::run(&ours.uri(), &SEQUENTIAL, seconds, plan.copy_bytes, None);
    let figure = |name: &str| Ours::counter(&ours.west, name);
    let before = [figure("tidemark_apply_bytes_total"), figure("tidemark_apply_duration_seconds_sum")];
    let shipped = Ours::counter(&ours.east, "tidemark_ship_bytes_total");
    let usage = Usage::begin(&ours);
    let begin = Instant::now();
    ours.east.ok(&["pair", "resume", ours.group(), "--to", "west"]);
    ours.apply();
    let took = begin.elapsed().as_secs_f64();
    let bytes = figure("tidemark_apply_bytes_total") - before[0];
    let applying = figure("tidemark_apply_duration_seconds_sum") - before[1];
    let rate = (bytes / 1e6 / applying, nbdcopy);
    report.add(Row::against(
        "apply on the secondary",
        "MB/s",
        &[rate],
        Target::RatioAtLeast(1.0),
        "nbdcopy of the same size",
    ));
    report.add(Row::alone("catching up, shipped to applied", "MB/s", bytes / 1e6 / took, Target::Told, "raw bytes"));
    let shipped = Ours::counter(&ours.east, "tidemark_ship_bytes_total") - shipped;
    let stages = usage.seconds(&ours);
    let plain = wire::bytes_per_cpu_second(shipped as u64, Source::Cache) / 1e6;
    let per_second = |is_counted: fn(&str) -> bool| {
        let used: f64 =
            stages.iter().flatten().filter(|(stage, _)| is_counted(stage)).map(|(_, seconds)| seconds).sum();
        [(shipped / used / 1e6, plain)]
    };
    let ship = per_second(|stage| stage.starts_with("ship") || stage.starts_with("link"));
    report.add(Row::against(
        "journal bytes delivered per CPU second of shipping",
        "MB",
        &ship,
        Target::RatioAtLeast(0.9),
        "plain quinn, which reads and checks nothing; ours: the ship and link stages of both sides",
    ));
    let all = per_second(|stage| !stage.starts_with("apply"));
    report.add(Row::against(
        "journal bytes delivered and kept per CPU second",
        "MB",
        &all,
        Target::Told,
        "plain quinn, which writes nothing; ours: everything but applying, the journal of the copy included",
    ));
    wire::steps(shipped as u64, plain, report);
}
