//! A machine with one group, that outlives the processes that run on it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tidemark_common::catalog::{Catalog, GroupRecord, GroupVolume, PairRecord};
use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::ids::{ApplianceId, Generation, GroupId, VolumeIndex};
use tidemark_common::journal::{self, Journal, JournalOptions};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::link::Endpoint;
use tidemark_common::metrics::Metrics;
use tidemark_common::nbd::{Export, IoError};
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, Open};
use tidemark_common::volumes::{VolumeFile, Volumes};
use tidemark_primary::differences::{encode_new, everything};
use tidemark_primary::drain::DrainSettings;
use tidemark_primary::group::{Primary, PrimaryOptions, PrimaryParts};
use tidemark_primary::recovery::StartError;
use tidemark_primary::ship::Links;
use tidemark_tests::image::Image;
use tidemark_tests::stamp::BLOCK_BYTES;
use tokio::runtime::Runtime;

use crate::hosts::Hosts;
use crate::staged::StagedDisk;

/// Longer than any test: what is due after this long does not come by itself.
pub(crate) const NEVER: Duration = Duration::from_secs(3600);
/// What has not come after this long does not come.
pub(crate) const SOON: Duration = Duration::from_secs(20);

pub(crate) const GROUP: GroupId = GroupId([7; 16]);
pub(crate) const JOURNAL: &str = "/journal";
pub(crate) const VOLUMES: &str = "/volumes";

/// How the group is kept.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) volumes: u32,
    pub(crate) volume_blocks: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) segments: u64,
    pub(crate) ring_bytes: u64,
    /// How long a write waits in the buffer for company.
    pub(crate) delay: Duration,
    /// Between two cuts.
    pub(crate) interval: Duration,
    /// Between two heartbeats of a pair.
    pub(crate) heartbeat: Duration,
}

impl Default for Settings {
    /// Three small volumes; everything is drained at once and nothing cut unless asked for. A segment holds any frame, because
    /// a frame holds no more than the ring.
    fn default() -> Self {
        Self {
            volumes: 3,
            volume_blocks: 128,
            segment_bytes: 512 << 10,
            segments: 8,
            ring_bytes: 256 << 10,
            delay: Duration::ZERO,
            interval: NEVER,
            heartbeat: NEVER,
        }
    }
}

impl Settings {
    /// All of the history stays in the buffer, or in a journal whose segments are few and large.
    pub(crate) fn keeping() -> Self {
        Self { segment_bytes: 16 << 20, segments: 4, ring_bytes: 16 << 20, ..Self::default() }
    }

    pub(crate) fn volume_bytes(&self) -> u64 {
        self.volume_blocks * BLOCK_BYTES as u64
    }

    pub(crate) fn journal(&self) -> JournalOptions {
        JournalOptions { segment_bytes: self.segment_bytes, capacity_bytes: self.segments * self.segment_bytes }
    }
}

/// The machine: its disk, its memory (the ring's file), its catalogue, which is durable with every change.
pub(crate) struct Machine {
    pub(crate) disk: MemoryDisk,
    pub(crate) settings: Settings,
    pub(crate) ring: PathBuf,
    /// Memory does not outlive it.
    boot: u32,
    pub(crate) runtime: Runtime,
    /// Of the processes that start from here on.
    pub(crate) links: Arc<dyn Links>,
    catalog: Catalog,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    _memory: TempDir,
}

/// A process that serves the group.
pub(crate) struct Engine {
    pub(crate) primary: Arc<Primary>,
    pub(crate) disk: StagedDisk,
    pub(crate) volumes: Vec<Arc<dyn Export>>,
}

/// A group without pairs calls nobody.
struct Nobody;

impl Links for Nobody {
    fn endpoint(&self) -> Arc<Endpoint> {
        unreachable!("a group without pairs")
    }

    fn reach(&self, peer: &str) -> Result<(ApplianceId, String), String> {
        Err(format!("no appliance '{peer}'"))
    }

