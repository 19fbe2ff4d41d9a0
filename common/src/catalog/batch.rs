//! Several changes that become durable together or not at all.

use super::image_records::{DrillRecord, ImagePartRecord, ImageRecords, LocalPairRecord, ScheduleRecord};
use super::records::{
    AppliedRecord, BackupRecord, GroupRecord, HistoryRecord, KeptMarkerRecord, OfferRecord, PeerRecord, Record,
    RestoreRecord, SetRecord, VolumeRecord,
};
use super::schema::{Key, KeyRange, MARKERS_KEPT, MARKERS_PRUNE_STEP, RECORD_BYTES_MAX};
use super::verify_record::VerifyRecord;
use super::{CatalogError, envelope};
use crate::ids::{GroupId, MarkerNumber};

/// One change of the database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Change {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// From the first key to before the second.
    DeleteRange(Vec<u8>, Vec<u8>),
}

/// Changes collected for [`Catalog::commit`](super::Catalog::commit), which applies them in their order, all or none.
#[derive(Default)]
pub struct Batch {
    changes: Vec<Change>,
}

impl std::fmt::Debug for Batch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Batch").field("changes", &self.changes.len()).finish()
    }
}

impl Batch {
    /// No changes yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether there is nothing to commit.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    /// Adds or replaces a peer.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_peer(&mut self, peer: &PeerRecord) -> Result<(), CatalogError> {
        self.put(&Key::peer(&peer.name)?, peer)
    }

    /// Removes a peer, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_peer(&mut self, name: &str) -> Result<(), CatalogError> {
        self.delete(&Key::peer(name)?);
        Ok(())
    }

    /// Adds or replaces a volume.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_volume(&mut self, volume: &VolumeRecord) -> Result<(), CatalogError> {
        self.put(&Key::volume(&volume.name)?, volume)
    }

    /// Adds or replaces the offer of a volume.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_offer(&mut self, offer: &OfferRecord) -> Result<(), CatalogError> {
        self.put(&Key::offer(&offer.volume)?, offer)
    }

    /// Removes the offer of a volume, if there is one.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_offer(&mut self, volume: &str) -> Result<(), CatalogError> {
        self.delete(&Key::offer(volume)?);
        Ok(())
    }

    /// Removes a volume with its offer and its restore, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_volume(&mut self, name: &str) -> Result<(), CatalogError> {
        self.delete(&Key::volume(name)?);
        self.delete(&Key::offer(name)?);
        self.delete(&Key::restore(name)?);
        Ok(())
    }

    /// Adds or replaces the restore onto a volume.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_restore(&mut self, restore: &RestoreRecord) -> Result<(), CatalogError> {
        self.put(&Key::restore(&restore.volume)?, restore)
    }

    /// A volume is half restored no more, if it was.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_restore(&mut self, volume: &str) -> Result<(), CatalogError> {
        self.delete(&Key::restore(volume)?);
        Ok(())
    }

    /// Adds or replaces a data set.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_set(&mut self, set: &SetRecord) -> Result<(), CatalogError> {
        self.put(&Key::set(&set.name)?, set)
    }

    /// Removes a data set, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_set(&mut self, name: &str) -> Result<(), CatalogError> {
        self.delete(&Key::set(name)?);
        Ok(())
    }

    /// Adds or replaces a backup.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_backup(&mut self, backup: &BackupRecord) -> Result<(), CatalogError> {
        self.put(&Key::backup(&backup.name)?, backup)
    }

    /// Removes a backup's record, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_backup(&mut self, name: &str) -> Result<(), CatalogError> {
        self.delete(&Key::backup(name)?);
        Ok(())
    }

    /// Adds or replaces a group.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_group(&mut self, group: &GroupRecord) -> Result<(), CatalogError> {
        self.put(&Key::group(&group.name)?, group)
    }

    /// Removes a group with its applied position, history, markers, bitmaps, comparisons and the place of its write buffer.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_group(&mut self, name: &str, id: GroupId) -> Result<(), CatalogError> {
        self.delete(&Key::group(name)?);
        self.delete(&Key::applied(id));
        self.delete(&Key::ring(id));
        self.delete(&Key::history(id));
        self.delete_range(KeyRange::markers(id));
        self.delete_range(KeyRange::bitmaps(id));
        self.delete_range(KeyRange::verifies(id));
        Ok(())
    }

    /// Adds or replaces an image.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_image(&mut self, image: &ImageRecords) -> Result<(), CatalogError> {
        self.put(&Key::image(&image.first.name)?, &image.first)?;
        image.others.iter().try_for_each(|part| {
            self.put(&Key::image_part(&part.name, GroupId(part.group_id))?, &ImagePartRecord(part.clone()))
        })
    }

    /// Removes an image, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_image(&mut self, name: &str) -> Result<(), CatalogError> {
        self.delete(&Key::image(name)?);
        self.delete_range(KeyRange::image_parts(name)?);
        Ok(())
    }

    /// Adds or replaces a local pair, with its bitmaps: bytes that only their owner reads.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_local_pair(&mut self, pair: &LocalPairRecord, bits: &[u8]) -> Result<(), CatalogError> {
        self.put(&Key::local_pair(&pair.target)?, pair)?;
        self.put_payload(&Key::local_bits(&pair.target)?, bits)
    }

    /// Removes a local pair and its bitmaps, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_local_pair(&mut self, target: &str) -> Result<(), CatalogError> {
        self.delete(&Key::local_pair(target)?);
        self.delete(&Key::local_bits(target)?);
        Ok(())
    }

    /// Adds or replaces a drill.
    ///
    /// # Errors
    /// [`CatalogError::TooLarge`].
    pub fn put_drill(&mut self, drill: &DrillRecord) -> Result<(), CatalogError> {
        self.put(&Key::drill(drill.number), drill)
    }

    /// Removes a drill, if it is there.
    pub fn delete_drill(&mut self, number: u64) {
        self.delete(&Key::drill(number));
    }

    /// Adds or replaces a schedule.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_schedule(&mut self, schedule: &ScheduleRecord) -> Result<(), CatalogError> {
        self.put(&Key::schedule(&schedule.group)?, schedule)
    }

    /// Removes a schedule, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_schedule(&mut self, group: &str) -> Result<(), CatalogError> {
        self.delete(&Key::schedule(group)?);
        Ok(())
    }

    /// Sets how far a group's updater is.
    ///
    /// # Errors
    /// [`CatalogError::TooLarge`].
    pub fn put_applied(&mut self, group: GroupId, applied: &AppliedRecord) -> Result<(), CatalogError> {
        self.put(&Key::applied(group), applied)
    }

    /// Removes a group's applied position, if it is there.
    pub fn delete_applied(&mut self, group: GroupId) {
        self.delete(&Key::applied(group));
    }

    /// Sets from where on a copy keeps its history.
    ///
    /// # Errors
    /// [`CatalogError::TooLarge`].
    pub fn put_history(&mut self, group: GroupId, history: &HistoryRecord) -> Result<(), CatalogError> {
        self.put(&Key::history(group), history)
    }

    /// A copy keeps no history, or its places have lost their meaning.
    pub fn delete_history(&mut self, group: GroupId) {
        self.delete(&Key::history(group));
    }

    /// Adds markers. The newest [`MARKERS_KEPT`] of a group stay; older ones go, a thousand at a time.
    ///
    /// # Errors
    /// [`CatalogError::TooLarge`].
    pub fn put_markers(&mut self, group: GroupId, markers: &[KeptMarkerRecord]) -> Result<(), CatalogError> {
        for marker in markers {
            self.put(&Key::marker(group, MarkerNumber(marker.number)), marker)?;
        }
        let newest_step = markers.iter().map(|m| m.number).filter(|n| n.is_multiple_of(MARKERS_PRUNE_STEP)).max();
        if let Some(oldest_kept) = newest_step.and_then(|number| number.checked_sub(MARKERS_KEPT)) {
            self.delete_range(KeyRange::markers_before(group, MarkerNumber(oldest_kept)));
        }
        Ok(())
    }

    /// Removes the markers newer than `number`: they are no longer part of the group's history.
    pub fn delete_markers_after(&mut self, group: GroupId, number: MarkerNumber) {
        self.delete_range(KeyRange::markers_after(group, number));
    }

    /// Adds or replaces the differential bitmap of a pair: bytes that only their owner reads.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_bitmap(&mut self, group: GroupId, peer: &str, bytes: &[u8]) -> Result<(), CatalogError> {
        self.put_payload(&Key::bitmap(group, peer)?, bytes)
    }

    /// Removes the differential bitmap of a pair, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_bitmap(&mut self, group: GroupId, peer: &str) -> Result<(), CatalogError> {
        self.delete(&Key::bitmap(group, peer)?);
        Ok(())
    }

    /// Adds or replaces the comparison of a pair.
    ///
    /// # Errors
    /// [`CatalogError::Name`], [`CatalogError::TooLarge`].
    pub fn put_verify(&mut self, group: GroupId, peer: &str, verify: &VerifyRecord) -> Result<(), CatalogError> {
        self.put(&Key::verify(group, peer)?, verify)
    }

    /// Removes the comparison of a pair, if there is one.
    ///
    /// # Errors
    /// [`CatalogError::Name`].
    pub fn delete_verify(&mut self, group: GroupId, peer: &str) -> Result<(), CatalogError> {
        self.delete(&Key::verify(group, peer)?);
        Ok(())
    }

    pub(super) fn put<R: Record>(&mut self, key: &Key, record: &R) -> Result<(), CatalogError> {
        debug_assert_eq!(key.table(), R::TABLE, "a record lies in its own table");
        let payload = record.encode().ok_or_else(|| too_large(key, usize::MAX))?;
        self.put_payload(key, &payload)
    }

    pub(super) fn put_payload(&mut self, key: &Key, payload: &[u8]) -> Result<(), CatalogError> {
        let sealed = envelope::seal(key, payload)
            .filter(|sealed| sealed.len() <= RECORD_BYTES_MAX)
            .ok_or_else(|| too_large(key, payload.len()))?;
        self.changes.push(Change::Put(key.bytes().to_vec(), sealed));
        Ok(())
    }

    pub(super) fn delete(&mut self, key: &Key) {
        self.changes.push(Change::Delete(key.bytes().to_vec()));
    }

    fn delete_range(&mut self, range: KeyRange) {
        if range.start < range.end {
            self.changes.push(Change::DeleteRange(range.start, range.end));
        }
    }

    pub(super) fn changes(&self) -> &[Change] {
        &self.changes
    }
}

fn too_large(key: &Key, bytes: usize) -> CatalogError {
    CatalogError::TooLarge { key: key.to_string(), bytes }
}
