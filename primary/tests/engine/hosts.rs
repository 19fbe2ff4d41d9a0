//! Hosts that write dependent, stamped blocks over all volumes and note what was answered, until they are stopped or meet
//! an error.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::nbd::{Export, IoError, ZeroMode};
use tidemark_tests::history::{History, Kind, Tick};
use tidemark_tests::oracle::{Bounds, Verdict, assert_legal};
use tidemark_tests::stamp::{self, BLOCK_BYTES, WriteId};
use tidemark_tests::wait::{check, wait_until};
use tokio::runtime::Handle;

use crate::machine::{Engine, Machine, SOON};

/// Hosts at once.
const HOSTS: u64 = 4;
/// Blocks of one write at most.
const WRITE_BLOCKS_MAX: u64 = 4;
/// Blocks at the end of each volume that no host writes.
pub(crate) const SPARE_BLOCKS: u64 = 8;

/// What was written and answered, over the life of a machine.
#[derive(Default)]
pub(crate) struct Story {
    pub(crate) history: History,
    /// Everything answered before this moment was flushed.
    flushed: AtomicU64,
    /// Writes answered with FUA.
    forced: Mutex<Vec<WriteId>>,
    /// Blocks zeroed so far: once each, else a zero does not tell which write it shows.
    zeroed: Mutex<Vec<(usize, u64)>>,
}

impl Story {
    /// Stamps all blocks of all volumes and flushes.
    pub(crate) fn begin(machine: &Machine, engine: &Engine) -> Arc<Self> {
        let story = Arc::new(Self::default());
        let blocks = machine.settings.volume_blocks;
        for volume in 0..engine.volumes.len() {
            let id = story.history.sending(volume, 0, blocks, Kind::Stamp);
            machine.write(engine, volume, 0, &stamps(id, volume, 0, blocks)).unwrap();
            story.history.acknowledged(id);
        }
        let moment = story.history.tick();
        machine.flush(engine).unwrap();
        story.flushed(moment);
        story.history.prefilled(blocks);
        story
    }

    /// Everything answered before this moment is durable.
    pub(crate) fn flushed(&self, moment: Tick) {
        self.flushed.fetch_max(moment, Ordering::SeqCst);
    }

    /// After `kill -9`: everything answered is there, in order.
    pub(crate) fn judge_kill(&self, what: &str, machine: &Machine, engine: &Engine) {
        self.judge(what, machine, engine, Bounds::EVERYTHING_ACKED);
    }

    /// After a loss of power: everything flushed is there, and the rest is a beginning of what followed.
    pub(crate) fn judge_power_loss(&self, what: &str, machine: &Machine, engine: &Engine) {
        let flushed = self.flushed.load(Ordering::SeqCst);
        let bounds = Bounds { holds_acked_before: Some(flushed), nothing_sent_after: None };
        let verdict = self.judge(what, machine, engine, bounds);
        for id in self.forced.lock().iter() {
            assert!(verdict.holds(*id), "{what}: write {id} was answered with FUA and is gone");
        }
    }

    fn judge(&self, what: &str, machine: &Machine, engine: &Engine, bounds: Bounds) -> Verdict {
        let verdict = assert_legal(what, &self.history.writes(), &machine.image(engine), bounds);
        self.history.settle(&verdict);
        verdict
    }
}

/// The bytes of a write.
pub(crate) fn stamps(id: WriteId, volume: usize, first: u64, blocks: u64) -> Vec<u8> {
    (first..first + blocks).flat_map(|block| stamp::stamp(id, volume, block)).collect()
}

/// Running hosts.
pub(crate) struct Hosts {
    story: Arc<Story>,
    stopping: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Result<(), IoError>>>,
}

