//! What people see of backups.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tidemark_common::api::backup::types::{BackupInfo, BackupState};

use super::Service;
use crate::commands::progress::{Interrupts, Line};
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// Between two looks at a backup.
const LOOK: Duration = Duration::from_millis(100);

pub(super) async fn list(service: &Service) -> Result<(), Failure> {
    let backups = service.client.backups().await?;
    output::answer(service.json, &backups, |backups| {
        let mut table = Table::new(&["NAME", "STATE", ">DONE", ">SIZE", "AS OF", "TO"]);
        for backup in backups {
            let total = figures::bytes(backup.progress.total_bytes);
            let as_of = backup.moments.first().map_or_else(|| "-".into(), |moment| figures::time(moment.time));
            let done = figures::percent(done(backup));
            table.row(&[&backup.name, backup.state.name(), &done, &total, &as_of, backup.place()]);
        }
        Ok(table.or("there are no backups: `tidemark backup create NAME --set SET --to TARGET` makes one"))
    })
}

fn done(backup: &BackupInfo) -> f64 {
    if backup.state == BackupState::Done {
        return 1.0;
    }
    figures::share(backup.progress.done_bytes, backup.progress.total_bytes)
}

pub(super) async fn show(service: &Service, name: &str) -> Result<(), Failure> {
    let backup = service.client.backup(name).await?;
    output::answer(service.json, &backup, |backup| Ok(described(backup)))
}

fn described(backup: &BackupInfo) -> String {
    let mut lines = vec![format!("backup {}: {}", backup.name, backup.state.name())];
    let before = if backup.state == BackupState::Done { "note" } else { "because" };
    lines.extend(backup.reason.as_ref().map(|reason| format!("  {before}: {reason}")));
    for set in &backup.sets {
        lines.push(format!("  set {}: {}", set.name, set.extents.join(", ")));
    }
    lines.push(format!("  to {}, order {}", backup.place(), backup.order));
    lines.extend(backup.at.map(|at| format!("  begins at {}", figures::time(at))));
    for moment in &backup.moments {
        lines.push(format!("  group {} at marker {}, {}", moment.group, moment.marker, figures::time(moment.time)));
    }
    let progress = &backup.progress;
    if progress.total_bytes > 0 {
        let (done, total) = (figures::bytes(progress.done_bytes), figures::bytes(progress.total_bytes));
        let mut line = format!("  {done} of {total}");
        if backup.state == BackupState::Copying {
            let left = progress.seconds_left.map_or_else(|| "?".into(), figures::seconds);
            line.push_str(&format!(", {}, {left} left", figures::rate(progress.bytes_per_second)));
            if !progress.member.is_empty() {
                line.push_str(&format!(", at {}", progress.member));
            }
        }
        lines.push(line);
    }
    if let Some(seconds) = progress.stalled_seconds {
        lines.push(format!(
            "  the target has taken nothing for {}: see to it, or `tidemark backup cancel {}`",
            figures::seconds(seconds),
            backup.name
        ));
    }
    lines.join("\n")
}

pub(super) fn created(backup: &BackupInfo) -> String {
    match (backup.state, backup.at) {
        (BackupState::Scheduled, Some(at)) => format!("backup '{}' begins at {}", backup.name, figures::time(at)),
        _ => {
            let moments: Vec<_> =
                backup.moments.iter().map(|m| format!("{} at marker {}", m.group, m.marker)).collect();
            format!(
                "backup '{}' holds {} and is being copied to {}: `tidemark backup show {}`",
                backup.name,
                moments.join(", "),
                backup.place(),
                backup.name
            )
        }
    }
}

pub(super) fn ended(backup: &BackupInfo) -> String {
    let ended = format!("backup '{}' is {}", backup.name, backup.state.name());
    let held = || format!("{ended}: {} in {}", figures::bytes(backup.progress.done_bytes), backup.place());
    match &backup.reason {
        Some(not_kept) if backup.state == BackupState::Done => format!("{}; {not_kept}", held()),
        Some(reason) => format!("{ended}: {reason}"),
        None => held(),
    }
}

