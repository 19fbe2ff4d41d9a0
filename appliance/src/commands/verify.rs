//! `tidemark verify`: is the copy what it says it is?

use tidemark_common::api::types::{ComparisonState, PairStatus, Status, VerifyAction, VerifyReport, VerifyRequest};

use super::Service;
use super::progress::{self, Interrupts};
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
    /// Copy differing regions again, from this side to the copy
    #[arg(long)]
    repair: bool,
    /// Compare at most this many bytes of the volumes per second, as in 50MiB [default: no limit]
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rate: Option<u64>,
    /// How long to wait for a pair that is not connected, instead of ending at once; then the exit code is 4
    #[arg(long, value_name = "DURATION", value_parser = milliseconds)]
    wait: Option<u64>,
    /// Begin, or go on with --resume, and do not wait: the service compares, and `tidemark status` shows how far it is and what it finds
    #[arg(long, conflicts_with_all = ["suspend", "cancel"])]
    background: bool,
    /// Go on where the last comparison stopped, wait for one that runs, or print the report of one that has ended
    #[arg(long, group = "action")]
    resume: bool,
    /// Stop the running comparison; it keeps its place until --resume
    #[arg(long, group = "action", conflicts_with_all = ["repair", "rate", "wait"])]
    suspend: bool,
    /// Stop the last comparison and forget it
    #[arg(long, group = "action", conflicts_with_all = ["repair", "rate", "wait"])]
    cancel: bool,
}

impl Args {
    const fn action(&self) -> VerifyAction {
        match (self.resume, self.suspend, self.cancel) {
            (true, ..) => VerifyAction::Resume,
            (_, true, _) => VerifyAction::Suspend,
            (.., true) => VerifyAction::Cancel,
            _ => VerifyAction::Begin,
        }
    }
}

/// Compares, and fails when they differ, repaired or not.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let action = args.action();
    let Args { group, to, repair, rate, wait, background, .. } = args;
    let request = VerifyRequest { to, repair, rate_bytes_per_second: rate, wait_ms: wait, action, background };
    if matches!(action, VerifyAction::Suspend | VerifyAction::Cancel) {
        let report = service.client.verify(&group, &request).await?;
        return output::done(service.json, &report, broken_off);
    }
    if background {
        let report = service.client.verify(&group, &request).await?;
        // One that had ended is told of as ever.
        if !report.complete {
            return output::done(service.json, &report, goes_on);
        }
        return output::ended(service.json, &report, told, report.different_bytes == 0);
    }
    let begun = |status: &Status| -> Vec<String> {
        let comparison = pair_of(status, &group, &request.to).and_then(|pair| pair.comparison.as_ref());
        let runs = comparison.filter(|comparison| comparison.state == ComparisonState::Runs);
        runs.map(|_| "comparing: the copy's volumes stay at one marker meanwhile; hosts and shipping go on".to_owned())
            .into_iter()
            .collect()
    };
    let find = |status: Status| pair_of(&status, &group, &request.to)?.verify;
    let mut interrupts = Interrupts::listen()?;
    let report = tokio::select! {
        biased;
        report = service.client.verify(&group, &request) => report?,
        broken_off = interrupts.next() => {
            let of = format!("{group} --to {}", request.to);
            output::say(&format!(
                "interrupted: the comparison is stopped and keeps its place, unless somebody else waits for its report. `tidemark verify \
                 {of} --resume` goes on, `tidemark verify {of} --cancel` forgets it"
            ));
            return Err(broken_off);
        }
        never = progress::show(service, begun, find) => match never {},
    };
    output::ended(service.json, &report, told, report.different_bytes == 0)
}

/// What could not be compared is not the same either.
const fn are_the_same(report: &VerifyReport) -> bool {
    report.different_bytes == 0 && report.not_compared_bytes == 0
}

/// The pair that is compared.
fn pair_of<'a>(status: &'a Status, group: &str, peer: &str) -> Option<&'a PairStatus> {
    let group = status.groups.iter().find(|found| found.name == group)?;
    group.pairs.iter().find(|pair| pair.peer == peer)
}

/// Of one that nobody waits for.
fn goes_on(report: &VerifyReport) -> String {
    let VerifyReport { group, peer, .. } = report;
    format!(
        "group '{group}' is being compared with its copy on '{peer}': `tidemark status` shows how far that is, `tidemark verify {group} --to {peer} \
         --resume` waits for the report, and `--suspend` or `--cancel` breaks it off"
    )
}

