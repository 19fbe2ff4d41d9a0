//! Finished backups: verified here, restored into a folder here, or onto volumes by the service.

use std::cell::Cell;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use anyhow::anyhow;
use tidemark_backup::restore::to_folder_telling;
use tidemark_backup::source::{self, Source, Verified};
use tidemark_common::api::backup::types::{RestoreReport, RestoreRequest, RestoreState, RestoreStatus};
use tidemark_common::api::types::Status;
use tidemark_common::plural::counted;

use super::{Restore, Service};
use crate::cli::Common;
use crate::commands::progress::{self, Interrupts};
use crate::commands::{directory, whole_path};
use crate::failure::Failure;
use crate::output::{self, figures};

/// Faults shown to people; all of them with --json.
const SHOWN: usize = 20;

/// A path is meant before a backup's name.
pub(super) fn is_here(text: &str) -> bool {
    text == "-" || text.contains('/') || Path::new(text).exists()
}

fn here(text: &str) -> Source {
    if text == "-" { Source::Input } else { Source::Path(text.into()) }
}

/// What is no file here is the name of a backup, which an appliance knows.
pub(super) fn check_named(text: &str, common: &Common) -> Result<(), Failure> {
    if is_here(text) || directory(None, common).is_ok() {
        return Ok(());
    }
    Err(Failure::Usage(format!(
        "there is no file or folder '{text}' here, and no appliance to ask for a backup of that name: correct the path, or name the \
         appliance's directory with --dir DIR or TIDEMARK_DIR"
    )))
}

/// Where the service has put a backup.
async fn find(text: &str, service: &Service) -> Result<String, Failure> {
    if is_here(text) {
        return Ok(text.to_owned());
    }
    let backup = service.client.backup(text).await?;
    if backup.to == "-" {
        return Err(Failure::Here(anyhow!(
            "the archive of backup '{text}' went to the standard output of the command that made it: name the file that it was written to \
             instead of '{text}'"
        )));
    }
    let place = backup.place();
    // Nobody writes there any more: whoever opened it would wait for ever.
    if std::fs::metadata(place).is_ok_and(|found| found.file_type().is_fifo()) {
        return Err(Failure::Here(anyhow!(
            "the archive of backup '{text}' went to the pipe {place}: name the file that its reader wrote instead of '{text}'"
        )));
    }
    Ok(place.to_owned())
}

/// Recomputes every digest; fails when one does not agree.
pub(super) fn verify_here(text: &str, json: bool) -> Result<(), Failure> {
    let source = here(text);
    let line = progress::reading(source.bytes());
    let found = source::verify_telling(&source, &mut |read_bytes| {
        line.0.set_position(read_bytes);
        Ok(())
    });
    drop(line);
    let found = found.map_err(|error| Failure::Here(anyhow!("{text}: {error}")))?;
    output::ended(json, &found, told, found.bad.is_empty())
}

/// The backup of this name.
pub(super) async fn verify(text: &str, service: &Service) -> Result<(), Failure> {
    verify_here(&find(text, service).await?, service.json)
}

/// Writes what it holds as files.
pub(super) fn take_out(text: &str, set: Option<&str>, folder: &Path, json: bool) -> Result<(), Failure> {
    let Source::Path(path) = here(text) else { return Err(Failure::Usage(TWICE.into())) };
    let source = Source::Path(path);
    // Read to be verified, and read again.
    let line = progress::reading(source.bytes().map(|bytes| bytes.saturating_mul(2)));
    let restored = to_folder_telling(&source, set, folder, &mut |read_bytes| line.0.set_position(read_bytes));
    drop(line);
    let restored = restored.map_err(|why| Failure::Here(anyhow!("{text}: {why}")))?;
    let (members, data_bytes) = (restored.members, restored.data_bytes);
    told_restored(json, &RestoreReport { members, data_bytes, volumes: Vec::new(), warnings: Vec::new() })
}

const TWICE: &str =
    "a restore reads the backup twice, first to verify it, so it cannot come from a pipe: save it as a file";

fn told(found: &Verified) -> String {
    let manifest = &found.manifest;
    let bytes = figures::bytes(manifest.data_bytes());
    let as_of: Vec<_> = manifest
        .moments
        .iter()
        .map(|moment| format!("group {} at marker {}, {}", moment.group, moment.marker, figures::time(moment.time)))
        .collect();
    let as_of = as_of.join("; ");
    if found.bad.is_empty() {
        let members = counted(found.good as u64, "member");
        return format!("backup '{}' ({as_of}) is as it was made: {members}, {bytes}", manifest.name);
    }
    let mut lines = vec![format!(
        "backup '{}' ({as_of}) is damaged: {} of {}",
        manifest.name,
        found.bad.len(),
        counted(manifest.members.len() as u64, "member")
    )];
    lines.extend(found.bad.iter().take(SHOWN).map(|(member, what)| format!("  {member}: {what}")));
    lines.join("\n")
}

