//! `tidemark drill`: failovers rehearsed on clones.

mod attach;
pub(crate) mod check;
mod confines;
pub(crate) mod guard;
mod postgresql;
mod report;

use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use clap::Subcommand;
use tidemark_common::api::types::{DrillReport, DrillResult, DrillRun, DrillSchedule, GroupDrills, Status};
use tidemark_common::clock::{Clock, SystemClock};
use tokio::time::timeout;

use super::Service;
use super::progress::{self, Interrupts};
use crate::cli::{self, name};
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark drill ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Rehearse now; exit 1 when it fails. Breaking the command off ends the rehearsal
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
    /// End the rehearsal of a group that is under way, also a scheduled one: its check, its clone, and whatever is mounted
    Cancel {
        /// The group
        #[arg(value_parser = name)]
        group: String,
    },
    /// List the rehearsals so far, newest first, and those under way
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
    /// Rehearse again and again; takes the place of the group's schedule so far
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
    /// End the schedule of a group; a rehearsal under way goes on
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
    /// A command for the shell, which passes with exit code 0. It finds the URI of volume pg-data in TIDEMARK_DRILL_NBD_PG_DATA, and
    /// all of them in TIDEMARK_DRILL_EXPORTS; without a check the exports are only opened and read
    #[arg(long = "check", value_name = "COMMAND")]
    command: Option<String>,
    /// The first reads and the check may take this long together; then the check is killed
    #[arg(long, value_name = "DURATION", value_parser = cli::milliseconds, default_value = "10m")]
    timeout: u64,
    /// Mount the volumes' file systems for the check: TIDEMARK_DRILL_MOUNT_PG_DATA is where that of volume pg-data is
    #[arg(long, requires = "command")]
    mount: bool,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let client = &service.client;
    match command {
        Command::Run { group, marker, check: Check { command, timeout, mount } } => {
            rehearse(service, &group, &DrillRun { marker, check: command, timeout_ms: timeout, mount }).await
        }
        Command::Cancel { group } => {
            let report = client.drill_cancel(&group).await?;
            output::done(service.json, &report, told)
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
            let before = drills_of(service, &group).await?.and_then(|drills| drills.every_seconds);
            let scheduled = client.drill_schedule(&group, &request).await?;
            output::done(service.json, &scheduled, |scheduled: &GroupDrills| {
                let every = figures::seconds(scheduled.every_seconds.unwrap_or(0.0));
                let instead = before.map_or_else(String::new, |before| {
                    format!(", in place of the schedule before, every {}, and its check", figures::seconds(before))
                });
                format!(
                    "group '{}' is rehearsed every {every}{instead}; `tidemark drill list` shows how that goes",
                    scheduled.group
                )
            })
        }
        Command::Unschedule { group } => {
            client.drill_unschedule(&group).await?;
            // Whatever begins by a schedule has begun before it was ended.
            let running = drills_of(service, &group).await?.is_some_and(|drills| drills.running);
            let answer = serde_json::json!({ "group": group, "running": running });
            output::done(service.json, &answer, |_| {
                let last = format!(". A drill of it is under way: `tidemark drill cancel {group}` ends it");
                format!("group '{group}' is not rehearsed by itself any more{}", if running { &last } else { "" })
            })
        }
        Command::Check(_) | Command::Guard { .. } => Ok(()),
    }
}

/// Between two orders to end a drill.
const ASK_AGAIN: Duration = Duration::from_millis(100);

/// To its end, which whoever breaks the command off brings about: nobody wants to know any more.
async fn rehearse(service: &Service, group: &str, request: &DrillRun) -> Result<(), Failure> {
    let mut interrupts = Interrupts::listen()?;
    let begun = |status: &Status| -> Vec<String> {
        let is_begun = status.drills.iter().any(|drills| drills.group == group && drills.running);
        is_begun.then(|| "rehearsing on a clone: replication goes on".to_owned()).into_iter().collect()
    };
    let mut running = pin!(service.client.drill_run(group, request));
    let broken_off = tokio::select! {
        biased;
        report = &mut running => {
            let report = report?;
            return output::ended(service.json, &report, told, report.result == DrillResult::Passed);
        }
        broken_off = interrupts.next() => broken_off,
        never = progress::show(service, begun, |_| None) => match never {},
    };
    output::say(&format!(
        "broken off: the drill of group '{group}' is being ended, with its check and its clone. Once more leaves that to the service"
    ));
    let ended = async {
        loop {
            // Refused when it has just ended, or not begun: its own answer tells.
            let _ = service.client.drill_cancel(group).await;
            if let Ok(report) = timeout(ASK_AGAIN, &mut running).await {
                break report;
            }
        }
    };
    tokio::select! {
        report = ended => Err(output::not_well(service.json, &report?, told, broken_off)),
        _ = interrupts.next() => {
            output::say(&format!(
                "the service goes on ending the drill of group '{group}': `tidemark drill list` shows it when nothing of it is left"
            ));
            Err(broken_off)
        }
    }
}

/// What the service says of a group's drills, when there is such a group.
async fn drills_of(service: &Service, group: &str) -> Result<Option<GroupDrills>, Failure> {
    let drills = service.client.status().await?.drills;
    Ok(drills.into_iter().find(|drills| drills.group == group))
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
    let took = if report.result == DrillResult::Running { "so far" } else { "took" };
    let mut lines = vec![format!(
        "drill {} of group '{}' at marker {} {}: RTO {}, RPO {}, {took} {}",
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
    table.or("no drill has been run: `tidemark drill run GROUP` rehearses a failover")
}
