//! The appliance: identity, settings, catalogue, and the tables of what runs here.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use tidemark_common::api::types::{Addresses, ErrorBody, ErrorKind, PairState};
use tidemark_common::catalog::{Catalog, PeerRecord, RoleRecord, VolumeRecord};
use tidemark_common::clock::Clock;
use tidemark_common::config::Config;
use tidemark_common::identity::Identity;
use tidemark_common::ids::{ApplianceId, Generation, GroupId};
use tidemark_common::journal::JournalOptions;
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::link::{Endpoint, Trust};
use tidemark_common::metrics::{Metrics, PeerRefusal};
use tidemark_common::repeats::Repeats;
use tidemark_common::storage::{Claim, Disk};
use tidemark_common::volumes::VolumeFile;
use tidemark_common::watchdog::Watchdog;
use tidemark_common::wire::message::{Refusal, Refused};
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Links;
use tidemark_secondary::group::Secondary;
use tokio::runtime::Handle;

use super::backups::Backups;
use super::door::{Closed, Door};
use super::drill::Drills;
use super::engine::Running;
use super::images::Images;
use super::local_pairs::LocalPairs;
use super::lost::under_way::LostExports;
use super::offers::Offers;
use super::strangers::Strangers;
use super::takers::Rival;
use super::verify::Comparisons;

/// What runs for a group.
#[derive(Clone)]
pub(crate) enum Engine {
    /// Hosts write here.
    Primary(Arc<Primary>),
    /// The copy is here.
    Secondary(Arc<Secondary>),
    /// Met a higher generation, or has asked its copy to take over.
    Fenced {
        /// That generation; see [`Group::unanswered`].
        by: Generation,
    },
    /// Is becoming another of these, which ends by itself.
    Changing {
        /// What is done, for people.
        what: String,
        /// What is shown of its pairs meanwhile.
        pairs: PairState,
    },
    /// Does not run.
    Failed(Failure),
}

/// Why a group does not run.
#[derive(Debug, Clone)]
pub(crate) struct Failure {
    /// What happened and what to do.
    pub(crate) reason: String,
    /// Of a copy: its journal is what keeps it from running, and, if so, whether that is there and damaged.
    pub(crate) journal: Option<Damaged>,
    /// A failover, or another way to be primary, did not end here: another failover goes on with it.
    pub(crate) unended: bool,
}

/// Whether a copy's journal is there and damaged, and not just gone.
pub(crate) type Damaged = bool;

impl<T: Into<String>> From<T> for Failure {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), journal: None, unended: false }
    }
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.reason)
    }
}

/// A group of this appliance.
pub(crate) struct Group {
    pub(crate) keeper: Arc<GroupKeeper>,
    pub(crate) engine: Running,
    /// A higher generation that was met; 0 for none. From then on hosts are out, whatever else must be waited for before
    /// the engine is changed.
    pub(crate) met: AtomicU64,
    /// Of a copy: the marker it stood at when it said last that it has not taken over. Who asked serves again, so that it may not take
    /// over at this marker or an older one any more. What was asked of a process that is gone comes to nobody.
    pub(crate) denied: AtomicU64,
    /// Another primary that has called.
    pub(crate) rival: Mutex<Option<Rival>>,
    /// Of a fenced group: who has taken over, and with which generation.
    pub(crate) takers: Mutex<Vec<(String, u64)>>,
    /// Somebody asks for them, again and again.
    pub(crate) looks_for_takers: AtomicBool,
    /// Since when it does not run, as far as anybody looked.
    pub(crate) failed_since: Mutex<Option<jiff::Timestamp>>,
}

impl Group {
    /// A group and what runs for it.
    pub(crate) fn new(keeper: Arc<GroupKeeper>, engine: Engine) -> Self {
        Self {
            keeper,
            engine: Running::new(engine),
            met: AtomicU64::new(0),
            denied: AtomicU64::new(0),
            rival: Mutex::default(),
            takers: Mutex::default(),
            looks_for_takers: AtomicBool::new(false),
            failed_since: Mutex::default(),
        }
    }

    /// The higher generation that was met, if any was.
    pub(crate) fn met(&self) -> Option<Generation> {
        Some(self.met.load(Ordering::Acquire)).filter(|met| *met > 0).map(Generation)
    }

