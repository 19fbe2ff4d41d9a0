//! Update permission: which marker may be applied, and how far into the journal that reaches. Pure: it is told what is
//! durable here, in order, and does no I/O (invariants 4, 5, 9).
//!
//! ```text
//!                 copy begin                       copy end
//!  permitting ───────────────▶ copying ─────────────────────▶ permitting, at the newest marker
//!  each marker                 markers are received, none is permitted;
//!  permits itself              a first copy is applied up to its last whole step all the same
//! ```
//!
//! A group of one member permits itself: the chain has verified every frame up to the marker. With more members
//! permission will come as a message.

use std::sync::Arc;

use tidemark_common::catalog::GroupVolume;
use tidemark_common::ids::{MarkerNumber, Seq};
use tidemark_common::journal::Position;
use tidemark_common::record::{ControlRecord, MarkerRecord};
use tidemark_common::wire::message::VolumeSpec;

/// A marker and where the journal goes on behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    /// Its record.
    pub marker: MarkerRecord,
    /// The limit of what may be applied.
    pub end: Position,
}

/// A differential copy that has begun and not ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenCopy {
    /// Its number.
    pub number: u64,
    /// There was no image to keep: what comes is applied.
    pub direct: bool,
    /// Regions before this volume index and offset are durable here.
    pub cursor: (u32, u64),
    /// Bytes of regions before the cursor.
    pub done_bytes: u64,
    /// Bytes of regions in all.
    pub total_bytes: u64,
    /// Where the journal goes on behind its begin.
    pub begun: Position,
}

/// The permission of one group.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Permission {
    received: Option<Permitted>,
    permitted: Option<Permitted>,
    copy: Option<OpenCopy>,
    /// Copies that have ended, and where the journal goes on behind their ends; those that the volumes are behind of are forgotten.
    ended: Vec<(OpenCopy, Position)>,
    /// The newest marker of the history here, also one that stands for frames a copy has skipped.
    newest: MarkerNumber,
    /// How far a first copy may be applied.
    direct_limit: Position,
    /// This side returned, and its volumes hold up to here what it was before: that stays until the copy is complete.
    before: Option<Position>,
    /// The group's volumes as of what is durable here, and as of the permitted marker; `None`: as recorded.
    received_volumes: Option<Arc<[VolumeSpec]>>,
    permitted_volumes: Option<Arc<[VolumeSpec]>>,
    /// Those that were among the received ones and are no more, and the end of the marker that was permitted next: nothing behind it is for
    /// them.
    left: Vec<(GroupVolume, Option<Position>)>,
}

impl Permission {
    /// What the catalogue remembers of frames that the journal no longer holds.
    #[must_use]
    pub const fn recovered(
        received: Option<Permitted>,
        permitted: Option<Permitted>,
        copy: Option<OpenCopy>,
        applied: Position,
    ) -> Self {
        Self {
            received,
            permitted,
            copy,
            ended: Vec::new(),
            newest: MarkerNumber(0),
            direct_limit: applied,
            before: None,
            received_volumes: None,
            permitted_volumes: None,
            left: Vec::new(),
        }
    }

    /// The volumes hold what this side was before it returned, and the copy that is open is not applied over it.
    pub const fn keep_before(&mut self, applied: Position) {
        self.before = Some(applied);
    }

    /// Whether the volumes hold what this side was before it returned.
    #[must_use]
    pub const fn keeps_before(&self) -> bool {
        self.before.is_some()
    }

    /// What this side was before is given up: the copy is applied as it comes. Nothing changes where that is not kept any more: a
    /// copy that has begun since has an image beside it.
    pub const fn give_up_before(&mut self) {
        if self.before.take().is_some() {
            self.apply_as_it_comes();
        }
    }

    const fn apply_as_it_comes(&mut self) {
        if let Some(open) = &mut self.copy {
            open.direct = true;
        }
    }

    /// The newest marker of the journal's history, as its writer knows it.
    pub const fn set_newest(&mut self, marker: MarkerNumber) {
        self.newest = marker;
    }

