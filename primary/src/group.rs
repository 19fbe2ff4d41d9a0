//! A consistency group on its primary: wires the stages, owns their threads and the set of pairs.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{
    BufferStatus, GroupStatus, HistoryStatus, JournalStatus, MarkerInfo, MarkerStatus, OnFull, PairState, Positions,
    Role,
};
use tidemark_common::catalog::{CatalogError, GroupRecord, GroupVolume, OnFullRecord, PairRecord};
use tidemark_common::clock::{Clock, unix_ns};
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Seq, VolumeIndex};
use tidemark_common::journal::{self, JournalOptions, Position};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::markers::{info, marker_of};
use tidemark_common::metrics::GroupMetrics;
use tidemark_common::nbd::{Export, IoError};
use tidemark_common::overlay::unapplied::Spill;
use tidemark_common::record::{ControlRecord, Place};
use tidemark_common::storage::Disk;
use tidemark_common::t0::{Eras, ImagePoint};
use tidemark_common::updater::AppliedPosition;
use tidemark_common::updater::Updater;
use tidemark_common::volumes::{VolumeFile, Volumes};
use tidemark_common::watchdog::{Movement, Moving};
use tokio::runtime::Handle;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use crate::buffer::Buffer;
use crate::commit::SharedDrain;
use crate::cut::{CutDone, CutError, CutRequest};
use crate::drain::{Drain, DrainDesk, DrainSettings, RecordRequest};
use crate::image::Image;
use crate::pressure::PairSet;
use crate::recovery::{StartError, Taken, index_unapplied, recover_ring};
use crate::ring_place::RingPlace;
use crate::ship::{Hold, Links, Pair, PairParts};
use crate::volume::CapturedVolume;
use crate::watch::Watches;
use crate::writeback::{Readers, Writeback, WritebackDesk};

/// Between two looks at what pairs have.
const LOOK: Duration = Duration::from_millis(5);

/// Where a group keeps what, and how it behaves.
#[derive(Debug, Clone)]
pub struct PrimaryOptions {
    /// Folder of the journal's segments.
    pub journal_folder: PathBuf,
    /// Size of the journal.
    pub journal: JournalOptions,
    /// File of the ring, when there is none elsewhere from before a kill.
    pub ring_path: PathBuf,
    /// This boot of the machine, which memory does not outlive; empty: not known.
    pub boot: String,
    /// Bytes of the ring.
    pub ring_bytes: u64,
    /// The drain.
    pub drain: DrainSettings,
    /// Between two heartbeats.
    pub heartbeat: Duration,
    /// Ranges of the index of what is not yet in the volumes that are held in memory, about 100 bytes each.
    pub index_ranges_max: usize,
}

impl PrimaryOptions {
    /// What is more goes to the disk, beside the journal.
    fn spill(&self, disk: &Arc<dyn Disk>) -> Spill {
        Spill::new(Arc::clone(disk), self.journal_folder.with_extension("index"), self.index_ranges_max)
    }
}

/// Everything a group is started with.
pub struct PrimaryParts {
    /// The journal, when it need not be opened.
    pub taken: Option<Taken>,
    /// The disk seam.
    pub disk: Arc<dyn Disk>,
    /// The clock seam.
    pub clock: Arc<dyn Clock>,
    /// The way to peers.
    pub links: Arc<dyn Links>,
    /// The group's record.
    pub keeper: Arc<GroupKeeper>,
    /// Its volumes' files.
    pub volumes: Arc<Volumes>,
    /// Where pairs run.
    pub runtime: Handle,
    /// This appliance, for the role record.
    pub appliance: [u8; 32],
    /// Where figures go.
    pub metrics: GroupMetrics,
    /// What images of older moments need; `None`: there never are any.
    pub eras: Option<Arc<Eras>>,
}

