//! A restore onto volumes that is under way: how far it is, what it does to what, and what ends it.

use tidemark_common::api::backup::types::{RestoreState, RestoreStatus};

use super::{VALUE_COLUMN, labelled, pair};
use crate::output::text::{Line, Style, wrapped};
use crate::output::{cancel_command, figures};

/// The lines.
pub(super) fn block(restore: &RestoreStatus, columns: usize) -> Vec<Line> {
    let progress = &restore.progress;
    let mut lines = match progress.total_bytes {
        0 => {
            let read = format!("{} read", figures::bytes(progress.done_bytes));
            vec![Line::indented(2).with(Style::Faint, "restore").to(VALUE_COLUMN).plain(read)]
        }
        _ => vec![pair::copy("restore", progress)],
    };
    let (from, volumes) = (&restore.from, restore.volumes.join(", "));
    let doing = match restore.state {
        RestoreState::Verifying => format!("{from} is being verified, and nothing is changed yet"),
        RestoreState::Writing | RestoreState::Done => {
            format!("{volumes} from {from}: closed to hosts until all of it is written")
        }
    };
    let said = format!("{doing}. `{}` ends it", cancel_command(&restore.request()));
    lines.extend(labelled("", Style::Plain, &wrapped(&said, columns)));
    lines.extend(restore.warnings.iter().flat_map(|told| labelled("", Style::Warning, &wrapped(told, columns))));
    lines
}
