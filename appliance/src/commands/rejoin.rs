//! `tidemark rejoin`: an old primary returns as the copy.

use tidemark_common::api::types::RejoinReport;

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark rejoin GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
}

/// Returns, and says what never reached the other side.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let report = service.client.rejoin(&args.group).await?;
    output::done(service.json, &report, told)
}

fn told(report: &RejoinReport) -> String {
    let RejoinReport { group, primary, generation, marker, .. } = report;
    let mut lines = vec![format!("group '{group}': '{primary}' is primary, generation {generation}")];
    if report.whole {
        lines.push("parted     this side no longer holds the place: everything is copied".into());
    } else {
        lines.push(format!("parted     at marker {marker}: only what differs since then is copied"));
    }
    lines.push(match (report.lost_writes, &report.kept) {
        (0, None) => "lost       nothing: all that was written here is there".into(),
        (writes, kept) => format!(
            "lost       {writes} writes ({}) that this side does not know to be on '{primary}'; kept in {}",
            figures::bytes(report.lost_bytes),
            kept.as_deref().unwrap_or("no place")
        ),
    });
    lines.join("\n")
}
