//! The block map: looking up and inserting among so many ranges.

use divan::Bencher;
use tidemark_common::ids::Seq;
use tidemark_common::overlay::Overlay;
use tidemark_common::overlay::location::Location;

use crate::{Numbers, extent};

const RANGES: [u64; 3] = [100, 10_000, 1_000_000];

/// Blocks here and there, one in four.
fn map(numbers: &mut Numbers, ranges: u64) -> Overlay<Location> {
    let mut map = Overlay::default();
    for seq in 0..ranges {
        map.insert(extent(numbers.block(ranges * 4), 4096), Location::BufferZero { seq: Seq(seq) });
    }
    map
}

#[divan::bench(args = RANGES)]
fn lookup_4k(bencher: Bencher<'_, '_>, ranges: u64) {
    let mut numbers = Numbers::new();
    let map = map(&mut numbers, ranges);
    bencher.with_inputs(|| extent(numbers.block(ranges * 4), 4096)).bench_local_values(|at| map.pieces(at).count());
}

#[divan::bench(args = RANGES)]
fn lookup_1m(bencher: Bencher<'_, '_>, ranges: u64) {
    let mut numbers = Numbers::new();
    let map = map(&mut numbers, ranges);
    bencher.with_inputs(|| extent(numbers.block(ranges * 4), 1 << 20)).bench_local_values(|at| map.pieces(at).count());
}

#[divan::bench(args = RANGES)]
fn insert_4k(bencher: Bencher<'_, '_>, ranges: u64) {
    let mut numbers = Numbers::new();
    let mut map = map(&mut numbers, ranges);
    bencher.bench_local(|| map.insert(extent(numbers.block(ranges * 4), 4096), Location::BufferZero { seq: Seq(1) }));
}
