//! Peers that come in: which group a connection is for, and whether it may (invariant 8).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_common::catalog::{GroupRecord, GroupVolume, OfferRecord, OnFullRecord, PairRecord, RoleRecord};
use tidemark_common::clock::unix_ns;
use tidemark_common::history::History;
use tidemark_common::ids::{Generation, GroupId, check_name};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::link::{Connection, ControlSender};
use tidemark_common::volumes::Volumes;
use tidemark_common::wire::handshake::{Versions, check_volumes, read_hello};
use tidemark_common::wire::message::{Hello, Message, Refusal, Refused, VolumeSpec};
use tidemark_primary::ship::Links;
use tidemark_secondary::group::Secondary;
use tidemark_secondary::intake::CopyVolumes;

use super::adopt::adopt;
use super::appliance::{Appliance, Engine, Failure, Group, refuse};

/// A peer that is let in says what it wants within this time.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

impl Appliance {
    /// Takes connections until the endpoint is closed.
    pub(crate) async fn accept_peers(self: Arc<Self>) {
        let Some(endpoint) = self.endpoint.get().cloned() else { return };
        while let Some(connection) = endpoint.accept().await {
            let appliance = Arc::clone(&self);
            self.runtime.spawn(async move { appliance.converse(connection).await });
        }
    }

    async fn converse(&self, connection: Connection) {
        let opened = tokio::time::timeout(HELLO_TIMEOUT, async {
            let (control, mut incoming) = connection.accept_control().await.ok()?;
            let first = incoming.recv().await.ok()??;
            Some((control, incoming, first))
        });
        let Ok(Some((control, mut incoming, first))) = opened.await else {
            connection.close("no hello came");
            return;
        };
        let talked = match &first {
            Message::Return(request) => {
                Some(self.let_return(&connection, &control, &mut incoming, request).await.map(|()| None))
            }
            Message::Verify(request) => {
                Some(self.let_verify(&connection, &control, &mut incoming, request).await.map(|()| None))
            }
            Message::TakeOver(request) => Some(self.let_take_over(&connection, request).await.map(Some)),
            Message::Suspended(said) => Some(self.hear_suspended(&connection, said).map(Some)),
            _ => None,
        };
        match talked {
            Some(Ok(agreed)) => {
                if let Some(generation) = agreed {
                    let _ = control.send(&Message::Agreed { generation }).await;
                }
                let _ = tokio::time::timeout(HELLO_TIMEOUT, control.finish()).await;
                return connection.close("agreed");
            }
            Some(Err(refused)) => return self.turn_away(&connection, control, refused).await,
            None => {}
        }
        let answer = match read_hello(Versions::OURS, first) {
            Ok((version, hello)) => self.admit(&connection, &hello).await.map(|group| (version, hello, group)),
            Err(refused) => Err(refused),
        };
        match answer {
            Ok((version, hello, secondary)) => {
                self.tell_connected(&connection, &hello);
                let _ = secondary.serve(connection, control, incoming, &hello, version).await;
            }
            Err(refused) => self.turn_away(&connection, control, refused).await,
        }
    }

    fn tell_connected(&self, connection: &Connection, hello: &Hello) {
        let peer = self.peer_by_id(&connection.peer().0).unwrap_or_default();
        let group = &hello.group_name;
        if let Some(left_out) = self.repeats.news(&format!("{peer} {group} connected"), self.clock.monotonic()) {
            tracing::info!(%group, %peer, remote = %connection.remote(), left_out, "connected");
        }
    }

    async fn turn_away(&self, connection: &Connection, control: ControlSender, refused: Refused) {
        let peer = self.peer_by_id(&connection.peer().0).unwrap_or_default();
        // It calls again every few seconds, and is refused for the same reason until somebody has done something.
        let line = format!("{peer} {:?} {}", refused.refusal, refused.message);
        if let Some(left_out) = self.repeats.news(&line, self.clock.monotonic()) {
            let (refusal, message) = (refused.refusal, &refused.message);
            if refusal == Refusal::Unready {
                // As at every change of roles.
                tracing::info!(%peer, ?refusal, %message, left_out, "a peer was refused");
            } else {
                tracing::warn!(%peer, ?refusal, %message, left_out, "a peer was refused");
            }
        }
        self.metrics.peer_refused(refused.refusal.into());
        let _ = control.send(&Message::Refused(refused)).await;
        let _ = control.finish().await;
        connection.close("refused");
    }

