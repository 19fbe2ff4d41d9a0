//! The ring: one write's number, header, payload with its checksum, and commit, into memory that outlives the process.

use std::path::Path;

use divan::Bencher;
use divan::counter::BytesCount;
use tidemark_common::ids::{Generation, GroupId, Seq};
use tidemark_primary::ring::{Entry, EntryKind, Ring};

use crate::{Numbers, extent};

const CAPACITY: u64 = 64 << 20;

#[divan::bench(args = [4 << 10, 64 << 10, 1 << 20])]
fn append(bencher: Bencher<'_, '_>, bytes: usize) {
    let folder = tempfile::tempdir_in(Path::new("/dev/shm")).expect("make a folder on tmpfs");
    let ring = Ring::create(&folder.path().join("ring"), CAPACITY, GroupId([7; 16]), Generation(1));
    let ring = ring.expect("make a ring");
    ring.reserve_blocks(0, CAPACITY).expect("reserve it");
    let data = Numbers::new().data(bytes);
    let payload_bytes = u32::try_from(bytes).expect("fits");
    let (mut head, mut seq) = (0, Seq(1));
    bencher.counter(BytesCount::new(bytes)).bench_local(|| {
        let whole = extent(0, bytes as u64);
        let entry = Entry { kind: EntryKind::Data, seq, extent: whole, payload_bytes, payload_check: 0 };
        // Drained at once: the tail is at the head.
        let (position, _) = ring.place(head, head, entry.ring_bytes()).expect("room");
        ring.write_entry(position, &entry);
        ring.write_payload(position, &data);
        ring.commit(position);
        (head, seq) = (position + entry.ring_bytes(), seq.next());
    });
}
