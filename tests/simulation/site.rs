//! One of the two sites: a machine with a disk, memory that outlives processes, and what an appliance there starts from.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use jiff::Timestamp;
use rand::RngExt;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tidemark_common::api::types::MarkerInfo;
use tidemark_common::catalog::{Catalog, CopyRecord, GroupRecord, GroupVolume, PairRecord, RoleRecord};
use tidemark_common::clock::Clock;
use tidemark_common::history::History;
use tidemark_common::ids::{ApplianceId, Generation, GroupId, VolumeIndex};
use tidemark_common::journal::JournalOptions;
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::link::Endpoint;
use tidemark_common::markers::info;
use tidemark_common::metrics::Metrics;
use tidemark_common::nbd::IoError;
use tidemark_common::storage::memory::{MemoryDisk, SECTOR};
use tidemark_common::storage::{Disk, Open};
use tidemark_common::t0::{Eras, ErasParts, SideSpace};
use tidemark_common::volumes::{VolumeFile, Volumes};
use tidemark_common::wire::message::VolumeSpec;
use tidemark_primary::differences::{encode_new, everything};
use tidemark_primary::drain::DrainSettings;
use tidemark_primary::group::{Primary, PrimaryOptions, PrimaryParts, Stages};
use tidemark_primary::recovery::Taken;
use tidemark_primary::ship::Links;
use tidemark_secondary::apply::Apply;
use tidemark_secondary::damage::give_up_image;
use tidemark_secondary::group::{Secondary, SecondaryParts};
use tidemark_secondary::image_point::Asked;
use tidemark_secondary::intake::CopyVolumes;
use tidemark_secondary::state::CopyState;
use tidemark_secondary::takeover;
use tidemark_tests::stamp::BLOCK_BYTES;
use tokio::runtime::Runtime;

use crate::device::Device;
use crate::fate::{Fate, MortalDisk, Points};

pub(crate) const GROUP: GroupId = GroupId([7; 16]);
pub(crate) const NEAR: &str = "near";
pub(crate) const FAR: &str = "far";
pub(crate) const JOURNAL: &str = "/journal";
const VOLUMES: &str = "/volumes";
pub(crate) const CATALOG: &str = "/catalog/records";

/// What both sites have in common.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) volumes: u32,
    pub(crate) blocks: u64,
    pub(crate) segment_bytes: u64,
    pub(crate) near_segments: u64,
    pub(crate) far_segments: u64,
    pub(crate) ring_bytes: u64,
    pub(crate) delay: Duration,
    pub(crate) interval: Duration,
    /// What the copy keeps behind its newest marker.
    pub(crate) history: History,
}

/// Virtual time: the world moves it, a site's wall clock may jump.
#[derive(Debug, Clone)]
pub(crate) struct SimClock {
    pub(crate) now_ns: Arc<AtomicU64>,
    pub(crate) jump_ms: Arc<AtomicI64>,
}

impl Clock for SimClock {
    fn wall(&self) -> Timestamp {
        let ms = i64::try_from(self.monotonic().as_millis()).unwrap() + self.jump_ms.load(Ordering::SeqCst);
        Timestamp::from_millisecond(1_700_000_000_000 + ms).unwrap()
    }

    fn monotonic(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::SeqCst))
    }
}

/// What is carried between the sites is carried by the world.
pub(crate) struct Nobody;

impl Links for Nobody {
    fn endpoint(&self) -> Arc<Endpoint> {
        unreachable!("the world carries what is said")
    }

    fn reach(&self, peer: &str) -> Result<(ApplianceId, String), String> {
        Err(format!("the world carries what is said to {peer}"))
    }

    fn name(&self) -> String {
        NEAR.into()
    }

    fn fenced(&self, group: &str, _: &str, _: Generation) {
        panic!("{group} is fenced, and nobody took over");
    }
}

pub(crate) struct Site {
    pub(crate) name: &'static str,
    pub(crate) settings: Settings,
    pub(crate) disk: MemoryDisk,
    pub(crate) device: Arc<Device>,
    pub(crate) clock: SimClock,
    pub(crate) fate: Fate,
    points: Arc<Points>,
    memory: Arc<TempDir>,
    lives: u64,
    /// The next process dies after so many changes of its disk.
    pub(crate) doomed: Option<u64>,
    metrics: Arc<Metrics>,
    runtime: Arc<Runtime>,
}

pub(crate) type Opened = (Arc<dyn Disk>, Arc<GroupKeeper>, Arc<Volumes>);

