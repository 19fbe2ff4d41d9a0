//! `tidemark drill`: failovers rehearsed on clones.

mod attach;
pub(crate) mod check;
mod confines;
pub(crate) mod guard;
mod postgresql;
mod report;

use std::path::PathBuf;

use clap::Subcommand;
use tidemark_common::api::types::{DrillReport, DrillResult, DrillRun, DrillSchedule, GroupDrills};
use tidemark_common::clock::{Clock, SystemClock};

use super::Service;
use crate::cli::{self, name};
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark drill ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Rehearse now; exit 1 when it fails
    Run {
        /// The group
        #[arg(value_parser = name)]
        group: String,
        /// A marker that is held; the newest by default
        #[arg(long, value_name = "N")]
        marker: Option<u64>,
        #[command(flatten)]
        check: Check,
    },
    /// List the rehearsals so far, newest first
    List {
        /// Only those of this group
        #[arg(value_parser = name)]
        group: Option<String>,
    },
    /// Show one, with what its check said
    Show {
        /// Its number
        id: u64,
    },
    /// Write the report of one, an HTML page, to stdout
    Report {
        /// Its number
        id: u64,
    },
    /// Rehearse again and again
    Schedule {
        /// The group
        #[arg(value_parser = name)]
        group: String,
        /// Between two begins
        #[arg(long, value_name = "DURATION", value_parser = cli::milliseconds)]
        every: u64,
        #[command(flatten)]
        check: Check,
    },
    /// End the schedule of a group
    Unschedule {
        /// The group
        #[arg(value_parser = name)]
        group: String,
    },
    /// Ready checks, to be named in --check
    #[command(subcommand)]
    Check(check::Command),
    /// Run a check and end whatever it starts; not for people
    #[command(hide = true)]
    Guard {
        /// Its folder
        folder: PathBuf,
        /// What the shell is to do
        command: String,
    },
}

/// What is done with the clone.
#[derive(Debug, clap::Args)]
pub(crate) struct Check {
    /// A command for the shell, which finds the exports in TIDEMARK_DRILL_NBD_VOLUME and passes with exit code 0;
    /// without it the exports are only opened and read
    #[arg(long = "check", value_name = "COMMAND")]
    command: Option<String>,
    /// Kill the check after this long
    #[arg(long, value_name = "DURATION", value_parser = cli::milliseconds, default_value = "10m")]
    timeout: u64,
    /// Mount the volumes' file systems for the check, at TIDEMARK_DRILL_MOUNT_VOLUME
    #[arg(long, requires = "command")]
    mount: bool,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let client = &service.client;
    match command {
        Command::Run { group, marker, check: Check { command, timeout, mount } } => {
            output::say("rehearsing on a clone: replication goes on");
            let request = DrillRun { marker, check: command, timeout_ms: timeout, mount };
            let report = client.drill_run(&group, &request).await?;
            output::done(service.json, &report, told)?;
            if report.result == DrillResult::Passed { Ok(()) } else { Err(Failure::Logged) }
        }
        Command::List { group } => {
            let mut drills = client.drills().await?;
            drills.retain(|drill| group.as_ref().is_none_or(|group| drill.group == *group));
            output::answer(service.json, &drills, |drills: &Vec<DrillReport>| Ok(table(drills)))
        }
        Command::Show { id } => {
            let report = client.drill(id).await?;
            output::answer(service.json, &report, |report: &DrillReport| Ok(told(report)))
        }
        Command::Report { id } => {
            let report = client.drill(id).await?;
            output::bytes(report::page(&report, SystemClock::new().wall()).as_bytes())
        }
        Command::Schedule { group, every, check: Check { command, timeout, mount } } => {
            let request = DrillSchedule { every_ms: every, check: command, timeout_ms: timeout, mount };
            let scheduled = client.drill_schedule(&group, &request).await?;
            output::done(service.json, &scheduled, |scheduled: &GroupDrills| {
                let every = figures::seconds(scheduled.every_seconds.unwrap_or(0.0));
                format!(
                    "group '{}' is rehearsed every {every}; `tidemark drill list` shows how that goes",
                    scheduled.group
                )
            })
        }
        Command::Unschedule { group } => {
            client.drill_unschedule(&group).await?;
            let answer = serde_json::json!({ "group": group });
            output::done(service.json, &answer, |_| format!("group '{group}' is not rehearsed by itself any more"))
        }
        Command::Check(_) | Command::Guard { .. } => Ok(()),
    }
}

fn result(report: &DrillReport) -> &'static str {
    match report.result {
        DrillResult::Running => "running",
        DrillResult::Passed => "passed",
        DrillResult::Failed => "failed",
    }
}

fn seconds(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), figures::seconds)
}

fn told(report: &DrillReport) -> String {
    let mut lines = vec![format!(
        "drill {} of group '{}' at marker {} {}: RTO {}, RPO {}, took {}",
        report.id,
        report.group,
        report.marker,
        result(report),
        seconds(report.rto_seconds),
        seconds(report.rpo_seconds),
        figures::seconds(report.took_seconds)
    )];
    lines.extend(report.reason.iter().map(|reason| format!("  {reason}")));
    if let Some(check) = &report.check {
        let code = report.check_exit_code.map_or_else(|| "none".into(), |code| code.to_string());
        lines.push(format!("  check: {check}\n  exit code: {code}"));
    }
    lines.extend(report.output.lines().map(|line| format!("  | {line}")));
    lines.join("\n")
}

fn table(drills: &[DrillReport]) -> String {
    let mut table = Table::new(&[">DRILL", "GROUP", "STARTED", "RESULT", ">MARKER", ">RTO", ">RPO", ">TOOK", "REASON"]);
    for drill in drills {
        table.row(&[
            &drill.id.to_string(),
            &drill.group,
            &figures::time(drill.started),
            result(drill),
            &drill.marker.to_string(),
            &seconds(drill.rto_seconds),
            &seconds(drill.rpo_seconds),
            &figures::seconds(drill.took_seconds),
            drill.reason.as_deref().unwrap_or(""),
        ]);
    }
    table.to_string()
}
