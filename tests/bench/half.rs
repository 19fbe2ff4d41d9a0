//! At half of the maximum rate: what replicating costs a host in latency, and how old the copy is.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_tests::prometheus::figures;
use tidemark_tests::wait::measure_for;

use crate::load::{self, DEEP};
use crate::plan::Plan;
use crate::report::{Report, Row, Target, percentile};
use crate::servers::{Group, Ours};

/// Between two looks at the age of the copy.
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    let group = Group { bytes: plan.volume_bytes, interval: "250ms", backing: None, binary: None, journal: None };
    let paired = Ours::paired(&folder.join("paired"), &group);
    let alone = Ours::unpaired(&folder.join("alone"), &group);
    let most = load::run(&paired.uri(), &DEEP, plan.half_seconds, plan.volume_bytes, None).iops;
    paired.settle();
    let rate = Some(most / 2.0);
    let mut rounds = Vec::new();
    let mut ages = Vec::new();
    for _ in 0..plan.half_rounds {
        let done = AtomicBool::new(false);
        let with = std::thread::scope(|scope| {
            let watching = scope.spawn(|| watch(&paired, &done));
            let seen = load::run(&paired.uri(), &DEEP, plan.half_seconds, plan.volume_bytes, rate);
            done.store(true, Ordering::Relaxed);
            ages.extend(watching.join().expect("the watcher does not panic"));
            seen
        });
        paired.settle();
        let without = load::run(&alone.uri(), &DEEP, plan.half_seconds, plan.volume_bytes, rate);
        rounds.push((with.p99_us, without.p99_us));
    }
    let what = format!("p99 latency of 4 KiB writes at half of the maximum rate ({:.0}/s)", most / 2.0);
    report.add(Row::against(&what, "µs", &rounds, Target::RatioAtMost(1.2), "the same group with no pair"));
    let note = format!("{} looks at the secondary, interval 250 ms", ages.len());
    let age = percentile(ages, 0.99);
    report.add(Row::alone("RPO at half of the maximum rate, p99", "s", age, Target::AtMost(0.5), &note));
}

/// Over HTTP: a command started for each look takes a tenth of the processors from who is measured.
fn watch(ours: &Ours, done: &AtomicBool) -> Vec<f64> {
    let metrics = ours.west.status().addresses.metrics;
    let mut ages = Vec::new();
    while !done.load(Ordering::Relaxed) {
        // While there is no usable copy there is no age, which is as bad as it can be.
        let age = figures(&metrics, "tidemark_pair_rpo_seconds").first().copied();
        ages.push(age.unwrap_or(f64::INFINITY));
        measure_for(LOOK_EVERY);
    }
    ages
}