    /// Whether this side is the primary of its generation, also when it does not run: a lower one is fenced all the same (invariant 8).
    pub(crate) fn is_primary(&self, engine: &Engine) -> bool {
        matches!(engine, Engine::Primary(_)) || self.keeper.get().role == RoleRecord::Primary
    }

    /// The copy here, when it is that of the caller, at the caller's generation. Why not, for people.
    pub(crate) fn copy_for(&self, caller: [u8; 32], generation: u64, here: &str) -> Result<Arc<Secondary>, String> {
        let record = self.keeper.get();
        let Engine::Secondary(copy) = self.engine.read().clone() else {
            return Err(format!("group '{}' is no copy on '{here}'", record.name));
        };
        if record.primary != Some(caller) || record.generation != generation {
            return Err(format!("group '{}' on '{here}' is the copy of another appliance or generation", record.name));
        }
        Ok(copy)
    }

    /// Whether the copy is here.
    pub(crate) fn is_secondary(&self) -> bool {
        self.keeper.get().role == RoleRecord::Secondary
    }
}

/// A volume of this appliance.
pub(crate) struct Volume {
    /// Its file, as a volume in no group sees it.
    pub(crate) file: Arc<VolumeFile>,
    pub(crate) door: Arc<Door>,
    /// Keeps everybody else from the backing, as long as this volume is known here.
    pub(crate) claim: Arc<Claim>,
    pub(crate) backing: String,
    /// Made by this appliance, and deleted with the volume.
    pub(crate) owned: bool,
    /// The group it was made for as a copy: it belongs there before the group's own record says so.
    pub(crate) made_for: RwLock<Option<String>>,
}

/// A volume of the catalogue that could not be opened.
pub(crate) struct Unopened {
    pub(crate) record: VolumeRecord,
    /// What happened.
    pub(crate) why: String,
}

impl Unopened {
    /// What people are told.
    pub(crate) fn problem(&self) -> String {
        let (name, why) = (&self.record.name, &self.why);
        format!(
            "volume '{name}' cannot be used: {why}. Mend it and restart the service; or, when that is lost and the volume is in no group, \
             `tidemark volume delete {name}` forgets the volume"
        )
    }
}

impl Volume {
    /// Whether it is a copy made for this group.
    pub(crate) fn is_made_for(&self, group: &str) -> bool {
        self.made_for.read().as_deref() == Some(group)
    }
}

/// A running appliance.
pub(crate) struct Appliance {
    pub(crate) directory: PathBuf,
    pub(crate) config: Config,
    pub(crate) identity: Identity,
    pub(crate) catalog: Catalog,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runtime: Handle,
    pub(crate) endpoint: OnceLock<Arc<Endpoint>>,
    pub(crate) addresses: OnceLock<Addresses>,
    pub(crate) peers: RwLock<BTreeMap<String, PeerRecord>>,
    pub(crate) volumes: RwLock<BTreeMap<String, Arc<Volume>>>,
    /// Volumes of the catalogue that could not be opened, and why.
    pub(crate) unopened: RwLock<BTreeMap<String, Unopened>>,
    pub(crate) groups: RwLock<BTreeMap<String, Arc<Group>>>,
    /// Volumes that copies may be made on.
    pub(crate) offers: Offers,
    /// T0 copies and clones.
    pub(crate) images: Images,
    /// Sources and targets.
    pub(crate) local_pairs: LocalPairs,
    /// Rehearsals.
    pub(crate) drills: Drills,
    /// The last comparison of each pair.
    pub(crate) comparisons: Comparisons,
    /// Operators' changes and peers' new groups, one at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    pub(crate) backups: Backups,
    /// Exports of what was lost.
    pub(crate) lost_exports: LostExports,
    pub(crate) watchdog: Watchdog,
    /// What was logged of peers that call again and again.
    pub(crate) repeats: Repeats,
    /// Who called of late and is not trusted.
    pub(crate) strangers: Strangers,
    pub(crate) this: Weak<Self>,
}

impl Volume {
    /// Nobody is served any more, and nobody inside is waited for.
    pub(crate) fn close(&self, reason: String) {
        self.door.lead_to_now(Arc::new(Closed { size: self.file.size(), reason }));
    }
}

impl Appliance {
    /// One of the groups.
    pub(crate) fn group(&self, name: &str) -> Result<Arc<Group>, ErrorBody> {
        self.groups
            .read()
            .get(name)
            .cloned()
            .ok_or_else(|| not_found(format!("there is no group '{name}': `tidemark status` lists the groups")))
    }

