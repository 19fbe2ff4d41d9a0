//! Which markers are moments of the image, since when the image has the volumes it has, and how large they were. Pure: it is shown every
//! control record after permission was.
//!
//! A marker inside of a differential copy is none: what was not yet sent is missing there. Only the one that the copy ends at is.

use std::sync::Arc;

use tidemark_common::catalog::GroupVolume;
use tidemark_common::journal::Position;
use tidemark_common::markers::Markers;
use tidemark_common::record::{ControlRecord, MarkerRecord};
use tidemark_common::volumes::Volumes;
use tidemark_common::wire::message::VolumeSpec;

use crate::permission::{Permission, Permitted};

/// See the module.
#[derive(Debug, Default)]
pub struct Points {
    /// The newest marker inside of the copy under way.
    staged: Option<(Position, MarkerRecord)>,
    members: Vec<GroupVolume>,
    begins: Position,
    /// The image's volumes with their sizes, from these places on. What they were before the first is not known.
    sizes: Vec<(Position, Arc<[VolumeSpec]>)>,
}

impl Points {
    /// With what is known of the time before: the image's volumes, how large they were, and the newest marker received.
    #[must_use]
    pub fn new(members: Vec<GroupVolume>, sizes: Option<Arc<[VolumeSpec]>>, received: Option<&Permitted>) -> Self {
        let staged = received.map(|received| (received.end, received.marker.clone()));
        let sizes = sizes.map(|sizes| (Position::default(), sizes)).into_iter().collect();
        Self { staged, members, begins: Position::default(), sizes }
    }

    /// A control record is durable, and permission knows of it.
    pub fn durable(&mut self, record: &ControlRecord, end: Position, permission: &Permission, markers: &Markers) {
        match record {
            ControlRecord::Marker(marker) if permission.copy().is_some() => self.staged = Some((end, marker.clone())),
            ControlRecord::Marker(marker) => {
                self.staged = None;
                markers.add(end, marker.clone());
            }
            ControlRecord::CopyBegin { .. } => self.staged = None,
            ControlRecord::CopyEnd { .. } if permission.copy().is_none() => {
                if let Some((end, marker)) = self.staged.take() {
                    markers.add(end, marker);
                }
            }
            _ => {}
        }
        let Some((permitted, volumes)) = permission.permitted().zip(permission.volumes()) else { return };
        let same = self.members.len() == volumes.len()
            && self.members.iter().zip(volumes.iter()).all(|(a, b)| a.index == b.index && a.name == b.name);
        if !same {
            self.members = GroupVolume::members(volumes);
            self.begins = permitted.end;
        }
        let known = self.sizes.last().is_some_and(|(_, sizes)| Arc::ptr_eq(sizes, volumes) || sizes == volumes);
        if !known {
            self.sizes.push((permitted.end, Arc::clone(volumes)));
        }
    }

    /// The image's volumes as they were at a marker that ends at a place; `None`: it is not known how large they were.
    #[must_use]
    pub fn volumes_at(&self, end: Position) -> Option<&Arc<[VolumeSpec]>> {
        let known = self.sizes.partition_point(|(from, _)| *from <= end);
        known.checked_sub(1).and_then(|newest| self.sizes.get(newest)).map(|(_, volumes)| volumes)
    }

    /// Whether the image has had its volumes since a marker that ends at a place, and it is known how large they were there.
    #[must_use]
    pub fn tells_of(&self, end: Position) -> bool {
        end >= self.begins && self.volumes_at(end).is_some()
    }

    /// From where on it is known how large they were.
    #[must_use]
    pub(crate) fn sizes_known_from(&self) -> Option<Position> {
        self.sizes.first().map(|(from, _)| *from)
    }

    /// Forgets how large volumes were before a place, where the journal begins.
    pub fn trim(&mut self, oldest: Position) {
        let passed = self.sizes.partition_point(|(from, _)| *from <= oldest).saturating_sub(1);
        self.sizes.drain(..passed);
    }

    /// The volumes of the image.
    #[must_use]
    pub fn members(&self) -> &[GroupVolume] {
        &self.members
    }

    /// The image has had these volumes from here on.
    #[must_use]
    pub const fn begins(&self) -> Position {
        self.begins
    }
}

/// A control record of the journal: where it begins, and where the journal goes on behind it.
pub(crate) type Recovered = (Position, ControlRecord, Position);

