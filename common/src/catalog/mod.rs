//! The catalogue: what the journal cannot hold. Names, peers, groups, pairs, bitmaps, the applied position, kept markers.
//!
//! ```text
//! Catalog ─ Batch: records ─▶ envelope: checked under their key ─▶ store ─▶ rocks: RocksDB at DIR/catalog, synced
//!                                                                        └▶ plain: a file on a simulated disk
//! ```
//!
//! Invariants: a change that was answered survives power loss; the changes of a [`Batch`] survive together; what is read
//! is what was put under that key, or an error that names the key. Calls wait for the disk, and keep no thread of a runtime
//! meanwhile ([`crate::workers::wait`]).

mod batch;
mod envelope;
mod error;
mod image_records;
mod images;
mod plain;
mod records;
mod rocks;
mod schema;
mod store;
#[cfg(test)]
mod tests;
mod verify_record;

use std::path::Path;
use std::sync::Arc;

use rocksdb::Options;

pub use batch::Batch;
pub use error::CatalogError;
pub use image_records::{
    DrillRecord, DrillResultRecord, ImageKindRecord, ImagePartRecord, ImageRecord, ImageRecords, ImageVolumeRecord,
    LocalPairRecord, LocalPairStateRecord, ScheduleRecord,
};
pub use records::{
    ApplianceRecord, AppliedRecord, BackupRecord, BackupStateRecord, BeforeRecord, CopyRecord, GroupRecord,
    GroupVolume, HistoryRecord, KeptMarkerRecord, OfferRecord, OfferWhy, OnFullRecord, PairRecord, PairStateRecord,
    PartedRecord, PeerRecord, RestoreRecord, RingRecord, RoleRecord, SetRecord, VolumeRecord, WhileDifferentialRecord,
};
pub use schema::{CATALOG_FORMAT, MARKERS_KEPT, RECORD_BYTES_MAX};
pub use verify_record::{VerifyRecord, VerifyStateRecord};

use crate::clock::{Clock, unix_ns};
use crate::ids::{GroupId, MarkerNumber};
use crate::storage::Disk;
use plain::Plain;
use records::Record;
use rocks::Rocks;
use schema::{Key, KeyRange, Table};
use store::Store;

/// The open catalogue of an appliance. Clones share it; the last one closes it.
#[derive(Clone)]
pub struct Catalog {
    store: Arc<Store>,
}

impl std::fmt::Debug for Catalog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Catalog").field(&self.store.path()).finish()
    }
}

impl Catalog {
    /// Opens `directory/catalog`, makes it when it is not there, and verifies all records but markers, bitmaps and the like, which
    /// are verified when read.
    ///
    /// # Errors
    /// [`CatalogError::Locked`] by another process, [`CatalogError::Newer`], [`CatalogError::Damaged`],
    /// [`CatalogError::FilesDamaged`], [`CatalogError::NoSpace`], [`CatalogError::Failed`].
    pub fn open(directory: &Path, clock: &dyn Clock) -> Result<Self, CatalogError> {
        Self::open_with(directory, clock, &rocks::options())
    }

    fn open_with(directory: &Path, clock: &dyn Clock, options: &Options) -> Result<Self, CatalogError> {
        let path = directory.join("catalog");
        Self::over(Store::new(Rocks::open(path.clone(), options)?, path), clock)
    }