pub(super) async fn restore(args: Restore, service: &Service) -> Result<(), Failure> {
    let Some(backup) = args.backup else {
        return give_up(&args.give_up.unwrap_or_default(), service).await;
    };
    let found = find(&backup, service).await?;
    if found == "-" {
        return Err(Failure::Usage(TWICE.into()));
    }
    if let Some(folder) = args.into {
        return take_out(&found, args.set.as_deref(), &folder, service.json);
    }
    let request = RestoreRequest { from: whole_path(Path::new(&found))?, set: args.set, onto: args.onto };
    if args.cancel {
        let ended = service.client.restore_cancel(&request).await?;
        return output::done(service.json, &ended, cancelled);
    }
    let mut interrupts = Interrupts::listen()?;
    let is_warned = Cell::new(false);
    let begun = |status: &Status| -> Vec<String> {
        let Some(restore) = status.restores.iter().find(|restore| restore.request() == request) else {
            return Vec::new();
        };
        is_warned.set(is_warned.get() || !restore.warnings.is_empty());
        let words = "verifying the backup first, then writing as a host would: volumes of a group are replicated";
        std::iter::once(words.to_owned()).chain(restore.warnings.iter().map(|warning| warned(warning))).collect()
    };
    // Of what comes from a tape it is not known how much that is, until all of it was verified.
    let find = |status: Status| Some(under_way(status, &request)?.progress).filter(|told| told.total_bytes > 0);
    let broken_off = tokio::select! {
        biased;
        report = service.client.restore(&request) => {
            let report = report?;
            // It was over before anybody looked.
            if !service.json && !is_warned.get() {
                report.warnings.iter().for_each(|warning| output::say(&warned(warning)));
            }
            return told_restored(service.json, &report);
        }
        broken_off = interrupts.next() => broken_off,
        never = progress::show(service, begun, find) => match never {},
    };
    // Who is in a hurry need not wait for the word.
    tokio::select! {
        status = service.client.status() => output::say(&goes_on(status.ok(), &request)),
        _ = interrupts.next() => {}
    }
    Err(broken_off)
}

/// What the service says of copies that may not follow.
fn warned(warning: &str) -> String {
    format!("warning: {warning}")
}

fn under_way(status: Status, request: &RestoreRequest) -> Option<RestoreStatus> {
    status.restores.into_iter().find(|restore| restore.request() == *request)
}

/// Of a restore whose command was broken off: what becomes of it, as far as the service tells.
fn goes_on(status: Option<Status>, request: &RestoreRequest) -> String {
    let from = &request.from;
    let Some(status) = status else {
        return format!(
            "interrupted: it is not known whether the restore from {from} goes on; `tidemark status` shows it when the service answers again"
        );
    };
    let Some(restore) = under_way(status, request) else {
        return format!(
            "interrupted: no such restore from {from} is under way in the service; `tidemark status` shows volumes that are half restored"
        );
    };
    let onto = if restore.volumes.is_empty() { String::new() } else { format!(" onto {}", restore.volumes.join(", ")) };
    let left = match restore.state {
        RestoreState::Verifying => "before anything is changed",
        RestoreState::Writing | RestoreState::Done => "and leaves them half restored, closed to hosts",
    };
    format!(
        "interrupted: the restore from {from}{onto} goes on in the service. `tidemark status` shows its progress; `{}` ends it, {left}",
        output::cancel_command(request)
    )
}

fn cancelled(ended: &RestoreStatus) -> String {
    let (from, volumes) = (&ended.from, ended.volumes.join(", "));
    match ended.state {
        RestoreState::Verifying => format!("the restore from {from} is ended: nothing was changed"),
        RestoreState::Writing | RestoreState::Done => format!(
            "the restore from {from} is ended: what is in {volumes} now is neither what was there nor the backup, and stays closed to \
             hosts: restore again, or open a volume as it is with `tidemark backup restore --give-up VOLUME`"
        ),
    }
}

async fn give_up(volume: &str, service: &Service) -> Result<(), Failure> {
    let volume = service.client.restore_give_up(volume).await?;
    output::done(service.json, &volume, |volume| {
        format!("volume '{}' is open to hosts as it is: partly the backup, partly what was there before", volume.name)
    })
}

fn told_restored(json: bool, report: &RestoreReport) -> Result<(), Failure> {
    output::done(json, report, |report| {
        let onto =
            if report.volumes.is_empty() { String::new() } else { format!(" onto {}", report.volumes.join(", ")) };
        format!("restored {}, {}{onto}", counted(report.members as u64, "member"), figures::bytes(report.data_bytes))
    })
}
