//! Invariants 2 and 3 at the gate itself: numbers follow what hosts saw, and a freeze parts what was answered before it
//! from what was sent after it, at a cost that does not grow.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Barrier};
use std::time::Duration;

use jiff::Timestamp;
use tempfile::TempDir;
use tidemark_common::clock::SystemClock;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, Seq, VolumeIndex};
use tidemark_common::metrics::Metrics;
use tidemark_common::overlay::unapplied::Unapplied;
use tidemark_primary::buffer::{Boundary, Buffer};
use tidemark_primary::ring::Ring;
use tidemark_tests::wait::{check, wait_until};

use crate::machine::{GROUP, Machine, NEVER, SOON, Settings};

const WRITERS: u64 = 4;
const WRITES: u64 = 4000;
const WRITE_BYTES: u64 = 512;
/// Writes of each writer to one freeze, at most.
const WRITES_TO_A_FREEZE: u64 = 32;

/// A write buffer that nobody drains.
fn buffer(capacity: u64) -> (Arc<Buffer>, TempDir) {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let ring = Ring::create(&folder.path().join("ring"), capacity, GROUP, Generation(1)).unwrap();
    let metrics = Metrics::new("alone", "test", Timestamp::UNIX_EPOCH).group("group");
    let buffer = Buffer::new(ring, Arc::new(SystemClock::new()), Seq(1), Unapplied::default(), metrics);
    (Arc::new(buffer), folder)
}

fn extent(volume: u64, number: u64) -> Extent {
    Extent { volume: VolumeIndex(volume as u32 + 1), offset: number * WRITE_BYTES, length: WRITE_BYTES }
}

/// Captures a write that finds room.
fn capture(buffer: &Buffer, extent: Extent, byte: u8) -> Seq {
    let data = [byte; WRITE_BYTES as usize];
    let mut written = Box::pin(buffer.write(extent, &data));
    let mut context = std::task::Context::from_waker(std::task::Waker::noop());
    match written.as_mut().poll(&mut context) {
        std::task::Poll::Ready(seq) => seq.unwrap(),
        std::task::Poll::Pending => panic!("the buffer is large enough for all of the test"),
    }
}

/// Something that began and ended, in ticks of one clock.
struct Span<T> {
    began: u64,
    ended: u64,
    what: T,
}

struct Ticks(AtomicU64);

impl Ticks {
    fn span<T>(&self, act: impl FnOnce() -> T) -> Span<T> {
        let began = self.0.fetch_add(1, Ordering::SeqCst);
        let what = act();
        Span { began, ended: self.0.fetch_add(1, Ordering::SeqCst), what }
    }
}

/// Everything written and every freeze, all at the same time: whatever the processors are busy with, writers do not run away from the freezes.
fn write_and_freeze(buffer: &Buffer) -> (Vec<Span<Seq>>, Vec<Span<Boundary>>) {
    let (ticks, writing, frozen) = (Ticks(AtomicU64::new(0)), AtomicBool::new(true), AtomicU64::new(0));
    std::thread::scope(|threads| {
        let freezer = threads.spawn(|| {
            let mut freezes = Vec::new();
            while writing.load(Ordering::SeqCst) {
                freezes.push(ticks.span(|| buffer.freeze()));
                frozen.fetch_add(1, Ordering::SeqCst);
            }
            freezes
        });
        let write = |volume| {
            let (ticks, frozen) = (&ticks, &frozen);
            threads.spawn(move || {
                let write = |number| {
                    while frozen.load(Ordering::SeqCst) < number / WRITES_TO_A_FREEZE {
                        std::thread::yield_now();
                    }
                    ticks.span(|| capture(buffer, extent(volume, number), volume as u8))
                };
                (0..WRITES).map(write).collect::<Vec<_>>()
            })
        };
        let writers: Vec<_> = (0..WRITERS).map(write).collect();
        let writes = writers.into_iter().flat_map(|writer| writer.join().unwrap()).collect();
        writing.store(false, Ordering::SeqCst);
        (writes, freezer.join().unwrap())
    })
}

#[test]
fn numbers_follow_what_hosts_saw_and_are_dense_in_the_ring() {
    let (buffer, _folder) = buffer(32 << 20);
    let (mut writes, _) = write_and_freeze(&buffer);
    writes.sort_by_key(|write| write.what);
    let mut latest_begin = 0;
    for write in &writes {
        assert!(write.ended > latest_begin, "{} was answered before a write with a lower number was sent", write.what);
        latest_begin = latest_begin.max(write.began);
    }
    let (mut position, mut expected) = (buffer.tail(), Seq(1));
    while let Some((at, entry)) = buffer.entry_at(position).unwrap() {
        assert_eq!(entry.seq, expected, "the ring is in the order of the numbers");
        expected = expected.next();
        position = at + entry.ring_bytes();
    }
    assert_eq!(expected, Seq(WRITERS * WRITES + 1));
}

