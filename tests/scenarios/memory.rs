//! Memory under full load: the write buffer and a fixed amount, on both sides, whatever the link does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::figures::peak_resident_kib;
use tidemark_tests::host::{Connection, HostError, Request};
use tidemark_tests::pair::{Pair, Setup};
use tidemark_tests::wait::{check, wait_until};

const VOLUME_BYTES: u64 = 192 << 20;
/// As `init` sets it.
const WRITE_BUFFER_KIB: u64 = 64 << 10;
/// What OPERATING says that a side needs beside its write buffers, under this load.
const BESIDE_KIB: u64 = 256 << 10;
const LIMIT: Duration = Duration::from_secs(120);

/// Hosts that write what does not compress, as fast as they are answered.
struct Flood {
    stopping: Arc<AtomicBool>,
    bytes: Arc<AtomicU64>,
    hosts: Vec<JoinHandle<Result<(), HostError>>>,
}

impl Flood {
    /// On each volume one host with large writes one behind the other, and one with small ones anywhere.
    fn start(side: &Appliance, volumes: &[String]) -> Self {
        let mut flood = Self { stopping: Arc::default(), bytes: Arc::default(), hosts: Vec::new() };
        for (number, volume) in (0..).zip(volumes) {
            flood.host(side.open(volume), 1 << 20, 8, 2 * number);
            flood.host(side.open(volume), 4 << 10, 64, 2 * number + 1);
        }
        flood
    }

    fn host(&mut self, mut export: Connection, block: usize, depth: usize, seed: u64) {
        let (stopping, bytes) = (Arc::clone(&self.stopping), Arc::clone(&self.bytes));
        self.hosts.push(std::thread::spawn(move || {
            let mut random = StdRng::seed_from_u64(seed);
            let mut noise = vec![0; 2 * block];
            random.fill_bytes(&mut noise);
            let blocks = VOLUME_BYTES / block as u64;
            while !stopping.load(Ordering::Relaxed) {
                let first = random.random_range(0..blocks);
                for number in 0..depth {
                    let at = (first + number as u64 * 7) % blocks * block as u64;
                    let from = random.random_range(0..block);
                    export.submit(Request::Write(at, &noise[from..from + block], 0))?;
                }
                for _ in 0..depth {
                    let reply = export.reply()?;
                    if reply.errno != 0 {
                        return Err(HostError::Errno(reply.errno));
                    }
                }
                bytes.fetch_add((block * depth) as u64, Ordering::Relaxed);
            }
            Ok(())
        }));
    }

    fn wait_written(&self, more: u64) {
        let wanted = self.bytes.load(Ordering::Relaxed) + more;
        wait_until("the hosts to have written", LIMIT, || {
            let written = self.bytes.load(Ordering::Relaxed);
            assert!(!self.hosts.iter().any(JoinHandle::is_finished), "a host ended");
            check(written >= wanted, || format!("{} of {} MiB", written >> 20, wanted >> 20))
        });
    }

    fn stop(self) {
        self.stopping.store(true, Ordering::Relaxed);
        for host in self.hosts {
            host.join().expect("a host does not panic").expect("no host meets an error");
        }
    }
}

#[test]
fn memory_under_full_load_is_the_write_buffer_and_a_fixed_amount() {
    let size = VOLUME_BYTES.to_string();
    let setup = Setup {
        volumes: vec![("a", size.clone()), ("b", size)],
        interval: "250ms",
        seed: 251,
        journals: None,
        on_full: "fold",
    };
    let pair = Pair::paired(&setup);
    let show = |what: &str| {
        let [east, west] = [&pair.east, &pair.west].map(|side| peak_resident_kib(side.pid()) >> 10);
        eprintln!("{what}: at most {east} MiB on the primary, {west} MiB on the secondary");
    };
    show("idle");
    let flood = Flood::start(&pair.east, &pair.volumes());
    // Many times what the buffer holds.
    flood.wait_written(1 << 30);
    show("loaded");
    // A peer that stalls: what is on its way to it waits on this side.
    pair.west.freeze();
    flood.wait_written(512 << 20);
    pair.west.thaw();
    flood.wait_written(512 << 20);
    flood.stop();
    show("after a stall of the secondary");
    pair.settle();
    show("caught up");
    for side in [&pair.east, &pair.west] {
        let peak = peak_resident_kib(side.pid());
        assert!(peak < WRITE_BUFFER_KIB + BESIDE_KIB, "{}: {} MiB", side.name(), peak >> 10);
    }
}