    /// A group's engine when it is a primary.
    pub(crate) fn primary(&self, name: &str) -> Result<Arc<Primary>, ErrorBody> {
        let group = self.group(name)?;
        let engine = group.engine.read().clone();
        match engine {
            Engine::Primary(primary) => match group.met() {
                Some(by) => Err(fenced(name, by)),
                None => Ok(primary),
            },
            Engine::Secondary(secondary) => {
                let primary = self.primary_of(&secondary).map_or_else(String::new, |primary| format!(", '{primary}'"));
                Err(refused(format!(
                    "group '{name}' is secondary here: run this on its primary{primary}. Only when that is lost, `tidemark failover {name}` \
                     makes this side the primary"
                )))
            }
            Engine::Fenced { by } => Err(match group.unanswered(by) {
                Some(asked) => refused(format!("group '{name}' is fenced here: {asked}")),
                None => fenced(name, by),
            }),
            Engine::Changing { what, .. } => Err(changing(name, &what)),
            Engine::Failed(reason) => Err(refused(format!("group '{name}' does not run: {reason}"))),
        }
    }

    /// The group with this id.
    pub(crate) fn group_by_id(&self, id: GroupId) -> Option<Arc<Group>> {
        self.groups.read().values().find(|group| group.keeper.id() == id).cloned()
    }

    /// One of the volumes.
    pub(crate) fn volume(&self, name: &str) -> Result<Arc<Volume>, ErrorBody> {
        if let Some(volume) = self.volumes.read().get(name) {
            return Ok(Arc::clone(volume));
        }
        let unopened = self.unopened.read();
        Err(unopened.get(name).map_or_else(
            || not_found(format!("there is no volume '{name}': `tidemark volume list` lists the volumes")),
            |unopened| refused(unopened.problem()),
        ))
    }

    /// The name of a peer by its id.
    pub(crate) fn peer_by_id(&self, id: &[u8; 32]) -> Option<String> {
        self.peers.read().values().find(|peer| peer.id == *id).map(|peer| peer.name.clone())
    }

    /// The name of a copy's primary.
    pub(crate) fn primary_of(&self, copy: &Secondary) -> Option<String> {
        copy.keeper().get().primary.and_then(|id| self.peer_by_id(&id))
    }

    pub(crate) fn journal_options(&self) -> JournalOptions {
        let groups = &self.config.groups;
        JournalOptions { segment_bytes: groups.segment_bytes, capacity_bytes: groups.journal_bytes }
    }

    /// All that a group has in files of its own, but its ring.
    pub(crate) fn group_folder(&self, group: GroupId) -> PathBuf {
        groups_folder(&self.directory).join(group.to_string())
    }

    pub(crate) fn journal_folder(&self, group: GroupId) -> PathBuf {
        self.group_folder(group).join("journal")
    }

    /// Where the write buffer of a group lies, if it has one.
    pub(crate) fn ring_path(&self, group: GroupId) -> PathBuf {
        let known = self.catalog.ring(group).ok().flatten();
        known.map_or_else(|| self.configured_ring_path(group), |known| PathBuf::from(known.path))
    }

    /// Where a new one is made.
    pub(crate) fn configured_ring_path(&self, group: GroupId) -> PathBuf {
        self.ring_folder().join(format!("{group}.ring"))
    }

    pub(crate) fn ring_folder(&self) -> PathBuf {
        ring_folder(&self.config.groups.ring_directory, self.identity.id())
    }
}

/// Of an appliance's directory: where each group has its folder.
pub(crate) fn groups_folder(directory: &Path) -> PathBuf {
    directory.join("groups")
}

/// Rings of several appliances may lie in one tmpfs.
fn ring_folder(directory: &Path, id: ApplianceId) -> PathBuf {
    directory.join(format!("tidemark-{}", id.short()))
}

pub(crate) fn refused(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorKind::Refused, message)
}

/// What a peer is told that is turned away, with the generation here; 0 where that says nothing to it.
pub(crate) const fn refuse(refusal: Refusal, generation: u64, message: String) -> Refused {
    Refused { refusal, message, generation }
}

fn fenced(group: &str, by: Generation) -> ErrorBody {
    refused(format!(
        "group '{group}' is fenced here: generation {by} runs on another appliance. Run this there: `tidemark status` here names it, and says \
         how this side goes on"
    ))
}

