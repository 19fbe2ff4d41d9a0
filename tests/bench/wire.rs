//! What crosses the line: bytes sent for what hosts wrote, and what plain QUIC needs for the same.

mod plain;

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tidemark_tests::host::Request;
use tidemark_tests::pair::{Pair, Setup};

use crate::plan::Plan;
use crate::report::{Report, Row, Target};

pub(crate) use plain::bytes_per_cpu_second;

const BLOCK: usize = 4096;
const BLOCKS: u64 = 16 << 10;
const INTERVALS: usize = 8;
const DEPTH: usize = 16;

/// Bytes on the wire, headers and acknowledgements' way back left out, against the last content of each block of each
/// interval, compressed alone. Four of five writes go to a tenth of the blocks.
pub(crate) fn measure(plan: &Plan, report: &mut Report) {
    let pair = Pair::paired(&Setup::one_volume("v", BLOCKS * BLOCK as u64, 4).interval("1h"));
    let mut export = pair.open(&pair.east).remove(0);
    let mut random = StdRng::seed_from_u64(5);
    let writes = if plan.name == "full" { 16_000 } else { 4_000 };
    let before = pair.relay.forward().bytes();
    let mut least = 0;
    for _ in 0..INTERVALS {
        let mut last: HashMap<u64, Vec<u8>> = HashMap::new();
        for _ in 0..writes / DEPTH {
            for _ in 0..DEPTH {
                let among = if random.random_range(0..5) < 4 { BLOCKS / 10 } else { BLOCKS };
                let block = random.random_range(0..among);
                let mut data = vec![0; BLOCK];
                random.fill_bytes(&mut data[..BLOCK / 2]);
                export.submit(Request::Write(block * BLOCK as u64, &data, 0)).expect("write");
                last.insert(block, data);
            }
            (0..DEPTH).for_each(|_| assert_eq!(export.reply().expect("an answer").errno, 0));
        }
        pair.settle();
        least += last.values().map(|data| lz4_flex::block::compress(data).len()).sum::<usize>();
    }
    let sent = pair.relay.forward().bytes() - before;
    let rounds = [(sent as f64 / 1e6, least as f64 / 1e6)];
    let peer = "unique blocks of each interval, each by lz4 alone; four of five writes to a tenth of the volume";
    report.add(Row::against("bytes on the wire", "MB", &rounds, Target::RatioAtMost(1.05), peer));
}
