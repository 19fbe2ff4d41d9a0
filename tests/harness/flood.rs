//! Hosts that write as fast as they are answered. Nobody judges what they wrote, so that they keep no history: for hours.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

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
/// Between two looks whether hosts have to wait.
const LOOK_EVERY: Duration = Duration::from_millis(100);
/// Blocks of one write at most.
const BLOCKS_MAX: u64 = 8;

/// Running hosts.
#[derive(Debug)]
pub struct Flood {
    stopping: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    held: Arc<AtomicBool>,
    watcher: Option<JoinHandle<()>>,
    hosts: Vec<JoinHandle<Result<(), HostError>>>,
}

impl Flood {
    /// Starts hosts over the first bytes of each volume.
    #[must_use]
    pub fn start(target: &Target, bytes_per_volume: u64, seed: u64) -> Self {
        let (stopping, acked, bytes, held) = (Arc::default(), Arc::default(), Arc::default(), Arc::default());
        let start = |number| {
            let host = Host {
                stopping: Arc::clone(&stopping),
                acked: Arc::clone(&acked),
                bytes: Arc::clone(&bytes),
                held: Arc::clone(&held),
                random: StdRng::seed_from_u64(seed.wrapping_mul(31).wrapping_add(number)),
                blocks: bytes_per_volume / BLOCK_BYTES as u64,
            };
            let target = target.clone();
            std::thread::spawn(move || host.run(&target))
        };
        let hosts = (0..HOSTS).map(start).collect();
        Self { stopping, acked, bytes, held, watcher: None, hosts }
    }

    /// Hosts wait as long as this says so: a load that goes on for an hour is not more than what it is put on can bear.
    #[must_use]
    pub fn waiting_while(mut self, behind: impl Fn() -> bool + Send + 'static) -> Self {
        let (stopping, held) = (Arc::clone(&self.stopping), Arc::clone(&self.held));
        self.watcher = Some(std::thread::spawn(move || {
            while !stopping.load(Ordering::Relaxed) {
                held.store(behind(), Ordering::Relaxed);
                std::thread::sleep(LOOK_EVERY);
            }
        }));
        self
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
        if let Some(watcher) = self.watcher {
            watcher.join().expect("the watcher does not panic");
        }
        for host in self.hosts {
            host.join().expect("a host does not panic").expect("no host meets an error");
        }
    }
}

struct Host {
    stopping: Arc<AtomicBool>,
    acked: Arc<AtomicU64>,
    bytes: Arc<AtomicU64>,
    held: Arc<AtomicBool>,
    random: StdRng,
    blocks: u64,
}

impl Host {
    fn run(mut self, target: &Target) -> Result<(), HostError> {
        let data = noise(self.random.random(), 1 << 20);
        let mut exports = target.open()?;
        while !self.stopping.load(Ordering::Relaxed) {
            if self.held.load(Ordering::Relaxed) {
                std::thread::sleep(LOOK_EVERY);
                continue;
            }
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
