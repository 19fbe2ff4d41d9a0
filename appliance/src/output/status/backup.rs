//! A backup that is under way: how far it is, where it goes, and what ends it.

use tidemark_common::api::backup::types::{BackupInfo, BackupState};
use tidemark_common::api::types::CopyProgress;

use super::{VALUE_COLUMN, labelled, pair};
use crate::output::figures;
use crate::output::text::{Line, Style, wrapped};

/// The lines.
pub(super) fn block(backup: &BackupInfo, columns: usize) -> Vec<Line> {
    let BackupInfo { name, to, progress: told, .. } = backup;
    let (first, doing) = if backup.state == BackupState::Copying {
        let progress = CopyProgress {
            done_bytes: told.done_bytes,
            total_bytes: told.total_bytes,
            bytes_per_second: told.bytes_per_second,
            seconds_left: told.seconds_left,
        };
        (pair::copy("backup", &progress), "is being copied")
    } else {
        let waits = format!("{} to copy", figures::bytes(told.total_bytes));
        (Line::indented(2).with(Style::Faint, "backup").to(VALUE_COLUMN).plain(waits), "waits to be copied")
    };
    let to = if to == "-" { "the standard output of who asked for it" } else { to.as_str() };
    let mut said = format!("{name} {doing} to {to}. `tidemark backup cancel {name}` ends it");
    if let Some(reason) = &backup.reason {
        said = format!("{said}. {reason}");
    }
    let mut lines = vec![first];
    lines.extend(labelled("", Style::Plain, &wrapped(&said, columns)));
    if let Some(seconds) = told.stalled_seconds {
        let stalled = format!("its target has taken nothing for {}: see to it", figures::seconds(seconds));
        lines.extend(labelled("", Style::Bad, &wrapped(&stalled, columns)));
    }
    lines
}
