//! `tidemark failover`: take over a group on the secondary.

use tidemark_common::api::types::{Failover, FailoverReport};

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark failover GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// Also when the primary was heard within the last second
    #[arg(long)]
    force: bool,
}

/// Takes over and says which moment is served and what is missing.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let report = service.client.failover(&args.group, &Failover { force: args.force }).await?;
    output::done(service.json, &report, told)
}

fn told(report: &FailoverReport) -> String {
    let marker = &report.marker;
    let mut lines = vec![
        format!("group '{}' is primary here now, generation {}", report.group, report.generation),
        format!(
            "serves     marker {}, good as of {}, {} ago",
            marker.number,
            figures::time(report.good_as_of),
            figures::seconds(report.age_seconds)
        ),
        format!("left out   {}", left_out(report)),
    ];
    let missing = report.missing_writes_known.saturating_sub(report.dropped_writes);
    if missing > 0 {
        lines
            .push(format!("missing    {missing} writes at least: the primary had announced them, and they never came"));
    }
    lines.push(format!("exports    {}", report.exports.join(", ")));
    lines.push(format!("took       {}", figures::microseconds(report.took_ms * 1000.0)));
    lines.join("\n")
}

fn left_out(report: &FailoverReport) -> String {
    match report.dropped_writes {
        0 => "nothing that had come".into(),
        writes => {
            format!("{writes} writes ({}) that had come without their marker", figures::bytes(report.dropped_bytes))
        }
    }
}