/// Looks until it is over, or the command is broken off: the backup goes on then, and that is said.
pub(super) async fn follow(service: &Service, name: &str) -> Result<BackupInfo, Failure> {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        backup = follow_to_end(service, name) => backup,
        broken_off = interrupts.next() => {
            output::say(&format!(
                "interrupted: backup '{name}' goes on in the service. `tidemark backup show {name}` shows how far it is; `tidemark backup \
                 cancel {name}` ends it"
            ));
            Err(broken_off)
        }
    }
}

async fn follow_to_end(service: &Service, name: &str) -> Result<BackupInfo, Failure> {
    let Line(bar) = &Line(ProgressBar::new(0));
    let style =
        "{spinner} {msg:.bold} {wide_bar} {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta} left";
    if let Ok(style) = ProgressStyle::with_template(style) {
        bar.set_style(style);
    }
    loop {
        let backup = service.client.backup(name).await?;
        if backup.state.is_over() {
            return Ok(backup);
        }
        bar.set_length(backup.progress.total_bytes);
        bar.set_position(backup.progress.done_bytes);
        bar.set_message(match (backup.state, backup.progress.stalled_seconds) {
            (BackupState::Copying, None) => name.to_owned(),
            (BackupState::Copying, Some(_)) => format!("{name}: the target takes nothing"),
            (state, _) => format!("{name}: {}", state.name()),
        });
        tokio::time::sleep(LOOK).await;
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::api::backup::types::{BackupProgress, SetCreate};
    use tidemark_common::api::types::GroupMoment;

    use super::*;

    #[test]
    fn a_backup_is_told_in_words() {
        let progress = BackupProgress {
            done_bytes: 1 << 20,
            total_bytes: 4 << 20,
            bytes_per_second: 524_288.0,
            seconds_left: Some(6.0),
            member: "s/a".into(),
            stalled_seconds: Some(7.0),
        };
        let moment = GroupMoment { group: "g".into(), marker: 7, time: jiff::Timestamp::UNIX_EPOCH };
        let backup = BackupInfo {
            name: "b".into(),
            state: BackupState::Copying,
            reason: None,
            sets: vec![SetCreate { name: "s".into(), extents: vec!["a".into(), "b:p1".into()] }],
            order: "given".into(),
            to: "/b.tar".into(),
            place: None,
            at: None,
            rate: None,
            when_idle: false,
            while_differential: tidemark_common::api::backup::types::WhileDifferential::Merge,
            asked: jiff::Timestamp::UNIX_EPOCH,
            began: None,
            ended: None,
            moments: vec![moment],
            progress,
        };
        assert_eq!(
            described(&backup),
            "backup b: copying\n  set s: a, b:p1\n  to /b.tar, order given\n  group g at marker 7, 1970-01-01 00:00:00Z\n  \
             1 MiB of 4 MiB, 512 KiB/s, 6.0 s left, at s/a\n  the target has taken nothing for 7.0 s: see to it, or \
             `tidemark backup cancel b`"
        );
        let in_folder = BackupInfo { to: "/fold".into(), place: Some("/fold/b".into()), ..backup.clone() };
        assert!(described(&in_folder).contains("  to /fold/b, order given\n"));
        assert_eq!(
            created(&in_folder),
            "backup 'b' holds g at marker 7 and is being copied to /fold/b: `tidemark backup show b`"
        );
        let failed = BackupInfo { state: BackupState::Failed, reason: Some("the tape tore".into()), ..backup };
        assert_eq!(ended(&failed), "backup 'b' is failed: the tape tore");
        let reason = Some("3 special files left out".into());
        let done = BackupInfo { state: BackupState::Done, reason, ..failed };
        assert_eq!(ended(&done), "backup 'b' is done: 1 MiB in /b.tar; 3 special files left out");
    }
}
