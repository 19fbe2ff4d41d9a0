//! Hosts that write as fast as they are answered. Nobody judges what they wrote, so that they keep no history: for hours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::host::{HostError, Request};
use crate::noise::noise;
use crate::stamp::BLOCK_BYTES;
use crate::workload::Target;

/// Hosts at once.
const HOSTS: u64 = 3;
/// Writes that each of them has in flight.
const DEPTH: u64 = 8;
/// Blocks of one write at most.
const BLOCKS_MAX: u64 = 8;

/// Running hosts.
#[derive(Debug)]
pub struct Flood {
    stopping: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    hosts: Vec<JoinHandle<Result<(), HostError>>>,
}

impl Flood {
    /// Starts hosts over the first bytes of each volume.
    #[must_use]
    pub fn start(target: &Target, bytes_per_volume: u64, seed: u64) -> Self {
        let (stopping, acked, bytes) = (Arc::default(), Arc::default(), Arc::default());
        let start = |number| {
            let host = Host {
                stopping: Arc::clone(&stopping),
                acked: Arc::clone(&acked),
                bytes: Arc::clone(&bytes),
                random: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number)),
                blocks: bytes_per_volume / BLOCK_BYTES as u64,
            };
            let target = target.clone();
            std::thread::spawn(move || host.run(&target))
        };
        let hosts = (0..HOSTS).map(start).collect();
        Self { stopping, acked, bytes, hosts }
    }

    /// Writes answered so far.
    #[must_use]
    pub fn acked(&self) -> u64 {
        self.acked.load(Ordering::Relaxed)
    }

    /// Their bytes.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }

    /// Whether a host has ended although nobody stopped it.
    #[must_use]
    pub fn ended_early(&self) -> bool {
        self.hosts.iter().any(JoinHandle::is_finished)
    }

    /// Ends the hosts; none may have met an error.
    ///
    /// # Panics
    /// When one has.
    pub fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for host in self.hosts {
            host.join().expect("a host does not panic").expect("no host meets an error");
        }
    }
}

struct Host {
    stopping: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    random: StdRng,
    blocks: u64,
}

impl Host {
    fn run(mut self, target: &Target) -> Result<(), HostError> {
        let data = noise(self.random.random(), 1 << 20);
        let mut exports = target.open()?;
        while !self.stopping.load(Ordering::Relaxed) {
            let volume = self.random.random_range(0..exports.len());
            let export = &mut exports[volume];
            for _ in 0..DEPTH {
                let blocks = self.random.random_range(1..=BLOCKS_MAX);
                let first = self.random.random_range(0..=self.blocks - blocks);
                let length = usize::try_from(blocks).expect("few blocks") * BLOCK_BYTES;
                let from = self.random.random_range(0..data.len() - length);
                export.submit(Request::Write(first * BLOCK_BYTES as u64, &data[from..from + length], 0))?;
                self.bytes.fetch_add(length as u64, Ordering::Relaxed);
            }
            for _ in 0..DEPTH {
                let errno = export.reply()?.errno;
                if errno != 0 {
                    return Err(HostError::Errno(errno));
                }
                self.acked.fetch_add(1, Ordering::Relaxed);
            }
        }
        Ok(())
    }
}
