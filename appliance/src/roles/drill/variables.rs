//! What a check finds in its environment.

use std::collections::BTreeMap;

use tidemark_common::api::types::{DrillRun, ImageStatus};
use tidemark_common::catalog::DrillRecord;

use crate::roles::{drill_check, drill_left};

/// What a check finds in its environment.
pub(super) fn environment(
    record: &DrillRecord,
    clone: &ImageStatus,
    folder: &std::path::Path,
    request: &DrillRun,
) -> Vec<(String, String)> {
    let program = drill_check::program().map(|path| path.display().to_string()).unwrap_or_else(|_| "tidemark".into());
    let mut all = vec![
        ("TIDEMARK".to_owned(), program),
        ("TIDEMARK_DRILL".to_owned(), record.number.to_string()),
        ("TIDEMARK_DRILL_GROUP".to_owned(), record.group.clone()),
        ("TIDEMARK_DRILL_MARKER".to_owned(), record.marker.to_string()),
        ("TIDEMARK_DRILL_VOLUMES".to_owned(), clone.volumes.join(" ")),
        ("TIDEMARK_DRILL_EXPORTS".to_owned(), clone.exports.join(" ")),
        (drill_left::FOLDER.to_owned(), folder.display().to_string()),
        ("TIDEMARK_DRILL_CHECK".to_owned(), request.check.clone().unwrap_or_default()),
    ];
    let uris: BTreeMap<_, _> = clone.volumes.iter().zip(&clone.exports).collect();
    all.push((URIS.to_owned(), serde_json::to_string(&uris).unwrap_or_default()));
    for (volume, uri) in uris {
        if let Some(end) = own_variable(volume, &clone.volumes) {
            all.push((format!("{URIS}_{end}"), uri.clone()));
        }
    }
    all
}

/// The variable with the URIs of all volumes, a JSON object; with `_` and the end of a volume's own variable: that volume's.
pub(crate) const URIS: &str = "TIDEMARK_DRILL_NBD";

/// A volume's name as the end of a variable's: `pg-data` is `PG_DATA`.
fn variable(volume: &str) -> String {
    volume.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect()
}

/// The end of a volume's variables. There is none where another volume would have the same: a check that looks at one volume twice proves
/// nothing of the other.
pub(crate) fn own_variable(volume: &str, volumes: &[String]) -> Option<String> {
    let end = variable(volume);
    (volumes.iter().filter(|other| variable(other) == end).count() <= 1).then_some(end)
}

/// What is said first of a drill in which volumes have no variables of their own.
pub(super) fn note_of_unnamed(volumes: &[String]) -> String {
    let unnamed: Vec<_> =
        volumes.iter().filter(|volume| own_variable(volume, volumes).is_none()).map(String::as_str).collect();
    if unnamed.is_empty() {
        return String::new();
    }
    format!(
        "volumes {} have no variables of their own, since several would have the same: {URIS} has the URIs of all, a JSON object\n",
        unnamed.join(", ")
    )
}
