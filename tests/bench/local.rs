//! A source and a target on one appliance: how long a resync, and a reverse, takes for how much that differs.

use std::path::Path;
use std::time::{Duration, Instant};

use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_tests::appliance::{Appliance, Options};

use crate::load;
use crate::plan::Plan;
use crate::report::{Report, Row, Target};

const REGION: u64 = 64 << 10;
const LIMIT: Duration = Duration::from_secs(300);
/// Its own pace: the disk's.
const RATE: &str = "1TiB";

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    let bytes = plan.copy_bytes;
    let mut side = Appliance::init(&folder.join("local"), "local", &Options::default());
    side.start();
    let size = bytes.to_string();
    for name in ["v", "t"] {
        side.ok(&["volume", "create", name, "--size", &size]);
    }
    side.ok(&["group", "create", "g", "--volume", "v"]);
    load::fill(&side.uri("v"), bytes);
    let begin = Instant::now();
    side.ok(&["local-pair", "create", "v", "--target", "t", "--rate", RATE]);
    wait_pair(&side);
    row(report, "first copy", bytes, begin.elapsed(), "all of the volume");
    for part in [256, 16, 4, 1] {
        let took = resync(&side, bytes / part, REGION);
        row(report, "resync", bytes / part, took, "in one piece");
    }
    let took = resync(&side, bytes / 16, 16 * REGION);
    row(report, "resync", bytes / 16, took, "every 16th region, 4 KiB written in each");
    for part in [16, 1] {
        let took = reverse(&side, bytes / part);
        row(report, "reverse", bytes / part, took, "written to the target, in one piece");
    }
    drop(side);
    let _ = std::fs::remove_dir_all(folder.join("local"));
}

fn row(report: &mut Report, what: &str, bytes: u64, took: Duration, note: &str) {
    let what = format!("{what} of a local pair, {} MiB differ", bytes >> 20);
    report.add(Row::alone(&what, "s", took.as_secs_f64(), Target::Told, note));
}

fn wait_shown(side: &Appliance, what: &str, wanted: impl Fn(&LocalPairStatus) -> bool) {
    side.wait_local_pair("t", what, LIMIT, wanted);
}

fn wait_pair(side: &Appliance) {
    wait_shown(side, "the pair to be equal", |shown| {
        shown.state == LocalPairState::Pair && shown.differential_bytes == 0
    });
}

/// Makes so many bytes differ, a region every so many, and has them copied.
fn resync(side: &Appliance, bytes: u64, every: u64) -> Duration {
    side.ok(&["local-pair", "split", "t"]);
    wait_shown(side, "the split to be complete", |shown| shown.differential_bytes == 0);
    let mut host = side.open("v");
    for region in 0..bytes / REGION {
        let length = if every == REGION { REGION } else { 4096 };
        host.write(region * every, &vec![0x5A; usize::try_from(length).unwrap_or(0)]).expect("write");
    }
    host.flush().expect("flush");
    wait_shown(side, "what was written to be marked", |shown| shown.source_changed_bytes == bytes);
    let begin = Instant::now();
    side.ok(&["local-pair", "resync", "t"]);
    wait_pair(side);
    begin.elapsed()
}

/// Writes so many bytes to the target, and has the source restored from it.
fn reverse(side: &Appliance, bytes: u64) -> Duration {
    side.ok(&["local-pair", "split", "t"]);
    wait_shown(side, "the split to be complete", |shown| shown.differential_bytes == 0);
    let mut host = side.open("t");
    for region in 0..bytes / REGION {
        host.write(region * REGION, &vec![0xA5; usize::try_from(REGION).unwrap_or(0)]).expect("write");
    }
    host.flush().expect("flush");
    drop(host);
    side.wait_without_hosts(LIMIT);
    let begin = Instant::now();
    side.ok(&["local-pair", "reverse", "t"]);
    wait_pair(side);
    begin.elapsed()
}