    /// A control frame is durable; `end` is where the journal goes on behind it.
    pub fn durable(&mut self, record: &ControlRecord, end: Position) {
        match record {
            ControlRecord::Marker(marker) => {
                self.received = Some(Permitted { marker: marker.clone(), end });
                self.newest = MarkerNumber(marker.number);
                if self.copy.is_none() {
                    self.permit();
                } else {
                    self.direct_limit = end;
                }
            }
            ControlRecord::CopyBegin { copy, direct, total_bytes, start_marker, volumes, .. } => {
                // An image that exists is kept, whatever the sender thinks.
                let keeps = self.keeps_before();
                let direct = *direct && self.permitted.is_none() && !keeps;
                // A first copy that begins anew is one from its first begin on: all that was applied since is no image. So is the
                // one that a side which returned was opened for.
                let begun = self.copy.filter(|open| open.direct && direct || keeps).map_or(end, |open| open.begun);
                self.copy = Some(OpenCopy {
                    number: *copy,
                    direct,
                    cursor: (0, 0),
                    done_bytes: 0,
                    total_bytes: *total_bytes,
                    begun,
                });
                self.received = None;
                self.newest = MarkerNumber(*start_marker);
                self.receive_volumes(volumes);
            }
            ControlRecord::CopyProgress { copy, volume, offset, done_bytes }
            | ControlRecord::CopyStep { copy, volume, offset, done_bytes, .. } => {
                if let Some(open) = self.copy.as_mut().filter(|open| open.number == *copy) {
                    open.cursor = (*volume, *offset);
                    open.done_bytes = *done_bytes;
                    self.direct_limit = end;
                }
            }
            ControlRecord::CopyEnd { copy, marker } => {
                let reached = self.received.as_ref().is_some_and(|received| received.marker.number >= *marker);
                // A sender that ends early has not sent everything: nothing is permitted.
                let complete = |open: OpenCopy| open.number == *copy && open.done_bytes >= open.total_bytes;
                if self.copy.is_some_and(complete) && reached {
                    self.ended.extend(self.copy.take().map(|copy| (copy, end)));
                    self.before = None;
                    self.permit();
                }
            }
            ControlRecord::Volumes { volumes } => self.receive_volumes(volumes),
            // A copy beside it does not fit: one that has come to that is applied from now on.
            ControlRecord::ImageGivenUp => {
                self.permitted = None;
                self.permitted_volumes = None;
                self.before = None;
                self.apply_as_it_comes();
            }
            // What was folded counts with the marker behind it.
            ControlRecord::Role { .. } | ControlRecord::Folded { .. } => {}
        }
    }

    /// What is received may be applied: the writes, and the set of volumes they are for.
    fn permit(&mut self) {
        self.permitted.clone_from(&self.received);
        if self.received_volumes.is_some() {
            self.permitted_volumes.clone_from(&self.received_volumes);
        }
        let end = self.permitted.as_ref().map(|permitted| permitted.end);
        for (_, behind) in self.left.iter_mut().filter(|(_, behind)| behind.is_none()) {
            *behind = end;
        }
    }

    fn receive_volumes(&mut self, volumes: &[VolumeSpec]) {
        let named = GroupVolume::members(volumes);
        let before = self.received_volumes.as_deref().map_or_else(Vec::new, GroupVolume::members);
        self.left.retain(|(member, _)| !named.contains(member));
        self.left.extend(before.into_iter().filter(|member| !named.contains(member)).map(|member| (member, None)));
        self.received_volumes = Some(volumes.into());
    }

    /// Volumes that are none of the group's any more, with all that came for them before a place: also those that came and left before a
    /// marker counted them, which never were in the image.
    #[must_use]
    pub(crate) fn left_before(&self, place: Position) -> Vec<GroupVolume> {
        let passed = self.left.iter().filter(|(_, end)| end.is_some_and(|end| end <= place));
        passed.map(|(member, _)| member.clone()).collect()
    }

    /// These are let go.
    pub fn forget_left(&mut self, members: &[GroupVolume]) {
        self.left.retain(|(member, end)| end.is_none() || !members.contains(member));
    }

    /// The volumes of the image that would be served, or, before there is one, of the copy under way; `None`: as recorded
    /// last.
    #[must_use]
    pub const fn volumes(&self) -> Option<&Arc<[VolumeSpec]>> {
        if self.permitted.is_none() && !self.keeps_before() {
            self.received_volumes.as_ref()
        } else {
            self.permitted_volumes.as_ref()
        }
    }

