//! Who holds something of the past that would otherwise be given up: the journal behind a pair that is behind, a history, an
//! image, a backup, a split target (decision 19). Made of what a status says; nothing is kept for it. Pure.

use std::iter::{once, repeat};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::backup::types::BackupInfo;
use crate::api::local_pair::types::LocalPairStatus;
use crate::api::types::{GroupMoment, GroupStatus, ImageKind, ImageStatus, PairStatus, Role, Status};

/// What of the journal is kept for a pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct JournalHeld {
    /// The oldest marker of it.
    pub marker: u64,
    /// When that was cut.
    #[schema(value_type = String, format = DateTime)]
    pub time: Timestamp,
    /// Bytes from there on.
    pub bytes: u64,
}

/// What somebody holds it for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LeaseKind {
    /// A pair that is behind, suspended, or whose other side may return.
    Pair,
    /// A comparison that runs.
    Comparison,
    /// Older markers that a copy keeps.
    History,
    /// A T0 image.
    T0,
    /// A clone.
    Clone,
    /// A rehearsal.
    Drill,
    /// A backup that copies.
    Backup,
    /// A target that is split.
    LocalPair,
}

impl LeaseKind {
    /// As in JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Pair => "pair",
            Self::Comparison => "comparison",
            Self::History => "history",
            Self::T0 => "t0",
            Self::Clone => "clone",
            Self::Drill => "drill",
            Self::Backup => "backup",
            Self::LocalPair => "local-pair",
        }
    }
}

/// Something of the past that somebody holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Lease {
    /// What for.
    pub kind: LeaseKind,
    /// Who: a peer, an image, a backup, a target.
    pub owner: String,
    /// Of which group.
    pub group: String,
    /// The oldest marker held.
    pub marker: Option<u64>,
    /// When that was cut; of a backup, when it was asked for.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub time: Option<Timestamp>,
    /// Seconds since then.
    pub age_seconds: Option<f64>,
    /// Bytes of the journal or of the side store that are kept because of it, as far as that can be told for it alone.
    pub bytes: Option<u64>,
    /// The command that ends it.
    pub ends_with: String,
}

/// All of an appliance, the oldest first.
#[must_use]
pub fn leases(status: &Status, now: Timestamp) -> Vec<Lease> {
    let here = &status.appliance.name;
    let mut all: Vec<Lease> = status.groups.iter().flat_map(|group| of_group(group, here)).collect();
    all.extend(status.images.iter().flat_map(of_image));
    all.extend(status.backups_under_way.iter().flat_map(of_backup));
    all.extend(status.local_pairs.iter().filter_map(of_local_pair));
    for lease in &mut all {
        lease.age_seconds = lease.time.map(|time| now.duration_since(time).as_secs_f64().max(0.0));
    }
    all.sort_by(|one, other| one.time.is_none().cmp(&other.time.is_none()).then(one.time.cmp(&other.time)));
    all
}

fn of_group(group: &GroupStatus, here: &str) -> Vec<Lease> {
    let mut all: Vec<Lease> = group.pairs.iter().flat_map(|pair| of_pair(group, pair, here)).collect();
    if let (Role::Secondary, Some(history)) = (group.role, &group.history) {
        let primary = group.pairs.first().map_or("the primary", |pair| pair.peer.as_str());
        all.push(Lease {
            kind: LeaseKind::History,
            owner: "history".into(),
            group: group.name.clone(),
            marker: history.oldest_marker,
            time: history.oldest_time,
            age_seconds: None,
            bytes: Some(history.bytes),
            ends_with: format!("tidemark group set {} --history off (on '{primary}')", group.name),
        });
    }
    all
}

