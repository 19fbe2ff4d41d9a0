//! Which markers are moments of the image, and since when the image has the volumes it has. Pure: it is shown every control
//! record after permission was.
//!
//! A marker inside of a differential copy is none: what was not yet sent is missing there. Only the one that the copy ends at is.

use tidemark_common::catalog::GroupVolume;
use tidemark_common::journal::Position;
use tidemark_common::markers::Markers;
use tidemark_common::record::{ControlRecord, MarkerRecord};

use crate::permission::{Permission, Permitted};

/// See the module.
#[derive(Debug, Default)]
pub struct Points {
    /// The newest marker inside of the copy under way.
    staged: Option<(Position, MarkerRecord)>,
    members: Vec<GroupVolume>,
    begins: Position,
}

impl Points {
    /// With what is known of the time before: the image's volumes, and the newest marker received.
    #[must_use]
    pub fn new(members: Vec<GroupVolume>, received: Option<&Permitted>) -> Self {
        let staged = received.map(|received| (received.end, received.marker.clone()));
        Self { staged, members, begins: Position::default() }
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

#[cfg(test)]
mod tests {
    use tidemark_common::wire::message::VolumeSpec;

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
}
