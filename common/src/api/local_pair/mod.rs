//! The part of the control API that is about pairs on one appliance: its types, what it asks of the appliance,
//! its paths, and the asking end.

mod client;
pub(super) mod routes;
pub mod types;

use self::types::{LocalPairCreate, LocalPairSplit, LocalPairStatus};
use super::control::Reply;

/// Pairs on one appliance as operators command them; a pair is named by its target.
pub trait LocalPairControl: Send + Sync + 'static {
    /// `local-pair create`: resolves when the first copy begins.
    fn local_pair_create(&self, request: LocalPairCreate) -> Reply<'_, LocalPairStatus>;
    /// `local-pair split`: resolves when all targets present the image at one marker.
    fn local_pair_split(&self, request: LocalPairSplit) -> Reply<'_, Vec<LocalPairStatus>>;
    /// `local-pair resync`: the target's content goes; resolves when the copy begins.
    fn local_pair_resync(&self, target: String, force: bool) -> Reply<'_, LocalPairStatus>;
    /// `local-pair reverse`: the source's content goes; resolves when the restore begins.
    fn local_pair_reverse(&self, target: String) -> Reply<'_, LocalPairStatus>;
    /// `local-pair delete`.
    fn local_pair_delete(&self, target: String, force: bool) -> Reply<'_, ()>;
    /// `local-pair list`: by target.
    fn local_pairs(&self) -> Reply<'_, Vec<LocalPairStatus>>;
    /// `local-pair show`: a volume in no pair is simplex.
    fn local_pair(&self, volume: String) -> Reply<'_, LocalPairStatus>;
}
