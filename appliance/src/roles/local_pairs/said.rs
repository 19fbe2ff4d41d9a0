//! What is told of pairs on this appliance.

use std::sync::atomic::Ordering;

use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::{LocalPairRecord, LocalPairStateRecord as State};

use super::Held;
use crate::roles::appliance::Appliance;

impl Appliance {
    /// All of them, by target.
    pub(crate) fn local_pairs_now(&self) -> Vec<LocalPairStatus> {
        self.local_pairs.all().iter().map(|held| self.local_pair_status(held)).collect()
    }

    /// `local-pair show`.
    pub(super) fn show_local_pair(&self, volume: &str) -> Result<LocalPairStatus, ErrorBody> {
        if let Some(held) = self.local_pairs.of_target(volume) {
            return Ok(self.local_pair_status(&held));
        }
        let found = self.volume(volume)?;
        Ok(LocalPairStatus {
            source: String::new(),
            group: self.group_of(volume).unwrap_or_default(),
            target: volume.to_owned(),
            state: LocalPairState::Simplex,
            reason: None,
            since: self.clock.wall(),
            size: found.file.size(),
            differential_bytes: 0,
            source_changed_bytes: 0,
            target_changed_bytes: 0,
            marker: None,
            marker_time: None,
            rate: 0,
            export: None,
            connections: found.door.connections.load(Ordering::Relaxed),
            saved_bytes: 0,
        })
    }

    pub(super) fn local_pair_status(&self, held: &Held) -> LocalPairStatus {
        let record = held.pair.record();
        let figures = held.pair.figures();
        let time = |ns: i64| jiff::Timestamp::from_nanosecond(ns.into()).unwrap_or_default();
        let stands = matches!(record.state, State::Split | State::Reverse);
        let volume = self.volume(&record.target).ok();
        let open = record.state == State::Split && held.missing.is_none();
        let restoring = record.state == State::Reverse;
        // All of it, until it is begun: hosts may have to be written back first, and after a restart the group has to run.
        let to_restore = match held.to_restore_bytes.load(Ordering::Relaxed) {
            0 => figures.to_restore_bytes,
            left => left,
        };
        LocalPairStatus {
            export: open.then(|| self.nbd_uri(&record.target)),
            reason: held.missing.clone().or_else(|| self.told_of_source(held, &record)),
            source: record.source,
            group: record.group,
            target: record.target,
            state: record.state.into(),
            since: time(record.since_ns),
            size: record.size,
            differential_bytes: if restoring { to_restore } else { figures.differential_bytes },
            source_changed_bytes: figures.source_changed_bytes,
            target_changed_bytes: figures.target_changed_bytes,
            marker: stands.then_some(record.marker),
            marker_time: stands.then(|| time(record.marker_ns)),
            rate: record.rate,
            connections: volume.map_or(0, |volume| volume.door.connections.load(Ordering::Relaxed)),
            saved_bytes: held.pair.saved_bytes(),
        }
    }

    /// What it lacks of its source comes before why it stands.
    fn told_of_source(&self, held: &Held, record: &LocalPairRecord) -> Option<String> {
        let source = &record.source;
        if let Some(why) = &held.no_source {
            return Some(format!("its source, volume '{source}', cannot be used: {why}"));
        }
        if held.pair.waits() {
            return Some(format!(
                "group '{}' does not run, and what the target lacks of '{source}' is copied when it does",
                record.group
            ));
        }
        record.reason.clone().or_else(|| self.has_grown(record))
    }

    /// A source that is a copy grows with its primary's volume, and nobody here was asked.
    fn has_grown(&self, record: &LocalPairRecord) -> Option<String> {
        let LocalPairRecord { source, target, size, .. } = record;
        let now = self.volume(source).ok()?.file.size();
        (now != *size).then(|| {
            format!(
                "volume '{source}' has {now} bytes, and {size} when this pair was made: no more of it is copied, and it cannot be split. \
                 `tidemark local-pair delete {target}`, then create it again with a target that is large enough"
            )
        })
    }
}