    /// The copy a connection is for; made when the operator over there asked for it just now.
    async fn admit(&self, connection: &Connection, hello: &Hello) -> Result<Arc<Secondary>, Refused> {
        let id = GroupId(hello.group);
        let peer = connection.peer();
        check_volumes(&hello.volumes).map_err(|what| refuse(Refusal::Malformed, 0, what))?;
        check_name(&hello.group_name).map_err(|error| refuse(Refusal::Malformed, 0, error.to_string()))?;
        let here = &self.config.name;
        let Some(group) = self.group_by_id(id) else {
            if !hello.create {
                let group = &hello.group_name;
                let message = format!(
                    "'{here}' knows nothing of group '{group}' and has no copy of it: on its primary `tidemark pair delete {group} --to {here}`, then \
                     `tidemark pair create {group} --to {here}`. Volumes of an earlier copy that '{here}' has kept are offered to that before, there: \
                     `tidemark volume offer VOLUME --group {group}`"
                );
                return Err(refuse(Refusal::UnknownGroup, 0, message));
            }
            return self.create_copy(peer.0, hello).await;
        };
        let generation = group.keeper.generation().0;
        let name = group.keeper.name();
        self.check_member(peer.0, &group, hello.generation).map_err(|message| refuse(Refusal::Conflict, 0, message))?;
        let engine = group.engine.read().clone();
        match engine {
            Engine::Secondary(_) | Engine::Failed(_) if self.is_to_renew(&group, &peer.0, hello) => {
                self.renew_copy(&group, &peer.0, hello).await
            }
            Engine::Secondary(secondary) => {
                if hello.generation < generation {
                    let message = format!(
                        "group '{name}' is at generation {generation} on '{here}' and at {} there",
                        hello.generation
                    );
                    return Err(refuse(Refusal::Fenced, generation, message));
                }
                if group.keeper.get().primary != Some(peer.0) && hello.generation == generation {
                    let message = format!("group '{name}' on '{here}' is the copy of another appliance");
                    return Err(refuse(Refusal::Conflict, generation, message));
                }
                let adopted = adopt(&group.keeper, peer.0, hello.generation, hello.interval_ms);
                let adopted = adopted.map_err(|error| refuse(Refusal::Unready, generation, error.to_string()))?;
                if !adopted {
                    let message = format!("group '{name}' is changing its role on '{here}'");
                    return Err(refuse(Refusal::Unready, generation, message));
                }
                Ok(secondary)
            }
            other => Err(self.turned_down(&group, &other, &peer.0, hello.generation)),
        }
    }

    /// The answer to a primary of this generation where the group is no copy that runs. One that has taken over fences this side by it.
    pub(super) fn turned_down(&self, group: &Group, engine: &Engine, peer: &[u8; 32], theirs: u64) -> Refused {
        let (here, name, generation) = (&self.config.name, group.keeper.name(), group.keeper.generation().0);
        match engine {
            Engine::Primary(_) | Engine::Changing { .. } | Engine::Failed(_)
                if theirs < generation && group.is_primary(engine) =>
            {
                let message = format!("'{here}' has taken over group '{name}' with generation {generation}");
                refuse(Refusal::Fenced, generation, message)
            }
            Engine::Primary(_) | Engine::Changing { .. } | Engine::Failed(_)
                if theirs > generation && group.keeper.get().role == RoleRecord::Primary =>
            {
                // The caller has taken over (invariant 8), and this side hears of it by being called.
                let caller = self.peer_by_id(peer).unwrap_or_default();
                self.fenced(&name, &caller, Generation(theirs));
                refuse(Refusal::Conflict, generation, fenced_here(here, &name, Generation(theirs)))
            }
            Engine::Primary(_) => {
                let caller = self.peer_by_id(peer).unwrap_or_default();
                self.met_rival(group, &caller, theirs);
                let message = format!(
                    "'{here}' is primary for group '{name}' too, with generation {generation}: neither side was changed. {}",
                    self.either_of_two(group, &caller)
                );
                refuse(Refusal::Conflict, generation, message)
            }
            // Who has that is the primary, whoever calls.
            Engine::Fenced { by } if theirs < by.0 => refuse(Refusal::Fenced, by.0, fenced_here(here, &name, *by)),
            Engine::Fenced { by } => refuse(Refusal::Conflict, generation, fenced_here(here, &name, *by)),
            Engine::Failed(reason) => {
                refuse(Refusal::Unready, generation, format!("group '{name}' does not run on '{here}': {reason}"))
            }
            Engine::Secondary(_) | Engine::Changing { .. } => {
                refuse(Refusal::Unready, generation, format!("group '{name}' is changing its role on '{here}'"))
            }
        }
    }

