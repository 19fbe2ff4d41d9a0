//! The asking end.

use hyper::Method;

use super::types::{LocalPairCreate, LocalPairSplit, LocalPairStatus};
use crate::api::client::{Answer, Ask, Client, forced};

impl Client {
    /// `local-pair create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pair_create(&self, request: &LocalPairCreate) -> Answer<LocalPairStatus> {
        self.ask(Ask::new(Method::POST, &["local-pairs"]).with(request)).await
    }

    /// `local-pair split`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pair_split(&self, request: &LocalPairSplit) -> Answer<Vec<LocalPairStatus>> {
        self.ask(Ask::new(Method::POST, &["local-splits"]).with(request)).await
    }

    /// `local-pair resync`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pair_resync(&self, target: &str, force: bool) -> Answer<LocalPairStatus> {
        self.ask(forced(Ask::new(Method::POST, &["local-pairs", target, "resync"]), force)).await
    }

    /// `local-pair reverse`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pair_reverse(&self, target: &str) -> Answer<LocalPairStatus> {
        self.ask(Ask::new(Method::POST, &["local-pairs", target, "reverse"])).await
    }

    /// `local-pair delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pair_delete(&self, target: &str, force: bool) -> Answer<()> {
        self.tell(forced(Ask::new(Method::DELETE, &["local-pairs", target]), force)).await
    }

    /// `local-pair list`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pairs(&self) -> Answer<Vec<LocalPairStatus>> {
        self.ask(Ask::new(Method::GET, &["local-pairs"])).await
    }

    /// `local-pair show`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn local_pair(&self, volume: &str) -> Answer<LocalPairStatus> {
        self.ask(Ask::new(Method::GET, &["local-pairs", volume])).await
    }
}