/// A running group.
pub struct Primary {
    keeper: Arc<GroupKeeper>,
    image: Image,
    desk: Arc<DrainDesk>,
    drain: Arc<SharedDrain>,
    writeback: Arc<WritebackDesk>,
    pairs: Arc<PairSet>,
    threads: Mutex<Vec<JoinHandle<()>>>,
    parts: PrimaryParts,
    options: PrimaryOptions,
}

impl std::fmt::Debug for Primary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primary").field("group", &self.keeper.name()).finish_non_exhaustive()
    }
}

/// What a group's threads do, a step at a time.
#[derive(Debug)]
pub struct Stages {
    /// The drain.
    pub drain: Drain,
    /// The updater.
    pub writeback: Writeback,
}

/// Pairs that send nothing while this lives.
#[derive(Debug, Default)]
pub struct HeldPairs(Vec<Hold>);

impl Primary {
    /// Recovers the group and starts its threads and pairs.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(parts: PrimaryParts, options: PrimaryOptions) -> Result<Arc<Self>, StartError> {
        let (primary, Stages { drain, writeback }) = Self::open(parts, options)?;
        for pair in primary.pairs() {
            primary.parts.runtime.spawn(pair.run());
        }
        primary.start_threads(drain, writeback)?;
        Ok(primary)
    }

    /// Recovers the group. Nothing runs: whoever calls this makes the stages and pairs go.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(mut parts: PrimaryParts, mut options: PrimaryOptions) -> Result<(Arc<Self>, Stages), StartError> {
        let record = parts.keeper.get();
        let (group, generation) = (parts.keeper.id(), parts.keeper.generation());
        let desk = Arc::new(DrainDesk::new(Duration::from_millis(record.interval_ms)));
        let taken = match parts.taken.take() {
            Some(taken) => taken,
            None => Taken::open(Arc::clone(&parts.disk), &options.journal_folder, &parts.keeper, options.journal)?,
        };
        taken.markers.into_iter().for_each(|(at, marker)| desk.markers.add(at, marker));
        if desk.markers.newest().is_none()
            && let Some(kept) = parts.keeper.catalog().markers(group, 1)?.pop()
        {
            // The journal no longer holds it; its number and time still count.
            desk.markers.add(Position::default(), marker_of(&kept));
        }
        let mut writer = taken.writer;
        if writer.tip().generation < generation {
            let frame = role_record(&parts, &writer, generation.0)?;
            writer.append(&frame)?;
            writer.sync()?;
        }
        // A kill between the group's record and the journal's leaves them apart: pairs are told what holds.
        let volumes = parts.volumes.specs();
        if !record.pairs.is_empty() && taken.volumes.as_ref() != Some(&volumes) {
            let frame = ControlRecord::Volumes { volumes }.frame(&place_at(&parts, &writer, generation.0))?;
            writer.append(&frame)?;
            writer.sync()?;
            desk.volumes_changed.store(true, std::sync::atomic::Ordering::Release);
        }
        let journal = Arc::clone(writer.journal());
        let applied = AppliedPosition::of(parts.keeper.catalog().applied(group)?);
        let spill = options.spill(&parts.disk);
        let mut index = index_unapplied(&journal, &applied, taken.indexed, &spill)?;
        let tip = writer.tip().seq;
        let place = RingPlace {
            catalog: parts.keeper.catalog(),
            group,
            configured: &options.ring_path,
            boot: &options.boot,
            journal_folder: &options.journal_folder,
        };
        let ring_path = place.find()?;
        let ring = recover_ring(&ring_path, options.ring_bytes, group, generation, tip, &mut index)?;
        place.record(&ring_path)?;
        options.ring_path = ring_path;
        if ring.kept + ring.void > 0 {
            tracing::info!(group = %record.name, kept = ring.kept, unanswered = ring.void, "writes recovered from the write buffer");
        }
        let buffer =
            Arc::new(Buffer::new(ring.ring, Arc::clone(&parts.clock), ring.next_seq, index, parts.metrics.clone()));
        let image =
            Image { buffer: Arc::clone(&buffer), journal: Arc::clone(&journal), volumes: Arc::clone(&parts.volumes) };
        let keeps_hosts_fast = record.on_full == OnFullRecord::Fold;
        desk.throttle.enable(!keeps_hosts_fast);
        let pairs = PairSet::new(keeps_hosts_fast, &journal, Arc::clone(&desk), parts.metrics.clone());
        let pairs = Arc::new(pairs);
        let primary = Arc::new(Self {
            keeper: Arc::clone(&parts.keeper),
            image: image.clone(),
            drain: Arc::new(SharedDrain::new(Arc::clone(&desk), buffer, Arc::clone(&journal))),
            desk: Arc::clone(&desk),
            writeback: Arc::default(),
            pairs,
            threads: Mutex::default(),
            parts,
            options,
        });
        // Pairs hold what they need of the journal before anything can be trimmed.
        for pair in &record.pairs {
            primary.insert_pair(pair);
        }
        let eras = primary.parts.eras.clone();
        if let Some(eras) = &eras {
            eras.attach(&journal, applied.position)?;
        }
        let updater = Updater::new(journal, Arc::clone(&image.volumes), applied).saving(eras);
        let stages = primary.stages(writer, updater, spill);
        Ok((primary, stages))
    }

    fn stages(&self, writer: journal::Writer, updater: Updater, spill: Spill) -> Stages {
        let drain = Drain::new(
            self.keeper.id(),
            Arc::clone(&self.image.buffer),
            writer,
            Arc::clone(&self.desk),
            Arc::clone(&self.parts.clock),
            self.options.drain,
            self.parts.metrics.clone(),
        );
        let applied = updater.applied();
        self.writeback.show(&applied);
        let writeback = Writeback {
            updater,
            image: self.image.clone(),
            spill: Arc::new(spill),
            keeper: Arc::clone(&self.keeper),
            readers: Arc::clone(&self.pairs) as Arc<dyn Readers>,
            desk: Arc::clone(&self.writeback),
            drain: Arc::clone(&self.desk),
            clock: Arc::clone(&self.parts.clock),
            metrics: self.parts.metrics.clone(),
            recorded: applied.position,
            recorded_marker: 0,
            unrecorded: false,
            unbounded: false,
        };
        Stages { drain, writeback }
    }

    fn start_threads(&self, drain: Drain, writeback: Writeback) -> Result<(), StartError> {
        let name = self.keeper.name();
        let (shared, spill) = (Arc::clone(&self.drain), Arc::clone(&writeback.spill));
        let drain = move || shared.run(drain, &spill);
        let drain = std::thread::Builder::new().name(format!("drain {name}")).spawn(drain)?;
        self.threads.lock().push(drain);
        let writeback = std::thread::Builder::new().name(format!("updater {name}")).spawn(move || writeback.run())?;
        self.threads.lock().push(writeback);
        Ok(())
    }

    /// The group's record keeper.
    #[must_use]
    pub const fn keeper(&self) -> &Arc<GroupKeeper> {
        &self.keeper
    }

    pub(crate) const fn image(&self) -> &Image {
        &self.image
    }

    pub(crate) fn clock(&self) -> &dyn Clock {
        &*self.parts.clock
    }

    pub(crate) fn marker_place(&self, number: u64) -> Option<Position> {
        self.desk.markers.place(number)
    }

    pub(crate) fn want_durable(&self, seq: Seq) {
        self.desk.want(seq, &self.image.buffer);
    }

    /// Index and bytes of each volume.
    #[must_use]
    pub fn volume_sizes(&self) -> Vec<(VolumeIndex, u64)> {
        self.image.volumes.all().iter().map(|volume| (volume.index, volume.size())).collect()
    }

    /// One of its volumes as hosts see it.
    #[must_use]
    pub fn export(&self, name: &str) -> Option<Arc<dyn Export>> {
        let volume = self.image.volumes.by_name(name)?;
        Some(Arc::new(CapturedVolume::new(volume, self.image.clone(), Arc::clone(&self.desk), Arc::clone(&self.drain))))
    }

    /// Makes a marker now; resolves when it is durable.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn cut(&self, tag: Option<String>) -> Result<MarkerInfo, CutError> {
        self.cut_now(tag).await.map(|done| info(&done.marker))
    }

    async fn cut_now(&self, tag: Option<String>) -> Result<CutDone, CutError> {
        let (reply, done) = oneshot::channel();
        self.desk.ask_cut(CutRequest { tag, reply }, &self.image.buffer);
        self.await_cut(done).await
    }

    /// Waits for the marker of a cut that was asked for.
    pub(crate) async fn await_cut(
        &self,
        done: oneshot::Receiver<Result<CutDone, CutError>>,
    ) -> Result<CutDone, CutError> {
        let failed = |_| CutError::Failed { reason: self.held_up().unwrap_or_else(|| "the group is stopping".into()) };
        done.await.map_err(failed)?
    }

    /// Hosts are gone: a marker of everything they wrote, and permission for it from each pair that answers. Whoever calls this
    /// bounds the time it takes.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn hand_over_rest(&self) -> Result<(), CutError> {
        let captured = self.image.buffer.captured().0;
        let follows = |pair: &Arc<Pair>| {
            let status = pair.status();
            status.connected && matches!(status.state, PairState::Paired | PairState::CatchingUp)
        };
        let lacks = |pair: &Arc<Pair>| follows(pair) && pair.remote().permitted_seq < captured;
        if !self.pairs().iter().any(lacks) {
            return Ok(());
        }
        self.cut(None).await?;
        while self.pairs().iter().any(lacks) {
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Makes a marker at which an image may begin: the volumes are not written beyond it while the answer lives.
    ///
    /// # Errors
    /// [`CutError`].
    pub async fn image_point(&self, tag: Option<String>) -> Result<ImagePoint, CutError> {
        let eras = self.eras()?;
        // What is durable now lies before the marker: the updater cannot pass it before we know where it lies.
        let _until_cut = eras.hold(self.image.journal.durable_end().position);
        let done = self.cut_now(tag).await?;
        Ok(ImagePoint { marker: done.marker, barrier: eras.hold(done.next), volumes: self.image.volumes.specs() })
    }

    /// What images of older moments need.
    pub(crate) fn eras(&self) -> Result<&Arc<Eras>, CutError> {
        let none = || CutError::Failed { reason: "this group keeps no images".into() };
        self.parts.eras.as_ref().ok_or_else(none)
    }

    pub(crate) const fn freeze_limit(&self) -> Duration {
        self.options.drain.freeze_limit
    }

    /// A marker that others wanted was given up, because hosts would have been held too long.
    pub(crate) fn on_abandoned(&self, took: Duration) {
        self.desk.freezes.abandon();
        self.parts.metrics.marker_abandoned(took);
    }

    /// The markers held, newest first.
    #[must_use]
    pub fn markers(&self) -> Vec<MarkerInfo> {
        self.desk.markers.all()
    }

    /// A marker by number, or the newest.
    #[must_use]
    pub fn marker(&self, number: Option<u64>) -> Option<MarkerInfo> {
        let markers = &self.desk.markers;
        number.map_or_else(|| markers.newest(), |number| markers.get(number)).as_ref().map(info)
    }

    /// Puts a record of the group's volumes into the journal, none smaller than pairs were told before; resolves when it is durable.
    ///
    /// # Errors
    /// What happened.
    pub async fn record_volumes(&self) -> Result<(), String> {
        self.record(ControlRecord::Volumes { volumes: self.image.volumes.announced_specs() }).await
    }

    /// Takes a volume into the running group: pairs copy it.
    ///
    /// # Errors
    /// What happened.
    pub async fn add_volume(&self, volume: VolumeFile) -> Result<(), String> {
        let extent = Extent { volume: volume.index, offset: 0, length: volume.size() };
        // Marked in the bitmaps first: a volume that belongs to the group is copied, whatever happens in between.
        let _held = self.hold_pairs(extent).await?;
        let member = GroupVolume { index: volume.index.0, name: volume.name.clone() };
        self.join(volume, member).await
    }

    async fn join(&self, volume: VolumeFile, member: GroupVolume) -> Result<(), String> {
        let index = volume.index;
        let recorded = self.keeper.update(|record| {
            record.next_volume_index = member.index.saturating_add(1);
            record.volumes.push(member.clone());
        });
        recorded.map_err(|error| error.to_string())?;
        self.image.volumes.insert(volume);
        let result = self.record_volumes().await;
        if result.is_err() {
            self.image.volumes.remove(index);
            let undone = self.keeper.update(|record| record.volumes.retain(|other| *other != member));
            undone.map_err(|error| error.to_string())?;
        }
        result
    }

    /// Makes room for a larger volume and tells the pairs, who learn of it before any write behind its old end. The volume
    /// keeps its size until [`Self::grow_volume`].
    ///
    /// # Errors
    /// What happened.
    pub async fn announce_size(&self, name: &str, size: u64) -> Result<HeldPairs, String> {
        let volume = self.member(name)?;
        let old = volume.size();
        let size = size.max(old);
        let text = |error: std::io::Error| format!("grow volume '{name}': {error}");
        // A device, or a file larger than the volume, has something there already, which no pair has.
        let held = volume.file.size().map_err(text)?.min(size);
        volume.file.grow(size).map_err(text)?;
        let mut pairs = HeldPairs::default();
        if held > old {
            pairs = self.hold_pairs(Extent { volume: volume.index, offset: old, length: held - old }).await?;
        }
        // A copy that begins behind the record says that size, too.
        volume.announce(size);
        let mut volumes = self.image.volumes.specs();
        volumes.iter_mut().filter(|spec| spec.name == name).for_each(|spec| spec.size = size);
        let recorded = self.record(ControlRecord::Volumes { volumes }).await;
        recorded.inspect_err(|_| volume.take_back_announced())?;
        Ok(pairs)
    }

    /// A volume whose new size is announced and recorded: hosts may write behind its old end, and the pairs go on.
    ///
    /// # Errors
    /// What happened.
    pub fn grow_volume(&self, name: &str, size: u64, pairs: HeldPairs) -> Result<(), String> {
        self.member(name)?.grow(size).map_err(|error| format!("grow volume '{name}': {error}"))?;
        drop(pairs);
        Ok(())
    }

    /// Pairs that send nothing until they have marked a range; those that cannot mark it keep all from going on.
    async fn hold_pairs(&self, extent: Extent) -> Result<HeldPairs, String> {
        let mut held = HeldPairs::default();
        for pair in self.pairs() {
            held.0.push(pair.hold_for(extent).await?);
        }
        Ok(held)
    }

    fn member(&self, name: &str) -> Result<Arc<VolumeFile>, String> {
        self.image.volumes.by_name(name).ok_or_else(|| format!("the group has no volume '{name}'"))
    }

    /// Takes a volume out of the running group, once all that was written to it is in its file. No host may be writing it.
    ///
    /// # Errors
    /// What happened; the volume is a member as before.
    pub async fn remove_volume(&self, name: &str) -> Result<(), String> {
        let volume = self.member(name)?;
        self.applied_up_to(self.image.buffer.captured()).await?;
        volume.sync().map_err(|error| format!("sync volume '{name}': {error}"))?;
        // What was written to it lies in the journal under an index: whoever reads that finds its name behind it.
        self.record_volumes().await?;
        let members = self.keeper.get().volumes;
        let leave = |record: &mut GroupRecord| record.volumes.retain(|member| member.name != name);
        self.keeper.update(leave).map_err(|error| error.to_string())?;
        let others = self.image.volumes.specs().into_iter().filter(|spec| spec.name != name).collect();
        if let Err(reason) = self.record(ControlRecord::Volumes { volumes: others }).await {
            let undone = self.keeper.update(|record| record.volumes = members);
            undone.map_err(|error| error.to_string())?;
            return Err(reason);
        }
        // Only now: as long as it is in the set, what hosts write to it is written back.
        self.image.volumes.remove(volume.index);
        for pair in self.pairs() {
            // A pair does it again before it copies anything: after a kill just here, too.
            if let Err(error) = block_in_place(|| pair.let_go()) {
                tracing::warn!(volume = name, peer = %pair.peer(), %error, "what differs of a volume that left is still counted");
            }
        }
        Ok(())
    }

    /// Puts a record into the journal; resolves when it is durable.
    async fn record(&self, record: ControlRecord) -> Result<(), String> {
        let (reply, done) = oneshot::channel();
        self.desk.ask_record(RecordRequest { record, reply }, &self.image.buffer);
        done.await.map_err(|_| "the group is stopping".to_owned())?
    }

    /// Resolves when the volumes have everything up to a number.
    async fn applied_up_to(&self, seq: Seq) -> Result<(), String> {
        self.desk.want(seq, &self.image.buffer);
        while self.writeback.applied_seq.load(Ordering::Acquire) < seq.0 {
            if let Some(problem) = self.held_up() {
                return Err(problem);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Starts a pair whose record is in the catalogue.
    pub fn add_pair(&self, record: &PairRecord) -> Arc<Pair> {
        let pair = self.insert_pair(record);
        self.parts.runtime.spawn(Arc::clone(&pair).run());
        pair
    }

    fn insert_pair(&self, record: &PairRecord) -> Arc<Pair> {
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
        pair.forget()?;
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

    /// What a person must look at, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        self.held_up().or_else(|| self.image.buffer.problem())
    }

    /// What keeps writes from reaching the volumes.
    pub(crate) fn held_up(&self) -> Option<String> {
        self.desk.problem().or_else(|| self.writeback.problem.lock().clone())
    }

    /// Where its positions are.
    #[must_use]
    pub fn movements(&self) -> Vec<Movement> {
        let captured = self.image.buffer.captured().0;
        let journaled = self.image.journal.durable_end().seq.0;
        let applied = self.writeback.applied_seq.load(Ordering::Acquire);
        // Volumes that wait for a backup stand rightly: it is told by the backup, and ends by itself.
        let waits = self.parts.eras.as_ref().is_some_and(|eras| eras.is_squeezed());
        let of = |moving, at, target| Movement { moving, peer: None, at: [at, 0, 0], due: at < target };
        let written = if waits { applied } else { journaled };
        let mut all = vec![of(Moving::Journal, journaled, captured), of(Moving::WriteBack, applied, written)];
        all.extend(self.pairs().iter().flat_map(|pair| [pair.movement(), pair.converging()]));
        all
    }

    /// For status.
    #[must_use]
    pub fn status(&self) -> GroupStatus {
        let record = self.keeper.get();
        let marker = self.marker(None);
        let journal = &self.image.journal;
        GroupStatus {
            name: record.name,
            id: self.keeper.id().to_string(),
            role: Role::Primary,
            generation: record.generation,
            volumes: record.volumes.into_iter().map(|volume| volume.name).collect(),
            marker: MarkerStatus {
                last: marker.as_ref().map_or(0, |marker| marker.number),
                time: marker.map(|marker| marker.time),
            },
            journal: JournalStatus {
                bytes: journal.bytes(),
                capacity_bytes: journal.capacity_bytes(),
                full_in_seconds: self.writeback.forecast.sample(self.parts.clock.monotonic(), journal),
                throttle_ms: self.desk.throttle.delay().as_secs_f64() * 1000.0,
            },
            buffer: BufferStatus { bytes: self.image.buffer.bytes(), capacity_bytes: self.image.buffer.capacity() },
            freeze: self.desk.freezes.status(),
            positions: Positions {
                captured_seq: self.image.buffer.captured().0,
                journaled_seq: journal.durable_end().seq.0,
                applied_seq: self.writeback.applied_seq.load(Ordering::Acquire),
            },
            interval_ms: record.interval_ms,
            history: (!record.history.is_off())
                .then(|| HistoryStatus { asked: record.history, ..HistoryStatus::default() }),
            problem: self.problem(),
            standing: Vec::new(),
            pairs: self.pairs().iter().map(|pair| pair.status()).collect(),
        }
    }

    /// Hosts' writes are answered with an error from here on, also those that wait for room. Waits for nothing.
    pub fn refuse_hosts(&self) {
        self.image.buffer.refuse(Some(IoError::ShuttingDown));
    }

    /// Whether everything captured is in the volumes, durably: of a group that is stopped.
    #[must_use]
    pub fn is_written_back(&self) -> bool {
        let applied = self.writeback.applied_seq.load(Ordering::Acquire);
        applied >= self.image.buffer.captured().0 && self.image.volumes.sync().is_ok()
    }

    /// Whether a damaged record of the journal keeps the rest of it from the volumes.
    #[must_use]
    pub fn journal_is_damaged(&self) -> bool {
        self.writeback.damaged.load(Ordering::Acquire)
    }

    /// Stops pairs, drains the buffer, applies the journal (when images are kept, as far as none of them ends because of it), and waits
    /// for all of it. Blocks.
    pub fn stop(&self) {
        for pair in self.pairs() {
            pair.stop();
        }
        // Who waits for room is told, and nothing new is answered; what was answered is drained.
        self.refuse_hosts();
        self.desk.stop(&self.image.buffer);
        let mut threads = std::mem::take(&mut *self.threads.lock()).into_iter();
        if let Some(drain) = threads.next() {
            let _ = drain.join();
        }
        self.writeback.stop();
        self.image.journal.wake();
        threads.for_each(|thread| drop(thread.join()));
        if self.image.buffer.bytes() == 0 && self.image.journal.poisoned().is_none() {
            // Drained: its memory is given back. A kill leaves it, and the next start reads it. In this order: a ring that is
            // recorded is missed when it is gone.
            if let Err(error) = self.keeper.catalog().delete_ring(self.keeper.id()) {
                tracing::warn!(%error, "the write buffer is drained and stays where it is, because that could not be recorded");
                return;
            }
            let _ = std::fs::remove_file(&self.options.ring_path);
        }
    }
}

fn place_at(parts: &PrimaryParts, writer: &journal::Writer, generation: u64) -> Place {
    let tip = writer.tip();
    Place {
        group: parts.keeper.id(),
        member: 0,
        generation: tidemark_common::ids::Generation(generation),
        first_seq: tip.seq,
        last_seq: tip.seq,
        marker: tip.marker,
        chain: tip.chain,
    }
}

fn role_record(parts: &PrimaryParts, writer: &journal::Writer, generation: u64) -> Result<Vec<u8>, StartError> {
    let place = place_at(parts, writer, generation);
    let time_ns = unix_ns(parts.clock.wall());
    Ok(ControlRecord::Role { generation, appliance: parts.appliance, time_ns }.frame(&place)?)
}

/// The operator's choice as it is recorded.
#[must_use]
pub const fn on_full_record(on_full: OnFull) -> OnFullRecord {
    match on_full {
        OnFull::Fold => OnFullRecord::Fold,
        OnFull::Throttle => OnFullRecord::Throttle,
    }
}

#[cfg(test)]
mod tests;
