//! The return of an old primary as the copy of who took over from it (`docs/PROTOCOL.md`, "Changing roles").
//!
//! ```text
//! old primary                                             new primary
//!   drain and apply what it captured
//!   ── Return ───────────────────────────────────────────────▶ (generation higher here? a pair with it?)
//!   ◀──────────────────────── Parted: the last marker both have ──
//!   finds it in its journal by its chain; what lies behind it was never shipped: the lost tail, kept aside
//!   ── Dirty… (what the tail wrote; everything, when the place is not found) ──▶ into the pair's bitmap, durably
//!   ◀────────────────────────────────────────────────── Agreed ──
//!   durably: secondary, journal to be cut where they parted; then the copy runs as any other, and the new primary calls
//! ```
//!
//! Whatever stops this in between, both stand as before, and it is done again. With no tail the old primary's image is that
//! of the marker: it stays servable, and only what was written since comes over. With one, the volumes stay what they were until
//! the copy is complete, and a failover before that goes back to it (decision 18).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::{ErrorBody, PairState, Rejoin, RejoinReport};
use tidemark_common::catalog::{Batch, CatalogError, PairStateRecord, PartedRecord, RoleRecord, VolumeRecord};
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{Generation, GroupId, MarkerNumber, Seq};
use tidemark_common::journal;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, LinkError};
use tidemark_common::record::{Chain, ControlRecord};
use tidemark_common::wire::handshake::{Versions, agree};
use tidemark_common::wire::message::{Message, Parted, Refusal, Refused, Return};
use tidemark_primary::differences::written_since;
use tidemark_primary::ship::Links;
use tidemark_secondary::returned::{Returning, Tail, record_return};

use super::appliance::{Appliance, Engine, Group, changing, failed, refuse, refused};
use super::dirty::{receive_dirty, send_dirty, while_the_other_side_waits};
use super::lost::{LOST, first_segment, tail_name};
use super::lost_regions::mark_those_that_left;
use super::takers::told;

/// Each answer comes within this time; the other side may have to write to its catalogue first.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// What else is being changed ends within this time, or is told to who asks: well before that one stops waiting for an answer.
const CHANGE_TIMEOUT: Duration = Duration::from_secs(10);

/// How a side that is no primary any more was left.
#[derive(Debug)]
pub(crate) enum Settled {
    /// Everything captured is in the volumes.
    WrittenBack,
    /// It is in the journal, and the volumes lack some of it.
    NotWrittenBack {
        /// For people.
        reason: String,
        /// The journal is what cannot be read.
        damaged: bool,
    },
}

/// What an old primary found out about itself.
struct Found {
    tail: Tail,
    /// Written and never shipped, and not in the journal any more. Only when that does not hold the place.
    regions: Bitmap,
    bytes: u64,
}

impl Appliance {
    /// `rejoin`.
    pub(crate) async fn rejoin(&self, name: &str, request: &Rejoin) -> Result<RejoinReport, ErrorBody> {
        let _alone = self.changing.lock().await;
        if request.as_primary {
            return self.take_back(name, request.force).await;
        }
        self.return_to_new_primary(name).await
    }

    /// The generation by which a group is fenced.
    pub(crate) fn fenced_by(group: &Group) -> Result<Generation, ErrorBody> {
        let name = group.keeper.name();
        match &*group.engine.read() {
            Engine::Fenced { by } => Ok(*by),
            Engine::Primary(_) => Err(refused(format!("group '{name}' is primary here: nobody took over from it"))),
            Engine::Secondary(_) => Err(refused(format!("group '{name}' is a copy here already"))),
            Engine::Changing { what, .. } => Err(changing(&name, what)),
            Engine::Failed(reason) => Err(refused(format!("group '{name}' does not run: {reason}"))),
        }
    }

