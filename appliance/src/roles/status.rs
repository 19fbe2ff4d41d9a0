//! What an appliance shows of itself. Cheap, and never waits for a disk or a peer.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_common::api::types::{
    Addresses, ApplianceStatus, BufferStatus, ErrorBody, FreezeStatus, GroupStatus, JournalStatus, MarkerStatus,
    PairState, PairStatus, PeerStatus, Positions, Role, SideStoreStatus, Status, VolumeStatus,
};
use tidemark_common::catalog::{PairStateRecord, PeerRecord};
use tidemark_common::clock::from_unix_ns;
use tidemark_common::lag::Lag;

use super::appliance::{Appliance, Engine, Group, Volume};

impl Appliance {
    /// `status`.
    pub(crate) fn status_now(&self) -> Status {
        let nowhere = || Addresses { nbd: Vec::new(), replication: String::new(), metrics: String::new() };
        Status {
            appliance: ApplianceStatus {
                name: self.config.name.clone(),
                id: self.identity.id().to_string(),
                version: env!("CARGO_PKG_VERSION").into(),
                uptime_seconds: self.clock.monotonic().as_secs_f64(),
            },
            addresses: self.addresses.get().cloned().unwrap_or_else(nowhere),
            volumes: self.volumes_now(),
            groups: self.groups_now(),
            peers: self.peers_now(),
            images: self.images_now(),
            drills: self.drills_now(),
            local_pairs: self.local_pairs_now(),
            backups: self.backups.by_state(),
            backups_under_way: self.backups_now(),
            restores: self.restores_now(),
            lost_exports: self.lost_exports_now(),
            strangers: self.strangers_now(),
            side_store: SideStoreStatus {
                bytes: self.images.space.used(),
                capacity_bytes: self.images.space.capacity(),
            },
            image_memory: SideStoreStatus {
                bytes: self.images.space.memory_used(),
                capacity_bytes: self.images.space.memory_capacity(),
            },
            clone_store: SideStoreStatus {
                bytes: self.images.clone_space.used(),
                capacity_bytes: self.images.clone_space.limit(),
            },
        }
    }

    /// No table is held while a group is asked: it asks the tables again, and a writer waiting in between would stop both.
    fn groups_now(&self) -> Vec<GroupStatus> {
        let groups: Vec<_> = self.groups.read().values().cloned().collect();
        groups.iter().map(|group| self.group_now(group)).collect()
    }

    fn peers_now(&self) -> Vec<PeerStatus> {
        let status = |peer: &PeerRecord| PeerStatus {
            name: peer.name.clone(),
            id: hex::encode(peer.id),
            address: peer.address.clone(),
        };
        self.peers.read().values().map(status).collect()
    }

    pub(crate) fn group_status(&self, name: &str) -> Result<GroupStatus, ErrorBody> {
        Ok(self.group_now(&*self.group(name)?))
    }

    fn volumes_now(&self) -> Vec<VolumeStatus> {
        let mut group_of = HashMap::new();
        let mut secondaries = HashSet::new();
        for (group, entry) in self.groups.read().iter() {
            if entry.is_secondary() {
                secondaries.insert(group.clone());
            }
            for member in entry.keeper.get().volumes {
                group_of.insert(member.name, group.clone());
            }
        }
        let is_copy = |group: &String| secondaries.contains(group);
        let made_for = |volume: &Volume| volume.made_for.read().clone().filter(is_copy);
        let volumes = self.volumes.read();
        let group = |name: &String, volume: &Volume| group_of.get(name).cloned().or_else(|| made_for(volume));
        let status = |(name, volume): (&String, &Arc<Volume>)| self.status_of_open(name, volume, group(name, volume));
        let unopened = self.unopened.read();
        let missing = unopened.values().map(|unopened| VolumeStatus {
            name: unopened.record.name.clone(),
            size: unopened.record.size,
            group: group_of
                .get(&unopened.record.name)
                .cloned()
                .or_else(|| unopened.record.group.clone().filter(is_copy)),
            backing: unopened.record.backing.clone(),
            connections: 0,
            offered_to: self.offers.offered_to(&unopened.record.name),
            problem: Some(unopened.problem()),
        });
        let mut all: Vec<_> = volumes.iter().map(status).chain(missing).collect();
        all.sort_by(|one, other| one.name.cmp(&other.name));
        all
    }

