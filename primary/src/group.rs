//! A consistency group on its primary: wires the stages, owns their threads and the set of pairs.

mod cuts;
mod members;
mod pairs;
mod status;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::OnFull;
use tidemark_common::catalog::{CatalogError, OnFullRecord};
use tidemark_common::clock::{Clock, unix_ns};
use tidemark_common::history::History;
use tidemark_common::ids::{Generation, Seq, VolumeIndex};
use tidemark_common::journal::{self, JournalOptions, Position};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::markers::marker_of;
use tidemark_common::metrics::GroupMetrics;
use tidemark_common::nbd::{Export, IoError};
use tidemark_common::overlay::unapplied::Spill;
use tidemark_common::record::{ControlRecord, Place, Tip};
use tidemark_common::repeats::Recurring;
use tidemark_common::sentences::joined;
use tidemark_common::storage::Disk;
use tidemark_common::t0::Eras;
use tidemark_common::updater::AppliedPosition;
use tidemark_common::updater::Updater;
use tidemark_common::volumes::Volumes;
use tokio::runtime::Handle;

pub use self::members::HeldPairs;
use crate::buffer::Buffer;
use crate::commit::SharedDrain;
use crate::drain::{Drain, DrainDesk, DrainSettings};
use crate::image::Image;
use crate::pressure::PairSet;
use crate::recovery::{StartError, Taken, index_unapplied, recover_ring};
use crate::ring_place::RingPlace;
use crate::ship::Links;
use crate::volume::CapturedVolume;
use crate::writeback::{Readers, Writeback, WritebackDesk};

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

/// What a thread does.
type Work = Box<dyn FnOnce() + Send>;

/// What a group's threads do, a step at a time.
#[derive(Debug)]
pub struct Stages {
    /// The drain.
    pub drain: Drain,
    /// The updater.
    pub writeback: Writeback,
}

impl Primary {
    /// Recovers the group and starts its threads and pairs.
    ///
    /// # Errors
    /// [`StartError`]; nothing runs then.
    pub fn start(parts: PrimaryParts, options: PrimaryOptions) -> Result<Arc<Self>, StartError> {
        let (primary, stages) = Self::open(parts, options)?;
        primary.start_threads(stages, |name, work| std::thread::Builder::new().name(name).spawn(work))?;
        for pair in primary.pairs() {
            primary.parts.runtime.spawn(pair.keep_running());
        }
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
        // A journal that is full is no reason not to start: only a group that runs makes room.
        if writer.tip().generation < generation {
            let frame = role_record(&parts, &writer, generation.0)?;
            writer.append_to_free(frame.into())?;
            writer.sync()?;
        }
        // A kill between the group's record and the journal's leaves them apart: pairs are told what holds.
        let volumes = parts.volumes.specs();
        if !record.pairs.is_empty() && taken.volumes.as_ref() != Some(&volumes) {
            let frame = ControlRecord::Volumes { volumes }.frame(&place_at(&parts, &writer, generation.0))?;
            writer.append_to_free(frame.into())?;
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
        desk.throttle.enable(record.on_full == OnFullRecord::Throttle);
        let pairs = Arc::new(PairSet::new(&journal, Arc::clone(&desk), parts.metrics.clone()));
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
            logged: Recurring::default(),
        };
        Stages { drain, writeback }
    }

    /// Both threads, or none: whoever is told that the group does not run may open its journal again.
    fn start_threads(
        &self,
        Stages { drain, writeback }: Stages,
        spawn: impl Fn(String, Work) -> io::Result<JoinHandle<()>>,
    ) -> Result<(), StartError> {
        let name = self.keeper.name();
        let (shared, spill) = (Arc::clone(&self.drain), Arc::clone(&writeback.spill));
        let (begins, waits) = sync_channel(1);
        let drains = move || {
            // An error: there is no thread for the updater.
            if waits.recv().is_ok() {
                shared.run(drain, &spill);
            }
        };
        let drain = spawn(format!("drain {name}"), Box::new(drains))?;
        let updater = spawn(format!("updater {name}"), Box::new(move || writeback.run()))?;
        // It waits for nothing else.
        let _ = begins.send(());
        *self.threads.lock() = vec![drain, updater];
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

    /// What an operator wants of the group from now on; `None`: as before. Its copies are told.
    ///
    /// # Errors
    /// [`CatalogError`]; nothing is changed then.
    pub fn set(&self, history: Option<History>, on_full: Option<OnFull>) -> Result<(), CatalogError> {
        self.keeper.update(|record| {
            record.history = history.unwrap_or(record.history);
            record.on_full = on_full.map_or(record.on_full, on_full_record);
        })?;
        if let Some(on_full) = on_full {
            self.desk.throttle.enable(on_full == OnFull::Throttle);
        }
        Ok(())
    }

    /// What a person must look at, if anything.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        joined([self.held_up(), self.image.buffer.problem()])
    }

    /// What keeps writes from reaching the volumes: theirs first, which may be what a full journal is full of.
    pub(crate) fn held_up(&self) -> Option<String> {
        let of_volumes = self.writeback.problem.lock().clone();
        joined([of_volumes, self.desk.problem()])
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
    Place::at(parts.keeper.id(), &Tip { generation: Generation(generation), ..*writer.tip() })
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
