//! A peer with the right certificate, for the right group, whose frames are not sound: each is refused, counted, logged and told, and
//! nothing of it is kept or applied (invariants 4, 9, 10).

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use bytes::Bytes;
use tidemark_common::api::types::PairState;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, GroupId, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::record::{
    Chain, ControlRecord, FrameBuilder, FrameHeader, FrameKind, HEADER_BYTES, MarkerRecord, Place, RegionsDigest,
};
use tidemark_common::wire::message::{Hello, Message, VolumeSpec, Welcome};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::get;

use crate::peers::{endpoint, hello};

const BLOCK: usize = 4096;
/// For each message of the other side.
const LIMIT: Duration = Duration::from_secs(20);
const SIZE: u64 = 1 << 20;
const REGION: u64 = 65_536;

/// Where the history stands over there, and the group it is of.
struct Stand {
    group: [u8; 16],
    welcome: Welcome,
}

impl Stand {
    /// The place of the write that follows.
    fn place(&self) -> Place {
        let next = Seq(self.welcome.position.durable_seq + 1);
        Place {
            group: GroupId(self.group),
            member: 0,
            generation: Generation(1),
            first_seq: next,
            last_seq: next,
            marker: MarkerNumber(self.welcome.position.received_marker),
            chain: Chain(self.welcome.chain),
        }
    }

    /// A write that is right but for what is changed of its place.
    fn write(&self, change: impl FnOnce(&mut Place)) -> Bytes {
        self.write_to(1, 0, change)
    }

    fn write_to(&self, volume: u32, offset: u64, change: impl FnOnce(&mut Place)) -> Bytes {
        let mut place = self.place();
        change(&mut place);
        let mut builder = FrameBuilder::new();
        builder.push_data(Extent { volume: VolumeIndex(volume), offset, length: BLOCK as u64 }, &[0xee; BLOCK]);
        builder.finish(FrameKind::Writes, &place)
    }

    /// Where a frame that is no write stands: behind everything that came.
    fn end(&self) -> Place {
        let last = Seq(self.welcome.position.durable_seq);
        Place { first_seq: last, last_seq: last, ..self.place() }
    }

    /// The begin of a copy of two regions.
    fn begin(&self) -> Bytes {
        let position = &self.welcome.position;
        let begin = ControlRecord::CopyBegin {
            copy: position.received_marker,
            start_seq: position.durable_seq,
            start_marker: position.received_marker,
            chain: self.welcome.chain,
            direct: false,
            total_bytes: 2 * REGION,
            volumes: vec![VolumeSpec { index: 1, name: "v".into(), size: SIZE }],
        };
        begin.frame(&self.end()).expect("a record").into()
    }

    fn region(&self, number: u64, byte: u8) -> Bytes {
        let mut builder = FrameBuilder::new();
        let data = vec![byte; usize::try_from(REGION).expect("small")];
        builder.push_data(Extent { volume: VolumeIndex(1), offset: number * REGION, length: REGION }, &data);
        builder.finish(FrameKind::Regions, &self.end())
    }

    /// Some frames of regions lead from one region to another.
    fn step(&self, from: u64, to: u64, frames: &[&Bytes]) -> Bytes {
        let mut regions = RegionsDigest::default();
        frames.iter().for_each(|frame| regions.take(&FrameHeader::decode(&frame[..HEADER_BYTES]).expect("a header")));
        let volume = |region| u32::from(region > 0);
        let step = ControlRecord::CopyStep {
            copy: self.welcome.position.received_marker,
            from_volume: volume(from),
            from_offset: from * REGION,
            volume: volume(to),
            offset: to * REGION,
            done_bytes: to * REGION,
            digest: regions.bytes(),
        };
        step.frame(&self.end()).expect("a record").into()
    }

    /// A marker behind one write, whose digest is of a history without that write.
    fn marker_without_the_write(&self) -> Bytes {
        let place = self.place();
        let number = self.welcome.position.received_marker + 1;
        let marker = MarkerRecord { number, boundary_seq: place.last_seq.0, time_ns: 0, freeze_ns: 0, tag: None };
        let place = Place { marker: MarkerNumber(number), ..place };
        ControlRecord::Marker(marker).frame(&place).expect("a marker").into()
    }
}

/// Comes in as `from`, is welcomed, and sends frames; what it is told at the end.
fn send(from: &Appliance, to: &Appliance, group: [u8; 16], frames: impl FnOnce(&Stand) -> Vec<Bytes>) -> String {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = endpoint(from, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let connection = endpoint.dial(to.replication(), to.id().parse().expect("an id")).await.expect("dial");
        let (control, mut answers) = connection.open_control().await.expect("a control stream");
        let hello = Hello { group, group_name: GROUP.into(), create: false, ..hello() };
        control.send(&Message::Hello(hello)).await.expect("say hello");
        let Some(Message::Welcome(welcome)) = answers.recv().await.expect("an answer") else { panic!("no welcome") };
        let mut data = connection.open_data(DATA_STREAMS).await.expect("data streams");
        for frame in frames(&Stand { group, welcome }) {
            data.send(frame).await.expect("send");
        }
        loop {
            match tokio::time::timeout(LIMIT, answers.recv()).await.expect("it is told in time") {
                Ok(Some(Message::Goodbye { message })) => return message,
                Ok(Some(_)) => {}
                other => panic!("the connection ended without a reason: {other:?}"),
            }
        }
    })
}

fn rejected(side: &Appliance, reason: &str) -> u64 {
    let page = get(&side.status().addresses.metrics, "/metrics");
    let label = format!("reason=\"{reason}\"");
    let lines =
        page.lines().filter(|line| line.starts_with("tidemark_receive_rejected_frames_total") && line.contains(&label));
    lines.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).sum()
}

