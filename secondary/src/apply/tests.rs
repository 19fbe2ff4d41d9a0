//! What the updater of a copy records, and what it says.

use std::collections::{BTreeSet, VecDeque};
use std::io::ErrorKind;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use tidemark_common::catalog::{Catalog, GroupRecord, PairRecord, RoleRecord};
use tidemark_common::clock::{HandClock, SystemClock};
use tidemark_common::history::History;
use tidemark_common::ids::GroupId;
use tidemark_common::journal::{self, JournalOptions};
use tidemark_common::metrics::Metrics;
use tidemark_common::record::{ControlRecord, FrameHeader, HEADER_BYTES, Place, Tip};
use tidemark_common::storage::Disk;
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::t0::{EraUser, ErasParts, SideSpace};
use tidemark_common::wire::message::{Hello, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, VolumeSpec};
use tokio_util::sync::CancellationToken;

use super::*;
use crate::group::Secondary;
use crate::image_point::Asked;
use crate::intake::tests::{AsTheyAre, marker, write};

mod settling;

pub(crate) const JOURNAL: JournalOptions = JournalOptions { segment_bytes: 512 << 10, capacity_bytes: 4 << 20 };

/// What a copy that is to keep a history is started with: on its catalogue's disk, on that of all else, with the users of its images.
pub(crate) fn parts(records: &MemoryDisk, disk: &MemoryDisk, users: &[EraUser]) -> SecondaryParts {
    let catalog = Catalog::open_simulated(records, "records".as_ref(), &SystemClock::new()).unwrap();
    let group = GroupRecord {
        role: RoleRecord::Secondary,
        next_volume_index: 2,
        pairs: vec![PairRecord::new("east", 0)],
        primary: Some([1; 32]),
        history: History { milliseconds: 60_000, bytes: 0 },
        ..GroupRecord::new("g", [7; 16])
    };
    catalog.put_group(&group).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    let (folder, space) = ("/images".into(), Arc::new(SideSpace::new(1 << 30)));
    let group_id = GroupId(group.id);
    let images =
        ErasParts { disk: Arc::clone(&disk), folder, group: group_id, space, index_ranges_max: 8, outlive: true };
    let metrics = Metrics::new("west", "0", jiff::Timestamp::UNIX_EPOCH).group("g");
    SecondaryParts {
        disk,
        clock: Arc::new(SystemClock::new()),
        keeper: Arc::new(GroupKeeper::new(catalog, group)),
        volumes: Arc::new(Volumes::default()),
        provider: Arc::new(AsTheyAre),
        journal_folder: "/journal".into(),
        journal: JOURNAL,
        index_ranges_max: 8,
        appliance: "west".into(),
        pair_metrics: metrics.pair("east"),
        metrics,
        eras: Eras::open(images, users).unwrap().0,
    }
}

/// A copy that is to keep a history, and its catalogue's disk.
pub(crate) fn copy() -> (Arc<Secondary>, Apply, MemoryDisk) {
    let records = MemoryDisk::new();
    let (secondary, apply) = Secondary::open(parts(&records, &MemoryDisk::new(), &[])).unwrap();
    (secondary, apply, records)
}

/// The rest goes well meanwhile, and says nothing of it.
#[test]
fn a_floor_that_cannot_be_recorded_is_shown_until_it_can() {
    let (secondary, mut apply, records) = copy();
    let end = secondary.journal().durable_end();
    let marker = MarkerRecord { number: 1, boundary_seq: 0, time_ns: 1, freeze_ns: 1, tag: None };
    secondary.state().durable(&[(ControlRecord::Marker(marker), end.position)], &end);
    let problem = |apply: &mut Apply| {
        apply.keep_history();
        let limit = apply.state.limit();
        assert_eq!(apply.step(limit), Applying::Idle);
        apply.state.problem_of(Concern::Updater)
    };
    records.fail_next_sync(ErrorKind::StorageFull);
    assert!(problem(&mut apply).is_some());
    assert_eq!(apply.state.history().floor, None);
    assert_eq!(problem(&mut apply), None);
    assert!(apply.state.history().floor.is_some());
}

pub(crate) fn hello() -> Hello {
    Hello {
        version_min: PROTOCOL_VERSION_MIN,
        version_max: PROTOCOL_VERSION,
        appliance: "east".into(),
        group: [7; 16],
        group_name: "g".into(),
        member: 0,
        members: 1,
        generation: 1,
        create: true,
        volumes: Vec::new(),
        interval_ms: 1000,
        generation_start_seq: 1,
    }
}