    /// The group's volumes as of what is durable here; `None`: as recorded.
    #[must_use]
    pub const fn received_volumes(&self) -> Option<&Arc<[VolumeSpec]>> {
        self.received_volumes.as_ref()
    }

    /// The newest marker whose frames are all here since the begin of a copy.
    #[must_use]
    pub const fn received_marker(&self) -> Option<&Permitted> {
        self.received.as_ref()
    }

    /// The newest marker that may be applied; `None` while there is no usable copy.
    #[must_use]
    pub const fn permitted(&self) -> Option<&Permitted> {
        self.permitted.as_ref()
    }

    /// The newest marker whose image can be had: of a copy that is applied as it comes, there is none.
    #[must_use]
    pub fn image(&self) -> Option<&Permitted> {
        self.permitted().filter(|_| !self.copy.is_some_and(|copy| copy.direct))
    }

    /// Newest marker whose frames are all here, permitted or not.
    #[must_use]
    pub const fn received(&self) -> MarkerNumber {
        self.newest
    }

    /// The boundary of the newest permitted marker.
    #[must_use]
    pub fn permitted_seq(&self) -> Seq {
        Seq(self.permitted.as_ref().map_or(0, |permitted| permitted.marker.boundary_seq))
    }

    /// The copy under way.
    #[must_use]
    pub const fn copy(&self) -> Option<&OpenCopy> {
        self.copy.as_ref()
    }

    /// The copy under way at a place: begun before it, and not ended there. Whoever starts from that place again has to know of it,
    /// because no marker before its end is an image.
    #[must_use]
    pub(crate) fn copy_at(&self, place: Position) -> Option<&OpenCopy> {
        let ended = self.ended.iter().filter(|(_, end)| place < *end).map(|(copy, _)| copy);
        ended.chain(&self.copy).next().filter(|copy| copy.begun <= place)
    }

    /// The volumes are this far, and never go back: nobody asks any more which copy was under way before that.
    pub fn passed(&mut self, place: Position) {
        self.ended.retain(|(_, end)| place < *end);
    }

