//! What crosses the line: bytes sent for what hosts wrote, and what plain QUIC needs for the same.

mod link;
mod plain;

use std::collections::HashMap;

use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tidemark_common::link::Congestion;
use tidemark_tests::host::Request;
use tidemark_tests::pair::{Pair, Setup};

use crate::plan::Plan;
use crate::report::{Report, Row, Target};
use crate::servers::Ours;

pub(crate) use plain::{Source, bytes_per_cpu_second};

/// Why shipping needs more than plain quinn: what each thing costs that a link does and one stream of one buffer does not.
pub(crate) fn steps(bytes: u64, plain: f64, report: &mut Report) {
    let mut step = |what: &str, per_second: f64, note: &str| {
        let what = format!("bytes delivered per CPU second, {what}");
        report.add(Row::against(&what, "MB", &[(per_second / 1e6, plain)], Target::Told, note));
    };
    let note = "plain quinn, which sends one MiB again and again";
    step("plain quinn, out of memory", bytes_per_cpu_second(bytes, Source::Memory), note);
    step("our link by itself", link::bytes_per_cpu_second(bytes, Congestion::Steady), note);
    step("our link by itself, with cubic", link::bytes_per_cpu_second(bytes, Congestion::Cubic), note);
}

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
    let shipped = || Ours::counter(&pair.east, "tidemark_ship_bytes_total");
    let frames_before = shipped();
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
    let frames = [((shipped() - frames_before) / 1e6, least as f64 / 1e6)];
    report.add(Row::against("frames among them", "MB", &frames, Target::Told, "the same; what is beyond is QUIC's"));
}
