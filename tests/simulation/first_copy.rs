//! A first copy that fills the copy's journal, step by step: there is no image to keep, and what is applied has to leave it.

use bytes::Bytes;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, VolumeIndex};
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::record::{
    ControlRecord, FrameBuilder, FrameHeader, FrameKind, HEADER_BYTES, Place, RegionsDigest, Tip,
};
use tidemark_common::wire::message::{Hello, PROTOCOL_VERSION, VolumeSpec};
use tidemark_secondary::apply::Applying;
use tidemark_secondary::intake::Taking;
use tidemark_tests::noise::noise;

use crate::device::Device;
use crate::fate::Points;
use crate::profile::Profile;
use crate::site::{FAR, GROUP, NEAR, Settings, Site, name_of};
use crate::world::ground;

/// Of the one volume.
const BYTES: u64 = 2 << 20;
const COPY: u64 = 1;

/// What a primary sends.
struct Sender {
    tip: Tip,
    cursor: (u32, u64),
}

fn header(frame: &Bytes) -> FrameHeader {
    FrameHeader::decode(&frame[..HEADER_BYTES]).expect("a header")
}

impl Sender {
    fn new() -> Self {
        Self { tip: Tip { generation: Generation(1), ..Tip::default() }, cursor: (0, 0) }
    }

    fn send(&mut self, frame: Bytes) -> Bytes {
        self.tip = self.tip.follow(&header(&frame)).expect("it follows");
        frame
    }

    fn record(&mut self, record: &ControlRecord) -> Bytes {
        let frame = record.frame(&Place::at(GROUP, &self.tip)).expect("a frame");
        self.send(frame.into())
    }

    fn begin(&mut self) -> Bytes {
        self.record(&ControlRecord::CopyBegin {
            copy: COPY,
            start_seq: 0,
            start_marker: COPY,
            chain: [0; 16],
            direct: true,
            total_bytes: BYTES,
            volumes: specs(),
        })
    }

    /// A region that does not compress, and that the copy has come so far.
    fn region(&mut self) -> [Bytes; 2] {
        let ((from_volume, from_offset), mut builder) = (self.cursor, FrameBuilder::new());
        let region = Extent { volume: VolumeIndex(1), offset: from_offset, length: REGION_BYTES };
        builder.push_data(region, &noise(from_offset, REGION_BYTES));
        let frame = builder.finish(FrameKind::Regions, &Place::at(GROUP, &self.tip));
        let mut digest = RegionsDigest::default();
        digest.take(&header(&frame));
        self.cursor = (1, region.end());
        let regions = self.send(frame);
        let step = self.record(&ControlRecord::CopyStep {
            copy: COPY,
            from_volume,
            from_offset,
            volume: 1,
            offset: region.end(),
            done_bytes: region.end(),
            digest: digest.bytes(),
        });
        [regions, step]
    }
}

fn specs() -> Vec<VolumeSpec> {
    vec![VolumeSpec { index: 1, name: name_of(0), size: BYTES }]
}

fn hello() -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION,
        version_max: PROTOCOL_VERSION,
        appliance: NEAR.into(),
        group: GROUP.0,
        group_name: "group".into(),
        member: 0,
        members: 1,
        generation: 1,
        create: true,
        volumes: specs(),
        interval_ms: 20,
        generation_start_seq: 0,
    }
}

/// It died before any of what fills its journal had left it. The next start applies all of that at once, so nothing is left to apply when
/// its updater begins.
#[test]
fn a_first_copy_whose_journal_was_full_at_a_death_goes_on() {
    let settings = Settings { volumes: 1, blocks: BYTES / 4096, far_segments: 4, ..Profile::short().settings };
    let profile = Profile { settings, ..Profile::short() };
    let mut site = Site::new(FAR, &ground(&profile, Points::deadly(&[])), Device::well());
    let (secondary, apply) = site.open_secondary().expect("a copy");
    let (_, mut intake) = secondary.enter(&hello(), PROTOCOL_VERSION).expect("the journal is free");
    let mut sender = Sender::new();
    let mut frames = vec![sender.begin()];
    loop {
        let mut frames = std::mem::take(&mut frames).into_iter().chain(sender.region());
        if intake.step(|| frames.next()).expect("it is taken") == Taking::NoRoom {
            break;
        }
    }
    assert!(secondary.journal().is_full());
    drop((intake, secondary, apply));
    site.died();

    let (secondary, mut apply) = site.open_secondary().expect("a copy");
    let state = secondary.state();
    assert!(state.permission().copy().is_some_and(|copy| copy.direct), "it is under way");
    assert!(state.applied_position().position >= state.limit(), "all that may be applied is");
    assert!(secondary.journal().is_full());
    assert_eq!(apply.step(state.limit()), Applying::Idle);
    assert!(!secondary.journal().is_full(), "what is applied left the journal");
}