    /// Everything before this place may be applied.
    #[must_use]
    pub fn limit(&self) -> Position {
        match (&self.copy, &self.permitted) {
            (Some(copy), _) if copy.direct => self.direct_limit,
            (_, Some(permitted)) => permitted.end,
            (_, None) => self.before.unwrap_or_default(),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) const fn at(offset: u64) -> Position {
        Position { segment: 1, offset }
    }

    pub(crate) fn marker(number: u64) -> ControlRecord {
        ControlRecord::Marker(MarkerRecord { number, boundary_seq: number * 10, time_ns: 0, freeze_ns: 0, tag: None })
    }

    fn begin(direct: bool) -> ControlRecord {
        ControlRecord::CopyBegin {
            copy: 1,
            start_seq: 0,
            start_marker: 0,
            chain: [0; 16],
            direct,
            total_bytes: 100,
            volumes: Vec::new(),
        }
    }

    fn progress() -> ControlRecord {
        ControlRecord::CopyProgress { copy: 1, volume: 1, offset: 0, done_bytes: 100 }
    }

    fn end(marker: u64) -> ControlRecord {
        ControlRecord::CopyEnd { copy: 1, marker }
    }

    #[test]
    fn a_marker_permits_up_to_itself_and_no_further() {
        let mut permission = Permission::default();
        assert_eq!(permission.limit(), Position::default());
        permission.durable(&marker(1), at(100));
        assert_eq!((permission.limit(), permission.permitted_seq()), (at(100), Seq(10)));
    }

    #[test]
    fn during_a_resync_the_old_image_stays() {
        let mut permission = Permission::default();
        permission.durable(&marker(1), at(100));
        permission.durable(&begin(false), at(200));
        permission.durable(&progress(), at(250));
        permission.durable(&marker(2), at(300));
        assert_eq!((permission.limit(), permission.received()), (at(100), MarkerNumber(2)));
        permission.durable(&end(3), at(350));
        assert_eq!(permission.limit(), at(100), "the end marker is not here");
        permission.durable(&marker(3), at(400));
        permission.durable(&end(3), at(450));
        assert_eq!(permission.limit(), at(400));
    }

    #[test]
    fn a_first_copy_is_applied_but_not_permitted_before_its_end() {
        let mut permission = Permission::default();
        permission.durable(&begin(true), at(100));
        permission.durable(&progress(), at(200));
        assert_eq!(permission.limit(), at(200));
        assert!(permission.permitted().is_none());
        permission.durable(&marker(4), at(300));
        permission.durable(&end(4), at(400));
        assert_eq!(permission.limit(), at(300));
        assert_eq!(permission.permitted().unwrap().marker.number, 4);
    }

    #[test]
    fn a_first_copy_that_begins_anew_is_open_since_its_first_begin() {
        let mut permission = Permission::default();
        permission.durable(&begin(true), at(100));
        permission.durable(&progress(), at(200));
        permission.durable(&begin(true), at(300));
        assert_eq!(permission.copy().map(|copy| (copy.direct, copy.begun)), Some((true, at(100))));
    }

    #[test]
    fn an_end_before_all_regions_permits_nothing() {
        let mut permission = Permission::default();
        permission.durable(&begin(true), at(100));
        permission.durable(&ControlRecord::CopyProgress { copy: 1, volume: 0, offset: 50, done_bytes: 50 }, at(200));
        permission.durable(&marker(4), at(300));
        permission.durable(&end(4), at(400));
        assert!(permission.permitted().is_none() && permission.copy().is_some());
    }

    #[test]
    fn a_volume_belongs_to_the_image_only_from_the_marker_that_counts_it() {
        let volumes = |names: &[&str]| {
            let spec = |(index, name): (u32, &&str)| VolumeSpec { index, name: (*name).into(), size: 512 };
            ControlRecord::Volumes { volumes: (1..).zip(names).map(spec).collect() }
        };
        let names = |permission: &Permission| -> Vec<String> {
            permission.volumes().into_iter().flat_map(|all| all.iter().map(|spec| spec.name.clone())).collect()
        };
        let mut permission = Permission::default();
        permission.durable(&volumes(&["a", "b"]), at(50));
        permission.durable(&marker(1), at(100));
        assert_eq!(names(&permission), ["a", "b"]);
        permission.durable(&volumes(&["b", "c"]), at(150));
        assert_eq!(names(&permission), ["a", "b"], "the image is still that of marker 1");
        permission.durable(&begin(false), at(200));
        permission.durable(&marker(2), at(300));
        assert_eq!(names(&permission), ["a", "b"], "and stays so during a copy");
    }

    #[test]
    fn a_volume_that_came_and_left_during_a_copy_has_left_with_the_marker_at_its_end() {
        let volumes = |indexes: &[u32]| {
            let spec = |index: &u32| VolumeSpec { index: *index, name: format!("v{index}"), size: 512 };
            ControlRecord::Volumes { volumes: indexes.iter().map(spec).collect() }
        };
        let left = |permission: &Permission, offset| -> Vec<u32> {
            permission.left_before(at(offset)).iter().map(|member| member.index).collect()
        };
        let mut permission = Permission::default();
        let records = [
            (volumes(&[1]), 50),
            (marker(1), 100),
            (volumes(&[1, 2, 3]), 150),
            (begin(false), 200),
            (volumes(&[1, 2, 3]), 210),
            (volumes(&[1, 3]), 250),
            (progress(), 300),
            (marker(2), 350),
        ];
        for (record, place) in records {
            permission.durable(&record, at(place));
            assert_eq!(left(&permission, 1000), [] as [u32; 0], "what came for it is not permitted");
        }
        permission.durable(&end(2), at(400));
        assert_eq!((left(&permission, 349), left(&permission, 350)), (vec![], vec![2]));
        permission.forget_left(&permission.left_before(at(350)));
        assert_eq!(left(&permission, 1000), [] as [u32; 0], "it is let go once");
    }

    #[test]
    fn an_image_given_up_is_none_until_the_copy_over_it_is_complete() {
        let mut permission = Permission::default();
        permission.durable(&marker(1), at(100));
        permission.durable(&ControlRecord::ImageGivenUp, at(150));
        assert!(permission.permitted().is_none());
        permission.durable(&begin(true), at(200));
        permission.durable(&progress(), at(300));
        assert_eq!(permission.limit(), at(300), "it is applied as it comes");
        permission.durable(&marker(2), at(400));
        permission.durable(&end(2), at(500));
        assert_eq!(permission.permitted().unwrap().marker.number, 2);
    }

    #[test]
    fn a_copy_that_outgrew_its_room_is_applied_once_the_image_is_given_up() {
        let mut permission = Permission::default();
        permission.durable(&marker(1), at(100));
        permission.durable(&begin(false), at(200));
        permission.durable(&progress(), at(250));
        assert_eq!(permission.limit(), at(100));
        permission.durable(&ControlRecord::ImageGivenUp, at(300));
        assert_eq!((permission.limit(), permission.copy().map(|copy| copy.begun)), (at(250), Some(at(200))));
        permission.durable(&marker(2), at(400));
        permission.durable(&end(2), at(500));
        assert_eq!(permission.permitted().unwrap().marker.number, 2);
    }

    #[test]
    fn a_copy_that_has_ended_was_under_way_before_its_end() {
        let mut permission = Permission::default();
        permission.durable(&begin(true), at(100));
        permission.durable(&progress(), at(200));
        permission.durable(&marker(4), at(300));
        permission.durable(&end(4), at(400));
        permission.durable(&begin(false), at(500));
        let number_at = |offset| permission.copy_at(at(offset)).map(|copy| (copy.number, copy.direct));
        assert_eq!([50, 100, 399].map(number_at), [None, Some((1, true)), Some((1, true))]);
        assert_eq!([400, 499, 500].map(number_at), [None, None, Some((1, false))]);
    }

    /// Of a side that returned: not begun, over what it was up to place 50.
    fn returned() -> Permission {
        let open = OpenCopy {
            number: u64::MAX,
            direct: false,
            cursor: (0, 0),
            done_bytes: 0,
            total_bytes: 1,
            begun: Position::default(),
        };
        let mut permission = Permission::recovered(None, None, Some(open), at(50));
        permission.keep_before(at(50));
        permission
    }

    #[test]
    fn what_a_side_was_before_it_returned_stays_until_the_copy_is_complete() {
        let mut permission = returned();
        for (record, place) in [(begin(true), 100), (progress(), 200), (marker(4), 300), (begin(true), 320)] {
            permission.durable(&record, at(place));
            assert_eq!((permission.limit(), permission.permitted()), (at(50), None), "{record:?}");
            assert!(permission.volumes().is_none(), "its own");
        }
        // Whoever starts from what is applied has to know of it.
        assert_eq!(permission.copy_at(at(50)).map(|copy| copy.direct), Some(false));
        for (record, place) in [(progress(), 330), (marker(5), 340), (end(5), 400)] {
            assert!(permission.keeps_before());
            permission.durable(&record, at(place));
        }
        assert_eq!((permission.limit(), permission.keeps_before()), (at(340), false));
        assert!(permission.volumes().is_some());
    }

    #[test]
    fn what_a_side_was_before_it_returned_is_given_up_for_the_copy() {
        let mut permission = returned();
        for (record, place) in [(begin(true), 100), (progress(), 200)] {
            permission.durable(&record, at(place));
        }
        permission.give_up_before();
        assert_eq!((permission.limit(), permission.keeps_before()), (at(200), false));
        assert_eq!(permission.copy_at(at(50)).map(|copy| copy.direct), Some(true), "no image on the way");
    }

    #[test]
    fn giving_up_what_is_not_kept_any_more_costs_no_image() {
        let mut permission = returned();
        for (record, place) in [(begin(true), 100), (progress(), 200), (marker(5), 300), (end(5), 400)] {
            permission.durable(&record, at(place));
        }
        let image = permission.limit();
        // A resync begins between the look whether it is kept, and the giving up.
        permission.durable(&begin(true), at(500));
        permission.give_up_before();
        permission.durable(&progress(), at(600));
        assert_eq!((permission.limit(), permission.permitted().is_some()), (image, true));
    }

    #[test]
    fn a_copy_called_direct_does_not_cost_an_image_that_exists() {
        let mut permission = Permission::default();
        permission.durable(&marker(1), at(100));
        permission.durable(&begin(true), at(200));
        permission.durable(&progress(), at(300));
        assert_eq!(permission.limit(), at(100));
    }
}
