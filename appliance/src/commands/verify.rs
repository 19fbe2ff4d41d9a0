//! `tidemark verify`: is the copy what it says it is?

use indicatif::{ProgressBar, ProgressStyle};
use tidemark_common::api::types::{VerifyReport, VerifyRequest};
use tokio::time::{MissedTickBehavior, interval};

use super::Service;
use super::wait::{LOOK_INTERVAL, Line};
use crate::cli::{milliseconds, name, size};
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
    /// Bytes of the volumes to compare per second at most, as 50MiB [default: as fast as it goes]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rate: Option<u64>,
    /// Wait so long for a pair that is not up, instead of ending at once; 4 is the exit code when that is over
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    wait: Option<u64>,
}

/// Compares, and fails when they differ, repaired or not.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    output::say("comparing: the copy stands at a marker meanwhile, hosts and shipping go on");
    let Args { group, to, repair, rate, wait } = args;
    let request = VerifyRequest { to, repair, rate_bytes_per_second: rate, wait_ms: wait };
    let report = tokio::select! {
        report = service.client.verify(&group, &request) => report?,
        never = show_progress(service, &group, &request.to) => match never {},
    };
    output::done(service.json, &report, told)?;
    if report.different_bytes > 0 { Err(Failure::Logged) } else { Ok(()) }
}

/// Shows how far it is until it is dropped, which clears the line. indicatif draws only on a terminal.
async fn show_progress(service: &Service, group: &str, peer: &str) -> std::convert::Infallible {
    let line = Line(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}%  {bytes} of {total_bytes}  {msg}") {
        line.0.set_style(style);
    }
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        looks.tick().await;
        // A failed look is not worth a word here: the comparison itself tells how it ends.
        let Ok(status) = service.client.status().await else { continue };
        let found = status.groups.into_iter().find(|found| found.name == group);
        let pair = found.and_then(|found| found.pairs.into_iter().find(|pair| pair.peer == peer));
        let Some(progress) = pair.and_then(|pair| pair.verify) else { continue };
        line.0.set_length(progress.total_bytes);
        line.0.set_position(progress.done_bytes);
        line.0.set_message(progress.seconds_left.map_or_else(String::new, |left| figures::seconds(left) + " left"));
    }
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
            "find out why before you trust this copy. A comparison cannot tell which side is right: --repair copies what differs from here; when \
             the other side is the sound one, `tidemark switchover` first and repair from there"
                .into()
        });
    }
    if report.not_compared_bytes > 0 {
        let busy = figures::bytes(report.not_compared_bytes);
        lines.push(format!("{busy} were written again and again and could not be compared"));
    }
    lines.join("\n")
}