fn of_pair(group: &GroupStatus, pair: &PairStatus, here: &str) -> Vec<Lease> {
    let lease = |kind, marker, time, bytes, ends_with| Lease {
        kind,
        owner: pair.peer.clone(),
        group: group.name.clone(),
        marker,
        time,
        age_seconds: None,
        bytes,
        ends_with,
    };
    let (name, peer) = (&group.name, &pair.peer);
    let held = pair.held.map(|held| {
        let (kind, bytes, ends) = if group.role == Role::Secondary {
            // With a history the volumes do not stand there, and the journal is not kept because of it.
            let bytes = group.history.is_none().then_some(held.bytes);
            (LeaseKind::Comparison, bytes, format!("tidemark verify {name} --to {here} --suspend (on '{peer}')"))
        } else {
            (LeaseKind::Pair, Some(held.bytes), format!("tidemark pair release {name} --to {peer}"))
        };
        lease(kind, Some(held.marker), Some(held.time), bytes, ends)
    });
    let compared =
        pair.verify.and(pair.comparison.as_ref()).filter(|_| group.role == Role::Primary).map(|comparison| {
            let ends = format!("tidemark verify {name} --to {peer} --suspend");
            let marker = Some(comparison.marker).filter(|marker| *marker > 0);
            lease(LeaseKind::Comparison, marker, None, None, ends)
        });
    held.into_iter().chain(compared).collect()
}

/// One for each of its groups; what it takes stands with the first.
fn of_image(image: &ImageStatus) -> Vec<Lease> {
    let name = &image.name;
    let (kind, ends_with) = match image.kind {
        ImageKind::T0 => (LeaseKind::T0, format!("tidemark t0 delete {name}")),
        ImageKind::Clone => (LeaseKind::Clone, format!("tidemark clone delete {name}")),
        ImageKind::Drill => (LeaseKind::Drill, format!("tidemark drill cancel {}", image.group)),
    };
    let lease = |group: &str, marker, time, bytes| Lease {
        kind,
        owner: name.clone(),
        group: group.into(),
        marker: Some(marker),
        time: Some(time),
        age_seconds: None,
        bytes,
        ends_with: ends_with.clone(),
    };
    let bytes = Some(image.saved_bytes + image.written_bytes);
    if image.moments.is_empty() {
        return vec![lease(&image.group, image.marker, image.marker_time, bytes)];
    }
    let moments = image.moments.iter().zip(once(bytes).chain(repeat(None)));
    moments.map(|(moment, bytes)| lease(&moment.group, moment.marker, moment.time, bytes)).collect()
}

/// One for each of its groups; one that has not begun holds nothing.
fn of_backup(backup: &BackupInfo) -> Vec<Lease> {
    let lease = |moment: &GroupMoment| Lease {
        kind: LeaseKind::Backup,
        owner: backup.name.clone(),
        group: moment.group.clone(),
        marker: Some(moment.marker),
        time: Some(moment.time),
        age_seconds: None,
        bytes: None,
        ends_with: format!("tidemark backup cancel {}", backup.name),
    };
    backup.moments.iter().map(lease).collect()
}

fn of_local_pair(pair: &LocalPairStatus) -> Option<Lease> {
    let marker = pair.marker?;
    Some(Lease {
        kind: LeaseKind::LocalPair,
        owner: pair.target.clone(),
        group: pair.group.clone(),
        marker: Some(marker),
        time: pair.marker_time,
        age_seconds: None,
        bytes: Some(pair.saved_bytes),
        ends_with: format!("tidemark local-pair resync {}", pair.target),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::ImageState;

    #[test]
    fn an_image_of_several_groups_is_held_against_each_of_them() {
        let moment = |group: &str, marker| GroupMoment { group: group.into(), marker, time: Timestamp::UNIX_EPOCH };
        let image = |moments| ImageStatus {
            name: "noon".into(),
            kind: ImageKind::T0,
            group: "g".into(),
            marker: 7,
            marker_time: Timestamp::UNIX_EPOCH,
            moments,
            created: Timestamp::UNIX_EPOCH,
            age_seconds: 1.0,
            state: ImageState::Ready,
            reason: None,
            volumes: vec!["a".into()],
            exports: Vec::new(),
            connections: 0,
            saved_bytes: 4096,
            written_bytes: 0,
            space_bytes: 0,
        };
        let told = |moments| -> Vec<(String, Option<u64>, Option<u64>)> {
            of_image(&image(moments)).into_iter().map(|lease| (lease.group, lease.marker, lease.bytes)).collect()
        };
        let first = ("g".to_owned(), Some(7_u64), Some(4096_u64));
        assert_eq!(told(vec![moment("g", 7), moment("h", 3)]), [first.clone(), ("h".to_owned(), Some(3), None)]);
        assert_eq!(told(Vec::new()), [first], "as an older service answers");
    }
}
