//! Load: hosts that write dependent, stamped blocks over all volumes of a group and note what was answered.
//!
//! Each writer owns a stripe of blocks on every volume. It sends a batch to one volume, waits for all answers, and only then
//! sends the next batch, to another volume: so each batch depends on the one before, across volumes. Within a batch the
//! writes are in flight together, on blocks that do not overlap. Everything follows from the seed but the timing.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::history::{History, Kind};
use crate::host::{Address, Connection, FUA, HostError, Request};
use crate::stamp::{self, BLOCK_BYTES, WriteId};
use crate::wait::{check, wait_until};

/// Blocks of one write at most.
const WRITE_BLOCKS_MAX: u64 = 4;

/// What the hosts do.
#[derive(Debug, Clone)]
pub struct Profile {
    /// Everything but the timing follows from it.
    pub seed: u64,
    /// Hosts writing at once.
    pub writers: u64,
    /// Blocks of each writer on each volume.
    pub stripe_blocks: u64,
    /// Writes in flight together at most.
    pub depth: u64,
    /// Rest between batches.
    pub pause: Duration,
}

impl Profile {
    /// Three writers over 8 MiB of each volume, with little rests so that two cores can keep up.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self { seed, writers: 3, stripe_blocks: 640, depth: 6, pause: Duration::from_micros(500) }
    }

    /// Bytes of a volume that this load writes.
    #[must_use]
    pub fn volume_bytes(&self) -> u64 {
        self.writers * self.stripe_blocks * BLOCK_BYTES as u64
    }
}

/// Where the volumes of a group are served, in the group's order.
#[derive(Debug, Clone)]
pub struct Target {
    /// The appliance's NBD address.
    pub address: Address,
    /// Export names.
    pub exports: Vec<String>,
}

impl Target {
    /// Attaches to all of them.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn open(&self) -> Result<Vec<Connection>, HostError> {
        self.exports.iter().map(|export| Connection::open(&self.address, export)).collect()
    }
}

/// Running hosts.
#[derive(Debug)]
pub struct Load {
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    writers: Vec<JoinHandle<Result<(), HostError>>>,
}

impl Load {
    /// Starts the hosts. A run may have several loads one after another over the same history: each needs another seed.
    #[must_use]
    pub fn start(history: &Arc<History>, target: &Target, profile: &Profile) -> Self {
        let stopping = Arc::new(AtomicBool::new(false));
        let acked = Arc::new(AtomicUsize::new(0));
        let start = |number| {
            let mut writer = Writer::new(history, profile, number, &stopping, &acked);
            let target = target.clone();
            std::thread::spawn(move || writer.run(&target))
        };
        let writers = (0..profile.writers).map(start).collect();
        Self { history: Arc::clone(history), stopping, acked, writers }
    }

    /// The history it writes.
    #[must_use]
    pub fn history(&self) -> &History {
        &self.history
    }

    /// Writes answered so far.
    #[must_use]
    pub fn acked(&self) -> usize {
        self.acked.load(Ordering::Relaxed)
    }

    /// Whether a host has ended although nobody stopped it.
    #[must_use]
    pub fn ended_early(&self) -> bool {
        self.writers.iter().any(JoinHandle::is_finished)
    }

    /// Ends the load: how the hosts that met an error ended.
    #[must_use]
    pub fn end(self) -> Vec<HostError> {
        self.stopping.store(true, Ordering::Relaxed);
        self.join_broken()
    }

    /// Waits until this many more writes were answered.
    pub fn wait_acked(&self, more: usize) {
        let wanted = self.acked() + more;
        wait_until(&format!("{more} more answered writes"), Duration::from_secs(30), || {
            check(self.acked() >= wanted || self.ended_early(), || format!("{} of {wanted}", self.acked()))
        });
        assert!(self.acked() >= wanted, "a host ended early; {} of {wanted} answered", self.acked());
    }

    /// Ends the load after the batches under way; no host may have met an error.
    ///
    /// # Panics
    /// When one has.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for ended in self.join() {
            ended.expect("no host meets an error");
        }
    }

    /// Waits for hosts whose appliance was killed: how each of them ended.
    #[must_use]
    pub fn join_broken(self) -> Vec<HostError> {
        self.join().into_iter().filter_map(Result::err).collect()
    }

    fn join(self) -> Vec<Result<(), HostError>> {
        self.writers.into_iter().map(|writer| writer.join().expect("a host does not panic")).collect()
    }
}

struct Writer {
    history: Arc<History>,
    stopping: Arc<AtomicBool>,
    acked: Arc<AtomicUsize>,
    random: StdRng,
    stripe: std::ops::Range<u64>,
    depth: u64,
    pause: Duration,
    /// Blocks zeroed so far, by any load over this history: once each, see [`Kind::Zero`].
    zeroed: HashSet<(usize, u64)>,
}

