//! The pairs of the catalogue at start: after the volumes are open, before any group's updater runs, so that no write to a
//! source goes unmarked.

use std::path::PathBuf;
use std::sync::Arc;

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::LocalPairRecord;
use tidemark_common::ids::{GroupId, VolumeIndex};
use tidemark_common::limits::IMAGE_INDEX_RANGES_MAX;
use tidemark_common::local_pair::{LocalPair, LocalPairParts};
use tidemark_common::storage::DiskFile;
use tidemark_common::t0::{Eras, ErasParts, ErasWatch};
use tidemark_common::volumes::VolumeFile;

use super::Held;
use super::missing::Missing;
use crate::roles::appliance::{Appliance, failed};
use crate::roles::volumes::DOOR_TIMEOUT;

impl Appliance {
    /// Opens the pairs of the catalogue; the eras of all groups are open already.
    pub(crate) fn open_local_pairs(&self) -> Result<(), ErrorBody> {
        for record in self.catalog.local_pairs().map_err(failed)? {
            let target = record.target.clone();
            let held = self.open_local_pair(record)?;
            self.local_pairs.held.write().insert(target, Arc::new(held));
        }
        Ok(())
    }

    fn open_local_pair(&self, record: LocalPairRecord) -> Result<Held, ErrorBody> {
        let why = |name: &str| {
            let why = self.unopened.read().get(name).map(|missing| missing.why.clone());
            why.map(|why| format!("{why}. Mend it and restart the service"))
        };
        let (missing, no_source) = (why(&record.target), why(&record.source));
        let parts = self.local_pair_parts(&record)?;
        let name = record.target.clone();
        let era = record.era;
        let pair = LocalPair::open(parts, record).map_err(|error| failed(format!("local pair '{name}': {error}")))?;
        if let Some(lost) = era.filter(|era| !pair.eras().has(*era)) {
            pair.on_era_ended(lost, "what was saved for it is gone or damaged");
        }
        Ok(Held { missing, no_source, ..Held::new(pair) })
    }

    /// What a pair works with. A source that cannot be opened is in a group that does not start; a target that cannot be opened
    /// must not keep the source from being served, nor what differs from being marked.
    pub(super) fn local_pair_parts(&self, record: &LocalPairRecord) -> Result<LocalPairParts, ErrorBody> {
        let missing = |name: &str| -> Arc<dyn DiskFile> {
            let why = self.unopened.read().get(name).map(|missing| missing.why.clone());
            Arc::new(Missing(why.unwrap_or_else(|| format!("there is no volume '{name}'"))))
        };
        let source = match self.volume(&record.source) {
            Ok(volume) => Arc::clone(&volume.file.file),
            Err(_) => missing(&record.source),
        };
        let target = match self.volume(&record.target) {
            Ok(volume) => Arc::clone(&volume.file),
            Err(_) => {
                let file = missing(&record.target);
                Arc::new(VolumeFile::new(VolumeIndex(0), record.target.clone(), file, record.size))
            }
        };
        Ok(LocalPairParts {
            catalog: self.catalog.clone(),
            clock: Arc::clone(&self.clock),
            source,
            target,
            eras: self.eras(GroupId(record.group_id))?,
            saves: self.open_saves(GroupId(record.id))?,
            patience: DOOR_TIMEOUT,
        })
    }

    pub(super) fn saves_folder(&self, id: GroupId) -> PathBuf {
        self.images_folder().join("targets").join(id.to_string())
    }

    /// The target's own eras: none outlives the service, because only backups use them.
    fn open_saves(&self, id: GroupId) -> Result<Arc<Eras>, ErrorBody> {
        let parts = ErasParts {
            disk: Arc::clone(&self.disk),
            folder: self.saves_folder(id),
            group: id,
            space: Arc::clone(&self.images.space),
            index_ranges_max: IMAGE_INDEX_RANGES_MAX,
            // A host waits for what is saved here, and backups end with the service.
            outlive: false,
        };
        let (eras, _) = Eras::open(parts, &[]).map_err(failed)?;
        if let Some(this) = self.this.upgrade() {
            let watch: Arc<dyn ErasWatch> = this;
            eras.watched_by(Arc::downgrade(&watch));
        }
        Ok(eras)
    }

    /// Sets the pairs to work, when groups run.
    pub(crate) async fn start_local_pairs(&self) {
        for held in self.local_pairs.all() {
            self.settle_door(&held.pair.target().name).await;
            self.start_local_pair(&held);
        }
    }
}
