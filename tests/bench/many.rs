//! Many volumes: what they cost when idle, how fast they start with a journal to recover, and what a cut costs then.

use std::path::Path;
use std::time::Instant;

use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::figures::resident_kib;

use crate::load::{self, DEEP};
use crate::plan::Plan;
use crate::report::{Report, Row, Target};
use crate::servers::Ours;

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    let (volumes, groups) = plan.many;
    let mut side = Appliance::init(&folder.join("many"), "many", &Options::default());
    side.start();
    let empty = resident_kib(side.pid());
    for group in 0..groups {
        let mut words =
            vec!["group".to_owned(), "create".into(), format!("g{group}"), "--interval".into(), "250ms".into()];
        for volume in 0..volumes / groups {
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
    start(plan, &mut side, report);
}

/// One volume of many is written at full speed.
fn freeze(plan: &Plan, side: &Appliance, report: &mut Report) {
    load::run(&side.uri("v0-0"), &DEEP, plan.seconds.max(5), plan.volume_bytes, None);
    let freeze = side.group("g0").freeze;
    let note = format!("{} freezes of a group of {} volumes", freeze.count, plan.many.0 / plan.many.1);
    report.add(Row::alone("freeze with many volumes, p99", "µs", freeze.p99_us, Target::AtMost(50.0), &note));
    report.add(Row::alone("freeze with many volumes, longest", "µs", freeze.max_us, Target::AtMost(1000.0), &note));
}

/// Killed with a journal that is not written back.
fn start(plan: &Plan, side: &mut Appliance, report: &mut Report) {
    load::fill(&side.uri("v1-0"), plan.recover_bytes);
    let journal = Ours::counter(side, "tidemark_journal_bytes");
    side.kill9();
    let begin = Instant::now();
    side.start();
    let took = begin.elapsed().as_secs_f64();
    let what = format!("start of {} volumes after kill -9", plan.many.0);
    let note =
        format!("{:.0} MiB of journal; 20 GiB of it need more disk than there is here", journal / f64::from(1 << 20));
    report.add(Row::alone(&what, "s", took, Target::AtMost(10.0), &note));
}