/// What is said of a group that is becoming something else.
pub(crate) fn changing(group: &str, what: &str) -> ErrorBody {
    refused(format!(
        "group '{group}' is being changed here: {what}. Try again when that is done, which `tidemark status` shows"
    ))
}

pub(crate) fn invalid(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorKind::Invalid, message)
}

/// What is said of a pair that is not there.
pub(crate) fn not_paired(group: &str, peer: &str) -> String {
    format!("group '{group}' is not paired with '{peer}': `tidemark status` lists its pairs")
}

pub(crate) fn not_found(message: impl Into<String>) -> ErrorBody {
    ErrorBody::new(ErrorKind::NotFound, message)
}

/// Why a long job ended.
pub(crate) const CANCELLED: &str = "cancelled by the operator";

pub(crate) fn failed(error: impl std::fmt::Display) -> ErrorBody {
    ErrorBody::new(ErrorKind::Failed, error.to_string())
}

impl Links for Appliance {
    fn endpoint(&self) -> Arc<Endpoint> {
        // Pairs start after the endpoint is bound (service::run); there is no other order.
        #[expect(clippy::expect_used, reason = "set before any group is started")]
        Arc::clone(self.endpoint.get().expect("the endpoint is bound before groups start"))
    }

    fn reach(&self, peer: &str) -> Result<(ApplianceId, String), String> {
        let peers = self.peers.read();
        let record = peers.get(peer).ok_or_else(|| {
            format!("no peer '{peer}' is known here: `tidemark peer add {peer} --id ID --addr HOST:PORT`")
        })?;
        let address = record.address.clone().ok_or_else(|| {
            format!(
                "no address is known for peer '{peer}': `tidemark peer add {peer} --id {} --addr HOST:PORT`",
                hex::encode(record.id)
            )
        })?;
        Ok((ApplianceId(record.id), address))
    }

    fn name(&self) -> String {
        self.config.name.clone()
    }

    fn fenced(&self, group: &str, peer: &str, generation: Generation) {
        tracing::error!(group, peer, %generation, "fenced: another appliance has taken over");
        let (Some(appliance), group) = (self.this.upgrade(), group.to_owned()) else { return };
        self.runtime.spawn(async move { appliance.fence(&group, generation).await });
    }
}

/// Who may connect: the peers of the catalogue.
pub(crate) struct KnownPeers(pub(crate) Weak<Appliance>, pub(crate) Arc<Metrics>);

impl Trust for KnownPeers {
    fn peer_name(&self, id: &ApplianceId) -> Option<String> {
        self.0.upgrade()?.peer_by_id(&id.0)
    }

    fn refused(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.1.peer_refused(PeerRefusal::UnknownPeer);
        self.note(remote, id, why);
    }

    fn unfinished(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.1.peer_refused(PeerRefusal::Handshake);
        self.note(remote, id, why);
    }

    fn crowded(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.1.peer_refused(PeerRefusal::TooMany);
        self.note(remote, id, why);
    }
}

impl KnownPeers {
    /// For status and the log.
    fn note(&self, remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        let Some(appliance) = self.0.upgrade() else { return };
        if let Some(id) = id.filter(|id| appliance.peer_by_id(&id.0).is_none()) {
            appliance.strangers.called(remote.ip(), id, appliance.clock.monotonic(), appliance.clock.wall());
        }
        let id = id.map_or_else(|| "none".into(), |id| id.to_string());
        // Whoever calls again does so from any port.
        let line = format!("{} {id} {why}", remote.ip());
        if let Some(left_out) = appliance.repeats.news(&line, appliance.clock.monotonic()) {
            tracing::warn!(%remote, id, why, left_out, "a connection was refused");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;
    use crate::service::tests::{Faults, appliance};

    /// It was, and the alert said that nobody had added it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_peer_that_has_all_of_its_connections_is_not_counted_as_a_stranger() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let trust = KnownPeers(Arc::downgrade(&appliance), Arc::clone(&appliance.metrics));
        trust.crowded((Ipv4Addr::LOCALHOST, 7411).into(), Some(ApplianceId([1; 32])), "as in a test");
        let page = appliance.metrics.render(&appliance.status_now());
        for (reason, count) in [("too_many", 1), ("unknown_peer", 0)] {
            let series = format!("tidemark_peers_refused_total{{reason=\"{reason}\"}} {count}");
            assert!(page.contains(&series), "{series}\n{page}");
        }
    }
}