impl Hosts {
    /// Starts them on a process. What they write follows from the seed; the timing does not.
    pub(crate) fn start(machine: &Machine, engine: &Engine, story: &Arc<Story>, seed: u64) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let stripe = (machine.settings.volume_blocks - SPARE_BLOCKS) / HOSTS;
        let start = |number: u64| {
            let host = Host {
                story: Arc::clone(story),
                stopping: Arc::clone(&stopping),
                volumes: engine.volumes.clone(),
                runtime: machine.runtime.handle().clone(),
                random: StdRng::seed_from_u64(seed.wrapping_mul(1_000_003).wrapping_add(number)),
                stripe: number * stripe..(number + 1) * stripe,
                alone: number.is_multiple_of(2),
            };
            std::thread::spawn(move || host.run())
        };
        let threads = (0..HOSTS).map(start).collect();
        Self { story: Arc::clone(story), stopping, threads }
    }

    /// Returns when so many more writes were answered, or all hosts have met an error.
    pub(crate) fn wait_acked(&self, more: usize) {
        let wanted = self.story.history.acked_count() + more;
        wait_until(&format!("{more} more answered writes"), SOON, || {
            let acked = self.story.history.acked_count();
            check(acked >= wanted || self.have_ended(), || format!("{acked} of {wanted}"))
        });
    }

    /// Whether all have met an error.
    pub(crate) fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    /// Stops them: the errors they met.
    pub(crate) fn end(self) -> Vec<IoError> {
        self.stopping.store(true, Ordering::SeqCst);
        let ended = self.threads.into_iter().map(|thread| thread.join().expect("a host does not panic"));
        ended.filter_map(Result::err).collect()
    }
}

struct Host {
    story: Arc<Story>,
    stopping: Arc<AtomicBool>,
    volumes: Vec<Arc<dyn Export>>,
    runtime: Handle,
    random: StdRng,
    stripe: std::ops::Range<u64>,
    /// It says that it has nothing else under way.
    alone: bool,
}

impl Host {
    fn run(mut self) -> Result<(), IoError> {
        let mut volume = 0;
        while !self.stopping.load(Ordering::SeqCst) {
            // To another volume each time: order holds across volumes.
            volume = (volume + self.random.random_range(1..self.volumes.len())) % self.volumes.len();
            let blocks = self.random.random_range(1..=WRITE_BLOCKS_MAX);
            let first = self.random.random_range(self.stripe.start..=self.stripe.end - blocks);
            match self.random.random_range(0..24) {
                0 => self.zero(volume, first, blocks)?,
                1 => self.flush(volume)?,
                2 => self.write(volume, first, blocks, true)?,
                _ => self.write(volume, first, blocks, false)?,
            }
        }
        Ok(())
    }

    fn write(&self, volume: usize, first: u64, blocks: u64, fua: bool) -> Result<(), IoError> {
        let id = self.story.history.sending(volume, first, blocks, Kind::Stamp);
        let data = stamps(id, volume, first, blocks);
        let (export, offset) = (&self.volumes[volume], first * BLOCK_BYTES as u64);
        let write =
            if fua && self.alone { export.write_alone(offset, &data) } else { export.write(offset, &data, fua) };
        self.runtime.block_on(write)?;
        self.story.history.acknowledged(id);
        if fua {
            self.story.forced.lock().push(id);
        }
        Ok(())
    }

    fn zero(&mut self, volume: usize, first: u64, blocks: u64) -> Result<(), IoError> {
        let range = || (first..first + blocks).map(|block| (volume, block));
        if range().any(|block| self.story.zeroed.lock().contains(&block)) {
            return Ok(());
        }
        self.story.zeroed.lock().extend(range());
        let id = self.story.history.sending(volume, first, blocks, Kind::Zero);
        let (offset, length) = (first * BLOCK_BYTES as u64, blocks * BLOCK_BYTES as u64);
        let export = &self.volumes[volume];
        let trims = self.random.random_bool(0.5);
        let zeroed = if trims {
            export.trim(offset, length, false)
        } else {
            export.write_zeroes(offset, length, ZeroMode::default())
        };
        self.runtime.block_on(zeroed)?;
        self.story.history.acknowledged(id);
        Ok(())
    }

    fn flush(&self, volume: usize) -> Result<(), IoError> {
        let moment = self.story.history.tick();
        let export = &self.volumes[volume];
        self.runtime.block_on(if self.alone { export.flush_alone() } else { export.flush() })?;
        self.story.flushed(moment);
        Ok(())
    }
}