/// Of one that was broken off: what it had found.
fn broken_off(report: &VerifyReport) -> String {
    let compared = figures::bytes(report.compared_bytes);
    let becomes = if report.complete { "had ended, and is forgotten" } else { "is broken off" };
    let mut lines = vec![format!(
        "the comparison of group '{}' with its copy on '{}' {becomes}: {compared} compared, {} differ",
        report.group,
        report.peer,
        figures::bytes(report.different_bytes)
    )];
    lines.extend(differences(report));
    lines.join("\n")
}

/// "marker 7", or "markers 3 to 7".
fn markers(report: &VerifyReport) -> String {
    match (report.from_marker, report.marker) {
        (from, to) if from == to || from == 0 => format!("marker {to}"),
        (from, to) => format!("markers {from} to {to}"),
    }
}

fn differences(report: &VerifyReport) -> Vec<String> {
    let shown = report.differences.iter().take(SHOWN);
    let mut lines: Vec<String> = shown
        .map(|found| format!("  volume {}, bytes {} to {}", found.volume, found.offset, found.offset + found.length))
        .collect();
    if report.differences.len() > SHOWN {
        lines.push(format!("  and {} more ranges: --json lists them", report.differences.len() - SHOWN));
    }
    lines
}

fn told(report: &VerifyReport) -> String {
    let (group, peer, markers) = (&report.group, &report.peer, markers(report));
    let compared = figures::bytes(report.compared_bytes);
    let took = figures::seconds(report.took_seconds);
    let mut lines = Vec::new();
    if report.not_compared_bytes > 0 {
        let busy = figures::bytes(report.not_compared_bytes);
        lines.push(format!(
            "{busy} of group '{group}' could not be compared with its copy on '{peer}', because hosts kept writing them. Compare when they \
             write less"
        ));
    }
    if are_the_same(report) {
        lines.push(format!("group '{group}' and its copy on '{peer}' are the same at {markers}: {compared} in {took}"));
    } else if report.different_bytes == 0 {
        let rest = figures::bytes(report.compared_bytes.saturating_sub(report.not_compared_bytes));
        lines.push(format!("all else, {rest}, is the same at {markers}, in {took}"));
    } else {
        let different = figures::bytes(report.different_bytes);
        lines.push(format!("group '{group}' and its copy on '{peer}' differ at {markers}: {different} of {compared}"));
        lines.extend(differences(report));
        lines.push(if report.repaired {
            "what differs is being copied again: `tidemark status --watch` shows it; run `tidemark verify` afterwards to check"
                .into()
        } else {
            "find out why before you trust this copy. A comparison cannot tell which side is right: --repair copies what differs from here; \
             if the other side is the right one, run `tidemark switchover` first and repair from there"
                .into()
        });
        let left = report.different_bytes.saturating_sub(report.repaired_bytes);
        if report.repaired && left > 0 {
            lines.push(format!(
                "{} of it was not copied: when it was compared once more, it was the same or was being written. Run `tidemark verify` again \
                 to check",
                figures::bytes(left)
            ));
        }
    }
    if report.resumed > 0 {
        let times = if report.resumed == 1 { "once".into() } else { format!("{} times", report.resumed) };
        lines.push(format!(
            "it was interrupted {times}: each region was compared at one of these markers, not all at the same"
        ));
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(not_compared_bytes: u64, different_bytes: u64) -> VerifyReport {
        VerifyReport {
            group: "g".into(),
            peer: "west".into(),
            marker: 7,
            from_marker: 7,
            compared_bytes: 1 << 30,
            different_bytes,
            differences: Vec::new(),
            not_compared_bytes,
            repaired: false,
            repaired_bytes: 0,
            took_seconds: 1.0,
            complete: true,
            resumed: 0,
        }
    }

    #[test]
    fn a_comparison_that_had_ended_is_not_said_to_be_broken_off() {
        let ended = broken_off(&report(0, 0));
        assert!(ended.contains("had ended, and is forgotten: 1 GiB compared, 0 B differ"), "{ended}");
        let stands = broken_off(&VerifyReport { complete: false, ..report(0, 0) });
        assert!(stands.contains("is broken off"), "{stands}");
    }

    #[test]
    fn what_could_not_be_compared_is_said_first_and_not_called_the_same() {
        let busy = report(128 << 10, 0);
        let said = told(&busy);
        assert!(said.starts_with("128 KiB") && said.contains("could not be compared"), "{said}");
        assert!(!said.contains("are the same") && said.contains("all else"), "{said}");
        assert!(!are_the_same(&busy));
        let same = report(0, 0);
        assert!(are_the_same(&same) && told(&same).contains("are the same at marker 7"));
        let both = told(&report(128 << 10, 64 << 10));
        assert!(both.starts_with("128 KiB") && both.contains("differ at marker 7"), "{both}");
    }
}