    fn name(&self) -> String {
        "alone".into()
    }

    fn fenced(&self, _group: &str, _peer: &str, _generation: Generation) {}
}

impl Machine {
    pub(crate) fn new(settings: Settings) -> Self {
        let memory = tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").expect("a directory on tmpfs");
        let ring = memory.path().join("ring");
        Self::with_ring(settings, memory, ring)
    }

    /// With the ring somewhere else.
    pub(crate) fn with_ring(settings: Settings, memory: TempDir, ring: PathBuf) -> Self {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let catalog = Catalog::open(memory.path(), clock.as_ref()).unwrap();
        catalog.put_group(&record(&settings)).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let metrics = Metrics::new("alone", "test", Timestamp::UNIX_EPOCH);
        let machine = Self {
            disk: MemoryDisk::new(),
            settings,
            ring,
            boot: 1,
            runtime,
            links: Arc::new(Nobody),
            catalog,
            clock,
            metrics,
            _memory: memory,
        };
        machine.make_volumes();
        machine
    }

    fn make_volumes(&self) {
        self.disk.create_folder(VOLUMES.as_ref()).unwrap();
        for index in 0..self.settings.volumes {
            let file = self.disk.open(&volume_path(index), Open::New).unwrap();
            file.grow(self.settings.volume_bytes()).unwrap();
            file.sync().unwrap();
        }
        self.disk.sync_folder(VOLUMES.as_ref()).unwrap();
    }

    pub(crate) fn clock(&self) -> Arc<dyn Clock> {
        Arc::clone(&self.clock)
    }

    /// A process comes up.
    pub(crate) fn start(&self) -> Engine {
        self.try_start().unwrap_or_else(|error| panic!("the group does not start: {error}"))
    }

    /// A process comes up, and its group starts or does not.
    pub(crate) fn try_start(&self) -> Result<Engine, StartError> {
        let disk = StagedDisk::over(&self.disk);
        let volumes = Volumes::default();
        for index in 0..self.settings.volumes {
            let file = disk.open(&volume_path(index), Open::Existing).unwrap();
            let size = file.size().unwrap();
            volumes.insert(VolumeFile::new(VolumeIndex(index + 1), name_of(index), file, size));
        }
        let record = self.catalog.groups().unwrap().remove(0);
        let parts = PrimaryParts {
            taken: None,
            disk: Arc::new(disk.clone()),
            clock: self.clock(),
            links: Arc::clone(&self.links),
            keeper: Arc::new(GroupKeeper::new(self.catalog.clone(), record)),
            volumes: Arc::new(volumes),
            runtime: self.runtime.handle().clone(),
            appliance: [1; 32],
            metrics: self.metrics.group("group"),
            eras: None,
        };
        let options = PrimaryOptions {
            journal_folder: JOURNAL.into(),
            journal: self.settings.journal(),
            ring_path: self.ring.clone(),
            boot: self.boot.to_string(),
            ring_bytes: self.settings.ring_bytes,
            drain: DrainSettings { delay: self.settings.delay, freeze_limit: SOON },
            heartbeat: self.settings.heartbeat,
            // So few that all of this happens.
            index_ranges_max: 4,
        };
        let primary = Primary::start(parts, options)?;
        let volumes = (0..self.settings.volumes).map(|index| primary.export(&name_of(index)).unwrap()).collect();
        Ok(Engine { primary, disk, volumes })
    }

    /// Starts a pair that copies everything.
    pub(crate) fn add_pair(&self, engine: &Engine, pair: &PairRecord) {
        let keeper = engine.primary.keeper();
        let everything = encode_new(&everything(&engine.primary.volume_sizes()));
        self.catalog.put_bitmap(GROUP, &pair.peer, &everything).unwrap();
        keeper.update(|record| record.pairs.push(pair.clone())).unwrap();
        engine.primary.add_pair(pair);
    }