/// Why a copy does not run.
#[derive(Debug)]
pub(crate) struct Unopened {
    pub(crate) reason: String,
    /// Its journal is there and damaged.
    pub(crate) damaged: bool,
}

impl<T: Into<String>> From<T> for Unopened {
    fn from(reason: T) -> Self {
        Self { reason: reason.into(), damaged: false }
    }
}

/// A copy that has become primary.
pub(crate) struct TakenOver {
    /// The marker it serves.
    pub(crate) marker: MarkerInfo,
    pub(crate) primary: Arc<Primary>,
    pub(crate) stages: Stages,
}

/// The shared parts of a world.
#[derive(Clone)]
pub(crate) struct Ground {
    pub(crate) settings: Settings,
    pub(crate) points: Arc<Points>,
    pub(crate) memory: Arc<TempDir>,
    pub(crate) runtime: Arc<Runtime>,
    pub(crate) now_ns: Arc<AtomicU64>,
}

impl Site {
    pub(crate) fn new(name: &'static str, ground: &Ground, device: Device) -> Self {
        let clock = SimClock { now_ns: Arc::clone(&ground.now_ns), jump_ms: Arc::default() };
        let site = Self {
            name,
            settings: ground.settings.clone(),
            disk: MemoryDisk::new(),
            device: Arc::new(device),
            clock,
            fate: Fate::new(&ground.points),
            points: Arc::clone(&ground.points),
            memory: Arc::clone(&ground.memory),
            lives: 0,
            doomed: None,
            metrics: Arc::new(Metrics::new(name, "simulation", Timestamp::UNIX_EPOCH)),
            runtime: Arc::clone(&ground.runtime),
        };
        site.set_up(&site.disk);
        site
    }

    /// Everything an appliance there starts from.
    pub(crate) fn set_up(&self, disk: &dyn Disk) {
        for folder in [VOLUMES, "/catalog"] {
            disk.create_folder(folder.as_ref()).unwrap();
        }
        for index in 0..self.settings.volumes {
            let file = disk.open(&volume_path(index), Open::New).unwrap();
            file.grow(self.volume_bytes()).unwrap();
            file.sync().unwrap();
        }
        disk.sync_folder(VOLUMES.as_ref()).unwrap();
        let catalog = Catalog::open_simulated(disk, CATALOG.as_ref(), &self.clock).unwrap();
        catalog.put_group(&self.first_record()).unwrap();
        if self.name == NEAR {
            let sizes: Vec<_> = (1..=self.settings.volumes).map(|i| (VolumeIndex(i), self.volume_bytes())).collect();
            catalog.put_bitmap(GROUP, FAR, &encode_new(&everything(&sizes))).unwrap();
        }
    }

    fn first_record(&self) -> GroupRecord {
        let member = |index| GroupVolume { index: index + 1, name: name_of(index) };
        let near = self.name == NEAR;
        let pair = if near {
            let total = u64::from(self.settings.volumes) * self.volume_bytes();
            PairRecord { copy: Some(CopyRecord::first(total)), ..PairRecord::new(FAR, 0) }
        } else {
            PairRecord::new(NEAR, 0)
        };
        GroupRecord {
            role: if near { RoleRecord::Primary } else { RoleRecord::Secondary },
            generation_start_seq: 0,
            interval_ms: u64::try_from(self.settings.interval.as_millis()).unwrap(),
            next_volume_index: self.settings.volumes + 1,
            volumes: (0..self.settings.volumes).map(member).collect(),
            pairs: vec![pair],
            primary: (!near).then_some([1; 32]),
            history: self.settings.history,
            ..GroupRecord::new("group", GROUP.0)
        }
    }

    pub(crate) fn volume_bytes(&self) -> u64 {
        self.settings.blocks * BLOCK_BYTES as u64
    }

    pub(crate) fn journal_options(&self) -> JournalOptions {
        let segments = if self.name == NEAR { self.settings.near_segments } else { self.settings.far_segments };
        let segment_bytes = self.settings.segment_bytes;
        JournalOptions { segment_bytes, capacity_bytes: segments * segment_bytes }
    }

    fn ring_path(&self) -> PathBuf {
        self.memory.path().join(format!("{}-ring-{}", self.name, self.lives))
    }

    /// The process is dead: its disk and its ring are as they were at that moment.
    pub(crate) fn died(&mut self) {
        self.fate.kill();
        let ring = self.ring_path();
        self.lives += 1;
        // Another file, so that nothing left of the dead process can write to it.
        if ring.exists() {
            std::fs::copy(&ring, self.ring_path()).unwrap();
            std::fs::remove_file(ring).unwrap();
        }
    }

