//! `tidemark verify`: is the copy what it says it is?

use tidemark_common::api::types::{VerifyReport, VerifyRequest};

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures};

/// Differences shown to people; all of them with --json.
const SHOWN: usize = 20;

/// `tidemark verify GROUP --to PEER`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// The appliance with the copy
    #[arg(long, value_name = "PEER", value_parser = name)]
    to: String,
    /// Copy what differs again
    #[arg(long)]
    repair: bool,
}

/// Compares, and fails when they differ, repaired or not.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    output::say("comparing: the copy stands at a marker meanwhile, hosts and shipping go on");
    let report = service.client.verify(&args.group, &VerifyRequest { to: args.to, repair: args.repair }).await?;
    output::done(service.json, &report, told)?;
    if report.different_bytes > 0 { Err(Failure::Logged) } else { Ok(()) }
}

fn told(report: &VerifyReport) -> String {
    let VerifyReport { group, peer, marker, .. } = report;
    let compared = figures::bytes(report.compared_bytes);
    let took = figures::seconds(report.took_seconds);
    let mut lines = Vec::new();
    if report.different_bytes == 0 {
        lines.push(format!(
            "group '{group}' and its copy on '{peer}' are the same at marker {marker}: {compared} in {took}"
        ));
    } else {
        let different = figures::bytes(report.different_bytes);
        lines.push(format!(
            "group '{group}' and its copy on '{peer}' differ at marker {marker}: {different} of {compared}"
        ));
        for difference in report.differences.iter().take(SHOWN) {
            let end = difference.offset + difference.length;
            lines.push(format!("  volume {}, bytes {} to {end}", difference.volume, difference.offset));
        }
        if report.differences.len() > SHOWN {
            lines.push(format!("  and {} more ranges: --json lists them", report.differences.len() - SHOWN));
        }
        lines.push(if report.repaired {
            "what differs is copied again now: `tidemark status --watch` shows it, and `tidemark verify` proves it"
                .into()
        } else {
            "find out why before you trust this copy; --repair copies what differs again".into()
        });
    }
    if report.not_compared_bytes > 0 {
        let busy = figures::bytes(report.not_compared_bytes);
        lines.push(format!("{busy} were written again and again and could not be compared"));
    }
    lines.join("\n")
}
