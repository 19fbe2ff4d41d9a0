//! What a service that is killed at any change of its disk makes of an act that was under way: changes of roles, and of what a group has.
//!
//! The act is done once, by the product's own sequence, on a disk that is copied before each change of it, the catalogue with all else. Each copy is
//! what a kill just there leaves. A service is started on each: it is what it was or what it was to be, never anything else and never back, and
//! with the act done again the image and what is kept are the same everywhere (invariants 1, 4 and 8).

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tempfile::TempDir;
use tidemark_common::catalog::RoleRecord;
use tidemark_common::nbd::Export;
use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::storage::filter::{self, Filter};
use tidemark_common::storage::{Disk, Open};
use tidemark_primary::ship::Links;

use super::appliance::{Appliance, Engine};
use crate::service::tests::{opened, run_groups};

mod members;
mod roles;

const BLOCK: usize = 4096;
/// What a segment has not been filled with is copied as a hole.
static ZEROES: [u8; 64 << 10] = [0; 64 << 10];

/// Written, and permitted.
const FIRST: u8 = 0xa1;
/// Written behind that.
const SECOND: u8 = 0xb2;

/// A role, as it is recorded, and its generation.
type Role = (RoleRecord, u64);
const PRIMARY_BEFORE: Role = (RoleRecord::Primary, 1);

/// The points of an act: what a side has on its disk before each change of it, as long as that is asked for.
struct Points {
    live: PathBuf,
    kept: PathBuf,
    asked: AtomicBool,
    /// How many there are. Held while one is copied: nothing else begins to change then.
    taken: Mutex<usize>,
}

impl Points {
    fn of(live: PathBuf, kept: &str) -> Arc<Self> {
        let kept = live.with_extension(kept);
        Arc::new(Self { live, kept, asked: AtomicBool::default(), taken: Mutex::default() })
    }

    fn disk(self: &Arc<Self>) -> Arc<dyn Disk> {
        filter::disk(Arc::new(SystemDisk), self)
    }

    fn begin(&self) {
        self.asked.store(true, Ordering::Release);
    }

    fn take(&self) -> io::Result<()> {
        if self.asked.load(Ordering::Acquire) {
            let mut taken = self.taken.lock();
            copy_folder(&self.live, &self.kept.join(taken.to_string()), &mut BTreeMap::new());
            *taken += 1;
        }
        Ok(())
    }

    fn name(&self) -> &str {
        self.live.file_name().unwrap().to_str().unwrap()
    }

    /// The last one is behind the act.
    fn end(&self) {
        self.take().unwrap();
        self.asked.store(false, Ordering::Release);
    }

    fn number(&self) -> usize {
        *self.taken.lock()
    }

    /// The disk is again what it was there.
    fn restore(&self, point: usize) {
        std::fs::remove_dir_all(&self.live).unwrap();
        copy_folder(&self.kept.join(point.to_string()), &self.live, &mut BTreeMap::new());
    }

    /// A service that was killed there. Nothing of it runs yet.
    async fn killed_at(&self, point: usize) -> Arc<Appliance> {
        self.restore(point);
        opened(&self.live, self.name(), Arc::new(SystemDisk)).await
    }

    /// Has `run` start a service on what a kill leaves at each point. What is `found` of it is what was `before` the act or what is to be `behind` it, and
    /// once it was the latter it is that at all later points. Where it is not, the act is done `again`; then `judge` looks.
    async fn sweep<T: PartialEq + Debug>(
        &self,
        run: impl AsyncFn(&Arc<Appliance>),
        found: impl Fn(&Appliance) -> T,
        [before, behind]: [T; 2],
        again: impl AsyncFn(&Appliance),
        judge: impl AsyncFn(&Appliance),
    ) {
        let mut ended = false;
        for point in 0..self.number() {
            // The last one that is said is where a test fails.
            println!("killed at change {point}");
            let side = self.killed_at(point).await;
            run(&side).await;
            let is = found(&side);
            assert!(is == before || is == behind, "it is {is:?}");
            assert!(is == behind || !ended, "it is what it was before");
            ended = is == behind;
            assert!(point > 0 || !ended, "nothing was changed before the first change");
            if !ended {
                again(&side).await;
                assert_eq!(found(&side), behind, "done again");
            }
            judge(&side).await;
            stop(&side).await;
        }
        assert!(ended);
    }
}

impl Filter for Points {
    fn before_open(&self, path: &Path, how: Open) -> io::Result<()> {
        if how == Open::Existing || path.exists() { Ok(()) } else { self.take() }
    }

    fn before_create_folder(&self, _: &Path) -> io::Result<()> {
        self.take()
    }

    fn before_rename(&self, _: &Path, _: &Path) -> io::Result<()> {
        self.take()
    }

    fn before_remove(&self, _: &Path) -> io::Result<()> {
        self.take()
    }

    fn before_sync_folder(&self, _: &Path) -> io::Result<()> {
        self.take()
    }

    fn before_write(&self) -> io::Result<()> {
        self.take()
    }

    fn before_sync(&self) -> io::Result<()> {
        self.take()
    }

