//! `make bench`: our live pair beside other people's servers, on the same machine in the same run; one table, JSON, a
//! picture. `make bench-compare`: two builds of ours beside each other.
//!
//! Everybody shares the processors, so a ratio says it all and an absolute figure little. Rounds are interleaved; figures
//! are medians, ratios are medians of the rounds' ratios.

mod backup;
mod copies;
mod goodput;
mod half;
mod history;
mod hosts;
mod limits;
mod load;
mod local;
mod many;
mod plan;
mod report;
mod servers;
mod stages;
mod takeover;
mod wire;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use clap::Parser;
use tidemark_tests::command::run;
use tidemark_tests::figures::peak_resident_kib;

use plan::Plan;
use report::{Report, Row, Target};
use servers::Ours;

/// Parts of a run, for `--only`.
const PARTS: [&str; 10] =
    ["hosts", "half", "copies", "wire", "goodput", "takeover", "history", "local", "backup", "many"];

/// Measures.
#[derive(Debug, Parser)]
struct Args {
    /// The full form (30 minutes) instead of the small one (5 minutes)
    #[arg(long)]
    full: bool,
    /// Where the table, the JSON and the picture go
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
    /// Another build's binary, compared with this one instead of peers; exit code 1 when this one is slower
    #[arg(long, value_name = "BINARY")]
    compare: Option<String>,
    /// Only these parts (hosts, half, copies, wire, goodput, takeover, history, local, backup, many) or jobs (rw4k-qd32, ...)
    #[arg(long, value_name = "NAME", value_delimiter = ',')]
    only: Vec<String>,
    /// Another number of rounds, however long they take
    #[arg(long)]
    rounds: Option<usize>,
    /// Another number of seconds for a job of the host path
    #[arg(long)]
    seconds: Option<u64>,
}

impl Args {
    fn plan(&self) -> Plan {
        let mut plan = if self.full { Plan::FULL } else { Plan::SMALL };
        plan.rounds = self.rounds.unwrap_or(plan.rounds);
        if let Some(rounds) = self.rounds {
            (plan.copy_rounds, plan.history_rounds, plan.backup_rounds, plan.half_rounds) =
                (rounds, rounds, rounds, rounds);
            plan.job_seconds = u64::MAX;
        }
        plan.seconds = self.seconds.unwrap_or(plan.seconds);
        if self.seconds.is_some() {
            plan.long_seconds = None;
        }
        plan
    }

    fn wants(&self, part: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|only| only == part)
    }

    /// All jobs, unless some are named.
    fn wants_job(&self, job: &load::Job) -> bool {
        let named = self.only.iter().any(|only| load::JOBS.iter().any(|job| job.name == only));
        !named && self.wants("hosts") || self.only.iter().any(|only| only == job.name)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    let unknown = |name: &&String| !PARTS.contains(&name.as_str()) && load::JOBS.iter().all(|job| job.name != **name);
    if let Some(name) = args.only.iter().find(unknown) {
        eprintln!("there is no part or job '{name}'");
        return ExitCode::from(2);
    }
    let begin = Instant::now();
    let plan = args.plan();
    let mut report = Report::new(plan.name, &revision(), &machine());
    // On a disk, as peers' files are; short, because the path of a Unix socket may have only 107 bytes.
    let folder = tempfile::Builder::new().prefix("tmb").tempdir().expect("make a temporary folder");
    let folder = folder.path();
    let jobs = load::JOBS.iter().any(|job| args.wants_job(job));
    let wanted = |part: &&str| if *part == "hosts" { jobs } else { args.wants(part) };
    let compared = |part: &&str| args.compare.is_none() || ["hosts", "copies"].contains(part);
    let mut broke_off = Vec::new();
    for part in PARTS.into_iter().filter(wanted).filter(compared) {
        let began = Instant::now();
        // What breaks one part off costs the others nothing: they took long.
        let measured = catch_unwind(AssertUnwindSafe(|| measure(part, &args, &plan, folder, &mut report)));
        eprintln!("{part} took {:.0} s", began.elapsed().as_secs_f64());
        broke_off.extend(measured.is_err().then_some(part));
    }
    report.end(begin.elapsed());
    let code = finish(&args, &report);
    if broke_off.is_empty() {
        return code;
    }
    eprintln!("broken off, see above: {}", broke_off.join(", "));
    ExitCode::FAILURE
}

/// One part, beside peers or another build.
fn measure(part: &str, args: &Args, plan: &Plan, folder: &Path, report: &mut Report) {
    let chosen = |job: &load::Job| args.wants_job(job);
    match (part, &args.compare) {
        ("hosts", Some(binary)) => hosts::against_build(plan, folder, binary, &chosen, report),
        ("copies", Some(binary)) => copies::against_build(plan, folder, binary, report),
        ("hosts", None) => {
            let ours = hosts::against_peers(plan, folder, &chosen, report);
            after_load(&ours, report);
            drop(ours);
            limits::measure(report);
        }
        ("half", None) => half::measure(plan, folder, report),
        ("copies", None) => copies::against_peers(plan, folder, report),
        ("wire", None) => wire::measure(plan, report),
        ("goodput", None) => goodput::measure(plan, report),
        ("takeover", None) => takeover::measure(plan, folder, report),
        ("history", None) => history::measure(plan, folder, report),
        ("local", None) => local::measure(plan, folder, report),
        ("backup", None) => backup::measure(plan, folder, report),
        ("many", None) => many::measure(plan, folder, report),
        (other, _) => panic!("there is no part '{other}'"),
    }
}

/// What the services themselves say after the load.
fn after_load(ours: &Ours, report: &mut Report) {
    let freeze = ours.east.group(ours.group()).freeze;
    let note = format!("{} freezes under the load above, {} abandoned", freeze.count, freeze.abandoned);
    report.add(Row::alone("freeze, p99", "µs", freeze.p99_us, Target::AtMost(50.0), &note));
    report.add(Row::alone("freeze, longest", "µs", freeze.max_us, Target::AtMost(1000.0), &note));
    for side in [&ours.east, &ours.west] {
        let buffers: u64 = side.status().groups.iter().map(|group| group.buffer.capacity_bytes).sum();
        let beyond = (peak_resident_kib(side.pid()) as f64 - buffers as f64 / 1024.0) / 1024.0;
        let what = format!("memory under full load beyond the write buffer, {}", side.name());
        report.add(Row::alone(&what, "MiB", beyond, Target::AtMost(256.0), "the peak less the buffer's size"));
    }
}

fn finish(args: &Args, report: &Report) -> ExitCode {
    println!("{}", report.table());
    if let Err(error) = report.write(&args.out) {
        eprintln!("write {}: {error}", args.out.display());
        return ExitCode::FAILURE;
    }
    eprintln!("table.md, bench.json and bench.svg are in {}", args.out.display());
    let regressions = report.regressions();
    if args.compare.is_some() && !regressions.is_empty() {
        eprintln!("slower than the other build: {}", regressions.join("; "));
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

fn revision() -> String {
    let described = run("git", &["describe", "--always", "--dirty"]);
    if described.code == 0 { described.stdout.trim().to_owned() } else { "no revision".into() }
}

fn machine() -> String {
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    format!("{cores} × {}", model.map_or("processor", |(_, model)| model))
}
