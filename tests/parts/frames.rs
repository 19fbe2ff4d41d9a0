//! The frame codec: building (fold order given, compress, checksum), checking, decompressing.

use divan::Bencher;
use divan::counter::BytesCount;
use tidemark_common::ids::{Generation, GroupId, MarkerNumber, Seq};
use tidemark_common::record::{Chain, FrameBuilder, FrameKind, FrameView, Place};

use crate::{Numbers, extent};

/// Raw bytes of one frame.
const RAW_BYTES: usize = 2 << 20;
/// Bytes of one extent: scattered small writes, and large ones.
const EXTENTS: [usize; 2] = [4 << 10, 64 << 10];

pub(crate) fn place() -> Place {
    Place {
        group: GroupId([7; 16]),
        member: 0,
        generation: Generation(1),
        first_seq: Seq(1),
        last_seq: Seq(1),
        marker: MarkerNumber(0),
        chain: Chain::default(),
    }
}

fn filled(builder: &mut FrameBuilder, data: &[u8], each: usize) {
    for (number, part) in (0..).zip(data.chunks(each)) {
        builder.push_data(extent(number * 2 * each as u64, part.len() as u64), part);
    }
}

fn built(each: usize) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    filled(&mut builder, &Numbers::new().data(RAW_BYTES), each);
    builder.finish(FrameKind::Writes, &place()).to_vec()
}

#[divan::bench(args = EXTENTS)]
fn build(bencher: Bencher<'_, '_>, each: usize) {
    let data = Numbers::new().data(RAW_BYTES);
    let mut builder = FrameBuilder::new();
    bencher.counter(BytesCount::new(RAW_BYTES)).bench_local(|| {
        filled(&mut builder, &data, each);
        builder.finish(FrameKind::Writes, &place())
    });
}

#[divan::bench(args = EXTENTS)]
fn verify(bencher: Bencher<'_, '_>, each: usize) {
    let frame = built(each);
    bencher.counter(BytesCount::new(RAW_BYTES)).bench(|| FrameView::verified(&frame).expect("sound").header);
}

#[divan::bench(args = EXTENTS)]
fn unpack(bencher: Bencher<'_, '_>, each: usize) {
    let frame = built(each);
    let mut raw = vec![0; RAW_BYTES];
    bencher.counter(BytesCount::new(RAW_BYTES)).bench_local(|| {
        FrameView::new(&frame).and_then(|view| view.unpack_into(&mut raw)).expect("sound");
    });
}
