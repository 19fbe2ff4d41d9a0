//! `tidemark wait`: until a secondary has a marker.

use clap::ValueEnum;
use indicatif::{ProgressBar, ProgressStyle};
use tidemark_common::api::types::{GroupStatus, Role, Status, Wait, WaitFor};
use tokio::time::{MissedTickBehavior, interval};

use super::Service;
use super::progress::{LOOK_INTERVAL, Line};
use crate::cli::{milliseconds, name};
use crate::failure::Failure;
use crate::output;

/// `tidemark wait GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// The peer [default: all pairs; on a secondary, this side]
    #[arg(long, value_name = "PEER", value_parser = name)]
    to: Option<String>,
    /// The marker [default: the newest now]
    #[arg(long, value_name = "N")]
    marker: Option<u64>,
    /// received: the secondary has stored it durably and could take over at it; applied: it is written to the copy volumes
    #[arg(long = "for", value_enum, default_value_t = What::Applied)]
    what: What,
    /// How long to wait at most; then the exit code is 4
    #[arg(long, value_name = "DURATION", value_parser = milliseconds, default_value = "30s")]
    timeout: u64,
}

/// `--for`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum What {
    Received,
    Applied,
}

impl From<What> for WaitFor {
    fn from(what: What) -> Self {
        match what {
            What::Received => Self::Received,
            What::Applied => Self::Applied,
        }
    }
}

/// Waits, with a line of progress on a terminal.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let request = Wait { to: args.to, marker: args.marker, wait_for: args.what.into(), timeout_ms: args.timeout };
    let marker = tokio::select! {
        outcome = service.client.wait(&args.group, &request) => outcome?,
        never = show_progress(service, &args.group, &request) => match never {},
    };
    output::done(service.json, &marker, |marker| {
        let what = match request.wait_for {
            WaitFor::Received => "received",
            WaitFor::Applied => "applied",
        };
        let asked = request.marker.unwrap_or(marker.number);
        let known = if asked == marker.number {
            String::new()
        } else {
            format!("; its own time is no longer known: the oldest later marker that is known is {}", marker.number)
        };
        format!("marker {asked} of '{}' is {what}{known}", args.group)
    })
}

/// Shows how far the pairs are until it is dropped, which clears the line.
async fn show_progress(service: &Service, group: &str, request: &Wait) -> std::convert::Infallible {
    let line = Line(ProgressBar::new_spinner());
    if let Ok(style) = ProgressStyle::with_template("{spinner} {msg} ({elapsed})") {
        line.0.set_style(style);
    }
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        looks.tick().await;
        // A failed look is not worth a word here: the wait itself tells how it ends.
        if let Ok(status) = service.client.status().await {
            line.0.set_message(progress(&status, group, request));
            line.0.tick();
        }
    }
}

fn progress(status: &Status, group: &str, request: &Wait) -> String {
    let Some(group) = status.groups.iter().find(|candidate| candidate.name == group) else {
        return format!("waiting for '{group}'");
    };
    let wanted = request.marker.map_or_else(|| "the newest marker".into(), |marker| format!("marker {marker}"));
    let sides: Vec<String> = sides(group, request);
    format!("waiting for {wanted} of '{}': {}", group.name, sides.join(", "))
}

fn sides(group: &GroupStatus, request: &Wait) -> Vec<String> {
    let wanted = |peer: &str| request.to.as_deref().is_none_or(|to| to == peer);
    let side = |name: &str, received: u64, applied: u64| match request.wait_for {
        WaitFor::Received => format!("{name} has received {received}"),
        WaitFor::Applied => format!("{name} has applied {applied}"),
    };
    let pairs = group.pairs.iter().filter(|pair| group.role != Role::Primary || wanted(&pair.peer));
    pairs
        .map(|pair| {
            let name = if group.role == Role::Primary { pair.peer.as_str() } else { "this side" };
            side(name, pair.received_marker.min(pair.permitted_marker), pair.applied_marker)
        })
        .collect()
}