fn marked(number: u64) -> ControlRecord {
    ControlRecord::Marker(MarkerRecord { number, boundary_seq: 0, time_ns: 1, freeze_ns: 1, tag: None })
}

/// A copy with these volumes, complete with marker 8.
fn copied(volumes: Vec<VolumeSpec>) -> Vec<ControlRecord> {
    let (copy, chain) = (7, [3; 16]);
    let begin =
        ControlRecord::CopyBegin { copy, start_seq: 0, start_marker: 7, chain, direct: true, total_bytes: 0, volumes };
    vec![begin, marked(8), ControlRecord::CopyEnd { copy, marker: 8 }]
}

/// These come from the primary, behind what has come.
fn send(secondary: &Secondary, tip: &mut Tip, records: Vec<ControlRecord>) {
    let mut frames = VecDeque::<Bytes>::new();
    for record in records {
        let frame = record.frame(&Place::at(secondary.keeper().id(), tip)).unwrap();
        *tip = tip.follow(&FrameHeader::decode(&frame).unwrap()).unwrap();
        frames.push_back(frame.into());
    }
    let (_, mut intake) = secondary.enter(&hello(), PROTOCOL_VERSION).unwrap();
    intake.step(|| frames.pop_front()).unwrap();
    secondary.leave(intake);
}

/// A primary whose disk was put back to last week, or the third side of a group of which two took over from each other. A start
/// goes by the newest marker that is kept: the copy would be called what it was before.
#[test]
fn a_copy_that_was_copied_anew_is_called_by_no_marker_of_the_history_before() {
    let (secondary, mut apply, _records) = copy();
    let (id, catalog) = (secondary.keeper().id(), secondary.keeper().catalog().clone());
    let before = KeptMarkerRecord { number: 500, boundary_seq: 9000, time_ns: 1, tag: None };
    catalog.put_markers(id, &[before]).unwrap();
    apply.recorded_marker = 500;
    send(&secondary, &mut Tip::default(), copied(Vec::new()));
    let limit = apply.state.limit();
    assert_eq!([apply.step(limit), apply.step(limit)], [Applying::Did, Applying::Idle]);
    let kept: Vec<u64> = catalog.markers(id, 10).unwrap().iter().map(|marker| marker.number).collect();
    assert_eq!(kept, [8]);
    assert_eq!(secondary.state().position().permitted_marker, 8);
}

/// A copy with a history that has all of it before it: its catalogue's disk, that of its journal, and the place of a frame in a segment that is
/// not the newest, of which a start reads no more than headers.
fn behind_its_history() -> (MemoryDisk, MemoryDisk, Position) {
    let (records, disk) = (MemoryDisk::new(), MemoryDisk::new());
    let id = GroupId([7; 16]);
    let opened = journal::open(Arc::new(disk.clone()), "/journal".as_ref(), id, JOURNAL, None, &mut |_, _, _| {});
    let mut writer = opened.unwrap().writer;
    let mut tip = Tip::default();
    let mut frames: Vec<Bytes> = (0..8).map(|_| write(&mut tip)).collect();
    frames.push(marker(&mut tip));
    let places: Vec<Position> = frames.iter().map(|frame| writer.append(frame).unwrap()).collect();
    writer.sync().unwrap();
    assert!(places[2].segment < places[8].segment);
    let mut batch = Batch::new();
    batch.put_history(id, &HistoryRecord { segment: 0, offset: 0, volumes: Vec::new() }).unwrap();
    parts(&records, &disk, &[]).keeper.catalog().commit(batch).unwrap();
    (records, disk, places[2])
}

fn damage_what_it_writes_where(disk: &MemoryDisk, frame: Position) {
    let segment = format!("/journal/{:016x}.segment", frame.segment);
    disk.flip_bit(segment.as_ref(), (frame.offset + HEADER_BYTES as u64) * 8).unwrap();
}

/// The updater comes to it when it is too old to be kept. A failover would need it, and nobody else reads it before.
#[test]
fn damage_in_what_a_history_keeps_is_found_by_the_index_and_stays_told() {
    let (records, disk, frame) = behind_its_history();
    damage_what_it_writes_where(&disk, frame);
    let (secondary, mut apply) = Secondary::open(parts(&records, &disk, &[])).unwrap();
    let (permitted, _) = secondary.state().limit_and_end();
    assert!(permitted > frame && !secondary.state().damage().is_cancelled());
    apply.index_permitted(permitted, 0);
    assert!(secondary.state().damage().is_cancelled(), "its primary copies what it lacks");
    let limit = apply.state.limit();
    assert_eq!(apply.step(limit), Applying::Idle);
    let problem = secondary.state().problem_of(Concern::Updater).unwrap_or_default();
    assert!(problem.contains("is damaged at"), "{problem}");
}