    /// `kill -9`: disk and ring are as they were at that moment. Returns the last number given out, and how the hosts ended.
    pub(crate) fn kill(&self, engine: Engine, hosts: Option<Hosts>) -> (u64, Vec<IoError>) {
        let kept = self.ring.with_extension("kept");
        engine.disk.kill();
        // The rest is only to end the threads of the dead process; it does away with a ring that it finds empty.
        std::fs::hard_link(&self.ring, &kept).unwrap();
        engine.primary.stop();
        let ended = hosts.map(Hosts::end).unwrap_or_default();
        let captured = engine.primary.status().positions.captured_seq;
        drop(engine);
        let _ = std::fs::remove_file(&self.ring);
        // Another file, so that nothing left of the dead process can write to it.
        std::fs::copy(&kept, &self.ring).unwrap();
        std::fs::remove_file(&kept).unwrap();
        (captured, ended)
    }

    /// Power is lost: the ring is gone, and what was not synced is lost or torn as the seed has it.
    pub(crate) fn lose_power(&mut self, engine: Engine, hosts: Option<Hosts>, seed: u64) {
        self.kill(engine, hosts);
        std::fs::remove_file(&self.ring).unwrap();
        self.boot += 1;
        self.disk = self.disk.crash(seed);
    }

    /// Runs a future that must come to an end.
    pub(crate) fn soon<T>(&self, what: &str, future: impl Future<Output = T>) -> T {
        let limited = self.runtime.block_on(async { tokio::time::timeout(SOON, future).await });
        limited.unwrap_or_else(|_| panic!("waited {SOON:?} for {what}"))
    }

    pub(crate) fn flush(&self, engine: &Engine) -> Result<(), IoError> {
        self.soon("a flush", engine.volumes[0].flush())
    }

    pub(crate) fn write(&self, engine: &Engine, volume: usize, offset: u64, data: &[u8]) -> Result<(), IoError> {
        self.soon("a write", engine.volumes[volume].write(offset, data, false))
    }

    pub(crate) fn read(&self, engine: &Engine, volume: usize, offset: u64, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        self.soon("a read", engine.volumes[volume].read(offset, &mut bytes)).unwrap();
        bytes
    }

    /// What hosts see.
    pub(crate) fn image(&self, engine: &Engine) -> Image {
        let length = self.settings.volume_bytes() as usize;
        let volumes: Vec<_> = (0..engine.volumes.len()).map(|volume| self.read(engine, volume, 0, length)).collect();
        Image::from_bytes(&volumes)
    }

    /// The journal as it is now, read by somebody else.
    pub(crate) fn journal(&self) -> Arc<Journal> {
        let disk = Arc::new(self.disk.fork());
        let opened = journal::open(disk, JOURNAL.as_ref(), GROUP, self.settings.journal(), None, &mut |_, _, _| {});
        Arc::clone(opened.unwrap().writer.journal())
    }
}

/// The threads of a process that no test has ended go with it.
impl Drop for Engine {
    fn drop(&mut self) {
        self.disk.kill();
        self.primary.stop();
    }
}

impl Engine {
    pub(crate) fn captured(&self) -> u64 {
        self.primary.status().positions.captured_seq
    }

    pub(crate) fn applied(&self) -> u64 {
        self.primary.status().positions.applied_seq
    }
}

fn record(settings: &Settings) -> GroupRecord {
    let volume = |index| GroupVolume { index: index + 1, name: name_of(index) };
    GroupRecord {
        generation_start_seq: 0,
        interval_ms: settings.interval.as_millis() as u64,
        next_volume_index: settings.volumes + 1,
        volumes: (0..settings.volumes).map(volume).collect(),
        ..GroupRecord::new("group", GROUP.0)
    }
}

fn name_of(index: u32) -> String {
    format!("volume-{index}")
}

fn volume_path(index: u32) -> PathBuf {
    PathBuf::from(VOLUMES).join(name_of(index))
}
