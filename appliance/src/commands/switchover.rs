//! `tidemark switchover`: a planned change of roles.

use tidemark_common::api::types::{Switchover, SwitchoverReport};

use super::Service;
use super::progress::carried_out;
use crate::cli::{milliseconds, name};
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark switchover GROUP --to PEER`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// The appliance that becomes primary
    #[arg(long, value_name = "PEER", value_parser = name)]
    to: String,
    /// How long hosts may wait until the copy has everything; after that nothing is changed, and the exit code is 4
    #[arg(long, value_name = "DURATION", default_value = "30s", value_parser = milliseconds)]
    timeout: u64,
}

/// Changes the roles and says how long hosts waited.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let request = Switchover { to: args.to, timeout_ms: args.timeout };
    let what = format!("the switchover of group '{}'", args.group);
    let report = carried_out(&what, service.client.switchover(&args.group, &request)).await?;
    output::done(service.json, &report, told)
}

fn told(report: &SwitchoverReport) -> String {
    let mut lines = vec![
        format!("group '{}': '{}' is primary now, generation {}", report.group, report.primary, report.generation),
        format!("switched   at marker {}, with nothing lost", report.marker),
        format!(
            "hosts      waited {}; they find their volumes on '{}'",
            figures::microseconds(report.hosts_waited_ms * 1000.0),
            report.primary
        ),
    ];
    if let Some(problem) = &report.problem {
        lines
            .push(format!("this side  is not the copy yet: {problem}. `tidemark rejoin {}` tries again", report.group));
    } else {
        lines.push("this side  is the copy now".into());
    }
    lines.join("\n")
}
