//! Many volumes: what they cost when idle, how fast they start with a journal to recover, and what a cut costs then.

use std::path::Path;
use std::time::{Duration, Instant};

use tidemark_common::api::types::PairState;
use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::figures::resident_kib;

use crate::load::{self, DEEP};
use crate::plan::Plan;
use crate::report::{Report, Row, Target};
use crate::servers::{free_bytes, lacks};

const COPY_LIMIT: Duration = Duration::from_secs(60);
/// Free space that is left alone.
const SPARE: u64 = 4 << 30;

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    let (volumes, groups) = plan.many;
    let mut side = Appliance::init(&folder.join("many"), "many", &Options::default());
    // Folding begins when a quarter is left: what is to be recovered stays as it is.
    let journal = format!("{}MiB", (plan.recover_bytes >> 20) * 2 + 1024);
    side.configure("groups", "journal_bytes", &journal);
    side.start();
    let empty = resident_kib(side.pid());
    let others = volumes - largest(plan);
    for group in 0..groups {
        let mut words =
            vec!["group".to_owned(), "create".into(), format!("g{group}"), "--interval".into(), "250ms".into()];
        // Of the others the first ones have one more, where they cannot be shared evenly.
        let shared = others / (groups - 1) + usize::from(group <= others % (groups - 1));
        let members = if group == 0 { largest(plan) } else { shared };
        for volume in 0..members {
            let name = format!("v{group}-{volume}");
            side.ok(&["volume", "create", &name, "--size", "1TiB"]);
            words.extend(["--volume".into(), name]);
        }
        side.ok(&words.iter().map(String::as_str).collect::<Vec<_>>());
    }
    side.restart();
    let each = (resident_kib(side.pid()) as f64 - empty as f64) / volumes as f64;
    let note = format!("{volumes} volumes of 1 TiB in {groups} groups, less an appliance with none");
    let what = "memory per 1,000 idle volumes";
    report.add(Row::alone(what, "MiB", each * 1000.0 / 1024.0, Target::AtMost(64.0), &note));
    freeze(plan, &side, report);
    start(plan, folder, &mut side, report);
}

/// One volume of many is written at full speed.
fn freeze(plan: &Plan, side: &Appliance, report: &mut Report) {
    load::run(&side.uri("v0-0"), &DEEP, plan.seconds.max(5), plan.volume_bytes, None);
    freezes(side, "g0", &format!("with {} volumes in the group", largest(plan)), report);
}

/// What a group's freezes took so far.
fn freezes(side: &Appliance, group: &str, how: &str, report: &mut Report) {
    let freeze = side.group(group).freeze;
    let note = format!("{} freezes, {} abandoned", freeze.count, freeze.abandoned);
    report.add(Row::alone(&format!("freeze {how}, p99"), "µs", freeze.p99_us, Target::AtMost(50.0), &note));
    report.add(Row::alone(&format!("freeze {how}, longest"), "µs", freeze.max_us, Target::AtMost(1000.0), &note));
}

/// Volumes of the first group: half of all, so that a freeze of many is seen; the others share the rest.
const fn largest(plan: &Plan) -> usize {
    plan.many.0 / 2
}

/// Killed with a journal that a suspended pair still needs, so that all of it is looked at.
fn start(plan: &Plan, folder: &Path, side: &mut Appliance, report: &mut Report) {
    let what = format!("start of {} volumes after kill -9", plan.many.0);
    let need = plan.recover_bytes + plan.recover_bytes / 4 + SPARE;
    let free = free_bytes(folder);
    if free < need {
        report.add(Row::missing(&what, Target::AtMost(10.0), &lacks(need, free)));
        return;
    }
    let mut far = Appliance::init(&folder.join("far"), "far", &Options::default());
    far.start();
    side.trust(&far, Some(far.replication()));
    far.trust(side, Some(side.replication()));
    side.ok(&["volume", "create", "late", "--size", &plan.volume_bytes.to_string()]);
    side.ok(&["group", "create", "late", "--interval", "250ms", "--volume", "late"]);
    side.ok(&["pair", "create", "late", "--to", "far"]);
    side.wait_pair("late", "the copy", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    side.ok(&["pair", "suspend", "late", "--to", "far"]);
    let journal = |side: &Appliance| side.group("late").journal.bytes;
    while journal(side) < plan.recover_bytes {
        load::fill(&side.uri("late"), plan.volume_bytes);
    }
    let held = journal(side) >> 20;
    freezes(side, "late", &format!("with {held} MiB of backlog"), report);
    side.kill9();
    let begin = Instant::now();
    side.start();
    let took = begin.elapsed().as_secs_f64();
    let note = format!("{held} MiB of journal, none of it trimmed");
    report.add(Row::alone(&what, "s", took, Target::AtMost(10.0), &note));
}