    /// Whether a peer is one of the two this group is between. One that is trusted for another group can neither be the primary
    /// of this copy nor say who has taken over.
    pub(super) fn check_member(&self, peer: [u8; 32], group: &Group, generation: u64) -> Result<(), String> {
        let record = group.keeper.get();
        let caller = self.peer_by_id(&peer).unwrap_or_default();
        if record.primary == Some(peer) || record.pairs.iter().any(|pair| pair.peer == caller) {
            return Ok(());
        }
        let (here, name) = (&self.config.name, &record.name);
        let others: Vec<_> = record.pairs.iter().map(|pair| format!("'{}'", pair.peer)).collect();
        let with = if others.is_empty() { "nobody".into() } else { others.join(", ") };
        let gives_up = if record.role == RoleRecord::Primary {
            self.met_rival(group, &caller, generation);
            let choice = self.either_of_two(group, &caller);
            format!("it is primary there, too, with generation {}. {choice}", record.generation)
        } else {
            let to = record.pairs.first().map_or("PEER", |pair| pair.peer.as_str());
            format!(
                "if '{caller}' is to have it, `tidemark pair delete {name} --to {to}` on '{here}' gives the copy up, and keeps its volumes"
            )
        };
        Err(format!("group '{name}' on '{here}' is paired with {with}, not with '{caller}': {gives_up}"))
    }

    /// A new copy: its record, its volumes, its engine.
    async fn create_copy(&self, primary: [u8; 32], hello: &Hello) -> Result<Arc<Secondary>, Refused> {
        let _alone = self.changing.lock().await;
        let here = &self.config.name;
        if self.peer_by_id(&primary).is_none() {
            return Err(refuse(Refusal::Unready, 0, format!("'{here}' has just removed this peer")));
        }
        let id = GroupId(hello.group);
        if self.group_by_id(id).is_some() {
            return Err(refuse(
                Refusal::Unready,
                0,
                format!("group '{}' has just been made on '{here}'", hello.group_name),
            ));
        }
        if self.groups.read().contains_key(&hello.group_name) {
            let message = format!(
                "'{here}' has another group '{0}' already: delete that one there (`tidemark group delete {0}`, or `tidemark pair \
                 delete {0} --to PEER` when it is a copy), or make the group here under another name",
                hello.group_name
            );
            return Err(refuse(Refusal::Conflict, 0, message));
        }
        let is_there = |volume: &&VolumeSpec| self.volumes.read().contains_key(&volume.name);
        let is_offered = |volume: &VolumeSpec| self.is_offered(&volume.name, &hello.group_name, id);
        if let Some(taken) = hello.volumes.iter().filter(is_there).find(|volume| !is_offered(volume)) {
            return Err(refuse(Refusal::Conflict, 0, self.taken(&taken.name, &hello.group_name)));
        }
        tokio::task::block_in_place(|| self.remove_left_over(id)).map_err(|why| refuse(Refusal::Resources, 0, why))?;
        let offered: Vec<OfferRecord> =
            hello.volumes.iter().filter_map(|volume| self.offers.get(&volume.name)).collect();
        let record = GroupRecord {
            name: hello.group_name.clone(),
            id: hello.group,
            role: RoleRecord::Secondary,
            generation: hello.generation,
            generation_start_seq: hello.generation_start_seq,
            interval_ms: hello.interval_ms,
            on_full: OnFullRecord::Fold,
            next_volume_index: hello.volumes.iter().map(|volume| volume.index.saturating_add(1)).max().unwrap_or(1),
            volumes: Vec::new(),
            pairs: vec![self.pair_with(&primary)],
            primary: Some(primary),
            cut: None,
            history: History::default(),
        };
        let made = tokio::task::block_in_place(|| -> Result<(Arc<GroupKeeper>, Arc<Secondary>), Failure> {
            self.catalog.put_group(&record).map_err(|error| error.to_string())?;
            let keeper = Arc::new(GroupKeeper::new(self.catalog.clone(), record.clone()));
            let what = "its copy is being made".to_owned();
            self.add_group(Arc::clone(&keeper), Engine::Changing { what, pairs: PairState::InitialCopy });
            self.provide(&record.name, &hello.volumes, &Volumes::default())?;
            // Only now: a kill before this leaves a group whose volumes are made when the primary comes again.
            keeper
                .update(|record| record.volumes = GroupVolume::members(&hello.volumes))
                .map_err(|error| error.to_string())?;
            Ok((Arc::clone(&keeper), self.start_secondary(&keeper)?))
        });
        match made {
            Ok((_, secondary)) => {
                if let Ok(group) = self.group(&record.name) {
                    self.change_engine(&group, Engine::Secondary(Arc::clone(&secondary)));
                }
                Ok(secondary)
            }
            Err(why) => {
                self.undo_copy(&record, &hello.volumes, &offered);
                Err(refuse(Refusal::Resources, 0, format!("'{here}' could not make the copy volumes: {why}")))
            }
        }
    }

