//! How well the link uses long and lossy lines: in virtual time, so it costs no more than its processor time.

use std::time::Duration;

use tidemark_common::link::Congestion;
use tidemark_tests::virtual_path::{Path, Row as Seen, Sender, run};

use crate::plan::Plan;
use crate::report::{Report, Row, Target};

/// The beginning, told apart in `tests/lines`.
const BEGINNING: Duration = Duration::from_secs(4);

/// Each point of the target: rate, round trip, loss.
pub(crate) fn measure(plan: &Plan, report: &mut Report) {
    for megabits in [200.0, 1000.0] {
        for round_trip_ms in [50, 100] {
            for loss in [0.0001, 0.001] {
                point(plan, Path::new(megabits, round_trip_ms, loss), report);
            }
        }
    }
}

fn point(plan: &Plan, path: Path, report: &mut Report) {
    let run = run(7, path, &[Sender::of(Congestion::default())], &[], BEGINNING + plan.line_lasts);
    let seen = Seen::of(&run, path, BEGINNING);
    let rate = path.bits_per_second / 1e6;
    let (delay, loss) = (2 * path.delay.as_millis(), path.loss * 100.0);
    let line = format!("{rate} Mbit/s, {delay} ms, {loss} % lost");
    let ended = if seen.ended { "; the connection ended on the way" } else { "" };
    let goodput = [(seen.goodput * rate, rate)];
    let note = format!("the line's rate, headers included; virtual time{ended}");
    report.add(Row::against(&format!("goodput, {line}"), "Mbit/s", &goodput, Target::RatioAtLeast(0.9), &note));
    let sent = [(seen.sent * seen.goodput * rate, seen.goodput * rate)];
    report.add(Row::against(
        &format!("sent, {line}"),
        "Mbit/s",
        &sent,
        Target::RatioAtMost(1.05),
        "what was delivered",
    ));
}