    /// Under `changing`.
    pub(crate) async fn return_to_new_primary(&self, name: &str) -> Result<RejoinReport, ErrorBody> {
        let group = self.group(name)?;
        if matches!(&*group.engine.read(), Engine::Primary(_)) {
            return Err(self.not_fenced(&group).await);
        }
        let by = Self::fenced_by(&group)?;
        let pairs = group.keeper.get().pairs;
        let takers = if pairs.len() > 1 { self.takers(&group).await } else { Vec::new() };
        if let Some(reason) = told(name, &takers) {
            return Err(refused(format!("group '{name}': {reason}")));
        }
        if pairs.len() > 1 && takers.is_empty() {
            return Err(refused(format!(
                "group '{name}' is fenced here by generation {by}, and nobody who answers has taken it over: start the appliance that did, or \
                 mend the link to it, and try again. To go on here without it: `tidemark rejoin {name} --as-primary --force`"
            )));
        }
        let taker = takers.into_iter().next().map(|(peer, _)| peer);
        let peer = taker.or_else(|| pairs.first().map(|pair| pair.peer.clone()));
        let peer =
            peer.ok_or_else(|| refused(format!("group '{name}' has no pair here: there is nobody to return to")))?;
        // Hosts are out: whatever was captured goes into the journal and the volumes before anything is compared.
        let settled = tokio::task::block_in_place(|| self.settle_captured(&group)).map_err(failed)?;
        let what = format!("it is returning to '{peer}' as the copy");
        let _change = self.begin_change(&group, what, PairState::FailedOver);
        let returned = self.return_to(&group, &peer, &settled).await;
        match returned {
            Ok(None) => {
                if let Err(error) = self.record_not_replaced(&group) {
                    // It is asked again.
                    self.fenced_again(&group, by);
                    return Err(failed(error));
                }
                self.serve_again(&group, &peer)
            }
            Ok(Some(report)) => {
                self.run_as_copy(&group);
                Ok(report)
            }
            Err(error) => {
                self.fenced_again(&group, by);
                Err(error)
            }
        }
    }

    /// Why a primary has nobody to return to; it may only not have heard of it.
    async fn not_fenced(&self, group: &Group) -> ErrorBody {
        let name = group.keeper.name();
        let Some((peer, generation)) = self.takers(group).await.into_iter().next() else {
            // Two sides of one generation: neither took over from the other.
            if let Some(reason) = self.rivalry(group).or_else(|| self.stands_in_error(&name)) {
                return refused(format!(
                    "group '{name}' is primary here, and nobody who answers took over from it. {reason}"
                ));
            }
            let peers: Vec<_> = group.keeper.get().pairs.into_iter().map(|pair| format!("'{}'", pair.peer)).collect();
            let asked = if peers.is_empty() { "no pair".into() } else { peers.join(", ") };
            return refused(format!(
                "group '{name}' is primary here: nobody who answers took over from it (it has {asked}; `tidemark status` says who is connected)"
            ));
        };
        refused(format!(
            "group '{name}' is primary here still, and '{peer}' took over from it with generation {generation}: this side is fenced as soon as \
             they have met, within seconds. Try again then"
        ))
    }

    /// What a person must do about a pair of a primary.
    fn stands_in_error(&self, name: &str) -> Option<String> {
        let pairs = self.primary(name).ok()?.status().pairs;
        let pair = pairs.into_iter().find(|pair| pair.state == PairState::Error)?;
        pair.reason.map(|reason| format!("The pair with '{}' is in error: {reason}", pair.peer))
    }

    /// As before, or by the generation that the other side has told meanwhile: it is asked again.
    pub(super) fn fenced_again(&self, group: &Group, by: Generation) {
        let by = group.met().map_or(by, |met| met.max(by));
        self.change_engine(group, Engine::Fenced { by });
    }

    /// A primary that hosts cannot reach starts, drains, applies, and stops.
    pub(crate) fn settle_captured(&self, group: &Group) -> Result<Settled, String> {
        let primary = self.start_primary(&group.keeper, None)?;
        primary.refuse_hosts();
        primary.stop();
        if self.ring_path(group.keeper.id()).exists() {
            return Err(
                "what hosts had written last could not be put into the journal: is its disk or the journal full? \
                        Make room (journal_bytes in the configuration), restart the service, and try again"
                    .into(),
            );
        }
        if primary.is_written_back() {
            return Ok(Settled::WrittenBack);
        }
        let problem = primary.problem().unwrap_or_else(|| "a volume could not be synced".into());
        let reason = format!(
            "what hosts had written last is in the journal here and could not be put into the volumes ({problem})"
        );
        Ok(Settled::NotWrittenBack { reason, damaged: primary.journal_is_damaged() })
    }

    /// One step: from here on it is primary. Nobody took over: a switchover began here and did not come to its end over there.
    fn record_not_replaced(&self, group: &Group) -> Result<(), CatalogError> {
        let now_ns = self.now_ns();
        group.keeper.update(|record| {
            record.role = RoleRecord::Primary;
            // Who refused this side had taken over, and has not any more: such a pair is not called, and a start would be fenced by it.
            for pair in record.pairs.iter_mut().filter(|pair| pair.state == PairStateRecord::Fenced) {
                (pair.state, pair.reason, pair.since_ns) = (PairStateRecord::CatchingUp, None, now_ns);
            }
        })
    }

