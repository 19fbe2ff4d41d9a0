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
    /// Run a drill now; exits with 1 when it fails. Interrupting the command ends the drill
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
    /// End the running drill of a group, also a scheduled one, with its check, its clone, and whatever is mounted
    Cancel {
        /// The group
        #[arg(value_parser = name)]
        group: String,
    },
    /// List drills, newest first, and those that are running
    List {
        /// Only those of this group
        #[arg(value_parser = name)]
        group: Option<String>,
    },
    /// Show a drill, with the output of its check
    Show {
        /// Its number
        id: u64,
    },
    /// Write the report of a drill, an HTML page, to stdout
    Report {
        /// Its number
        id: u64,
    },
    /// Run a drill at regular intervals; replaces the group's previous schedule
    Schedule {
        /// The group
        #[arg(value_parser = name)]
        group: String,
        /// Time from the start of one drill to the start of the next
        #[arg(long, value_name = "DURATION", value_parser = cli::milliseconds)]
        every: u64,
        #[command(flatten)]
        check: Check,
    },
    /// End the schedule of a group; a drill that is running goes on
    Unschedule {
        /// The group
        #[arg(value_parser = name)]
        group: String,
    },
    /// Ready-made checks, for use in --check
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
    /// A shell command that passes by exiting with 0. The variable TIDEMARK_DRILL_NBD_PG_DATA has the URI of volume pg-data, and
    /// TIDEMARK_DRILL_EXPORTS has all URIs. Without a check the exports are only opened and read
    #[arg(long = "check", value_name = "COMMAND")]
    command: Option<String>,
    /// Time limit for the first reads and the check together; the check is killed when it is over
    #[arg(long, value_name = "DURATION", value_parser = cli::milliseconds, default_value = "10m")]
    timeout: u64,
    /// Mount the volumes' file systems for the check; the variable TIDEMARK_DRILL_MOUNT_PG_DATA names where volume pg-data is mounted
    #[arg(long, requires = "command")]
    mount: bool,
    /// Mount this volume alone; may be given several times [default: all that the clone has]
    #[arg(long = "volume", value_name = "VOLUME", value_parser = name, requires = "mount")]
    volumes: Vec<String>,
}

impl Check {
    /// What the service is asked for: the command, its time, and whether all volumes are mounted for it. Some of them alone are what a ready check
    /// mounts.
    fn asked(self) -> (Option<String>, u64, bool) {
        let Self { command, timeout, mount, volumes } = self;
        match command {
            // One that asks nothing stays as it is, for the service to refuse.
            Some(command) if !volumes.is_empty() && !command.trim().is_empty() => {
                (Some(with_mounted(&volumes, &command)), timeout, false)
            }
            command => (command, timeout, mount),
        }
    }
}

/// A check that runs another one with some volumes mounted.
fn with_mounted(volumes: &[String], command: &str) -> String {
    let named: String = volumes.iter().map(|volume| format!("--volume {volume} ")).collect();
    format!("\"$TIDEMARK\" drill check mounted {named}-- '{}'", command.replace('\'', "'\\''"))
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let client = &service.client;
    match command {
        Command::Run { group, marker, check } => {
            let (check, timeout_ms, mount) = check.asked();
            rehearse(service, &group, &DrillRun { marker, check, timeout_ms, mount }).await
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
        Command::Schedule { group, every, check } => {
            let (check, timeout_ms, mount) = check.asked();
            let request = DrillSchedule { every_ms: every, check, timeout_ms, mount };
            let before = drills_of(service, &group).await?.and_then(|drills| drills.every_seconds);
            let scheduled = client.drill_schedule(&group, &request).await?;
            output::done(service.json, &scheduled, |scheduled: &GroupDrills| {
                let every = figures::seconds(scheduled.every_seconds.unwrap_or(0.0));
                let instead = before.map_or_else(String::new, |before| {
                    format!(", which replaces the schedule every {} and its check", figures::seconds(before))
                });
                format!(
                    "a drill of group '{}' runs every {every}{instead}; `tidemark drill list` shows the results",
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
                format!("group '{group}' has no scheduled drills any more{}", if running { &last } else { "" })
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
        "interrupted: the drill of group '{group}' is being ended, with its check and its clone. Interrupt again to leave that to the service"
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
                "the service ends the drill of group '{group}': `tidemark drill list` shows when that is done"
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(command: &str, volumes: &[&str]) -> Check {
        let volumes = volumes.iter().map(|volume| (*volume).to_owned()).collect();
        Check { command: Some(command.into()), timeout: 5000, mount: true, volumes }
    }

    /// A log without a file system kept `--mount` from all the others.
    #[test]
    fn some_volumes_alone_are_mounted_for_a_check() {
        let text = "test \"$(cat 'a file')\" = it";
        assert_eq!(check(text, &[]).asked(), (Some(text.into()), 5000, true));
        let (asked, timeout, all) = check(text, &["data", "u.fuse"]).asked();
        assert_eq!((timeout, all), (5000, false));
        let asked = asked.unwrap();
        // The shell gives the command on as it is.
        let tool = "TIDEMARK=/bin/echo; export TIDEMARK; ";
        let output = std::process::Command::new("/bin/sh").args(["-c", &format!("{tool}{asked}")]).output().unwrap();
        let said = String::from_utf8(output.stdout).unwrap();
        assert_eq!(said, format!("drill check mounted --volume data --volume u.fuse -- {text}\n"));
    }

    /// It would pass, whatever is mounted: the service refuses it as it is.
    #[test]
    fn a_check_that_asks_nothing_is_not_hidden_in_another() {
        assert_eq!(check(" ", &["data"]).asked().0.as_deref(), Some(" "));
    }
}
