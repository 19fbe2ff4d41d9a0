//! The picture: for each job the servers' throughput on the left, the 99th percentile of the latency on the right. Bars
//! are relative to the largest of the job; the figures stand beside them.

use std::fmt::Write;

use super::Point;

const BAR: f64 = 14.0;
const WIDTH: f64 = 300.0;
const LABEL: f64 = 190.0;
const GAP: f64 = 110.0;
const COLOURS: [&str; 6] = ["#0b7285", "#868e96", "#adb5bd", "#e8590c", "#f08c00", "#9c36b5"];

/// An SVG.
pub(super) fn picture(points: &[Point]) -> String {
    let mut jobs: Vec<&str> = points.iter().map(|point| point.job).collect();
    jobs.dedup();
    let height = points.len() as f64 * BAR + jobs.len() as f64 * 40.0 + 40.0;
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
    text + "</svg>\n"
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
