//! Failover: from the command until the first read is answered, whatever waits to be applied.

use std::path::Path;
use std::time::Instant;

use crate::load;
use crate::plan::Plan;
use crate::report::{Report, Row, Target};
use crate::servers::{Group, Ours, free_bytes, lacks};

/// Backlogs up to this are measured without asking the disk.
const LARGE: u64 = 4 << 30;
/// Free space that is left alone.
const SPARE: u64 = 4 << 30;

/// Measures.
pub(crate) fn measure(plan: &Plan, folder: &Path, report: &mut Report) {
    for bytes in plan.backlogs {
        let what = format!("failover until the first read, {} MiB received and not applied", bytes >> 20);
        // The primary's volume and the copy's, the journal over there, and what is of the journal here.
        let need = if *bytes > LARGE { bytes * 5 / 2 + SPARE } else { 0 };
        let free = free_bytes(folder);
        if free < need {
            report.add(Row::missing(&what, Target::AtMost(1.0), &lacks(need, free)));
            continue;
        }
        let (seconds, waiting) = take_over(&folder.join(format!("backlog{bytes}")), *bytes);
        let note = format!("{:.0} % of it still waited when the read was answered", waiting * 100.0);
        report.add(Row::alone(&what, "s", seconds, Target::AtMost(1.0), &note));
    }
}

/// With one long interval nothing may be applied until its marker comes: the backlog is all of it. An interval ends by itself at
/// an eighth of what a journal may hold.
fn take_over(folder: &Path, backlog: u64) -> (f64, f64) {
    let journal = format!("{}GiB", (backlog >> 30).max(1) * 10);
    let bytes = (backlog * 5 / 4).max(64 << 20);
    let group = Group { bytes, interval: "1h", backing: None, binary: None, journal: Some(&journal) };
    let mut ours = Ours::paired(folder, &group);
    if backlog > 0 {
        load::fill(&ours.uri(), backlog);
    }
    let begun = Ours::counter(&ours.west, "tidemark_apply_bytes_total");
    let marker = ours.east.ok(&["cut", ours.group()]);
    ours.wait_for(marker.trim(), "received");
    ours.east.kill9();
    let begin = Instant::now();
    ours.west.ok(&["failover", ours.group(), "--force"]);
    ours.west.open("v").read(0, 4096).expect("read after the failover");
    let took = begin.elapsed().as_secs_f64();
    let applied = Ours::counter(&ours.west, "tidemark_apply_bytes_total") - begun;
    let waiting = if backlog == 0 { 0.0 } else { 1.0 - (applied / backlog as f64).min(1.0) };
    drop(ours);
    let _ = std::fs::remove_dir_all(folder);
    (took, waiting)
}
