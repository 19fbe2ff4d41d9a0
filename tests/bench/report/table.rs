//! The table, in Markdown, so that it can be kept as it was printed.

use std::fmt::Write;

use super::{Report, Row, Target};

/// All lines.
pub(super) fn table(report: &Report) -> String {
    let mut lines =
        vec![["measure", "ours", "peer", "ratio", "target", "reached?", "against / why not"].map(str::to_owned)];
    lines.extend(report.rows.iter().map(cells));
    let Report { form, revision, machine, took_seconds, .. } = report;
    let mut text = format!("{form} form, {revision}, {machine}, {took_seconds:.0} s\n\n");
    text += &aligned(&lines);
    if !report.stages.is_empty() {
        let mut lines = vec![["side", "stage", "CPU s / GiB written"].map(str::to_owned)];
        let stage = |stage: &super::Stage| {
            [stage.side.to_owned(), stage.stage.clone(), format!("{:.3}", stage.seconds_per_gib)]
        };
        lines.extend(report.stages.iter().map(stage));
        let _ = write!(text, "\n{}", aligned(&lines));
    }
    text
}

/// One line, while it runs.
pub(super) fn brief(row: &Row) -> String {
    let [measure, ours, peer, ratio, target, reached, note] = cells(row);
    format!("{measure}: {ours} | {peer} | {ratio} | {target} | {reached} | {note}")
}

fn cells(row: &Row) -> [String; 7] {
    let value = |value: Option<f64>| {
        value.map_or("-".into(), |value| format!("{} {}", short(value), row.unit).trim_end().to_owned())
    };
    let target = match row.target {
        Target::RatioAtLeast(least) => format!("≥ {least}×"),
        Target::RatioAtMost(most) => format!("≤ {most}×"),
        Target::AtMost(most) => format!("≤ {} {}", short(most), row.unit),
        Target::Told => "-".into(),
    };
    let reached = match row.reached {
        Some(true) => "yes",
        Some(false) => "NO",
        None => "-",
    };
    let ratio = row.ratio.map_or("-".into(), |ratio| format!("{ratio:.2}×"));
    let note = match row.limited_by {
        Some(limit) => format!("{}; limited by: {limit}", row.note),
        None => row.note.clone(),
    };
    [row.measure.clone(), value(row.ours), value(row.peer), ratio, target, reached.into(), note]
}

fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

fn aligned<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        widths.iter_mut().zip(line).for_each(|(width, cell)| *width = (*width).max(cell.chars().count()));
    }
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(widths) {
            let _ = write!(text, "| {cell:width$} ");
        }
        text += "|\n";
        if number == 0 {
            widths.iter().for_each(|width| {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            });
            text += "|\n";
        }
    }
    text
}