    /// Power was lost, and the process with it.
    pub(crate) fn lost_power(&mut self, seed: u64) {
        self.died();
        self.lost_memory();
        self.disk = self.disk.crash(seed);
    }

    /// What lies in memory goes with the power.
    pub(crate) fn lost_memory(&self) {
        let _ = std::fs::remove_file(self.ring_path());
    }

    /// Another machine that is as this one is now, or, with a seed, as it would be after a loss of power.
    pub(crate) fn twin(&self, power_lost: Option<u64>) -> Self {
        let disk = self.disk.fork();
        let mut twin = Self {
            name: self.name,
            settings: self.settings.clone(),
            disk,
            device: Arc::new(Device::well()),
            clock: self.clock.clone(),
            fate: Fate::new(&Points::deadly(&[])),
            points: Points::deadly(&[]),
            memory: Arc::new(tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").unwrap()),
            lives: 0,
            doomed: None,
            metrics: Arc::clone(&self.metrics),
            runtime: Arc::clone(&self.runtime),
        };
        twin.disk.heal();
        match power_lost {
            Some(seed) => twin.disk = twin.disk.crash(seed),
            None if self.ring_path().exists() => drop(std::fs::copy(self.ring_path(), twin.ring_path()).unwrap()),
            None => {}
        }
        twin
    }

    /// The same machine in another world.
    pub(crate) fn moved_to(self, ground: &Ground) -> Self {
        let clock = SimClock { now_ns: Arc::clone(&ground.now_ns), ..self.clock };
        Self { clock, points: Arc::clone(&ground.points), runtime: Arc::clone(&ground.runtime), ..self }
    }

    /// The files of the volumes, and what the group is kept in.
    pub(crate) fn open(&mut self) -> Result<Opened, String> {
        self.fate = Fate::new(&self.points);
        if let Some(steps) = self.doomed {
            self.fate.doom(steps);
        }
        self.open_on(Arc::new(MortalDisk::new(&self.disk, &self.device, &self.fate)))
    }

    fn open_on(&self, disk: Arc<dyn Disk>) -> Result<Opened, String> {
        let catalog = Catalog::open_simulated(&*disk, CATALOG.as_ref(), &self.clock).map_err(|e| e.to_string())?;
        let record = catalog.groups().map_err(|e| e.to_string())?.remove(0);
        let volumes = Volumes::default();
        for index in 0..self.settings.volumes {
            let file = disk.open(&volume_path(index), Open::Existing).map_err(|e| e.to_string())?;
            volumes.insert(VolumeFile::new(VolumeIndex(index + 1), name_of(index), file, self.volume_bytes()));
        }
        Ok((disk, Arc::new(GroupKeeper::new(catalog, record)), Arc::new(volumes)))
    }

    pub(crate) fn open_primary(&mut self) -> Result<(Arc<Primary>, Stages), String> {
        let opened = self.open()?;
        let (parts, options) = self.primary_parts(opened, Arc::new(Nobody));
        Primary::open(parts, options).map_err(|error| error.to_string())
    }

    /// A primary with the threads it has in an appliance.
    pub(crate) fn start_primary(&self, disk: Arc<dyn Disk>, links: Arc<dyn Links>) -> Arc<Primary> {
        let opened = self.open_on(disk).expect("it can be opened");
        let (parts, options) = self.primary_parts(opened, links);
        Primary::start(parts, options).expect("it starts")
    }

    /// A copy with the threads it has in an appliance.
    pub(crate) fn start_secondary(&self, disk: Arc<dyn Disk>) -> Arc<Secondary> {
        let opened = self.open_on(disk).expect("it can be opened");
        Secondary::start(self.secondary_parts(opened).expect("its parts")).expect("it starts")
    }

    fn primary_parts(&self, (disk, keeper, volumes): Opened, links: Arc<dyn Links>) -> (PrimaryParts, PrimaryOptions) {
        let parts = PrimaryParts {
            taken: None,
            disk,
            clock: Arc::new(self.clock.clone()),
            links,
            keeper,
            volumes,
            runtime: self.runtime.handle().clone(),
            appliance: [1; 32],
            metrics: self.metrics.group("group"),
            eras: None,
        };
        let options = PrimaryOptions {
            journal_folder: JOURNAL.into(),
            journal: self.journal_options(),
            ring_path: self.ring_path(),
            boot: String::new(),
            ring_bytes: self.settings.ring_bytes,
            drain: DrainSettings { delay: self.settings.delay, freeze_limit: Duration::from_secs(1) },
            heartbeat: Duration::from_secs(1),
            // So few that it happens.
            index_ranges_max: 8,
        };
        (parts, options)
    }

    pub(crate) fn open_secondary(&mut self) -> Result<(Arc<Secondary>, Apply), Unopened> {
        let opened = self.open()?;
        let opened = Secondary::open(self.secondary_parts(opened)?);
        opened.map_err(|error| Unopened { reason: error.to_string(), damaged: error.is_damage() })
    }

    /// A copy whose journal is damaged begins anew, as its primary has ordered.
    pub(crate) fn renew_secondary(&mut self) -> Result<(Arc<Secondary>, Apply), Unopened> {
        let opened = self.open()?;
        give_up_image(&self.secondary_parts(opened)?).map_err(|error| error.to_string())?;
        self.open_secondary()
    }

    fn secondary_parts(&self, (disk, keeper, volumes): Opened) -> Result<SecondaryParts, String> {
        let metrics = self.metrics.group("group");
        let (folder, group) = ("/images".into(), keeper.id());
        let space = Arc::new(SideSpace::new(1 << 30));
        let images = ErasParts { disk: Arc::clone(&disk), folder, group, space, index_ranges_max: 8, outlive: true };
        let (eras, _) = Eras::open(images, &[]).map_err(|error| error.to_string())?;
        Ok(SecondaryParts {
            disk,
            clock: Arc::new(self.clock.clone()),
            keeper,
            volumes,
            provider: Arc::new(Provider),
            journal_folder: JOURNAL.into(),
            journal: self.journal_options(),
            index_ranges_max: 8,
            appliance: self.name.into(),
            pair_metrics: metrics.pair(NEAR),
            metrics,
            eras,
        })
    }

    /// A bit of one of its journal's segments flips, or, now and then, its disk has lied. Not of the newest one: nothing may tell that its end was
    /// something else.
    pub(crate) fn damage_journal(&self, random: &mut StdRng, liar: Option<&mut StdRng>) -> bool {
        if let Some(liar) = liar
            && liar.random_ratio(1, 6)
        {
            return self.lie_in_journal(liar);
        }
        let segments = self.older_segments();
        let Some((path, bytes)) = segments.get(random.random_range(0..segments.len().max(1))) else { return false };
        let used = bytes.iter().rposition(|byte| *byte != 0).unwrap_or(0) as u64;
        let bit = random.random_range(0..=used * 8);
        self.disk.flip_bit(path, bit).expect("it is there");
        true
    }

    /// What its journal's segments hold, but the newest one.
    pub(crate) fn older_segments(&self) -> Vec<(PathBuf, Vec<u8>)> {
        let files = self.disk.everything().into_iter();
        let mut segments: Vec<(PathBuf, Vec<u8>)> = files
            .filter(|(path, _)| path.starts_with(JOURNAL) && path.extension().is_some_and(|kind| kind == "segment"))
            .collect();
        segments.sort();
        segments.pop();
        segments
    }

    /// This copy, which does not run, becomes primary: at the newest marker, or at the one chosen of those its history holds. `None`: it
    /// has no image.
    pub(crate) fn take_over(
        &mut self,
        choose: impl FnOnce(&[u64]) -> Option<u64>,
    ) -> Result<Option<TakenOver>, String> {
        let (secondary, mut apply) = self.open_secondary().map_err(|why| why.reason)?;
        let Some(mut permitted) = secondary.permitted() else { return Ok(None) };
        if let Some(older) = choose(&held(secondary.state())) {
            permitted = secondary.image_point(Asked::Marker(older)).map_err(|error| error.to_string())?.0;
        }
        let keeper = Arc::clone(secondary.keeper());
        // Indexed as far as the updater looks ahead, which is part of it when a direct copy goes beyond the marker.
        apply.index_permitted(secondary.state().limit_and_end().0, 0);
        let indexed = std::mem::take(&mut *apply.indexed.lock()).unless_beyond(permitted.end);
        let cut = takeover::cut_behind(&permitted, secondary.journal(), &keeper);
        let (parted, writer) = cut.map_err(|error| error.to_string())?;
        takeover::record_role(&permitted, parted, secondary.volumes(), 0, &keeper)
            .map_err(|error| error.to_string())?;
        let taken = Taken {
            writer,
            markers: secondary.markers_of(&permitted),
            volumes: secondary.state().permission().volumes().map(|volumes| volumes.to_vec()),
            indexed,
        };
        drop((keeper, secondary));
        let opened = self.open()?;
        let (mut parts, options) = self.primary_parts(opened, Arc::new(Nobody));
        parts.taken = Some(taken);
        let (primary, stages) = Primary::open(parts, options).map_err(|error| error.to_string())?;
        Ok(Some(TakenOver { marker: info(&permitted.marker), primary, stages }))
    }

    /// What lies in the volumes' files, bypassing everything.
    pub(crate) fn raw_volumes(&self) -> Vec<Vec<u8>> {
        (0..self.settings.volumes).map(|index| self.disk.bytes_of(&volume_path(index)).unwrap()).collect()
    }

    /// All volumes as a host reads them.
    pub(crate) fn read_all(&self, primary: &Primary) -> Vec<Vec<u8>> {
        self.try_read_all(primary).expect("a read")
    }

    /// The same, or why a host gets an error.
    pub(crate) fn try_read_all(&self, primary: &Primary) -> Result<Vec<Vec<u8>>, IoError> {
        (0..self.settings.volumes).map(|index| self.read(primary, index, 0, self.volume_bytes())).collect()
    }

    pub(crate) fn read(&self, primary: &Primary, volume: u32, offset: u64, length: u64) -> Result<Vec<u8>, IoError> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        let export = primary.export(&name_of(volume)).unwrap();
        self.runtime.block_on(export.read(offset, &mut bytes)).map(|()| bytes)
    }