/// How large the volumes were at the place up to which everything is applied: as the newest record before it says; or as they are now, when
/// none has come since. `None`: they may have grown since, and how large they were is in no journal any more.
pub(crate) fn sizes_at(before: &[Recovered], since: &[Recovered], now: &Volumes) -> Option<Arc<[VolumeSpec]>> {
    let volumes = |(_, record, _): &Recovered| -> Option<Arc<[VolumeSpec]>> {
        match record {
            ControlRecord::Volumes { volumes } | ControlRecord::CopyBegin { volumes, .. } => {
                Some(volumes.as_slice().into())
            }
            _ => None,
        }
    };
    let known = before.iter().rev().find_map(volumes);
    let have_changed = || since.iter().any(|record| volumes(record).is_some());
    known.or_else(|| (!have_changed()).then(|| now.specs().into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::permission::tests::{at, marker};

    fn volumes(names: &[&str]) -> Vec<VolumeSpec> {
        (1..).zip(names).map(|(index, name)| VolumeSpec { index, name: (*name).into(), size: 512 }).collect()
    }

    fn shown(records: &[ControlRecord]) -> (Vec<u64>, Points) {
        let (mut permission, mut points, markers) = (Permission::default(), Points::default(), Markers::default());
        for (record, offset) in records.iter().zip((1..).map(|n| n * 100)) {
            permission.durable(record, at(offset));
            points.durable(record, at(offset), &permission, &markers);
        }
        (markers.moments().into_iter().map(|(_, number, _)| number).collect(), points)
    }

    #[test]
    fn a_marker_inside_of_a_copy_is_no_moment_of_the_image() {
        let begin = ControlRecord::CopyBegin {
            copy: 3,
            start_seq: 0,
            start_marker: 2,
            chain: [0; 16],
            direct: false,
            total_bytes: 0,
            volumes: volumes(&["a"]),
        };
        let end = ControlRecord::CopyEnd { copy: 3, marker: 5 };
        let records = [marker(1), marker(2), begin, marker(3), marker(4), marker(5), end, marker(6)];
        assert_eq!(shown(&records).0, [1, 2, 5, 6]);
        assert_eq!(shown(&records[..5]).0, [1, 2]);
    }

    #[test]
    fn a_volume_that_comes_or_goes_begins_the_image_anew() {
        let of = |names: &[&str]| ControlRecord::Volumes { volumes: volumes(names) };
        let (_, points) =
            shown(&[of(&["a"]), marker(1), of(&["a", "b"]), marker(2), marker(3), of(&["a", "b"]), marker(4)]);
        assert_eq!((points.begins(), points.members().len()), (at(400), 2), "at the marker that counts it");
    }

    #[test]
    fn nothing_is_told_of_a_marker_from_before_a_volume_came_or_of_unknown_sizes() {
        let of = |names: &[&str]| ControlRecord::Volumes { volumes: volumes(names) };
        let told = |points: &Points| [200, 300, 500].map(|end| points.tells_of(at(end)));
        let (_, points) = shown(&[of(&["a"]), marker(1), marker(2), of(&["a", "b"]), marker(3)]);
        assert_eq!(told(&points), [false, false, true]);
        // The same volumes, of which one has grown since the journal begins.
        let (mut permission, markers) = (Permission::default(), Markers::default());
        let mut points = Points::new(GroupVolume::members(&volumes(&["a"])), None, None);
        for (record, offset) in [(marker(1), 200), (marker(2), 300), (of(&["a"]), 400), (marker(3), 500)] {
            permission.durable(&record, at(offset));
            points.durable(&record, at(offset), &permission, &markers);
        }
        assert_eq!(told(&points), [false, false, true]);
    }

    #[test]
    fn a_volume_is_as_large_at_a_marker_as_it_was_there() {
        let of = |size| vec![VolumeSpec { index: 1, name: "a".into(), size }];
        let record = |size| ControlRecord::Volumes { volumes: of(size) };
        let (mut permission, markers) = (Permission::default(), Markers::default());
        let mut points = Points::new(Vec::new(), Some(of(512).into()), None);
        let records = [marker(1), record(1024), marker(2), record(1024), marker(3), record(4096), marker(4)];
        for (record, offset) in records.iter().zip((1..).map(|n| n * 100)) {
            permission.durable(record, at(offset));
            points.durable(record, at(offset), &permission, &markers);
        }
        let sizes =
            |points: &Points| [100, 300, 500, 700].map(|end| points.volumes_at(at(end)).map(|volumes| volumes[0].size));
        assert_eq!(sizes(&points), [512, 1024, 1024, 4096].map(Some));
        points.trim(at(500));
        assert_eq!(sizes(&points), [None, Some(1024), Some(1024), Some(4096)]);
        assert_eq!(points.sizes_known_from(), Some(at(300)), "the marker that counted it");
        assert_eq!(sizes(&shown(&records).1), [None, Some(1024), Some(1024), Some(4096)], "nothing is known of before");
    }
}