    /// A volume that is open, and the group it is in.
    pub(super) fn status_of_open(&self, name: &str, volume: &Volume, group: Option<String>) -> VolumeStatus {
        VolumeStatus {
            name: name.into(),
            size: volume.file.size(),
            group,
            backing: volume.backing.clone(),
            connections: volume.door.connections.load(Ordering::Relaxed),
            offered_to: self.offers.offered_to(name),
            problem: self.backups.half_restored(name),
        }
    }

    /// Looks at every position. In memory alone: what stands because a disk does not answer is told all the same.
    pub(crate) fn look_at_positions(&self) {
        let groups: Vec<_> = self.groups.read().iter().map(|(name, group)| (name.clone(), Arc::clone(group))).collect();
        self.watchdog.keep(|name| groups.iter().any(|(known, _)| known == name));
        for (name, group) in groups {
            group.see_failed(self.clock.wall());
            let movements = match &*group.engine.read() {
                Engine::Primary(primary) => primary.movements(),
                Engine::Secondary(secondary) => secondary.movements(),
                Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => Vec::new(),
            };
            self.watchdog.look(&name, movements, self.clock.monotonic());
        }
    }

    fn group_now(&self, group: &Group) -> GroupStatus {
        let status = self.engine_now(group);
        GroupStatus { standing: self.watchdog.standing(&status.name), ..status }
    }

    fn engine_now(&self, group: &Group) -> GroupStatus {
        let engine = group.engine.read().clone();
        match &engine {
            Engine::Primary(primary) => {
                let status = primary.status();
                let half = || status.volumes.iter().find_map(|volume| self.backups.half_restored(volume));
                let id = group.keeper.id();
                let pairs = status.pairs.into_iter().map(|pair| self.comparison_of(id, pair)).collect();
                GroupStatus { problem: self.rivalry(group).or(status.problem).or_else(half), pairs, ..status }
            }
            Engine::Secondary(secondary) => {
                let primary = group.keeper.get().primary;
                let peer = primary.and_then(|id| self.peer_by_id(&id)).unwrap_or_else(|| "unknown".into());
                secondary.status(&peer)
            }
            Engine::Fenced { by } => {
                let name = group.keeper.name();
                let peer = taker(group);
                let stands = group.unanswered(*by).map_or_else(
                    || {
                        format!(
                            "generation {by} runs on '{peer}': hosts belong there, and nothing is served here. `tidemark rejoin {name}` makes \
                             this side its copy"
                        )
                    },
                    |asked| format!("{asked}, and makes this side primary as before, or its copy"),
                );
                let reason = format!(
                    "{stands}, and keeps what was never shipped; until then that is in {}. To go on with what this side has instead: `tidemark \
                     rejoin {name} --as-primary`, which fences '{peer}'. To give the group up here: `tidemark pair delete {name} --to {peer}`, which \
                     keeps its volumes",
                    self.journal_folder(group.keeper.id()).display()
                );
                let reason = Self::several_takers(group).unwrap_or(reason);
                at_rest(group, Role::Fenced, PairState::Fenced, reason, None)
            }
            Engine::Changing { what, pairs } => under_change(group, what, *pairs),
            Engine::Failed(why) => {
                let role = group.keeper.get().role.into();
                at_rest(group, role, PairState::Error, why.reason.clone(), group.see_failed(self.clock.wall()))
            }
        }
    }
}

/// The peer that took over, as far as it is known.
fn taker(group: &Group) -> String {
    if let Some((peer, _)) = group.takers.lock().first() {
        return peer.clone();
    }
    let pairs = group.keeper.get().pairs;
    let by = pairs.iter().find(|pair| pair.state == PairStateRecord::Fenced).or_else(|| pairs.first());
    by.map_or_else(|| "PEER".into(), |pair| pair.peer.clone())
}

impl Group {
    /// Since when it does not run; `None`: it does, or it is fenced.
    fn see_failed(&self, now: jiff::Timestamp) -> Option<jiff::Timestamp> {
        let is_failed = matches!(&*self.engine.read(), Engine::Failed(_));
        let mut since = self.failed_since.lock();
        *since = is_failed.then(|| since.unwrap_or(now));
        *since
    }
}