/// Notes whether it was asked for the time behind the word that there is damage.
#[derive(Default)]
struct Noting {
    damage: OnceLock<CancellationToken>,
    was_late: AtomicBool,
}

impl Clock for Noting {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        if self.damage.get().is_some_and(CancellationToken::is_cancelled) {
            self.was_late.store(true, Ordering::Release);
        }
        Duration::ZERO
    }
}

/// The conversation that ends by that word says what is shown then. Whatever is shown asks for the time.
#[test]
fn damage_is_shown_before_a_conversation_ends_because_of_it() {
    let (records, disk, frame) = behind_its_history();
    damage_what_it_writes_where(&disk, frame);
    let clock = Arc::new(Noting::default());
    let parts = SecondaryParts { clock: Arc::clone(&clock) as Arc<dyn Clock>, ..parts(&records, &disk, &[]) };
    let (secondary, mut apply) = Secondary::open(parts).unwrap();
    clock.damage.set(secondary.state().damage()).unwrap();
    let (permitted, _) = secondary.state().limit_and_end();
    apply.index_permitted(permitted, 0);
    assert!(secondary.state().damage().is_cancelled() && !clock.was_late.load(Ordering::Acquire));
}

/// Whatever else fails meanwhile would be told anew with each look at either, and each look would count as damage.
#[test]
fn damage_that_is_known_takes_the_place_of_nothing_that_is_told_since() {
    let (records, disk, frame) = behind_its_history();
    damage_what_it_writes_where(&disk, frame);
    let (secondary, mut apply) = Secondary::open(parts(&records, &disk, &[])).unwrap();
    let (permitted, _) = secondary.state().limit_and_end();
    apply.index_permitted(permitted, 0);
    apply.unmoved = Some("no room".into());
    let limit = apply.state.limit();
    assert_eq!(apply.step(limit), Applying::Idle);
    apply.index_permitted(permitted, 0);
    assert_eq!(secondary.state().problem_of(Concern::Updater).as_deref(), Some("no room"));
    apply.unmoved = None;
    assert_eq!(apply.step(limit), Applying::Idle);
    let problem = secondary.state().problem_of(Concern::Updater).unwrap_or_default();
    assert!(problem.contains("is damaged at"), "{problem}");
}

/// A path to a disk comes back within that time. Of a sector that does not, the primary would hear a day later, and a failover could not be had
/// until then.
#[test]
fn what_the_disk_does_not_give_out_of_a_history_is_damage_in_the_end() {
    let (records, disk, frame) = behind_its_history();
    let (secondary, mut apply) = Secondary::open(parts(&records, &disk, &[])).unwrap();
    let clock = Arc::new(HandClock::default());
    apply.clock = Arc::clone(&clock) as Arc<dyn Clock>;
    disk.break_sector(format!("/journal/{:016x}.segment", frame.segment).as_ref(), frame.offset).unwrap();
    let (permitted, _) = secondary.state().limit_and_end();
    for second in 0..u64::from(TRIES) {
        clock.set(Duration::from_secs(second));
        // Markers come more often.
        (0..2).for_each(|_| apply.index_permitted(permitted, 0));
    }
    assert!(secondary.state().problem_of(Concern::Updater).is_some() && !secondary.state().damage().is_cancelled());
    clock.set(Duration::from_secs(TRIES.into()));
    apply.index_permitted(permitted, 0);
    assert!(secondary.state().damage().is_cancelled(), "its primary copies what it lacks");
}

/// A copy that cannot be started because of its journal is mended by its primary, whatever is read there first.
#[test]
fn a_journal_that_is_damaged_before_the_moment_of_an_image_is_known_to_be_damaged() {
    let (records, disk, frame) = behind_its_history();
    let (secondary, apply) = Secondary::open(parts(&records, &disk, &[])).unwrap();
    let (_, point) = secondary.image_point(Asked::Newest).unwrap();
    let joined = secondary.eras().begin(&point.barrier, &BTreeSet::new()).unwrap();
    let user = EraUser { era: joined.era, begin: joined.begin, volumes: BTreeSet::new() };
    drop((point, apply, secondary));
    damage_what_it_writes_where(&disk, frame);
    let error = Secondary::open(parts(&records, &disk, &[user])).unwrap_err();
    assert!(error.is_of_the_journal() && error.is_damage(), "{error}");
}