    /// What its journal holds behind a place cannot be read, for good, but for how each segment begins, and what begins at that place: there
    /// the other side is known to stand.
    pub(crate) fn refuse_journal(&self, segment: u64, offset: u64) {
        for (path, _) in self.disk.everything() {
            let number = path.file_stem().and_then(|name| u64::from_str_radix(name.to_str()?, 16).ok());
            let begin = match number.filter(|number| path.starts_with(JOURNAL) && *number >= segment) {
                Some(number) if number == segment => offset,
                Some(_) => BLOCK_BYTES as u64,
                None => continue,
            };
            self.device.refuse(&path, begin + BLOCK_BYTES as u64..u64::MAX, u64::MAX);
        }
    }

    /// A part of a segment of its journal, or of a volume, cannot be read until a step of the run.
    pub(crate) fn refuse_reads(&self, random: &mut StdRng, until: u64) {
        let is_journal = random.random_bool(0.6);
        let folder = if is_journal { JOURNAL } else { VOLUMES };
        let mut paths = self.disk.everything();
        paths.retain(|(path, _)| path.starts_with(folder));
        let Some((path, bytes)) = paths.get(random.random_range(0..paths.len().max(1))) else { return };
        let size = (bytes.len() as u64).max(1);
        let begin = random.random_range(0..size) / SECTOR * SECTOR;
        let end = begin + SECTOR * random.random_range(1..128);
        self.device.refuse(path, begin..end, until);
    }
}

