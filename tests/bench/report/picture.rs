//! The picture: for each job the servers' throughput on the left, the 99th percentile of the latency on the right. Bars
//! are relative to the largest of the job; the figures stand beside them. Below that, how much of each target is reached.

use std::fmt::Write;

use super::{Point, Row, Target};

const BAR: f64 = 14.0;
const WIDTH: f64 = 300.0;
const LABEL: f64 = 190.0;
const GAP: f64 = 110.0;
const COLOURS: [&str; 6] = ["#0b7285", "#868e96", "#adb5bd", "#e8590c", "#f08c00", "#9c36b5"];

/// So many times a target is the end of its bar.
const TARGET_MOST: f64 = 2.0;
/// Characters before it.
const WORDS: usize = 100;
const REACHED: [&str; 2] = ["#0b7285", "#e8590c"];

/// An SVG.
pub(super) fn picture(points: &[Point], rows: &[Row]) -> String {
    let mut jobs: Vec<&str> = points.iter().map(|point| point.job).collect();
    jobs.dedup();
    let aimed: Vec<&Row> = rows.iter().filter(|row| row.target != Target::Told).collect();
    let height = points.len() as f64 * BAR + jobs.len() as f64 * 40.0 + aimed.len() as f64 * BAR + 90.0;
    let width = LABEL + 2.0 * (WIDTH + GAP);
    let mut text = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n"
    );
    label(&mut text, LABEL, 18.0, "throughput, reads and writes per second (more is better)");
    label(&mut text, LABEL + WIDTH + GAP, 18.0, "p99 latency of these, without fsync, µs (less is better)");
    let mut y = 30.0;
    for job in jobs {
        let of_job: Vec<&Point> = points.iter().filter(|point| point.job == job).collect();
        y += 22.0;
        let _ = writeln!(text, "<text x=\"8\" y=\"{y}\" font-weight=\"bold\">{job}</text>");
        y += 6.0;
        let most = |value: fn(&Point) -> f64| of_job.iter().map(|point| value(point)).fold(f64::MIN_POSITIVE, f64::max);
        let (iops, p99) = (most(|point| point.seen.iops), most(|point| point.seen.p99_us));
        for (point, colour) in of_job.iter().zip(COLOURS.iter().cycle()) {
            label(&mut text, 8.0, y + 10.0, &point.server);
            bar(&mut text, LABEL, y, point.seen.iops / iops, colour, point.seen.iops);
            bar(&mut text, LABEL + WIDTH + GAP, y, point.seen.p99_us / p99, colour, point.seen.p99_us);
            y += BAR;
        }
    }
    targets(&mut text, y + 34.0, &aimed);
    text + "</svg>\n"
}

fn targets(text: &mut String, top: f64, rows: &[&Row]) {
    let left = LABEL + WIDTH + GAP;
    label(text, left, top, "per cent of the target (the line: all of it)");
    let mut y = top + 8.0;
    for row in rows {
        let words: String = format!("{}: {}", row.measure, row.note).chars().take(WORDS).collect();
        label(text, 8.0, y + 10.0, &words.replace('&', "&amp;").replace('<', "&lt;"));
        match share(row) {
            Some(share) => {
                let colour = REACHED[usize::from(row.reached != Some(true))];
                bar(text, left, y, (share / TARGET_MOST).min(1.0), colour, share * 100.0);
            }
            None => label(text, left, y + 10.0, "not measured"),
        }
        y += BAR;
    }
    let line = left + WIDTH / TARGET_MOST;
    let _ = writeln!(text, "<path d=\"M{line} {top} V{y}\" stroke=\"black\"/>");
}

/// How much of its target a row reaches: 1 is all of it.
fn share(row: &Row) -> Option<f64> {
    let share = match row.target {
        Target::RatioAtLeast(least) => row.ratio? / least,
        Target::RatioAtMost(most) => most / row.ratio?,
        Target::AtMost(most) => most / row.ours?,
        Target::Told => return None,
    };
    share.is_finite().then_some(share)
}

fn label(text: &mut String, x: f64, y: f64, words: &str) {
    let _ = writeln!(text, "<text x=\"{x}\" y=\"{y}\">{words}</text>");
}

fn bar(text: &mut String, x: f64, y: f64, share: f64, colour: &str, value: f64) {
    let (width, height) = ((share * WIDTH).max(1.0), BAR - 3.0);
    let _ = writeln!(
        text,
        "<rect x=\"{x}\" y=\"{y}\" width=\"{width:.1}\" height=\"{height}\" fill=\"{colour}\"/><text x=\"{:.1}\" \
         y=\"{:.1}\">{value:.0}</text>",
        x + width + 5.0,
        y + 10.0
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_row_with_a_target_is_in_the_picture_with_how_much_of_it_is_reached() {
        let rows = [
            Row::against("writes", "/s", &[(6.0, 4.0)], Target::RatioAtLeast(3.0), "a peer"),
            Row::against("latency", "µs", &[(1.0, 2.0)], Target::RatioAtMost(1.0), "a peer & another"),
            Row::alone("memory", "MiB", 32.0, Target::AtMost(64.0), ""),
            Row::alone("told", "s", 1.0, Target::Told, ""),
            Row::missing("start", Target::AtMost(10.0), "no room"),
        ];
        let shares: Vec<_> = rows.iter().map(share).collect();
        assert_eq!(shares, [Some(0.5), Some(2.0), Some(2.0), None, None]);
        let text = picture(&[], &rows);
        for words in
            ["writes: a peer<", "a peer &amp; another", "memory", "start: no room", "not measured", ">50<", ">200<"]
        {
            assert!(text.contains(words), "{words}: {text}");
        }
        assert!(!text.contains("told"));
    }
}
