//! How well our link uses a line: in virtual time, over a modelled path (`tests/harness/virtual_path`). What is asserted are the targets;
//! `cargo test --release -p tidemark-tests --test lines -- --ignored --nocapture table` prints the controllers beside each other.

mod befalls;
mod table;
mod targets;

use std::time::Duration;

use tidemark_common::limits::FRAME_RAW_BYTES_MAX;
use tidemark_common::link::Congestion;
use tidemark_tests::virtual_path::{Path, Run, Sender, TICK, run};

/// From here on it is no beginning any more.
const SETTLED: Duration = Duration::from_secs(4);

const fn seconds(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

/// One sender with our controller, and what befalls its path.
fn steady(path: Path, changes: &[(Duration, Path)], lasts: Duration) -> Run {
    let run = run(7, path, &[Sender::of(Congestion::Steady)], changes, lasts);
    if std::env::var_os("SHOW").is_some() {
        show(&run);
    }
    run
}

/// `SHOW=1` prints a run tick by tick, for whoever looks for what went wrong.
fn show(run: &Run) {
    for tick in 0..run.seen[0].len() {
        let moment = TICK * (tick as u32 + 1);
        let seen = run.seen.iter().enumerate().map(|(sender, seen)| {
            let (now, before) = (seen[tick], tick.checked_sub(1).map_or_else(Default::default, |before| seen[before]));
            format!(
                "{:7.1} Mbit/s, in order {:6.1} MB, silent {:4.1} s, sent {:7.1}, dropped {:5} kB, queue {:5.1} ms, window {:6} kB",
                run.goodput(sender, moment - TICK, moment) / 1e6,
                now.in_order as f64 / 1e6,
                now.silent.as_secs_f64(),
                (now.sent - before.sent) as f64 * 80e-6,
                (now.dropped - before.dropped) / 1000,
                now.queued.as_secs_f64() * 1e3,
                now.window / 1000
            )
        });
        println!("{:5.1} s: {}", moment.as_secs_f64(), seen.collect::<Vec<_>>().join(" | "));
    }
    println!("{:?}", run.lost);
}
