//! Stretches of a journal in memory, folded, against the frames they stand for.

use std::path::Path;

use proptest::prelude::*;
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};
use tidemark_common::clock::HandClock;
use tidemark_common::ids::{Generation, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{self, JournalOptions, Writer};
use tidemark_common::record::view::ExtentKind;
use tidemark_common::record::{FoldCheck, MarkerRecord};
use tidemark_common::storage::memory::MemoryDisk;

use super::*;

const GROUP: GroupId = GroupId([3; 16]);
const BLOCK: u64 = 4096;
const INTERVAL_BYTES: u64 = 1 << 40;

struct Sender {
    writer: Writer,
    clock: Arc<HandClock>,
    coalescer: Coalescer,
    moment: Moment,
    reader: Reader,
    tip: Tip,
    /// As the other side takes them.
    check: FoldCheck,
    far: Tip,
    image: Vec<u8>,
    folded_frames: usize,
    frames: usize,
}

impl Sender {
    fn new() -> Self {
        let options = JournalOptions { segment_bytes: 256 << 10, capacity_bytes: 64 << 20 };
        let disk = Arc::new(MemoryDisk::new());
        let writer =
            journal::open(disk, Path::new("/journal"), GROUP, options, None, &mut |_, _, _| {}).unwrap().writer;
        let (clock, moment) = (Arc::new(HandClock::default()), Moment::default());
        moment.set(40 << 20, 1);
        let mut coalescer = Coalescer::new(Arc::clone(&clock) as Arc<dyn Clock>, moment.clone());
        coalescer.marker_sent();
        let (reader, tip) = (writer.journal().reader(writer.end()), *writer.tip());
        Self {
            writer,
            clock,
            coalescer,
            moment,
            reader,
            tip,
            check: FoldCheck::default(),
            far: tip,
            image: vec![0; 64 * usize::try_from(BLOCK).unwrap()],
            folded_frames: 0,
            frames: 0,
        }
    }

    /// A frame with these writes: (offset, bytes), no bytes for zeroes of a block.
    fn write(&mut self, writes: &[(u64, Vec<u8>)]) {
        let tip = *self.writer.tip();
        let mut builder = FrameBuilder::new();
        for (offset, data) in writes {
            let length = if data.is_empty() { BLOCK } else { data.len() as u64 };
            let extent = Extent { volume: VolumeIndex(1), offset: *offset, length };
            if data.is_empty() { builder.push_zero(extent, false) } else { assert!(builder.push_data(extent, data)) }
        }
        let place = Place {
            first_seq: tip.seq.next(),
            last_seq: Seq(tip.seq.0 + writes.len() as u64),
            ..Place::at(GROUP, &tip)
        };
        self.writer.append(&builder.finish(FrameKind::Writes, &place)).unwrap();
        self.writer.sync().unwrap();
    }

    fn blocks(&mut self, numbers: impl IntoIterator<Item = u64>, fill: u8) {
        for number in numbers {
            self.write(&[(number * BLOCK, vec![fill; 4096])]);
        }
    }

    fn mark(&mut self) {
        let tip = *self.writer.tip();
        let record =
            MarkerRecord { number: tip.marker.0 + 1, boundary_seq: tip.seq.0, time_ns: 0, freeze_ns: 0, tag: None };
        let frame = ControlRecord::Marker(record).frame(&Place::at(GROUP, &tip)).unwrap();
        self.writer.append(&frame).unwrap();
        self.writer.sync().unwrap();
    }

    /// Sends all that can be sent now, as a feeder does. Returns the marker that the other side has then.
    fn send(&mut self) -> MarkerNumber {
        let journal = Arc::clone(self.writer.journal());
        loop {
            match self.coalescer.next(&journal, self.reader.position(), &self.tip, INTERVAL_BYTES).unwrap() {
                Next::Wait => return self.far.marker,
                Next::AsTheyAre => {
                    let Some(frame) = self.reader.next_frame().unwrap() else { return self.far.marker };
                    self.receive(&frame.bytes);
                }
                Next::Folded => match self.coalescer.fold(GROUP).unwrap() {
                    Part::Frames(frames) => frames.iter().for_each(|frame| self.receive(frame)),
                    Part::End { record, to, next, .. } => {
                        self.receive(&record.frame(&Place::at(GROUP, &to)).unwrap());
                        self.reader = journal.reader(next);
                        assert_eq!(self.tip, to);
                    }
                },
            }
        }
    }

    fn receive(&mut self, bytes: &[u8]) {
        let view = FrameView::verified(bytes).unwrap();
        let record = (view.header.kind == FrameKind::Control).then(|| ControlRecord::of(&view).unwrap());
        self.check.check(&self.far, record.as_ref()).unwrap();
        self.check.take(&view.header, record.as_ref());
        self.far = self.far.follow(&view.header).unwrap();
        self.tip = self.far;
        self.frames += 1;
        self.folded_frames += usize::from(view.header.kind == FrameKind::Folded);
        if record.is_none() {
            apply(&view, &mut self.image);
        }
    }

    fn later(&self, time: Duration) {
        self.clock.set(self.clock.monotonic() + time);
    }
}

fn apply(view: &FrameView<'_>, image: &mut [u8]) {
    let mut raw = Vec::new();
    view.unpack(&mut raw).unwrap();
    for entry in view.extents() {
        let begin = usize::try_from(entry.extent.offset).unwrap();
        let length = usize::try_from(entry.extent.length).unwrap();
        let target = &mut image[begin..begin + length];
        match entry.kind {
            ExtentKind::Data => target.copy_from_slice(&raw[entry.raw_offset as usize..][..length]),
            ExtentKind::Zero { .. } => target.fill(0),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn at_every_marker_the_other_side_has_what_the_frames_write(seed in any::<u64>()) {
        let random = &mut StdRng::seed_from_u64(seed);
        let mut sender = Sender::new();
        sender.moment.set(1 << random.random_range(10..22), 1);
        let mut expected = vec![0; sender.image.len()];
        for _ in 0..random.random_range(1..5) {
            for _ in 0..random.random_range(0..30) {
                let mut writes = Vec::new();
                for _ in 0..random.random_range(1..6) {
                    let (offset, is_zero) = (random.random_range(0..100) * 512, random.random_ratio(1, 5));
                    let mut data = vec![0; if is_zero { 0 } else { random.random_range(1..9) * 512 }];
                    random.fill_bytes(&mut data);
                    let begin = usize::try_from(offset).unwrap();
                    let length = if is_zero { 4096 } else { data.len() };
                    // Within one frame ranges do not overlap.
                    if writes.iter().all(|(other, data): &(u64, Vec<u8>)| {
                        let other_end = other + if data.is_empty() { BLOCK } else { data.len() as u64 };
                        offset >= other_end || offset + length as u64 <= *other
                    }) {
                        if is_zero { expected[begin..begin + length].fill(0) } else { expected[begin..begin + length].copy_from_slice(&data) }
                        writes.push((offset, data));
                    }
                }
                sender.write(&writes);
                if random.random_ratio(1, 8) {
                    sender.send();
                }
            }
            sender.mark();
            prop_assert_eq!(sender.send(), sender.writer.tip().marker);
            prop_assert_eq!(sender.far, *sender.writer.tip());
            prop_assert!(sender.image == expected, "the images differ");
        }
    }
}

#[test]
fn what_is_overwritten_in_its_interval_is_sent_once() {
    let mut sender = Sender::new();
    (1..=50).for_each(|fill| sender.blocks(0..8, fill));
    sender.send();
    assert_eq!(sender.frames, 0, "it waits for the end of the interval");
    sender.mark();
    sender.send();
    assert_eq!((sender.folded_frames, sender.frames), (1, 3), "the folded frame, its record, the marker");
    assert_eq!(sender.image[..4096], [50; 4096]);
}

#[test]
fn a_stretch_ends_at_the_marker() {
    let mut sender = Sender::new();
    for fill in [1, 2] {
        sender.blocks([0, 0, 0, 0], fill);
        sender.mark();
    }
    sender.send();
    assert_eq!(sender.folded_frames, 2, "what both intervals write is sent with each");
}

#[test]
fn a_stretch_waits_for_a_moment_only() {
    let mut sender = Sender::new();
    sender.blocks([0, 0, 0, 0], 1);
    sender.send();
    sender.later(WAIT_MAX / 2);
    sender.send();
    assert_eq!(sender.frames, 0);
    sender.later(WAIT_MAX / 2);
    sender.send();
    assert_eq!(sender.folded_frames, 1, "without a marker");
    assert_eq!(sender.far, *sender.writer.tip());
}

#[test]
fn a_stretch_is_no_more_than_the_link_takes_in_a_moment() {
    let mut sender = Sender::new();
    sender.moment.set(4 << 10, 1);
    sender.blocks([0; 400], 1);
    sender.send();
    assert!(sender.folded_frames > 2, "{} frames", sender.folded_frames);
}

#[test]
fn a_stretch_is_a_small_part_of_what_an_interval_may_be() {
    let mut sender = Sender::new();
    let journal = Arc::clone(sender.writer.journal());
    let noise = |seed: u64| {
        let mut data = vec![0; 4096];
        StdRng::seed_from_u64(seed).fill_bytes(&mut data);
        data
    };
    (0..400).for_each(|seed| sender.write(&[(seed % 8 * BLOCK, noise(seed))]));
    let next = sender.coalescer.next(&journal, sender.reader.position(), &sender.tip, 256 << 10).unwrap();
    assert_eq!(next, Next::Folded, "without waiting for the marker");
    let end = loop {
        if let Part::End { to, .. } = sender.coalescer.fold(GROUP).unwrap() {
            break to;
        }
    };
    // A quarter of 256 KiB, in writes of 4 KiB.
    assert!((15..=17).contains(&end.seq.0), "{end:?}");
}

#[test]
fn a_slow_link_makes_small_stretches() {
    let moment = Moment::default();
    let bytes = |moment: &Moment| moment.0.bytes_max.load(Ordering::Relaxed);
    assert_eq!(bytes(&moment), *STRETCH_BYTES.start());
    // 25 MB/s, for an eighth of two seconds.
    let interval = Duration::from_secs(2);
    moment.see(2_500_000, Duration::from_millis(100), None, interval);
    assert_eq!(bytes(&moment), 6_250_000);
    // It has little to do, or it has become slow.
    moment.see(1_000, Duration::from_secs(1), None, interval);
    assert_eq!(bytes(&moment), 6_250_000);
    (0..100).for_each(|_| moment.fade());
    assert_eq!(bytes(&moment), *STRETCH_BYTES.start());
    moment.see(1 << 30, Duration::ZERO, None, interval);
    assert_eq!(bytes(&moment), *STRETCH_BYTES.end());
    // However fast it is, no more is asked of it.
    let limited = Moment::default();
    limited.see(1 << 30, Duration::from_millis(1), NonZeroU64::new(4 << 20), interval);
    assert_eq!(bytes(&limited), 1 << 20);
}

#[test]
fn hosts_that_write_everything_once_are_waited_for_no_more() {
    let mut sender = Sender::new();
    let each = |sender: &mut Sender| {
        let noise = |number: u64| {
            let mut data = vec![0; 60 << 10];
            StdRng::seed_from_u64(number).fill_bytes(&mut data);
            data
        };
        (0..4).for_each(|number| sender.write(&[(number * (60 << 10), noise(number))]));
    };
    sender.moment.set(40 << 20, SPARED_BYTES_MIN);
    sender.image.resize(2 << 20, 0);
    for _ in 0..IN_VAIN_BYTES >> 20 {
        (0..16).for_each(|number| {
            sender.write(&[(number * (64 << 10), vec![7; 64 << 10])]);
        });
        sender.mark();
        sender.send();
    }
    each(&mut sender);
    sender.send();
    assert_eq!((sender.far, sender.folded_frames), (*sender.writer.tip(), 0), "sent as it comes");
    // They begin to: it is seen by and by, and waited for again.
    sender.later(LOOK_EVERY);
    (0..8).for_each(|_| each(&mut sender));
    sender.mark();
    sender.send();
    assert_eq!(sender.folded_frames, 0);
    (0..8).for_each(|_| each(&mut sender));
    sender.send();
    assert_ne!(sender.far, *sender.writer.tip(), "it waits for the end of the interval");
    sender.mark();
    sender.send();
    assert!(sender.folded_frames > 0);
}

#[test]
fn a_new_connection_sends_frames_as_they_are_up_to_a_marker() {
    let mut sender = Sender::new();
    sender.coalescer = Coalescer::new(Arc::clone(&sender.clock) as Arc<dyn Clock>, sender.moment.clone());
    sender.blocks([0, 0, 0, 0], 1);
    sender.mark();
    sender.send();
    assert_eq!((sender.frames, sender.folded_frames), (5, 0));
    assert_eq!(sender.far, *sender.writer.tip());
}

#[test]
fn what_arrived_of_a_broken_stretch_does_no_harm() {
    let mut sender = Sender::new();
    (0..3000_u64).for_each(|at| {
        let mut data = vec![0; 4096];
        StdRng::seed_from_u64(at).fill_bytes(&mut data);
        sender.write(&[(at % 1000 * BLOCK, data)]);
    });
    sender.image.resize(1000 * 4096, 0);
    let (from, journal) = (sender.reader.position(), Arc::clone(sender.writer.journal()));
    sender.send();
    sender.later(WAIT_MAX);
    sender.send();
    assert_eq!(sender.far, *sender.writer.tip());
    // Half of it arrives, and the connection is another.
    let mut half = Sender {
        coalescer: Coalescer::new(Arc::clone(&sender.clock) as Arc<dyn Clock>, sender.moment.clone()),
        ..sender
    };
    half.coalescer.marker_sent();
    half.reader = journal.reader(from);
    let whole = half.image.clone();
    half.image.fill(0);
    half.far = Tip { generation: Generation(0), ..Tip::default() };
    half.tip = half.far;
    assert_eq!(half.coalescer.next(&journal, from, &half.tip, INTERVAL_BYTES).unwrap(), Next::Wait);
    half.later(WAIT_MAX);
    assert_eq!(half.coalescer.next(&journal, from, &half.tip, INTERVAL_BYTES).unwrap(), Next::Folded);
    let Part::Frames(frames) = half.coalescer.fold(GROUP).unwrap() else { panic!("frames come first") };
    frames.iter().for_each(|frame| half.receive(frame));
    assert_eq!(half.far.seq, Seq(0), "nobody stands inside of a stretch");
    half.coalescer = Coalescer::new(Arc::clone(&half.clock) as Arc<dyn Clock>, half.moment.clone());
    half.send();
    assert_eq!(half.far, *half.writer.tip());
    assert!(half.image == whole);
}