    /// Nothing half-made stays behind.
    pub(super) fn undo_copy(&self, record: &GroupRecord, volumes: &[VolumeSpec], offered: &[OfferRecord]) {
        let ours = |name: &str| {
            !offered.iter().any(|offer| offer.volume == name)
                && self.volume(name).is_ok_and(|volume| volume.is_made_for(&record.name))
        };
        for volume in volumes.iter().filter(|volume| ours(&volume.name)) {
            if let Err(error) = self.discard_copy_volume(&volume.name) {
                tracing::error!(error = %error.message, "a copy volume that could not be made is still here");
            }
        }
        if let Err(error) = self.catalog.delete_group(&record.name, GroupId(record.id)) {
            tracing::error!(%error, "a copy that could not be made is still in the catalogue");
        }
        for offer in offered {
            if let Err(error) = self.give_back(offer) {
                tracing::error!(volume = %offer.volume, error = %error.message, "a volume that was offered to a copy could not be given back");
            }
        }
        // The group last: as long as it is there, a volume made for it is closed to hosts, and who opens one later takes back what is said of it.
        self.groups.write().remove(&record.name);
        for name in offered.iter().map(|offer| &offer.volume) {
            // What could not be given back is the next copy's.
            if self.volume(name).is_ok_and(|volume| volume.made_for.read().is_none()) {
                self.settle_door_now(name);
            }
        }
    }

    pub(crate) fn pair_with(&self, appliance: &[u8; 32]) -> PairRecord {
        let peer = self.peer_by_id(appliance).unwrap_or_else(|| hex::encode(appliance));
        PairRecord::new(&peer, self.now_ns())
    }

    pub(crate) fn now_ns(&self) -> i64 {
        unix_ns(self.clock.wall())
    }

    /// This appliance has met a higher generation: it serves the group no more. What it captured stays where it is.
    pub(crate) async fn fence(&self, name: &str, by: Generation) {
        // An operator's change under way may itself wait for hosts or the journal: hosts must be out before that ends.
        self.turn_hosts_out(name, by);
        let _alone = self.changing.lock().await;
        let Ok(group) = self.group(name) else { return };
        if group.keeper.generation() >= by {
            // It was said of an earlier generation: an operator made this side primary again meanwhile.
            return;
        }
        let running = match group.engine.read().clone() {
            Engine::Primary(primary) => Some(primary),
            Engine::Changing { .. } | Engine::Failed(_) if group.keeper.get().role == RoleRecord::Primary => None,
            _ => return,
        };
        let now_ns = self.now_ns();
        let recorded = group.keeper.update(|record| record.fence(by.0, now_ns));
        if let Err(error) = recorded {
            tracing::error!(group = name, %error, "the fence could not be recorded: it holds, and that is tried again by itself");
        }
        self.change_engine(&group, Engine::Fenced { by });
        if let Some(primary) = running {
            tokio::task::block_in_place(|| primary.stop());
        }
    }
}

impl Appliance {
    /// Waits for nothing.
    fn turn_hosts_out(&self, name: &str, by: Generation) {
        let Ok(group) = self.group(name) else { return };
        let Engine::Primary(primary) = group.engine.read().clone() else { return };
        if group.keeper.generation() >= by {
            return;
        }
        group.met.fetch_max(by.0, Ordering::AcqRel);
        self.settle_doors(&group);
        primary.refuse_hosts();
    }
}

fn fenced_here(here: &str, group: &str, by: Generation) -> String {
    format!(
        "group '{group}' is fenced on '{here}' by generation {by}: `tidemark rejoin {group}` there makes it the copy"
    )
}

#[cfg(test)]
mod tests;
