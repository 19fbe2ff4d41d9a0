//! Backups beside hosts: what a running backup, and the copying after a split, cost a host's writes; beside QEMU's `blockdev-backup`,
//! which copies before a write is answered.

use std::path::Path;
use std::time::Duration;

use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::wait::wait_until;

use crate::load::{self, DEEP, Seen};
use crate::plan::Plan;
use crate::report::{Report, Row, Target};
use crate::servers::{Kind, Peer};

/// Writes per second whose latency is looked at: a busy database, and far from what either side can take.
const CALM: f64 = 1000.0;
/// Both copy at this pace, so that both are under way as long as the host is looked at.
const RATE_MIB: u64 = 40;
const LIMIT: Duration = Duration::from_secs(300);

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    // QEMU's copies before a write, beyond its rate: it must not be over while its host is looked at.
    let seconds = plan.half_seconds.clamp(3, 6);
    let bytes = (RATE_MIB << 20) * (2 * seconds + 6);
    let (mut calm, mut beside, mut calm_theirs, mut free) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..plan.backup_rounds {
        let ours = with_ours(&folder.join(format!("ours{round}")), bytes, seconds);
        let theirs = with_theirs(&folder.join(format!("theirs{round}")), bytes, seconds);
        calm.push((ours.beside.p99_us, ours.alone.p99_us));
        beside.push((ours.beside.p99_us, theirs.beside.p99_us));
        calm_theirs.push((theirs.beside.p99_us, theirs.alone.p99_us));
        free.push((ours.full.iops, theirs.full.iops));
    }
    let what = "4 KiB writes, 1000/s, 99th percentile while a backup runs";
    report.add(Row::against(what, "µs", &calm, Target::RatioAtMost(1.1), "the same without a backup"));
    report.add(Row::against(what, "µs", &beside, Target::RatioAtMost(1.0), "qsd blockdev-backup"));
    let what = "blockdev-backup's own: the same";
    report.add(Row::against(what, "µs", &calm_theirs, Target::Told, "the same without a backup, qsd"));
    let what = "4 KiB random writes, depth 32, while a backup runs";
    report.add(Row::against(what, "/s", &free, Target::RatioAtLeast(1.0), "qsd blockdev-backup"));
    let splits: Vec<_> =
        (0..plan.backup_rounds).map(|n| split(&folder.join(format!("split{n}")), bytes, seconds)).collect();
    let what = "4 KiB writes, 1000/s, 99th percentile while a split copies";
    report.add(Row::against(what, "µs", &splits, Target::RatioAtMost(1.1), "the same before the split"));
    let targets: Vec<_> =
        (0..plan.backup_rounds).map(|n| target(&folder.join(format!("target{n}")), bytes, seconds)).collect();
    let what = "4 KiB writes to a target, 1000/s, 99th percentile while it is backed up";
    report.add(Row::against(what, "µs", &targets, Target::RatioAtMost(1.5), "the same without a backup"));
}

/// A host alone, beside a backup, and beside it as fast as it goes.
struct Hosted {
    alone: Seen,
    beside: Seen,
    full: Seen,
}

fn with_ours(folder: &Path, bytes: u64, seconds: u64) -> Hosted {
    let side = filled(folder, bytes);
    let uri = side.uri("v");
    let alone = load::run(&uri, &DEEP, seconds, bytes, Some(CALM));
    let to = folder.join("b.tar").display().to_string();
    side.ok(&["set", "create", "all", "v"]);
    let rate = format!("{RATE_MIB}MiB");
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &to, "--rate", &rate]);
    let beside = load::run(&uri, &DEEP, seconds, bytes, Some(CALM));
    let full = load::run(&uri, &DEEP, seconds, bytes, None);
    let state = side.ok(&["backup", "show", "b", "--json"]);
    assert!(state.contains("\"copying\""), "the backup was over before the host: {state}");
    drop(side);
    let _ = std::fs::remove_dir_all(folder);
    Hosted { alone, beside, full }
}

fn with_theirs(folder: &Path, bytes: u64, seconds: u64) -> Hosted {
    std::fs::create_dir_all(folder).expect("make a folder");
    let mut peer = Peer::start(Kind::Backup, folder, bytes);
    let uri = peer.uri();
    load::fill(&uri, bytes);
    peer.settle();
    let alone = load::run(&uri, &DEEP, seconds, bytes, Some(CALM));
    peer.back_up(RATE_MIB << 20);
    let beside = load::run(&uri, &DEEP, seconds, bytes, Some(CALM));
    assert!(peer.backs_up(), "the backup was over before the host");
    // Copying before each write, at full speed it is soon over; that counts for it.
    let full = load::run(&uri, &DEEP, seconds, bytes, None);
    drop(peer);
    let _ = std::fs::remove_dir_all(folder);
    Hosted { alone, beside, full }
}

fn filled(folder: &Path, bytes: u64) -> Appliance {
    let mut side = Appliance::init(folder, "side", &Options::default());
    side.start();
    side.ok(&["volume", "create", "v", "--size", &bytes.to_string()]);
    side.ok(&["group", "create", "g", "--volume", "v"]);
    load::fill(&side.uri("v"), bytes);
    wait_until("the volume to be written", LIMIT, || {
        let positions = side.group("g").positions;
        if positions.applied_seq == positions.captured_seq { Ok(()) } else { Err(format!("{positions:?}")) }
    });
    side
}

/// The 99th percentile of writes to a target while a backup reads it, and before.
fn target(folder: &Path, bytes: u64, seconds: u64) -> (f64, f64) {
    let side = filled(folder, bytes);
    side.ok(&["volume", "create", "t", "--size", &bytes.to_string()]);
    side.ok(&["local-pair", "create", "v", "--target", "t", "--rate", "1TiB"]);
    side.ok(&["local-pair", "split", "t"]);
    side.wait_local_pair("t", "the split to be complete", LIMIT, |shown| shown.differential_bytes == 0);
    let alone = load::run(&side.uri("t"), &DEEP, seconds, bytes, Some(CALM));
    let to = folder.join("b.tar").display().to_string();
    side.ok(&["set", "create", "all", "t"]);
    let rate = format!("{RATE_MIB}MiB");
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &to, "--rate", &rate]);
    let beside = load::run(&side.uri("t"), &DEEP, seconds, bytes, Some(CALM));
    let state = side.ok(&["backup", "show", "b", "--json"]);
    assert!(state.contains("\"copying\""), "the backup was over before the host: {state}");
    drop(side);
    let _ = std::fs::remove_dir_all(folder);
    (beside.p99_us, alone.p99_us)
}

/// The 99th percentile while a split copies, and before.
fn split(folder: &Path, bytes: u64, seconds: u64) -> (f64, f64) {
    let side = filled(folder, bytes);
    let shown = || side.local_pair("t");
    side.ok(&["volume", "create", "t", "--size", &bytes.to_string()]);
    let before = load::run(&side.uri("v"), &DEEP, seconds, bytes, Some(CALM));
    // The pair is split in its first copy, so that all of it is still to be copied.
    side.ok(&["local-pair", "create", "v", "--target", "t", "--rate", &format!("{RATE_MIB}MiB")]);
    side.ok(&["local-pair", "split", "t"]);
    let during = load::run(&side.uri("v"), &DEEP, seconds, bytes, Some(CALM));
    let shown = shown();
    assert!(shown.state == LocalPairState::Split && shown.differential_bytes > 0, "{shown:?}");
    drop(side);
    let _ = std::fs::remove_dir_all(folder);
    (during.p99_us, before.p99_us)
}