    /// What that made primary runs.
    fn serve_again(&self, group: &Group, peer: &str) -> Result<RejoinReport, ErrorBody> {
        self.start_serving(group)?;
        let marker = self.primary(&group.keeper.name()).ok().and_then(|primary| primary.marker(None));
        let marker = marker.map_or(0, |marker| marker.number);
        let record = group.keeper.get();
        tracing::warn!(group = %record.name, peer, "the other side has not taken over: this side is primary as before");
        Ok(RejoinReport {
            group: record.name,
            primary: self.config.name.clone(),
            generation: record.generation,
            marker,
            whole: false,
            lost_writes: 0,
            lost_bytes: 0,
            kept: None,
            not_taken_over_by: Some(peer.into()),
        })
    }

    /// `None`: the other side has not taken over, it is still the copy of this one.
    async fn return_to(&self, group: &Group, peer: &str, settled: &Settled) -> Result<Option<RejoinReport>, ErrorBody> {
        let (id, generation) = (group.keeper.id(), group.keeper.generation());
        let (connection, control, mut answers) = self.call(peer).await?;
        let control = Arc::new(control);
        let first = Return {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            group: id.0,
            generation: generation.0,
        };
        control.send(&Message::Return(first)).await.map_err(failed)?;
        let said = answer(&mut answers, peer).await?;
        if let Message::Parted(Parted { generation: theirs, .. }) | Message::Refused(Refused { generation: theirs, .. }) =
            &said
            && *theirs > generation.0
        {
            // Whatever comes of the return: somebody has taken over.
            group.met.fetch_max(*theirs, Ordering::AcqRel);
        }
        let parted = match said {
            Message::Parted(parted) if parted.generation > generation.0 => parted,
            Message::Refused(refused) if refused.refusal == Refusal::Conflict && refused.generation == generation.0 => {
                return Ok(None);
            }
            other => return Err(unexpected(peer, other)),
        };
        let (found, kept) = while_the_other_side_waits(&self.runtime, &control, || -> Result<_, ErrorBody> {
            let found = self.tail(group, &parted, settled).map_err(failed)?;
            // What comes next cuts the journal, and what lies before the cut is not copied again.
            if let (Settled::NotWrittenBack { reason, .. }, true) = (settled, found.tail.is_known()) {
                let name = group.keeper.name();
                return Err(failed(format!(
                    "group '{name}': {reason}. Mend that, and try again. Where it cannot be mended: `tidemark pair delete {name} --to {peer} \
                     --force` gives the group up here"
                )));
            }
            let kept = self.keep_tail(group, &parted, &found).map_err(failed)?;
            Ok((found, kept))
        })?;
        let tail = &found.tail;
        send_dirty(&control, tail).await.map_err(failed)?;
        match answer(&mut answers, peer).await? {
            Message::Agreed { .. } => {}
            other => return Err(unexpected(peer, other)),
        }
        tokio::task::block_in_place(|| self.become_secondary(group, &connection, &parted, tail)).map_err(failed)?;
        if let Some(kept) = &kept {
            self.finish_tail_or_say(kept);
        }
        connection.close("agreed");
        tracing::warn!(group = %group.keeper.name(), peer, generation = parted.generation, marker = parted.marker,
            lost_writes = tail.writes, "returned: this appliance is the copy now");
        Ok(Some(RejoinReport {
            group: group.keeper.name(),
            primary: peer.into(),
            generation: parted.generation,
            marker: parted.marker,
            whole: !tail.is_known(),
            lost_writes: tail.writes,
            lost_bytes: found.bytes,
            kept: kept.map(|path| path.display().to_string()),
            not_taken_over_by: None,
        }))
    }

    /// A connection about something else than data.
    pub(crate) async fn call(&self, peer: &str) -> Result<(Connection, ControlSender, ControlReceiver), ErrorBody> {
        let (id, address) = self.reach(peer).map_err(refused)?;
        let dialed = self.endpoint().dial(&address, id).await;
        let connection = dialed.map_err(|error| failed(format!("'{peer}' cannot be reached: {error}")))?;
        let (control, answers) = connection.open_control().await.map_err(failed)?;
        Ok((connection, control, answers))
    }