/// A pair whose primary is gone, and the bytes of its copy.
fn without_its_primary(seed: u64) -> (Pair, [u8; 16], Vec<Vec<u8>>) {
    let mut pair = Pair::paired(&Setup::one_volume("v", SIZE, seed));
    pair.east.open("v").write_all(0, &vec![1; usize::try_from(SIZE).expect("small")]).expect("write");
    pair.settle();
    let group = hex::decode(pair.east.group(GROUP).id).expect("hexadecimal").try_into().expect("16 bytes");
    pair.east.stop();
    let copy = pair.backing(&pair.west);
    (pair, group, copy)
}

fn flipped(frame: &Bytes, at: usize) -> Bytes {
    let mut bytes = frame.to_vec();
    bytes[at] ^= 1;
    bytes.into()
}

#[test]
fn frames_that_are_not_sound_are_refused_counted_and_leave_nothing() {
    let (mut pair, group, copy) = without_its_primary(271);
    let position = pair.west.group(GROUP).positions;
    type Make = fn(&Stand) -> Bytes;
    let cases: [(&str, &str, Make); 9] = [
        ("data that was altered", "checksum", |stand| {
            let frame = stand.write(|_| {});
            flipped(&frame, frame.len() - 1)
        }),
        ("a header that was altered", "checksum", |stand| flipped(&stand.write(|_| {}), 40)),
        ("a number that is not the next", "order", |stand| {
            stand.write(|place| {
                (place.first_seq, place.last_seq) = (Seq(place.first_seq.0 + 5), Seq(place.last_seq.0 + 5))
            })
        }),
        ("another history", "order", |stand| stand.write(|place| place.chain = Chain([9; 16]))),
        ("a newer generation", "order", |stand| stand.write(|place| place.generation = Generation(2))),
        ("another group", "malformed", |stand| stand.write(|place| place.group = GroupId([9; 16]))),
        ("a write beyond the end of its volume", "malformed", |stand| stand.write_to(1, SIZE, |_| {})),
        ("a write to no volume", "malformed", |stand| stand.write_to(7, 0, |_| {})),
        ("what is no frame", "malformed", |_| Bytes::from_static(&[0x5a; 512])),
    ];
    for (what, reason, make) in cases {
        let before = rejected(&pair.west, reason);
        let told = send(&pair.east, &pair.west, group, |stand| vec![make(stand)]);
        assert!(told.contains("frame") || told.contains("write"), "{what}: {told}");
        assert_eq!(rejected(&pair.west, reason), before + 1, "{what} counts as {reason}: {told}");
        assert!(pair.west.log_text().contains(&told), "{what}: the log has the reason: {told}");
        assert_eq!(pair.west.group(GROUP).positions, position, "{what} leaves nothing");
    }
    assert!(pair.backing(&pair.west) == copy, "nothing is applied");
    pair.east.start();
    pair.east.wait_pair(GROUP, "the pair to go on", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    pair.assert_same();
}

/// The digest of a marker is of all that came before it.
#[test]
fn a_marker_whose_digest_does_not_match_permits_nothing() {
    let (pair, group, copy) = without_its_primary(272);
    let permitted = pair.west.pair(GROUP).permitted_marker;
    let told = send(&pair.east, &pair.west, group, |stand| vec![stand.write(|_| {}), stand.marker_without_the_write()]);
    assert!(told.contains("digest"), "{told}");
    assert_eq!(rejected(&pair.west, "digest"), 1, "{told}");
    assert!(pair.west.log_text().contains(&told), "{told}");
    let now = pair.west.pair(GROUP);
    assert_eq!((now.permitted_marker, now.applied_marker), (permitted, permitted), "{now:?}");
    assert!(pair.backing(&pair.west) == copy, "nothing is applied");
}

/// Regions are no part of the history: their copy's steps say which there are.
#[test]
fn a_copy_of_which_a_region_did_not_come_is_not_taken_for_complete() {
    let (pair, group, copy) = without_its_primary(273);
    let permitted = pair.west.pair(GROUP).permitted_marker;
    type Make = fn(&Stand) -> Vec<Bytes>;
    let cases: [(&str, Make); 4] = [
        ("a region that was left out", |stand| {
            let (first, second) = (stand.region(0, 7), stand.region(1, 8));
            vec![stand.begin(), first.clone(), stand.step(0, 2, &[&first, &second])]
        }),
        ("a region that is another", |stand| {
            let (first, second) = (stand.region(0, 7), stand.region(1, 8));
            vec![stand.begin(), first.clone(), stand.region(1, 9), stand.step(0, 2, &[&first, &second])]
        }),
        ("a step that was left out with its region", |stand| {
            let second = stand.region(1, 8);
            vec![stand.begin(), second.clone(), stand.step(1, 2, &[&second])]
        }),
        ("a region behind the last step", |stand| {
            let copy = stand.welcome.position.received_marker;
            let end = ControlRecord::CopyEnd { copy, marker: copy }.frame(&stand.end()).expect("a record");
            vec![stand.begin(), stand.region(0, 7), end.into()]
        }),
    ];
    for (what, make) in cases {
        let before = rejected(&pair.west, "digest");
        let told = send(&pair.east, &pair.west, group, make);
        assert!(told.contains("region"), "{what}: {told}");
        assert_eq!(rejected(&pair.west, "digest"), before + 1, "{what}: {told}");
        assert!(pair.west.log_text().contains(&told), "{what}: the log has the reason: {told}");
        assert_eq!(pair.west.pair(GROUP).permitted_marker, permitted, "{what}");
    }
    assert!(pair.backing(&pair.west) == copy, "nothing is applied");
}