impl Writer {
    fn new(
        history: &Arc<History>,
        profile: &Profile,
        number: u64,
        stopping: &Arc<AtomicBool>,
        acked: &Arc<AtomicUsize>,
    ) -> Self {
        let first = number * profile.stripe_blocks;
        let zeroes = history.writes().into_iter().filter(|write| write.kind == Kind::Zero);
        let zeroed = zeroes.flat_map(|write| write.range().map(move |block| (write.volume, block))).collect();
        Self {
            history: Arc::clone(history),
            stopping: Arc::clone(stopping),
            acked: Arc::clone(acked),
            random: StdRng::seed_from_u64(profile.seed.wrapping_mul(1_000_003).wrapping_add(number)),
            stripe: first..first + profile.stripe_blocks,
            depth: profile.depth,
            pause: profile.pause,
            zeroed,
        }
    }

    fn run(&mut self, target: &Target) -> Result<(), HostError> {
        let mut exports = target.open()?;
        let mut volume = 0;
        while !self.stopping.load(Ordering::Relaxed) {
            volume = (volume + self.random.random_range(1..=exports.len().max(2) - 1)) % exports.len();
            self.batch(&mut exports[volume], volume)?;
            std::thread::sleep(self.pause);
        }
        Ok(())
    }

    /// Several writes in flight together, sometimes followed by a flush.
    fn batch(&mut self, export: &mut Connection, volume: usize) -> Result<(), HostError> {
        let mut cookies = Vec::new();
        let mut first = self.stripe.start + self.random.random_range(0..self.stripe.end - self.stripe.start);
        for _ in 0..self.random.random_range(1..=self.depth) {
            let blocks = self.random.random_range(1..=WRITE_BLOCKS_MAX);
            if first + blocks > self.stripe.end {
                break;
            }
            cookies.push(self.send(export, volume, first, blocks)?);
            first += blocks + self.random.random_range(0..16);
        }
        for _ in 0..cookies.len() {
            let reply = export.reply()?;
            if reply.errno != 0 {
                return Err(HostError::Errno(reply.errno));
            }
            let id = cookies.iter().find(|(cookie, _)| *cookie == reply.cookie).map(|(_, id)| *id);
            self.history.acknowledged(id.expect("the cookie of this batch"));
            self.acked.fetch_add(1, Ordering::Relaxed);
        }
        if self.random.random_ratio(1, 16) { export.flush() } else { Ok(()) }
    }

    fn send(
        &mut self,
        export: &mut Connection,
        volume: usize,
        first: u64,
        blocks: u64,
    ) -> Result<(u64, WriteId), HostError> {
        let offset = first * BLOCK_BYTES as u64;
        let prefilled = first + blocks <= self.history.prefilled_to();
        let fresh = (first..first + blocks).all(|block| !self.zeroed.contains(&(volume, block)));
        if self.random.random_ratio(1, 24) && prefilled && fresh {
            self.zeroed.extend((first..first + blocks).map(|block| (volume, block)));
            let id = self.history.sending(volume, first, blocks, Kind::Zero);
            let length = u32::try_from(blocks).expect("few blocks") * BLOCK_BYTES as u32;
            let trim = self.random.random_bool(0.5);
            let request = if trim { Request::Trim(offset, length, 0) } else { Request::Zero(offset, length, 0) };
            return Ok((export.submit(request)?, id));
        }
        let id = self.history.sending(volume, first, blocks, Kind::Stamp);
        let data: Vec<u8> = (first..first + blocks).flat_map(|block| stamp::stamp(id, volume, block)).collect();
        let flags = if self.random.random_ratio(1, 12) { FUA } else { 0 };
        Ok((export.submit(Request::Write(offset, &data, flags))?, id))
    }
}

/// Stamps every block of every volume once, in large writes, and waits for the answers: data that was there before.
///
/// # Errors
/// [`HostError`].
pub fn prefill(history: &History, target: &Target, blocks: u64) -> Result<(), HostError> {
    const AT_ONCE: u64 = 64;
    for (volume, mut export) in target.open()?.into_iter().enumerate() {
        for first in (0..blocks).step_by(AT_ONCE as usize) {
            let count = AT_ONCE.min(blocks - first);
            let id = history.sending(volume, first, count, Kind::Stamp);
            let data: Vec<u8> = (first..first + count).flat_map(|block| stamp::stamp(id, volume, block)).collect();
            export.write(first * BLOCK_BYTES as u64, &data)?;
            history.acknowledged(id);
        }
    }
    history.prefilled(blocks);
    history.everywhere();
    Ok(())
}

#[cfg(test)]
mod tests;