    /// What lies in the journal behind the place where the histories parted.
    fn tail(&self, group: &Group, parted: &Parted, settled: &Settled) -> Result<Found, String> {
        let (id, options) = (group.keeper.id(), self.journal_options());
        let disk = Arc::clone(&self.disk);
        let (mut newest, mut members) = (None, Vec::new());
        let opened =
            journal::open(disk, &self.journal_folder(id), id, options, None, &mut |at, _, record| match record {
                Some(ControlRecord::Marker(marker)) => newest = Some(marker.clone()),
                Some(ControlRecord::Volumes { volumes } | ControlRecord::CopyBegin { volumes, .. }) => {
                    members.push((at, volumes.clone()));
                }
                _ => {}
            });
        let writer = opened.map_err(|error| error.to_string())?.writer;
        let (journal, next_seq) = (Arc::clone(writer.journal()), writer.tip().seq.next());
        let mut found = match journal.reader_at_chain(Seq(parted.seq), Chain(parted.chain)) {
            Err(error) if error.is_of_the_records() => None,
            found => found.map_err(|error| error.to_string())?,
        };
        let from = found.as_ref().map_or_else(|| journal.oldest(), |reader| reader.position());
        let written = match written_since(&journal, from) {
            // What cannot be read is kept as it is, and nothing is concluded from it.
            Err(error) if error.is_of_the_records() => None,
            written => Some(written.map_err(|error| error.to_string())?),
        };
        // What the volumes lack of the time before is in no tail: all of it is copied.
        if written.is_none() || matches!(settled, Settled::NotWrittenBack { damaged: true, .. }) {
            found = None;
        }
        let unread = || (Bitmap::default(), writer.tip().seq.0.saturating_sub(parted.seq).max(1), 0);
        let (mut dirty, writes, bytes) = written.unwrap_or_else(unread);
        mark_those_that_left(&mut dirty, &members, from, &group.keeper.get().volumes);
        let marker = self.catalog.marker(id, MarkerNumber(parted.marker)).map_err(|error| error.to_string())?;
        // Without the marker's record the image cannot be named: then it is not kept either.
        let cut = found.map(|reader| reader.position()).filter(|_| marker.is_some());
        let regions = if cut.is_some() { Bitmap::default() } else { Self::unshipped_regions(group)? };
        let bytes = bytes.saturating_add(regions.bytes());
        Ok(Found { tail: Tail { cut, dirty, writes, newest, next_seq }, regions, bytes })
    }

    /// The tail's part of the journal, and what that no longer reaches, copied to where nothing replaces it (invariant 8).
    fn keep_tail(&self, group: &Group, parted: &Parted, found: &Found) -> Result<Option<PathBuf>, String> {
        let Found { tail, regions, .. } = found;
        self.discard_unfinished(group);
        if tail.writes == 0 && regions.is_empty() {
            return Ok(None);
        }
        let (id, name) = (group.keeper.id(), tail_name(group.keeper.generation().0, parted.marker));
        let applied = self.catalog.applied(id).map_err(|error| error.to_string())?;
        let first = first_segment(tail.cut, applied.map(|applied| applied.place()));
        let kept = self.keep_segments(id, &name, first, false).and_then(|folder| {
            self.note_volumes(group, &folder)?;
            if !regions.is_empty() {
                self.keep_regions(group, &folder, regions)?;
            }
            Ok(folder)
        });
        if kept.is_err() {
            // Half of it is none, and takes the room that is missing.
            let _ = self.remove_unfinished(&self.lost_folder(id).join(&name));
        }
        kept.map(Some)
    }

    /// Keeps the journal's segments from one on aside, under a name. Those that are only to be cut, and not written again, need no
    /// copying.
    pub(crate) fn keep_segments(&self, id: GroupId, name: &str, first: u64, only_cut: bool) -> Result<PathBuf, String> {
        let from = self.journal_folder(id);
        let folder = self.lost_folder(id).join(name);
        let text = |path: &Path, error: std::io::Error| format!("keep {}: {error}", path.display());
        // An earlier try may have left a part of it.
        if folder.exists() {
            self.remove_unfinished(&folder).map_err(|error| text(&folder, error))?;
        }
        self.disk
            .create_folder(&folder)
            .and_then(|()| self.begin_tail(&folder))
            .map_err(|error| text(&folder, error))?;
        for name in self.disk.list(&from).map_err(|error| text(&from, error))? {
            let number = journal::segment_number(&name);
            if number.is_some_and(|number| number >= first) {
                let copy = folder.join(&name);
                let (source, links) = (from.join(&name), only_cut && number != Some(first));
                let kept =
                    if links { std::fs::hard_link(&source, &copy) } else { std::fs::copy(&source, &copy).map(drop) };
                kept.map_err(|error| text(&copy, error))?;
                std::fs::File::open(&copy).and_then(|file| file.sync_all()).map_err(|error| text(&copy, error))?;
            }
        }
        self.disk.sync_folder(&folder).map_err(|error| text(&folder, error))?;
        Ok(folder)
    }