/// A group for which nothing runs yet: nobody has to do anything.
fn under_change(group: &Group, what: &str, pairs: PairState) -> GroupStatus {
    let mut status = at_rest(group, group.keeper.get().role.into(), pairs, what.to_owned(), None);
    status.problem = None;
    status.pairs.iter_mut().for_each(|pair| pair.stands = false);
    status
}

/// A group for which nothing runs, since then; `None`: as it is recorded.
fn at_rest(group: &Group, role: Role, state: PairState, reason: String, since: Option<jiff::Timestamp>) -> GroupStatus {
    let record = group.keeper.get();
    let pair = |pair: &tidemark_common::catalog::PairRecord| PairStatus {
        peer: pair.peer.clone(),
        state,
        reason: Some(reason.clone()),
        since: since.unwrap_or_else(|| from_unix_ns(pair.since_ns)),
        connected: false,
        stands: true,
        suspended_there: false,
        received_marker: 0,
        permitted_marker: 0,
        applied_marker: 0,
        rpo_seconds: None,
        lag_bytes: 0,
        lag: Lag::default(),
        held: None,
        differential_bytes: 0,
        copy: None,
        verify: None,
        comparison: None,
        round_trip_ms: None,
    };
    GroupStatus {
        name: record.name.clone(),
        id: group.keeper.id().to_string(),
        role,
        generation: record.generation,
        volumes: record.volumes.iter().map(|volume| volume.name.clone()).collect(),
        marker: MarkerStatus { last: 0, time: None },
        journal: JournalStatus::default(),
        buffer: BufferStatus::default(),
        freeze: FreezeStatus::default(),
        positions: Positions::default(),
        interval_ms: record.interval_ms,
        on_full: record.on_full.into(),
        history: None,
        problem: Some(reason.clone()),
        standing: Vec::new(),
        pairs: record.pairs.iter().map(pair).collect(),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use tidemark_common::catalog::{OfferRecord, OfferWhy};
    use tidemark_common::nbd::Export;
    use tidemark_common::storage::disk::SystemDisk;
    use tidemark_common::storage::filter;
    use tidemark_common::watchdog::{Moving, Standing};

    use super::*;
    use crate::service::tests::{Faults, add_primary, add_volume, appliance_on};

    /// The watchdog itself stood with that disk, and said nothing of anything.
    #[test]
    fn what_stands_is_told_while_the_disk_of_the_catalogue_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let (catalogue, journal) = (Arc::new(Faults::default()), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.enter();
        let disk = filter::disk(Arc::new(SystemDisk), &journal);
        let appliance = appliance_on(directory.path(), &catalogue, disk);
        let volume = runtime.block_on(add_primary(&appliance, "g", "v"));
        runtime.block_on(add_volume(&appliance, "w"));
        // It left a group, and its images are gone.
        let (group_id, why) = (Some([7; 16]), OfferWhy::Imaged);
        let offer = OfferRecord { volume: "w".into(), group: "h".into(), group_id, why };
        appliance.catalog.put_offer(&offer).unwrap();
        appliance.open_offers().unwrap();

        let hang = (catalogue.hang.lock(), journal.hang.lock());
        runtime.block_on(volume.door.write(0, &[1; 512], false)).unwrap();
        let before = catalogue.writes.load(Ordering::Acquire);
        let frees = Arc::clone(&appliance);
        let freeing = std::thread::spawn(move || frees.free_imaged());
        while catalogue.writes.load(Ordering::Acquire) == before {
            std::thread::yield_now();
        }
        let (tell, told) = sync_channel(1);
        let looks = Arc::clone(&appliance);
        let looking = std::thread::spawn(move || {
            (0..2).for_each(|_| looks.look_at_positions());
            let stands = |one: &Standing| one.position == Moving::Journal && one.seconds > 0.0;
            let groups = looks.status_now().groups;
            let _ = tell.send(groups.iter().any(|group| group.standing.iter().any(stands)));
        });
        let answered = told.recv_timeout(Duration::from_secs(20));
        drop(hang);
        assert_eq!(answered, Ok(true), "it waits for nobody");
        looking.join().unwrap();
        freeing.join().unwrap();
        assert!(appliance.offers.get("w").is_some_and(|offer| offer.why == OfferWhy::Left));
        runtime.block_on(appliance.stop_groups());
        drop(inside);
    }
}