/// The markers that a history holds, the oldest first.
pub(crate) fn held(state: &CopyState) -> Vec<u64> {
    let Some(floor) = state.history().floor else { return Vec::new() };
    state.markers.moments().iter().filter(|(end, ..)| *end >= floor).map(|(_, number, _)| *number).collect()
}

/// The copy volumes are there from the beginning.
struct Provider;

impl CopyVolumes for Provider {
    fn provide(&self, _: &str, specs: &[VolumeSpec], into: &Volumes) -> Result<(), String> {
        let known = |spec: &VolumeSpec| into.get(VolumeIndex(spec.index)).is_some_and(|v| v.size() == spec.size);
        if specs.iter().all(known) { Ok(()) } else { Err(format!("not the volumes that are here: {specs:?}")) }
    }

    fn fit(&self, _: &[VolumeSpec], _: &Volumes) -> Result<(), String> {
        Ok(())
    }

    fn let_go(&self, _: &str, leaving: &[GroupVolume], _: &Volumes) -> Result<(), String> {
        if leaving.is_empty() { Ok(()) } else { Err(format!("{leaving:?} are to go")) }
    }

    fn left(&self, _: &[GroupVolume]) {}

    fn let_strays_go(&self, _: &str, left: &[GroupVolume], _: &Volumes) -> Result<(), String> {
        if left.is_empty() { Ok(()) } else { Err(format!("{left:?} have left")) }
    }
}

pub(crate) fn name_of(index: u32) -> String {
    format!("volume-{index}")
}

fn volume_path(index: u32) -> PathBuf {
    Path::new(VOLUMES).join(name_of(index))
}