#[test]
fn a_freeze_parts_what_was_answered_before_from_what_was_sent_after() {
    let (buffer, _folder) = buffer(32 << 20);
    let (mut writes, freezes) = write_and_freeze(&buffer);
    writes.sort_by_key(|write| write.what);
    // The first moments at which a number up to this one was answered, and from it on sent.
    for freeze in &freezes {
        let (inside, outside) = writes.split_at(freeze.what.seq.0 as usize);
        let missing = outside.iter().find(|write| write.ended < freeze.began);
        assert!(missing.is_none(), "{:?} misses a write answered before it", freeze.what);
        let late = inside.iter().find(|write| write.began > freeze.ended);
        assert!(late.is_none(), "{:?} has a write sent after it", freeze.what);
    }
    assert!(freezes.len() as u64 >= WRITES / WRITES_TO_A_FREEZE - 1, "{} freezes under load", freezes.len());
    assert_eq!(buffer.freeze().seq, Seq(WRITERS * WRITES));
}

#[test]
fn a_write_into_an_empty_buffer_wakes_the_drain_wherever_it_lies() {
    // In a ring of 8 KiB the fifteenth write of 512 bytes and a header does not fit before the end.
    let (buffer, _folder) = buffer(8192);
    for number in 0..30 {
        let announced = Arc::new(Barrier::new(2));
        let (sleeping, announcing) = (Arc::clone(&buffer), Arc::clone(&announced));
        let announce = move || {
            announcing.wait();
            true
        };
        let drain = std::thread::spawn(move || sleeping.bell().sleep(NEVER, false, announce));
        announced.wait();
        capture(&buffer, extent(0, number), 1);
        let woken = || check(drain.is_finished(), || "asleep".into());
        wait_until(&format!("the drain to wake for write {number}"), SOON, woken);
        let (at, entry) = buffer.entry_at(buffer.tail()).unwrap().unwrap();
        buffer.release(at + entry.ring_bytes());
    }
}

#[test]
fn a_write_into_an_empty_buffer_lets_a_drain_doze_that_wakes_soon_anyway() {
    let (buffer, _folder) = buffer(8192);
    for (number, dozes) in [true, false, true].into_iter().enumerate() {
        buffer.bell().sleep(Duration::ZERO, dozes, || {
            capture(&buffer, extent(0, number as u64), 1);
            assert_eq!(buffer.bell().is_rung(), !dozes);
            true
        });
        let (at, entry) = buffer.entry_at(buffer.tail()).unwrap().unwrap();
        buffer.release(at + entry.ring_bytes());
    }
}

/// The middle one of many freezes.
fn typical_freeze(buffer: &Buffer) -> Duration {
    let mut frozen: Vec<Duration> = (0..2001).map(|_| buffer.freeze().frozen).collect();
    frozen.sort();
    frozen[frozen.len() / 2]
}

/// Far beyond noise, and far below anything that looks at each entry.
const FACTOR: u32 = 20;

#[test]
fn a_freeze_costs_the_same_however_much_is_buffered() {
    let (buffer, _folder) = buffer(64 << 20);
    let empty = typical_freeze(&buffer);
    let mut number = 0;
    while buffer.bytes() < buffer.capacity() * 9 / 10 {
        // Every other block, so that each write is a range of its own.
        capture(&buffer, extent(number % 500, 2 * number), 1);
        number += 1;
    }
    assert!(buffer.index_ranges().0 > 50_000, "{:?} ranges", buffer.index_ranges());
    let full = typical_freeze(&buffer);
    assert!(full < empty * FACTOR, "{empty:?} with an empty buffer, {full:?} with a full one");
}

/// The middle freeze of many cuts of a group whose volumes are all written to.
fn typical_freeze_of_group(volumes: u32) -> f64 {
    let machine = Machine::new(Settings { volumes, volume_blocks: 4, delay: NEVER, ..Settings::default() });
    let engine = machine.start();
    for round in 0..200 {
        machine.write(&engine, round % volumes as usize, 0, &[round as u8; 4096]).unwrap();
        machine.soon("a cut", engine.primary.cut(None)).unwrap();
    }
    let freezes = engine.primary.status().freeze;
    engine.primary.stop();
    freezes.p50_us
}

#[test]
fn a_freeze_costs_the_same_however_many_volumes_there_are() {
    let (one, many) = (typical_freeze_of_group(1), typical_freeze_of_group(500));
    assert!(many < one * f64::from(FACTOR), "{one} µs with one volume, {many} µs with 500");
}