    fn before_grow(&self, _: u64) -> io::Result<()> {
        self.take()
    }

    fn before_zero(&self, _: u64) -> io::Result<()> {
        self.take()
    }
}

/// `linked`: the files so far that have more than one name.
fn copy_folder(from: &Path, to: &Path, linked: &mut BTreeMap<u64, PathBuf>) {
    SystemDisk.create_folder(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (from, to) = (entry.path(), to.join(entry.file_name()));
        if from.is_dir() { copy_folder(&from, &to, linked) } else { copy_file(&from, &to, linked) }
    }
}

/// With holes for zeroes. One that is just being removed may be gone.
fn copy_file(from: &Path, to: &Path, linked: &mut BTreeMap<u64, PathBuf>) {
    let (Ok(found), Ok(source)) = (std::fs::metadata(from), SystemDisk.open(from, Open::Existing)) else { return };
    if found.nlink() > 1 {
        if let Some(same) = linked.get(&found.ino()) {
            return std::fs::hard_link(same, to).unwrap();
        }
        linked.insert(found.ino(), to.to_owned());
    }
    let target = SystemDisk.open(to, Open::New).unwrap();
    target.grow(found.len()).unwrap();
    let mut at = 0;
    while let Some((begin, end)) = source.next_data(at).unwrap() {
        let end = end.min(found.len());
        if begin >= end {
            break;
        }
        let mut data = vec![0; usize::try_from(end - begin).unwrap()];
        source.read_exact_at(&mut data, begin).unwrap();
        for (offset, part) in (begin..).step_by(ZEROES.len()).zip(data.chunks(ZEROES.len())) {
            if *part != ZEROES[..part.len()] {
                target.write_all_at(part, offset).unwrap();
            }
        }
        at = end;
    }
}

/// One of two appliances.
struct Side {
    appliance: Arc<Appliance>,
    points: Arc<Points>,
}

impl Side {
    async fn new(root: &TempDir, name: &str) -> Self {
        let points = Points::of(root.path().join(name), "points");
        SystemDisk.create_folder(&points.live).unwrap();
        let side = Self::opened(points).await;
        run_groups(&side.appliance).await;
        side
    }

    /// With what is on its disk. Nothing of it runs yet.
    async fn opened(points: Arc<Points>) -> Self {
        let appliance = opened(&points.live, points.name(), points.disk()).await;
        Self { appliance, points }
    }

    /// Does this, of which all points are taken, and stops.
    async fn act(&self, act: impl AsyncFn(&Appliance)) {
        self.points.begin();
        act(&self.appliance).await;
        self.points.end();
        stop(&self.appliance).await;
    }
}

/// It hears nobody, and nobody hears it.
async fn run_alone(appliance: &Arc<Appliance>) {
    appliance.endpoint().close("the line is cut");
    run_groups(appliance).await;
}

/// Where the points are copied to costs no disk.
fn root() -> TempDir {
    tempfile::tempdir_in("/dev/shm").unwrap()
}

async fn write(appliance: &Appliance, volume: &str, block: usize, byte: u8) {
    let volume = appliance.volume(volume).unwrap();
    volume.door.write((block * BLOCK) as u64, &[byte; BLOCK], true).await.unwrap();
}

/// What hosts read in the first two blocks.
async fn image(appliance: &Appliance, volume: &str) -> [u8; 2] {
    let volume = appliance.volume(volume).unwrap();
    let mut blocks = [[0_u8; BLOCK]; 2];
    for (block, offset) in blocks.iter_mut().zip([0, BLOCK as u64]) {
        volume.door.read(offset, block).await.unwrap();
    }
    blocks.map(|block| {
        assert!(block.iter().all(|byte| *byte == block[0]), "half a write");
        block[0]
    })
}

/// What a side is for group 'g': it runs as what is recorded.
fn role_of(appliance: &Appliance) -> Role {
    let group = appliance.group("g").unwrap();
    let (record, engine) = (group.keeper.get(), group.engine.read().clone());
    let runs = match &engine {
        Engine::Primary(_) => RoleRecord::Primary,
        Engine::Secondary(_) => RoleRecord::Secondary,
        Engine::Fenced { by } => RoleRecord::Fenced { by_generation: by.0 },
        Engine::Changing { what, .. } => panic!("{:?} is recorded, and {what}", record.role),
        Engine::Failed(why) => panic!("{:?} is recorded, and does not run: {why}", record.role),
    };
    assert_eq!(runs, record.role, "it runs as what is recorded");
    (record.role, record.generation)
}

/// As a kill ends it: nobody is told anything, and its threads end.
async fn stop(appliance: &Appliance) {
    appliance.endpoint().close("as in a kill");
    let groups = std::mem::take(&mut *appliance.groups.write());
    for group in groups.into_values() {
        let engine = group.engine.read().clone();
        match engine {
            Engine::Primary(primary) => tokio::task::block_in_place(|| primary.stop()),
            Engine::Secondary(copy) => copy.stop_at_once().await,
            Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => {}
        }
    }
    appliance.volumes.write().clear();
}
