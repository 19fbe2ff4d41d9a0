//! `tidemark failover`: take over a group on the secondary.

use tidemark_common::api::types::{Failover, FailoverReport};
use tidemark_common::plural::counted;

use super::Service;
use super::progress::carried_out;
use crate::cli::{Moment, moment, name};
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark failover GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// Take over even when the primary was heard within the last second
    #[arg(long)]
    force: bool,
    /// Serve an older marker that is held: its number, or the newest one cut by a time (2026-01-31T12:00:00Z, or 10m for ten minutes
    /// ago). What came after it is kept aside
    #[arg(long, value_name = "MARKER|TIME", value_parser = moment)]
    at: Option<Moment>,
}

/// Takes over and says which moment is served and what is missing.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let (marker, time) = args.at.map_or((None, None), Moment::parts);
    let (request, what) =
        (Failover { force: args.force, marker, time }, format!("the failover of group '{}'", args.group));
    let report = carried_out(&what, service.client.failover(&args.group, &request)).await?;
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
    if report.went_back {
        let why = "this side had returned as the copy, and the copy was not complete: it goes on with what it held before, all its own \
                   hosts' writes included";
        lines.push(format!("went back  {why}"));
    }
    let missing = report.missing_writes_known.saturating_sub(report.dropped_writes);
    if missing > 0 {
        let missing = counted(missing, "write");
        lines.push(format!("missing    at least {missing} that the primary had announced and that never arrived"));
    }
    if let Some(kept) = &report.kept {
        lines.push(format!("kept aside {kept}: what came after that marker (`tidemark lost list {}`)", report.group));
    }
    lines.push(format!("exports    {}", report.exports.join(", ")));
    lines.push(format!("took       {}", figures::microseconds(report.took_ms * 1000.0)));
    lines.join("\n")
}

fn left_out(report: &FailoverReport) -> String {
    match report.dropped_writes {
        0 => "nothing that had come".into(),
        writes => {
            let why = if report.kept.is_some() { "of later markers" } else { "that had come without their marker" };
            format!("{} ({}) {why}", counted(writes, "write"), figures::bytes(report.dropped_bytes))
        }
    }
}
