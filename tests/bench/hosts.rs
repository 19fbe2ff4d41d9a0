//! The host path: the same fio jobs on our live pair and on the peers, one after the other, round by round.

use std::path::Path;
use std::time::{Duration, Instant};

use crate::load::{self, JOBS, Job, SEQUENTIAL, Seen};
use crate::plan::Plan;
use crate::report::{OTHER_BUILD, Point, Report, Row, Target, median};
use crate::servers::{Group, Kind, Ours, Peer};
use crate::stages::Usage;

/// Another build of ours, or somebody else's server.
enum Other {
    Build(Box<Ours>),
    Peer(Peer),
}

impl Other {
    fn name(&self) -> &'static str {
        match self {
            Self::Build(_) => OTHER_BUILD,
            Self::Peer(peer) => peer.kind.name(),
        }
    }

    fn uri(&self) -> String {
        match self {
            Self::Build(ours) => ours.uri(),
            Self::Peer(peer) => peer.uri(),
        }
    }

    fn settle(&self) {
        match self {
            Self::Build(ours) => ours.settle(),
            Self::Peer(peer) => peer.settle(),
        }
    }
}

/// Ours beside all peers.
pub(crate) fn against_peers(plan: &Plan, folder: &Path, chosen: &dyn Fn(&Job) -> bool, report: &mut Report) -> Ours {
    let ours = Ours::paired(&folder.join("ours"), &group(plan, None));
    let peers: Vec<_> =
        Kind::ALL.iter().map(|kind| Other::Peer(Peer::start(*kind, folder, plan.volume_bytes))).collect();
    run_jobs(plan, &ours, &peers, chosen, report);
    ours
}

/// Two builds of ours beside each other.
pub(crate) fn against_build(
    plan: &Plan,
    folder: &Path,
    binary: &str,
    chosen: &dyn Fn(&Job) -> bool,
    report: &mut Report,
) {
    let ours = Ours::paired(&folder.join("ours"), &group(plan, None));
    let other = Ours::paired(&folder.join("other"), &group(plan, Some(binary)));
    run_jobs(plan, &ours, &[Other::Build(Box::new(other))], chosen, report);
}

fn group<'a>(plan: &Plan, binary: Option<&'a str>) -> Group<'a> {
    Group { bytes: plan.volume_bytes, interval: "250ms", backing: None, binary, journal: None }
}

fn run_jobs(plan: &Plan, ours: &Ours, others: &[Other], chosen: &dyn Fn(&Job) -> bool, report: &mut Report) {
    // Nobody reads holes: everything is written once.
    load::fill(&ours.uri(), plan.volume_bytes);
    others.iter().for_each(|other| load::fill(&other.uri(), plan.volume_bytes));
    let usage = Usage::begin(ours);
    for job in JOBS.iter().filter(|job| chosen(job)) {
        let (seconds, rounds) = match plan.long_seconds {
            Some(long) if *job == SEQUENTIAL => (long, 1),
            _ => (plan.seconds, plan.rounds),
        };
        // `scripts/profile` waits for these words.
        eprintln!("{}: {rounds} rounds of {seconds} s", job.what);
        let (begin, enough) = (Instant::now(), Duration::from_secs(plan.job_seconds));
        let mut all: Vec<Vec<Seen>> = vec![Vec::new(); others.len() + 1];
        for round in 0..rounds {
            if round >= plan.rounds_min && begin.elapsed() > enough {
                eprintln!("  {round} rounds are enough: they took {:.0} s", begin.elapsed().as_secs_f64());
                break;
            }
            // Whoever comes first in one round comes last in the next.
            let turns: Vec<usize> = (0..all.len()).collect();
            let turns: Vec<usize> = if round % 2 == 0 { turns } else { turns.into_iter().rev().collect() };
            for turn in turns {
                let uri = turn.checked_sub(1).map_or_else(|| ours.uri(), |at| others[at].uri());
                all[turn].push(load::run(&uri, job, seconds, plan.volume_bytes, None));
                turn.checked_sub(1).map_or_else(|| ours.settle(), |at| others[at].settle());
            }
        }
        tell(job, others, &all, report);
    }
    usage.end(ours, report);
}

fn tell(job: &Job, others: &[Other], all: &[Vec<Seen>], report: &mut Report) {
    let names = std::iter::once("tidemark, replicating").chain(others.iter().map(Other::name));
    for (server, rounds) in names.zip(all) {
        let middle = |value: fn(&Seen) -> f64| median(rounds.iter().map(value));
        let seen = Seen {
            iops: middle(|seen| seen.iops),
            megabytes: middle(|seen| seen.megabytes),
            p99_us: middle(|seen| seen.p99_us),
        };
        report.point(Point { job: job.name, server: server.to_owned(), seen });
    }
    let Some((ours, theirs)) = all.split_first() else { return };
    for (other, rounds) in others.iter().zip(theirs) {
        let target = match other {
            Other::Build(_) => Target::RatioAtLeast(0.9),
            Other::Peer(peer) => match peer.kind {
                Kind::Nbdkit => Target::RatioAtLeast(f64::from(job.target_percent) / 100.0),
                Kind::QemuNbd | Kind::Backup => Target::Told,
                Kind::MirrorBackground | Kind::MirrorBlocking => Target::RatioAtLeast(4.0),
            },
        };
        let rounds: Vec<_> = ours.iter().zip(rounds).map(|(ours, theirs)| (ours.iops, theirs.iops)).collect();
        report.add(Row::against(job.what, "/s", &rounds, target, other.name()));
    }
}
