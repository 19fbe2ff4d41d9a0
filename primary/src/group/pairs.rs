//! The pairs of a running group.

use std::sync::Arc;

use tidemark_common::catalog::{CatalogError, PairRecord};
use tokio::task::block_in_place;

use super::Primary;
use crate::ship::{Pair, PairParts};
use crate::watch::Watches;

impl Primary {
    /// Starts a pair whose record is in the catalogue.
    pub fn add_pair(&self, record: &PairRecord) -> Arc<Pair> {
        let pair = self.insert_pair(record);
        self.parts.runtime.spawn(Arc::clone(&pair).keep_running());
        pair
    }

    pub(super) fn insert_pair(&self, record: &PairRecord) -> Arc<Pair> {
        let parts = PairParts {
            image: self.image.clone(),
            desk: Arc::clone(&self.desk),
            keeper: Arc::clone(&self.keeper),
            links: Arc::clone(&self.parts.links),
            clock: Arc::clone(&self.parts.clock),
            heartbeat: self.options.heartbeat,
            metrics: self.parts.metrics.clone(),
        };
        let pair = Arc::new(Pair::new(record, parts));
        self.pairs.pairs.write().push(Arc::clone(&pair));
        pair
    }

    /// Ends a pair and forgets what it needs.
    ///
    /// # Errors
    /// When that could not be recorded.
    pub fn delete_pair(&self, peer: &str) -> Result<bool, CatalogError> {
        let Some(pair) = self.pair(peer) else { return Ok(false) };
        block_in_place(|| pair.forget())?;
        self.pairs.pairs.write().retain(|pair| pair.peer() != peer);
        Ok(true)
    }

    pub(crate) fn watches(&self) -> &Arc<Watches> {
        &self.pairs.watches
    }

    /// One pair.
    #[must_use]
    pub fn pair(&self, peer: &str) -> Option<Arc<Pair>> {
        self.pairs.pairs.read().iter().find(|pair| pair.peer() == peer).cloned()
    }

    /// All pairs.
    #[must_use]
    pub fn pairs(&self) -> Vec<Arc<Pair>> {
        self.pairs.pairs.read().clone()
    }
}