    /// The catalogue of a simulated appliance: a file on its disk.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_simulated(disk: &dyn Disk, path: &Path, clock: &dyn Clock) -> Result<Self, CatalogError> {
        Self::over(Store::new(Plain::open(disk, path)?, path.to_owned()), clock)
    }

    fn over(store: Store, clock: &dyn Clock) -> Result<Self, CatalogError> {
        let catalog = Self { store: Arc::new(store) };
        catalog.settle_format(clock)?;
        catalog.store.refuse_foreign_keys()?;
        let small = [
            Table::Applied,
            Table::Backup,
            Table::Group,
            Table::ImagePart,
            Table::Image,
            Table::LocalPair,
            Table::Offer,
            Table::Peer,
            Table::Restore,
            Table::Ring,
            Table::Schedule,
            Table::Set,
            Table::Volume,
        ];
        for table in small {
            catalog.verify_table(table)?;
        }
        Ok(catalog)
    }

    /// Reads every record, bitmaps and markers too.
    ///
    /// # Errors
    /// [`CatalogError::Damaged`] with the first that is, [`CatalogError::FilesDamaged`], [`CatalogError::Failed`].
    pub fn verify(&self) -> Result<(), CatalogError> {
        self.store.refuse_foreign_keys()?;
        Table::ALL.into_iter().try_for_each(|table| self.verify_table(table))
    }

    /// Applies the changes, all or none. When this returns without an error they are durable; after an error they may
    /// be found, all or none, when the catalogue is opened again.
    ///
    /// # Errors
    /// [`CatalogError::NoSpace`], [`CatalogError::Failed`].
    pub fn commit(&self, batch: Batch) -> Result<(), CatalogError> {
        if batch.is_empty() { Ok(()) } else { self.store.write(batch.changes()) }
    }

    /// What this catalogue is and when it was made.
    ///
    /// # Errors
    /// As all reads: [`CatalogError::Damaged`], [`CatalogError::FilesDamaged`], [`CatalogError::Failed`].
    pub fn appliance(&self) -> Result<Option<ApplianceRecord>, CatalogError> {
        self.get(&Key::appliance())
    }

    /// All peers, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn peers(&self) -> Result<Vec<PeerRecord>, CatalogError> {
        self.all()
    }

    /// One peer.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn peer(&self, name: &str) -> Result<Option<PeerRecord>, CatalogError> {
        self.get(&Key::peer(name)?)
    }

    /// Adds or replaces a peer.
    ///
    /// # Errors
    /// As [`Batch::put_peer`] and [`Catalog::commit`].
    pub fn put_peer(&self, peer: &PeerRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_peer(peer))
    }

    /// Removes a peer, if it is there.
    ///
    /// # Errors
    /// As [`Batch::delete_peer`] and [`Catalog::commit`].
    pub fn delete_peer(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_peer(name))
    }

    /// The volumes in no group that copies may be made on, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn offers(&self) -> Result<Vec<OfferRecord>, CatalogError> {
        self.all()
    }

    /// Adds or replaces an offer.
    ///
    /// # Errors
    /// As [`Batch::put_offer`] and [`Catalog::commit`].
    pub fn put_offer(&self, offer: &OfferRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_offer(offer))
    }

    /// Removes the offer of a volume, if there is one.
    ///
    /// # Errors
    /// As [`Batch::delete_offer`] and [`Catalog::commit`].
    pub fn delete_offer(&self, volume: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_offer(volume))
    }

    /// Where the write buffer of a group lies.
    ///
    /// # Errors
    /// As all reads.
    pub fn ring(&self, group: GroupId) -> Result<Option<RingRecord>, CatalogError> {
        self.get(&Key::ring(group))
    }

    /// Keeps where the write buffer of a group lies.
    ///
    /// # Errors
    /// As [`Catalog::commit`].
    pub fn put_ring(&self, group: GroupId, ring: &RingRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put(&Key::ring(group), ring))
    }

    /// The write buffer of a group holds nothing any more.
    ///
    /// # Errors
    /// As [`Catalog::commit`].
    pub fn delete_ring(&self, group: GroupId) -> Result<(), CatalogError> {
        self.change(|batch| {
            batch.delete(&Key::ring(group));
            Ok(())
        })
    }

    /// All volumes, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn volumes(&self) -> Result<Vec<VolumeRecord>, CatalogError> {
        self.all()
    }

    /// One volume.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn volume(&self, name: &str) -> Result<Option<VolumeRecord>, CatalogError> {
        self.get(&Key::volume(name)?)
    }

    /// Adds or replaces a volume.
    ///
    /// # Errors
    /// As [`Batch::put_volume`] and [`Catalog::commit`].
    pub fn put_volume(&self, volume: &VolumeRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_volume(volume))
    }

    /// Removes a volume, if it is there.
    ///
    /// # Errors
    /// As [`Batch::delete_volume`] and [`Catalog::commit`].
    pub fn delete_volume(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_volume(name))
    }

    /// All data sets, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn sets(&self) -> Result<Vec<SetRecord>, CatalogError> {
        self.all()
    }

    /// One data set.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn set(&self, name: &str) -> Result<Option<SetRecord>, CatalogError> {
        self.get(&Key::set(name)?)
    }

    /// Adds or replaces a data set.
    ///
    /// # Errors
    /// As [`Batch::put_set`] and [`Catalog::commit`].
    pub fn put_set(&self, set: &SetRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_set(set))
    }

    /// Removes a data set, if it is there.
    ///
    /// # Errors
    /// As [`Batch::delete_set`] and [`Catalog::commit`].
    pub fn delete_set(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_set(name))
    }

    /// All backups, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn backups(&self) -> Result<Vec<BackupRecord>, CatalogError> {
        self.all()
    }

    /// One backup.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn backup(&self, name: &str) -> Result<Option<BackupRecord>, CatalogError> {
        self.get(&Key::backup(name)?)
    }

    /// Adds or replaces a backup.
    ///
    /// # Errors
    /// As [`Batch::put_backup`] and [`Catalog::commit`].
    pub fn put_backup(&self, backup: &BackupRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_backup(backup))
    }

    /// Removes a backup's record, if it is there.
    ///
    /// # Errors
    /// As [`Batch::delete_backup`] and [`Catalog::commit`].
    pub fn delete_backup(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_backup(name))
    }

    /// The restores that have begun and not ended, by volume.
    ///
    /// # Errors
    /// As all reads.
    pub fn restores(&self) -> Result<Vec<RestoreRecord>, CatalogError> {
        self.all()
    }

    /// All groups, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn groups(&self) -> Result<Vec<GroupRecord>, CatalogError> {
        self.all()
    }

    /// One group.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn group(&self, name: &str) -> Result<Option<GroupRecord>, CatalogError> {
        self.get(&Key::group(name)?)
    }

    /// Adds or replaces a group.
    ///
    /// # Errors
    /// As [`Batch::put_group`] and [`Catalog::commit`].
    pub fn put_group(&self, group: &GroupRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_group(group))
    }

    /// Removes a group with its applied position, markers and bitmaps.
    ///
    /// # Errors
    /// As [`Batch::delete_group`] and [`Catalog::commit`].
    pub fn delete_group(&self, name: &str, id: GroupId) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_group(name, id))
    }

    /// How far a group's updater is; nothing before it was first put.
    ///
    /// # Errors
    /// As all reads.
    pub fn applied(&self, group: GroupId) -> Result<Option<AppliedRecord>, CatalogError> {
        self.get(&Key::applied(group))
    }

    /// Sets how far a group's updater is.
    ///
    /// # Errors
    /// As [`Batch::put_applied`] and [`Catalog::commit`].
    pub fn put_applied(&self, group: GroupId, applied: &AppliedRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_applied(group, applied))
    }

    /// From where on a copy keeps its history; `None`: it keeps none.
    ///
    /// # Errors
    /// As all reads.
    pub fn history(&self, group: GroupId) -> Result<Option<HistoryRecord>, CatalogError> {
        self.get(&Key::history(group))
    }

    /// The newest `limit` markers kept of a group, in their order.
    ///
    /// # Errors
    /// As all reads.
    pub fn markers(&self, group: GroupId, limit: usize) -> Result<Vec<KeptMarkerRecord>, CatalogError> {
        let range = KeyRange::markers(group);
        let mut markers = self.store.scan(Table::Marker, &range, true, limit, KeptMarkerRecord::decode)?;
        markers.reverse();
        Ok(markers)
    }

    /// One marker, when it is kept.
    ///
    /// # Errors
    /// As all reads.
    pub fn marker(&self, group: GroupId, number: MarkerNumber) -> Result<Option<KeptMarkerRecord>, CatalogError> {
        self.get(&Key::marker(group, number))
    }

    /// Adds markers and lets old ones go.
    ///
    /// # Errors
    /// As [`Batch::put_markers`] and [`Catalog::commit`].
    pub fn put_markers(&self, group: GroupId, markers: &[KeptMarkerRecord]) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_markers(group, markers))
    }

    /// The differential bitmap of a pair, as it was put.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn bitmap(&self, group: GroupId, peer: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        self.store.get(&Key::bitmap(group, peer)?, |bytes| Some(bytes.to_vec()))
    }

    /// Adds or replaces the differential bitmap of a pair.
    ///
    /// # Errors
    /// As [`Batch::put_bitmap`] and [`Catalog::commit`].
    pub fn put_bitmap(&self, group: GroupId, peer: &str, bytes: &[u8]) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_bitmap(group, peer, bytes))
    }

    /// Removes the differential bitmap of a pair, if it is there.
    ///
    /// # Errors
    /// As [`Batch::delete_bitmap`] and [`Catalog::commit`].
    pub fn delete_bitmap(&self, group: GroupId, peer: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_bitmap(group, peer))
    }

    /// The comparison of a pair.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn verify_of(&self, group: GroupId, peer: &str) -> Result<Option<VerifyRecord>, CatalogError> {
        self.get(&Key::verify(group, peer)?)
    }

    /// Adds or replaces the comparison of a pair.
    ///
    /// # Errors
    /// As [`Batch::put_verify`] and [`Catalog::commit`].
    pub fn put_verify(&self, group: GroupId, peer: &str, verify: &VerifyRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_verify(group, peer, verify))
    }

    /// Removes the comparison of a pair, if there is one.
    ///
    /// # Errors
    /// As [`Batch::delete_verify`] and [`Catalog::commit`].
    pub fn delete_verify(&self, group: GroupId, peer: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_verify(group, peer))
    }

    /// Refuses the format of a newer build; a new catalogue gets ours.
    fn settle_format(&self, clock: &dyn Clock) -> Result<(), CatalogError> {
        let path = || self.store.path().to_owned();
        match self.appliance()? {
            Some(found) if found.format > CATALOG_FORMAT => {
                Err(CatalogError::Newer { path: path(), found: found.format })
            }
            Some(_) => Ok(()),
            None if self.store.is_empty()? => {
                let created_ns = unix_ns(clock.wall());
                let record = ApplianceRecord { format: CATALOG_FORMAT, created_ns };
                self.change(|batch| batch.put(&Key::appliance(), &record))
            }
            None => {
                let key = Key::appliance();
                Err(CatalogError::damaged(&path(), key.table(), key.bytes(), "it is missing, and others are there"))
            }
        }
    }

    fn change(&self, add: impl FnOnce(&mut Batch) -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        let mut batch = Batch::new();
        add(&mut batch)?;
        self.commit(batch)
    }

    fn get<R: Record>(&self, key: &Key) -> Result<Option<R>, CatalogError> {
        self.store.get(key, R::decode)
    }

    fn all<R: Record>(&self) -> Result<Vec<R>, CatalogError> {
        self.store.scan(R::TABLE, &R::TABLE.range(), false, usize::MAX, R::decode)
    }

    fn verify_table(&self, table: Table) -> Result<(), CatalogError> {
        let verified = |payload: &[u8]| records::is_readable(table, payload).then_some(());
        self.store.scan(table, &table.range(), false, usize::MAX, verified).map(drop)
    }
}
