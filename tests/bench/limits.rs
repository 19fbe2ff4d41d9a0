//! What libraries need at the least for what the stages do: processor seconds for each GiB, beside the stages' own, in the same run.
//! A frame of hosts' data is copied into the ring, compressed and checked on one side, checked and decompressed on the other. AES-GCM and QUIC:
//! what plain quinn takes is in a row of its own.

use std::hint::black_box;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tidemark_common::limits::CHUNK_BYTES;
use tidemark_common::record::crc32c;
use tidemark_tests::figures::processor_time;

use crate::report::{Report, Stage};

/// More than a processor's caches hold: what the stages work on comes from memory.
const BYTES: usize = 64 << 20;
/// The kernel counts processor time in hundredths of a second.
const AT_LEAST: Duration = Duration::from_millis(600);

/// Measures.
pub(crate) fn measure(report: &mut Report) {
    let data = half_noise();
    let mut copy = vec![0_u8; BYTES];
    add(report, "memory copy", || copy.copy_from_slice(black_box(data.as_slice())));
    let mut room = vec![0_u8; lz4_flex::block::get_maximum_output_size(CHUNK_BYTES)];
    add(report, "lz4, compress", || {
        for chunk in data.chunks(CHUNK_BYTES) {
            black_box(lz4_flex::block::compress_into(chunk, &mut room).expect("there is room"));
        }
    });
    let packed: Vec<Vec<u8>> = data.chunks(CHUNK_BYTES).map(lz4_flex::block::compress).collect();
    add(report, "lz4, decompress", || {
        for (packed, chunk) in packed.iter().zip(copy.chunks_mut(CHUNK_BYTES)) {
            black_box(lz4_flex::block::decompress_into(packed, chunk).expect("it was compressed"));
        }
    });
    add(report, "checksum", || {
        black_box(crc32c(black_box(data.as_slice())));
    });
}

/// Again and again, until it took long enough to be counted.
fn add(report: &mut Report, what: &str, mut once: impl FnMut()) {
    // Its memory is there, and the processor is awake.
    once();
    let used = || processor_time(std::process::id());
    let (begin, mut times) = (used(), 0_u32);
    while used() - begin < AT_LEAST {
        once();
        times += 1;
    }
    let gib = f64::from(times) * BYTES as f64 / f64::from(1 << 30);
    report.stage(Stage {
        side: "a library",
        stage: what.into(),
        seconds_per_gib: (used() - begin).as_secs_f64() / gib,
    });
}

/// As hosts of the benches write: half of each block is noise.
fn half_noise() -> Vec<u8> {
    let mut random = StdRng::seed_from_u64(6);
    let mut data = vec![0; BYTES];
    data.chunks_mut(4096).for_each(|block| random.fill_bytes(&mut block[..2048]));
    data
}
