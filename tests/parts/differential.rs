//! The differential bitmap of a volume of 1 TiB: marking, looking for what comes next, its stored form.

use divan::Bencher;
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::VolumeIndex;

use crate::{Numbers, extent};

const BLOCKS: u64 = (1 << 40) / 4096;
const MARKS: [usize; 2] = [1_000, 100_000];

fn marked(numbers: &mut Numbers, marks: usize) -> Bitmap {
    let mut bitmap = Bitmap::default();
    (0..marks).for_each(|_| bitmap.mark(extent(numbers.block(BLOCKS), 4096)));
    bitmap
}

#[divan::bench(args = MARKS)]
fn mark(bencher: Bencher<'_, '_>, marks: usize) {
    let mut numbers = Numbers::new();
    let mut bitmap = marked(&mut numbers, marks);
    bencher.bench_local(|| bitmap.mark(extent(numbers.block(BLOCKS), 4096)));
}

#[divan::bench(args = MARKS)]
fn next_run(bencher: Bencher<'_, '_>, marks: usize) {
    let mut numbers = Numbers::new();
    let bitmap = marked(&mut numbers, marks);
    bencher.with_inputs(|| numbers.block(BLOCKS)).bench_local_values(|at| bitmap.next_run(VolumeIndex(1), at));
}

#[divan::bench(args = MARKS)]
fn encode(bencher: Bencher<'_, '_>, marks: usize) {
    let bitmap = marked(&mut Numbers::new(), marks);
    bencher.bench(|| bitmap.encode());
}

#[divan::bench(args = MARKS)]
fn decode(bencher: Bencher<'_, '_>, marks: usize) {
    let bytes = marked(&mut Numbers::new(), marks).encode();
    bencher.bench(|| Bitmap::decode(&bytes).expect("sound"));
}
