//! `tidemark rejoin`: an old primary returns as the copy, or goes on as primary with what it has.

use tidemark_common::api::types::{Rejoin, RejoinReport};
use tidemark_common::plural::counted;

use super::Service;
use super::progress::carried_out;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark rejoin GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// Go on as primary with the data of this side: the side that took over is fenced, and what only it has is kept there when it
    /// returns (`tidemark rejoin` on that side)
    #[arg(long)]
    as_primary: bool,
    /// With --as-primary: do it even if the side that took over cannot be asked. Make sure that it serves no hosts
    #[arg(long, requires = "as_primary")]
    force: bool,
}

/// Returns, and says what never reached the other side.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let request = Rejoin { as_primary: args.as_primary, force: args.force };
    let what = format!("the return of group '{}'", args.group);
    let report = carried_out(&what, service.client.rejoin(&args.group, &request)).await?;
    output::done(service.json, &report, if args.as_primary { told_as_primary } else { told })
}

fn told_as_primary(report: &RejoinReport) -> String {
    let RejoinReport { group, primary, generation, marker, whole, .. } = report;
    let parted = if *whole {
        "parted     not known where: a side that returns gets a full copy".into()
    } else {
        format!("parted     at marker {marker}: what hosts wrote on the other side since then is not here")
    };
    [
        format!("group '{group}': '{primary}' is primary here again, generation {generation}, with what it has"),
        parted,
        format!(
            "the others are fenced when they reach this side: `tidemark rejoin {group}` on them keeps what only they have (`tidemark lost \
             list {group}`), and makes them copies"
        ),
    ]
    .join("\n")
}

fn told(report: &RejoinReport) -> String {
    let RejoinReport { group, primary, generation, marker, .. } = report;
    if let Some(peer) = &report.not_taken_over_by {
        return format!(
            "group '{group}': '{peer}' has not taken over: '{primary}' is primary as before, generation {generation}\n\
             hosts      belong here: open their volumes on '{primary}'"
        );
    }
    let mut lines = vec![format!("group '{group}': '{primary}' is primary, generation {generation}")];
    if report.whole {
        lines.push("parted     this side no longer holds the place: everything is copied".into());
    } else {
        lines.push(format!("parted     at marker {marker}: only what differs since then is copied"));
    }
    lines.push(match (report.lost_writes, &report.kept) {
        (0, None) => "lost       nothing: everything that was written here is on the other side".into(),
        (writes, kept) => format!(
            "lost       {} ({}) that this side does not know to be on '{primary}'; kept in {}",
            counted(writes, "write"),
            figures::bytes(report.lost_bytes),
            kept.as_deref().unwrap_or("no place")
        ),
    });
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It read as if this side had become a copy of itself.
    #[test]
    fn whom_nobody_has_replaced_is_told_that_hosts_belong_here() {
        let report = RejoinReport {
            group: "g".into(),
            primary: "gc".into(),
            generation: 1,
            marker: 5,
            whole: false,
            lost_writes: 0,
            lost_bytes: 0,
            kept: None,
            not_taken_over_by: Some("tiny".into()),
        };
        let said = told(&report);
        assert!(said.contains("'tiny' has not taken over") && said.contains("hosts      belong here"), "{said}");
        assert!(!said.contains("parted"), "{said}");
        let returned = told(&RejoinReport { not_taken_over_by: None, ..report });
        assert!(returned.contains("parted     at marker 5"), "{returned}");
    }
}
