//! One group's record in the catalogue: changed only through here, so that what is in memory and what is durable never
//! differ.

use parking_lot::Mutex;

use crate::catalog::{Batch, Catalog, CatalogError, GroupRecord, PairRecord};
use crate::ids::{Generation, GroupId};

/// The keeper of one group's record.
#[derive(Debug)]
pub struct GroupKeeper {
    catalog: Catalog,
    record: Mutex<GroupRecord>,
}

impl GroupKeeper {
    /// Keeps a record that is in the catalogue already.
    #[must_use]
    pub const fn new(catalog: Catalog, record: GroupRecord) -> Self {
        Self { catalog, record: Mutex::new(record) }
    }

    /// The catalogue behind it.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The record now.
    #[must_use]
    pub fn get(&self) -> GroupRecord {
        self.record.lock().clone()
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        GroupId(self.record.lock().id)
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.record.lock().name.clone()
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.record.lock().generation)
    }

    /// Changes the record, durably, then in memory.
    ///
    /// # Errors
    /// [`CatalogError`]; the record is as it was.
    pub fn update<T>(&self, change: impl FnOnce(&mut GroupRecord) -> T) -> Result<T, CatalogError> {
        let mut record = self.record.lock();
        let mut changed = record.clone();
        let answer = change(&mut changed);
        if changed != *record {
            self.catalog.put_group(&changed)?;
            *record = changed;
        }
        Ok(answer)
    }

    /// Changes the record together with what else is in a batch.
    ///
    /// # Errors
    /// [`CatalogError`]; the record is as it was, and nothing of the batch is kept.
    pub fn update_with<T>(
        &self,
        mut batch: Batch,
        change: impl FnOnce(&mut GroupRecord) -> T,
    ) -> Result<T, CatalogError> {
        let mut record = self.record.lock();
        let mut changed = record.clone();
        let answer = change(&mut changed);
        batch.put_group(&changed)?;
        self.catalog.commit(batch)?;
        *record = changed;
        Ok(answer)
    }

    /// One pair's record.
    #[must_use]
    pub fn pair(&self, peer: &str) -> Option<PairRecord> {
        self.record.lock().pairs.iter().find(|pair| pair.peer == peer).cloned()
    }

    /// Changes one pair's record; does nothing when there is no such pair.
    ///
    /// # Errors
    /// [`CatalogError`]; the record is as it was.
    pub fn update_pair(&self, peer: &str, change: impl FnOnce(&mut PairRecord)) -> Result<(), CatalogError> {
        self.update(|record| {
            if let Some(pair) = record.pairs.iter_mut().find(|pair| pair.peer == peer) {
                change(pair);
            }
        })
    }
}