    pub(crate) fn lost_folder(&self, id: GroupId) -> PathBuf {
        self.group_folder(id).join(LOST)
    }

    /// One step: from here on it is a copy, whatever happens.
    fn become_secondary(
        &self,
        group: &Group,
        connection: &Connection,
        parted: &Parted,
        tail: &Tail,
    ) -> Result<(), String> {
        let recorded = self.record_as_secondary(group, connection.peer().0, parted, tail);
        recorded.map_err(|error| error.to_string())?;
        for member in group.keeper.get().volumes {
            self.restore_is_forgotten(&member.name);
            if let Ok(volume) = self.volume(&member.name) {
                *volume.made_for.write() = Some(group.keeper.name());
            }
        }
        self.give_up_reverses(group.keeper.id());
        group.met.store(0, Ordering::Release);
        // Who was told so was of an older generation, and is refused for that; markers may go on from an older one.
        group.denied.store(0, Ordering::Release);
        Ok(())
    }

    fn record_as_secondary(
        &self,
        group: &Group,
        primary: [u8; 32],
        parted: &Parted,
        tail: &Tail,
    ) -> Result<(), CatalogError> {
        let mut batch = Batch::new();
        let name = group.keeper.name();
        for member in group.keeper.get().volumes {
            if let Some(record) = self.catalog.volume(&member.name)? {
                batch.put_volume(&VolumeRecord { group: Some(name.clone()), ..record })?;
            }
            // What it holds is what the new primary has.
            batch.delete_restore(&member.name)?;
        }
        let Parted { generation, marker, seq, chain } = *parted;
        let returning = Returning {
            primary,
            generation,
            parted: PartedRecord { marker, seq, chain, segment: 0, offset: 0 },
            kept: tail_name(group.keeper.generation().0, marker),
            pair: self.pair_with(&primary),
        };
        record_return(&group.keeper, batch, returning, tail)
    }
}

/// The new primary's side.
impl Appliance {
    /// The group that a conversation is about.
    pub(crate) fn group_asked_for(&self, id: &[u8; 16]) -> Result<Arc<Group>, Refused> {
        let unknown = || format!("'{}' knows nothing of this group", self.config.name);
        self.group_by_id(GroupId(*id)).ok_or_else(|| refuse(Refusal::UnknownGroup, 0, unknown()))
    }

    /// Says that this side is a copy still, unless it is none any more when nothing else is being changed: then it is being taken over,
    /// or has been. The caller's copy says it with its generation: the caller may be primary again.
    async fn deny_take_over(&self, group: &Group, connection: &Connection) -> Result<(), Refused> {
        let here = &self.config.name;
        let Ok(_alone) = tokio::time::timeout(CHANGE_TIMEOUT, self.changing.lock()).await else {
            let message = format!("something else is being changed on '{here}': try again");
            return Err(refuse(Refusal::Unready, 0, message));
        };
        let Engine::Secondary(copy) = group.engine.read().clone() else { return Ok(()) };
        let record = group.keeper.get();
        let is_its_copy = record.primary == Some(connection.peer().0);
        if let Some(permitted) = copy.permitted().filter(|_| is_its_copy) {
            group.denied.fetch_max(permitted.marker.number, Ordering::AcqRel);
        }
        let generation = if is_its_copy { record.generation } else { 0 };
        Err(refuse(Refusal::Conflict, generation, nobody_took_over(here, &record.name)))
    }

