//! What is kept of images, local pairs and drills: see `image_records` for what that is.

use std::collections::BTreeMap;

use super::schema::Key;
use super::{
    Catalog, CatalogError, DrillRecord, ImagePartRecord, ImageRecord, ImageRecords, LocalPairRecord, ScheduleRecord,
};

impl Catalog {
    /// All images, by name.
    ///
    /// # Errors
    /// As all reads.
    pub fn images(&self) -> Result<Vec<ImageRecords>, CatalogError> {
        let mut others: BTreeMap<String, Vec<ImageRecord>> = BTreeMap::new();
        for ImagePartRecord(part) in self.all()? {
            others.entry(part.name.clone()).or_default().push(part);
        }
        let whole = |first: ImageRecord| ImageRecords { others: others.remove(&first.name).unwrap_or_default(), first };
        Ok(self.all()?.into_iter().map(whole).collect())
    }

    /// Adds or replaces an image.
    ///
    /// # Errors
    /// As [`Batch::put_image`](super::Batch::put_image) and [`Catalog::commit`].
    pub fn put_image(&self, image: &ImageRecords) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_image(image))
    }

    /// Removes an image, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`] and as [`Catalog::commit`].
    pub fn delete_image(&self, name: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_image(name))
    }

    /// All local pairs, by target.
    ///
    /// # Errors
    /// As all reads.
    pub fn local_pairs(&self) -> Result<Vec<LocalPairRecord>, CatalogError> {
        self.all()
    }

    /// The bitmaps of a local pair, as they were put.
    ///
    /// # Errors
    /// As all reads; [`CatalogError::Name`].
    pub fn local_bits(&self, target: &str) -> Result<Option<Vec<u8>>, CatalogError> {
        self.store.get(&Key::local_bits(target)?, |bytes| Some(bytes.to_vec()))
    }

    /// Adds or replaces a local pair and its bitmaps.
    ///
    /// # Errors
    /// As [`Batch::put_local_pair`](super::Batch::put_local_pair) and [`Catalog::commit`].
    pub fn put_local_pair(&self, pair: &LocalPairRecord, bits: &[u8]) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_local_pair(pair, bits))
    }

    /// Removes a local pair and its bitmaps, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`] and as [`Catalog::commit`].
    pub fn delete_local_pair(&self, target: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_local_pair(target))
    }

    /// All drills, by number.
    ///
    /// # Errors
    /// As all reads.
    pub fn drills(&self) -> Result<Vec<DrillRecord>, CatalogError> {
        self.all()
    }

    /// One drill.
    ///
    /// # Errors
    /// As all reads.
    pub fn drill(&self, number: u64) -> Result<Option<DrillRecord>, CatalogError> {
        self.get(&Key::drill(number))
    }

    /// Adds or replaces a drill.
    ///
    /// # Errors
    /// As [`Batch::put_drill`](super::Batch::put_drill) and [`Catalog::commit`].
    pub fn put_drill(&self, drill: &DrillRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_drill(drill))
    }

    /// Removes a drill, if it is there.
    ///
    /// # Errors
    /// As [`Catalog::commit`].
    pub fn delete_drill(&self, number: u64) -> Result<(), CatalogError> {
        self.change(|batch| {
            batch.delete_drill(number);
            Ok(())
        })
    }

    /// All schedules, by group.
    ///
    /// # Errors
    /// As all reads.
    pub fn schedules(&self) -> Result<Vec<ScheduleRecord>, CatalogError> {
        self.all()
    }

    /// Adds or replaces a schedule.
    ///
    /// # Errors
    /// As [`Batch::put_schedule`](super::Batch::put_schedule) and [`Catalog::commit`].
    pub fn put_schedule(&self, schedule: &ScheduleRecord) -> Result<(), CatalogError> {
        self.change(|batch| batch.put_schedule(schedule))
    }

    /// Removes a schedule, if it is there.
    ///
    /// # Errors
    /// [`CatalogError::Name`] and as [`Catalog::commit`].
    pub fn delete_schedule(&self, group: &str) -> Result<(), CatalogError> {
        self.change(|batch| batch.delete_schedule(group))
    }
}
