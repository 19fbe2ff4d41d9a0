//! The journal: one frame appended to a segment that was written before, and made durable, on the disk of the temporary folder.

use std::sync::Arc;

use bytes::Bytes;
use divan::Bencher;
use divan::counter::BytesCount;
use tempfile::TempDir;
use tidemark_common::ids::{GroupId, Seq};
use tidemark_common::journal::{self, JournalOptions, Writer};
use tidemark_common::record::{FrameBuilder, FrameKind, Place};
use tidemark_common::storage::disk::SystemDisk;

use crate::frames::place;
use crate::{Numbers, extent};

const SIZES: [usize; 2] = [4 << 10, 2 << 20];

fn opened() -> (TempDir, Writer) {
    let folder = tempfile::tempdir().expect("make a folder");
    let options = JournalOptions { segment_bytes: 32 << 20, capacity_bytes: 256 << 20 };
    let group = GroupId([7; 16]);
    let opened = journal::open(Arc::new(SystemDisk), folder.path(), group, options, None, &mut |_, _, _| {});
    (folder, opened.expect("make a journal").writer)
}

/// The next frame of the history; what nobody needs any more is trimmed, so that segments are used again.
fn next(writer: &Writer, builder: &mut FrameBuilder, data: &[u8]) -> Bytes {
    writer.journal().trim(writer.end()).expect("trim");
    let tip = writer.tip();
    let place = Place { first_seq: tip.seq.next(), last_seq: Seq(tip.seq.0 + 1), chain: tip.chain, ..place() };
    let place = Place { generation: tip.generation, marker: tip.marker, ..place };
    builder.push_data(extent(0, data.len() as u64), data);
    builder.finish(FrameKind::Writes, &place)
}

/// Only what is written: the frame is there.
#[divan::bench(args = SIZES, sample_size = 1, max_time = 2)]
fn append(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, false);
}

/// And the sync, which waits for the disk.
#[divan::bench(args = SIZES, sample_size = 1, max_time = 2)]
fn append_and_sync(bencher: Bencher<'_, '_>, bytes: usize) {
    run(bencher, bytes, true);
}

fn run(bencher: Bencher<'_, '_>, bytes: usize, sync: bool) {
    let (_folder, writer) = opened();
    let writer = std::cell::RefCell::new(writer);
    let data = Numbers::new().data(bytes);
    let mut builder = FrameBuilder::new();
    let frame = || {
        let frame = next(&writer.borrow(), &mut builder, &data);
        writer.borrow_mut().sync().expect("sync");
        frame
    };
    bencher.counter(BytesCount::new(bytes)).with_inputs(frame).bench_local_values(|frame| {
        let mut writer = writer.borrow_mut();
        writer.append_frame(frame).expect("append");
        if sync {
            writer.sync().expect("sync");
        }
    });
}