    /// Answers an old primary that wants to return.
    pub(crate) async fn let_return(
        &self,
        connection: &Connection,
        control: &ControlSender,
        incoming: &mut ControlReceiver,
        request: &Return,
    ) -> Result<(), Refused> {
        agree(Versions::OURS, Versions { min: request.version_min, max: request.version_max })?;
        let here = &self.config.name;
        let group = self.group_asked_for(&request.group)?;
        let name = group.keeper.name();
        if matches!(&*group.engine.read(), Engine::Secondary(_)) {
            self.deny_take_over(&group, connection).await?;
        }
        let (record, engine) = (group.keeper.get(), group.engine.read().clone());
        let primary = match engine {
            Engine::Primary(primary) => primary,
            // It knows of a higher generation than its own, and not where that is served.
            Engine::Fenced { by } => {
                let message =
                    format!("group '{name}' is fenced on '{here}', too, by generation {by}: who has that took over");
                return Err(refuse(Refusal::Fenced, by.0.max(record.generation), message));
            }
            Engine::Changing { what, .. } if record.role == RoleRecord::Primary => {
                let message = format!("group '{name}' is primary on '{here}' and does not run there yet: {what}");
                return Err(refuse(Refusal::Unready, record.generation, message));
            }
            Engine::Failed(why) if record.role == RoleRecord::Primary => {
                let message = format!("group '{name}' is primary on '{here}' and does not run there: {why}");
                return Err(refuse(Refusal::Unready, record.generation, message));
            }
            Engine::Secondary(_) | Engine::Changing { .. } | Engine::Failed(_) => {
                return Err(refuse(Refusal::Conflict, 0, nobody_took_over(here, &name)));
            }
        };
        if record.generation <= request.generation {
            let message = format!(
                "group '{name}' has generation {} on '{here}' and {} there: neither took over from the other",
                record.generation, request.generation
            );
            return Err(refuse(Refusal::Conflict, 0, message));
        }
        let peer = self.peer_by_id(&connection.peer().0).unwrap_or_default();
        let parted = record.pairs.iter().find(|pair| pair.peer == peer).and_then(|pair| pair.parted);
        let (Some(pair), Some(parted)) = (primary.pair(&peer), parted) else {
            let message = format!(
                "group '{name}' on '{here}' has no pair with '{peer}' from which it took over: give the group up on '{peer}' \
                 (`tidemark pair delete {name} --to {here}`), then `tidemark pair create {name} --to {peer}` on '{here}' copies everything"
            );
            return Err(refuse(Refusal::UnknownGroup, record.generation, message));
        };
        let unready = |message: String| refuse(Refusal::Unready, record.generation, message);
        let told =
            Parted { generation: record.generation, marker: parted.marker, seq: parted.seq, chain: parted.chain };
        control.send(&Message::Parted(told)).await.map_err(|error| unready(error.to_string()))?;
        let (dirty, whole) = receive_dirty(incoming, &primary.volume_sizes()).await.map_err(unready)?;
        // It knows the place; whether this side can bring it on from there is another question.
        let goes_on = tokio::task::block_in_place(|| pair.goes_on_from(&parted)).map_err(unready)?;
        // One of which nothing is copied hears nothing else of the volumes that it alone has taken in or grown.
        let recorded = primary.record_volumes().await;
        recorded.map_err(|why| unready(format!("group '{name}' on '{here}': {why}")))?;
        tokio::task::block_in_place(|| pair.returned(&dirty, whole || !goes_on)).map_err(unready)?;
        let agreed = Message::Agreed { generation: record.generation };
        control.send(&agreed).await.map_err(|error| unready(error.to_string()))
    }
}

fn nobody_took_over(here: &str, group: &str) -> String {
    format!("group '{group}' is not primary on '{here}': nobody took over there")
}

/// The next message of a conversation that this side began.
pub(crate) async fn answer(answers: &mut ControlReceiver, peer: &str) -> Result<Message, ErrorBody> {
    answered(tokio::time::timeout(ANSWER_TIMEOUT, answers.recv()).await.ok(), ANSWER_TIMEOUT, peer)
}

/// The message that came within a time, if one did.
pub(crate) fn answered(
    came: Option<Result<Option<Message>, LinkError>>,
    limit: Duration,
    peer: &str,
) -> Result<Message, ErrorBody> {
    let came = came.ok_or_else(|| failed(format!("'{peer}' did not answer within {limit:?}")))?;
    came.map_err(failed)?.ok_or_else(|| failed(format!("'{peer}' ended the conversation")))
}

/// An answer that is not the one hoped for.
pub(crate) fn unexpected(peer: &str, message: Message) -> ErrorBody {
    match message {
        Message::Refused(Refused { message, .. }) | Message::Goodbye { message } => refused(message),
        _ => failed(format!("'{peer}' answered with something else than what was asked")),
    }
}

#[cfg(test)]
mod tests;
