//! What was measured: one table for people, JSON for programs, a picture for both.

mod picture;
mod table;
mod why;

use std::path::Path;
use std::time::Duration;

use serde::Serialize;

use crate::load::Seen;

/// What this build is compared with in a comparison of two.
pub(crate) const OTHER_BUILD: &str = "other build";

/// What would be good.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Target {
    /// Ours against the peer's, at least.
    RatioAtLeast(f64),
    /// Ours against the peer's, at most.
    RatioAtMost(f64),
    /// Ours, at most.
    AtMost(f64),
    /// None: told for its own sake.
    Told,
}

/// One line of the table.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    measure: String,
    unit: &'static str,
    ours: Option<f64>,
    peer: Option<f64>,
    ratio: Option<f64>,
    target: Target,
    reached: Option<bool>,
    /// What it was compared with, or why it was not measured.
    note: String,
    /// What limits it, when it is not reached.
    limited_by: Option<&'static str>,
}

impl Row {
    /// Ours beside a peer's, with the median of the rounds' ratios.
    pub(crate) fn against(
        measure: &str,
        unit: &'static str,
        rounds: &[(f64, f64)],
        target: Target,
        peer: &str,
    ) -> Self {
        let ours = median(rounds.iter().map(|round| round.0));
        let theirs = median(rounds.iter().map(|round| round.1));
        let ratio = median(rounds.iter().map(|round| round.0 / round.1));
        let row = Self::new(measure, unit, target, peer);
        Self {
            ours: Some(ours),
            peer: Some(theirs),
            ratio: Some(ratio),
            reached: reached(target, ours, Some(ratio)),
            ..row
        }
    }

    /// Ours alone.
    pub(crate) fn alone(measure: &str, unit: &'static str, ours: f64, target: Target, note: &str) -> Self {
        Self { ours: Some(ours), reached: reached(target, ours, None), ..Self::new(measure, unit, target, note) }
    }

    /// Not measured, and why.
    pub(crate) fn missing(measure: &str, target: Target, why: &str) -> Self {
        Self::new(measure, "", target, why)
    }

    fn new(measure: &str, unit: &'static str, target: Target, note: &str) -> Self {
        let (measure, note) = (measure.to_owned(), note.to_owned());
        Self { measure, unit, ours: None, peer: None, ratio: None, target, reached: None, note, limited_by: None }
    }

    /// Whether the ratio is below what a comparison of two builds lets pass.
    pub(crate) fn is_regression(&self) -> bool {
        matches!(self.target, Target::RatioAtLeast(_)) && self.reached == Some(false)
    }
}

fn reached(target: Target, ours: f64, ratio: Option<f64>) -> Option<bool> {
    match target {
        Target::RatioAtLeast(least) => ratio.map(|ratio| ratio >= least),
        Target::RatioAtMost(most) => ratio.map(|ratio| ratio <= most),
        Target::AtMost(most) => Some(ours <= most),
        Target::Told => None,
    }
}

/// One job on one server, the rounds' medians.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Point {
    pub(crate) job: &'static str,
    pub(crate) server: String,
    #[serde(flatten)]
    pub(crate) seen: Seen,
}

/// Processor time of one stage.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Stage {
    pub(crate) side: &'static str,
    pub(crate) stage: String,
    pub(crate) seconds_per_gib: f64,
}

/// Everything of one run.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Report {
    form: String,
    revision: String,
    machine: String,
    /// Seconds of the whole run.
    took_seconds: f64,
    rows: Vec<Row>,
    points: Vec<Point>,
    stages: Vec<Stage>,
}

impl Report {
    /// An empty one.
    pub(crate) fn new(form: &str, revision: &str, machine: &str) -> Self {
        Self { form: form.into(), revision: revision.into(), machine: machine.into(), ..Self::default() }
    }

    /// Adds a line, and shows it at once.
    pub(crate) fn add(&mut self, mut row: Row) {
        // Of a comparison nothing limits: one build is slower.
        if row.reached == Some(false) && row.note != OTHER_BUILD {
            row.limited_by = Some(why::limit(&row.measure));
        }
        eprintln!("  {}", table::brief(&row));
        self.rows.push(row);
    }

    /// Adds what a host saw.
    pub(crate) fn point(&mut self, point: Point) {
        self.points.push(point);
    }

    /// Adds processor time.
    pub(crate) fn stage(&mut self, stage: Stage) {
        self.stages.push(stage);
    }

    /// The run is over.
    pub(crate) fn end(&mut self, took: Duration) {
        self.took_seconds = took.as_secs_f64();
    }

    /// The lines that a comparison of two builds does not let pass.
    pub(crate) fn regressions(&self) -> Vec<String> {
        self.rows.iter().filter(|row| row.is_regression()).map(|row| row.measure.clone()).collect()
    }

    /// The table.
    pub(crate) fn table(&self) -> String {
        table::table(self)
    }

    /// Writes the table, the JSON and the picture.
    pub(crate) fn write(&self, folder: &Path) -> std::io::Result<()> {
        std::fs::create_dir_all(folder)?;
        std::fs::write(folder.join("table.md"), self.table())?;
        std::fs::write(folder.join("bench.json"), serde_json::to_string_pretty(self)? + "\n")?;
        std::fs::write(folder.join("bench.svg"), picture::picture(&self.points, &self.rows))
    }
}

/// The middle one; of two the mean.
pub(crate) fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.filter(|value| !value.is_nan()).collect();
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => values[length / 2],
        length => f64::midpoint(values[length / 2 - 1], values[length / 2]),
    }
}

/// The value that this share of all does not exceed.
pub(crate) fn percentile(mut values: Vec<f64>, share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    let at = (values.len() as f64 * share).ceil() as usize;
    values.get(at.saturating_sub(1)).copied().unwrap_or(f64::NAN)
}
