//! The report of a drill: one HTML page that needs nothing else. A [`DrillReport`] comes in, text goes out.

use std::fmt::Write;

use jiff::Timestamp;
use tidemark_common::api::types::{DrillReport, DrillResult};

use crate::output::figures;

const STYLE: &str = "body{font:16px/1.5 system-ui,sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem;color:#1b2733}\
h1{font-size:1.6rem;margin-bottom:.2rem}h2{font-size:1.1rem;margin:2rem 0 .5rem}\
.passed{color:#12714a}.failed{color:#b3261e}.faint{color:#5b6b7b}\
table{border-collapse:collapse;width:100%}td{padding:.3rem .6rem;border-bottom:1px solid #e3e8ee;vertical-align:top}\
td:last-child{white-space:pre-line;overflow-wrap:anywhere}td:first-child{color:#5b6b7b;white-space:nowrap;width:1%}\
pre{background:#f4f6f8;padding:1rem;overflow-x:auto;white-space:pre-wrap;border-radius:.3rem;font-size:.85rem}\
.big{display:flex;gap:2.5rem;flex-wrap:wrap;margin:1rem 0}.big div{font-size:1.5rem;font-weight:600}\
.big small{display:block;font-size:.85rem;font-weight:400;color:#5b6b7b}svg{width:100%;height:auto}";

/// The page.
pub(super) fn page(report: &DrillReport, now: Timestamp) -> String {
    let (class, result) = match report.result {
        DrillResult::Running => ("faint", "is under way"),
        DrillResult::Passed => ("passed", "passed"),
        DrillResult::Failed => ("failed", "failed"),
    };
    let seconds = |value: Option<f64>| value.map_or_else(|| "not reached".into(), short);
    let mut page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n\
         <title>Drill {id} of {group}: {result}</title>\n<style>{STYLE}</style>\n\
         <h1>Drill {id} of group {group} <span class=\"{class}\">{result}</span></h1>\n\
         <p class=\"faint\">A failover rehearsed on a writable copy of one moment. Replication went on meanwhile.</p>\n",
        id = report.id,
        group = escaped(&report.group),
    );
    if let Some(reason) = &report.reason {
        let _ = writeln!(page, "<p class=\"failed\">{}</p>", escaped(reason));
    }
    let _ = writeln!(
        page,
        "<div class=\"big\"><div>{}<small>RTO: from the order to the first answered reads</small></div>\
         <div>{}<small>RPO: what a disaster at its begin would have lost</small></div>\
         <div>{}<small>the whole drill</small></div></div>",
        seconds(report.rto_seconds),
        seconds(report.rpo_seconds),
        short(report.took_seconds)
    );
    let _ = writeln!(page, "<table>");
    let mut row = |label: &str, value: &str| {
        let _ = writeln!(page, "<tr><td>{label}<td>{}", escaped(value));
    };
    row("Begun", &figures::time(report.started));
    row("Moment", &format!("marker {}, cut {}", report.marker, figures::time(report.marker_time)));
    row("Ordered", if report.scheduled { "by schedule" } else { "by hand" });
    row("Check", report.check.as_deref().unwrap_or("none: the exports were opened and read"));
    row("Exit code", &report.check_exit_code.map_or_else(|| "none".into(), |code| code.to_string()));
    row("Exports", &report.exports.join("\n"));
    row("Written", &figures::time(now));
    let _ = writeln!(page, "</table>\n<h2>How old the copy was before the drill</h2>\n{}", plot(&report.lag));
    let output = if report.output.trim().is_empty() { "(nothing)" } else { &report.output };
    let _ = writeln!(page, "<h2>What the check said</h2>\n<pre>{}</pre>\n</html>", escaped(output));
    page
}

/// A time that may be far less than a second.
fn short(seconds: f64) -> String {
    if seconds > 0.0 && seconds < 1.0 { figures::microseconds(seconds * 1e6) } else { figures::seconds(seconds) }
}

/// Age of the copy over the minutes before.
fn plot(lag: &[(f64, f64)]) -> String {
    let longest = lag.iter().map(|point| point.0).fold(0.0_f64, f64::max);
    let highest = lag.iter().map(|point| point.1).fold(0.0_f64, f64::max);
    if lag.len() < 2 || longest <= 0.0 {
        return "<p class=\"faint\">Not observed for long enough: the service had just started.</p>".into();
    }
    let top = if highest > 0.0 { highest * 1.1 } else { 1.0 };
    let x = |before: f64| 60.0 + 780.0 * (1.0 - before / longest);
    let y = |age: f64| 180.0 - 160.0 * age / top;
    let mut points = String::new();
    for (before, age) in lag {
        let _ = write!(points, "{:.1},{:.1} ", x(*before), y(*age));
    }
    let text = "font-size=\"13\" fill=\"#5b6b7b\"";
    format!(
        "<svg viewBox=\"0 0 860 215\" role=\"img\" aria-label=\"Age of the copy over time\">\
         <path d=\"M60 20V180H840\" fill=\"none\" stroke=\"#c3ccd5\"/>\
         <polyline points=\"{points}\" fill=\"none\" stroke=\"#1f6feb\" stroke-width=\"2\"/>\
         <text x=\"54\" y=\"26\" text-anchor=\"end\" {text}>{top}</text><text x=\"54\" y=\"184\" text-anchor=\"end\" {text}>0 s</text>\
         <text x=\"60\" y=\"202\" {text}>{longest} before</text><text x=\"840\" y=\"202\" text-anchor=\"end\" {text}>begin of the drill</text></svg>",
        top = short(top),
        longest = figures::seconds(longest),
    )
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_check_says_cannot_become_part_of_the_page() {
        let report = DrillReport {
            id: 7,
            name: "drill-7".into(),
            group: "g".into(),
            marker: 42,
            marker_time: Timestamp::UNIX_EPOCH,
            started: Timestamp::UNIX_EPOCH,
            took_seconds: 3.0,
            result: DrillResult::Failed,
            reason: Some("the check ended with exit code 4".into()),
            rto_seconds: Some(0.02),
            rpo_seconds: Some(0.5),
            check: Some("echo '<script>'".into()),
            check_exit_code: Some(4),
            output: "<script>alert(1)</script> & more".into(),
            exports: vec!["nbd+unix:///drill-7/a?socket=/s".into()],
            scheduled: false,
            lag: vec![(10.0, 0.5), (5.0, 1.5), (0.0, 0.25)],
        };
        let page = page(&report, Timestamp::UNIX_EPOCH);
        assert!(!page.contains("<script>") && page.contains("&lt;script&gt;alert(1)"), "{page}");
        assert!(plot(&[(1.0, 0.04), (0.0, 0.03)]).contains(">44 ms<"), "a scale that ends at 0.0 s says nothing");
        assert!(page.contains("<polyline points=\"60.0,") && page.contains("failed</span>"), "{page}");
    }
}
