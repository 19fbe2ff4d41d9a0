use tidemark_common::api::types::{PairState, PairStatus};
use tidemark_common::catalog::{Catalog, CopyRecord, GroupRecord, PairRecord, PairStateRecord, PartedRecord};
use tidemark_common::clock::SystemClock;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::link::LinkError;
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{DiskFile, Open};
use tidemark_common::volumes::VolumeFile;
use tidemark_common::watchdog::{Moving, Watchdog};
use tidemark_common::wire::handshake::HandshakeError;
use tidemark_common::wire::message::{Message, Position, Refusal, Refused, Welcome};
use tokio::sync::oneshot;

use super::members::Unrecorded;
use super::*;
use crate::cut::CutRequest;
use crate::differences::{encode_new, everything};
use crate::drain::Draining;
use crate::rig::{SIZE, group_of, parts_in};

const JOURNAL: JournalOptions = JournalOptions { segment_bytes: 8 << 20, capacity_bytes: 64 << 20 };

fn start(directory: &std::path::Path) -> Arc<Primary> {
    let (parts, options) = parts_in(directory, group_of(&["a", "b"]), JOURNAL);
    Primary::start(parts, options).unwrap()
}

/// The same, and the disk of its catalogue.
fn start_over_records(directory: &std::path::Path) -> (Arc<Primary>, MemoryDisk) {
    let records = MemoryDisk::new();
    let catalog = Catalog::open_simulated(&records, "records".as_ref(), &SystemClock::new()).unwrap();
    let (mut parts, options) = parts_in(directory, group_of(&["a", "b"]), JOURNAL);
    let record = parts.keeper.get();
    catalog.put_group(&record).unwrap();
    parts.keeper = Arc::new(GroupKeeper::new(catalog, record));
    (Primary::start(parts, options).unwrap(), records)
}

/// The drain ends: nothing more comes into the journal.
fn end_drain(primary: &Primary) {
    primary.desk.stop(&primary.image.buffer);
    while !primary.desk.is_stopped() {
        std::thread::yield_now();
    }
}

fn members(primary: &Primary) -> Vec<String> {
    primary.keeper.get().volumes.into_iter().map(|member| member.name).collect()
}

/// A group did what it was made with, for ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_full_journal_is_to_do_is_changed_while_the_group_runs() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let does = || (primary.keeper.get().on_full, primary.desk.throttle.is_enabled());
    assert_eq!(does(), (OnFullRecord::Fold, false));
    let history = History { milliseconds: 60_000, bytes: 0 };
    primary.set(Some(history), Some(OnFull::Throttle)).unwrap();
    assert_eq!(does(), (OnFullRecord::Throttle, true));
    primary.set(None, Some(OnFull::Fold)).unwrap();
    assert_eq!(does(), (OnFullRecord::Fold, false));
    assert_eq!(primary.keeper.get().history, history, "it stays as it was");
    primary.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_leaving_cannot_be_recorded_stays_a_member_in_every_way() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    primary.export("a").unwrap().write(0, &[1; 4096], true).await.unwrap();
    end_drain(&primary);
    primary.remove_volume("a").await.unwrap_err();
    assert_eq!(members(&primary), ["a", "b"]);
    assert!(primary.export("a").is_some(), "what is written to it is still written back");
    primary.stop();
}

/// With room for the first of its records, and none for the others.
#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_coming_cannot_be_taken_back_is_a_member_in_every_way() {
    let directory = tempfile::tempdir().unwrap();
    let (primary, records) = start_over_records(directory.path());
    end_drain(&primary);
    let file = primary.parts.disk.open(&directory.path().join("c"), Open::New).unwrap();
    file.grow(SIZE).unwrap();
    // A write, and its sync.
    records.power_off_after(2);
    let added = primary.add_volume(VolumeFile::new(VolumeIndex(3), "c".into(), file, SIZE)).await;
    assert!(added.unwrap_err().contains("in the group all the same"));
    assert_eq!(members(&primary), ["a", "b", "c"]);
    assert!(primary.export("c").is_some(), "what is written to it reaches the copies");
    primary.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_leaving_cannot_be_taken_back_has_left() {
    let directory = tempfile::tempdir().unwrap();
    let (primary, records) = start_over_records(directory.path());
    let all = primary.keeper.get().volumes;
    let leave = || primary.keeper.update(|record| record.volumes.retain(|member| member.name != "a")).unwrap();
    let not = || Unrecorded::Not("there is no room".into());
    leave();
    primary.take_back_leaving("a", all.clone(), not()).unwrap_err();
    assert_eq!(members(&primary), ["a", "b"]);
    leave();
    primary.take_back_leaving("a", all.clone(), Unrecorded::Perhaps("the disk hangs".into())).unwrap();
    assert_eq!(members(&primary), ["b"], "its pairs may be told so");
    records.power_off_after(0);
    primary.take_back_leaving("a", all, not()).unwrap();
    assert_eq!(members(&primary), ["b"], "and so the next start finds it");
    primary.stop();
}

/// The drain does not come to it, as when its disk hangs.
#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_is_not_taken_in_time_is_not_taken_at_all() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, options) = parts_in(directory.path(), group_of(&["a"]), JOURNAL);
    let (primary, mut stages) = Primary::open(parts, options).unwrap();
    let record = ControlRecord::Volumes { volumes: primary.image.volumes.specs() };
    let recorded = primary.record_within(Duration::ZERO, record).await;
    assert!(matches!(recorded, Err(Unrecorded::Not(_))), "{recorded:?}");
    assert_eq!(stages.drain.step(), Draining::Idle, "nobody wants it any more");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_announced_size_is_not_the_hosts_before_the_volume_grows() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let export = primary.export("a").unwrap();
    let announced = primary.announce_size("a", 2 * SIZE).await.unwrap();
    assert_eq!(export.bounds().size, SIZE);
    primary.grow_volume("a", 2 * SIZE, announced).unwrap();
    assert_eq!(export.bounds().size, 2 * SIZE);
    export.write(SIZE, &[1; 4096], true).await.unwrap();
    primary.stop();
}

/// What is recorded next would be larger than the file after a loss of power.
#[tokio::test(flavor = "multi_thread")]
async fn the_room_for_an_announced_size_is_durable() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, options) = parts_in(directory.path(), group_of(&["a"]), JOURNAL);
    let disk = MemoryDisk::new();
    let file = disk.open("a".as_ref(), Open::New).unwrap();
    file.grow(SIZE).unwrap();
    file.sync().unwrap();
    disk.sync_folder("".as_ref()).unwrap();
    parts.volumes.insert(VolumeFile::new(VolumeIndex(1), "a".into(), file, SIZE));
    let primary = Primary::start(parts, options).unwrap();
    let _held = primary.announce_size("a", 2 * SIZE).await.unwrap();
    for seed in 0..8 {
        let bytes = disk.fork().crash(seed).bytes_of("a".as_ref()).unwrap();
        assert_eq!(bytes.len() as u64, 2 * SIZE, "seed {seed}");
    }
    primary.stop();
}

/// Breaks off whatever asks it.
struct Broken;

impl Disk for Broken {
    fn open(&self, _: &std::path::Path, _: Open) -> io::Result<Arc<dyn DiskFile>> {
        unreachable!("as it was to")
    }

    fn list(&self, _: &std::path::Path) -> io::Result<Vec<String>> {
        unreachable!("as it was to")
    }

    fn rename(&self, _: &std::path::Path, _: &std::path::Path) -> io::Result<()> {
        unreachable!("as it was to")
    }

    fn remove(&self, _: &std::path::Path) -> io::Result<()> {
        unreachable!("as it was to")
    }

    fn create_folder(&self, _: &std::path::Path) -> io::Result<()> {
        unreachable!("as it was to")
    }

    fn sync_folder(&self, _: &std::path::Path) -> io::Result<()> {
        unreachable!("as it was to")
    }
}

impl Readers for Broken {
    fn oldest_needed(&self) -> Option<tidemark_common::journal::Position> {
        unreachable!("as it was to")
    }

    fn make_room(&self, _: &mut dyn FnMut() -> Option<tidemark_common::journal::Position>) {}
}

/// Its round was over: hosts that are alone were answered still, and a flush of any other waited for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_drain_whose_thread_a_panic_has_ended_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, options) = parts_in(directory.path(), group_of(&["a"]), JOURNAL);
    let (primary, Stages { drain, .. }) = Primary::open(parts, options).unwrap();
    let export = primary.export("a").unwrap();
    export.write(0, &[1; 4096], false).await.unwrap();
    let (shared, spill) = (Arc::clone(&primary.drain), Spill::new(Arc::new(Broken), "runs".into(), 0));
    std::thread::spawn(move || shared.run(drain, &spill)).join().unwrap_err();
    assert!(primary.problem().is_some_and(|problem| problem.contains("the drain ended by a defect")));
    assert_eq!(export.flush_alone().await, Err(IoError::Io));
    assert_eq!(export.flush().await, Err(IoError::Io));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_updater_that_a_panic_has_ended_is_told() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, options) = parts_in(directory.path(), group_of(&["a"]), JOURNAL);
    let (primary, Stages { mut writeback, .. }) = Primary::open(parts, options).unwrap();
    writeback.readers = Arc::new(Broken);
    std::thread::spawn(move || writeback.run()).join().unwrap_err();
    assert!(primary.problem().is_some_and(|problem| problem.contains("the updater ended by a defect")));
}

/// A copy that begins later would make its volumes larger than these are.
#[tokio::test(flavor = "multi_thread")]
async fn a_size_that_could_not_be_recorded_is_not_announced() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    end_drain(&primary);
    primary.announce_size("a", 2 * SIZE).await.unwrap_err();
    assert!(primary.image.volumes.announced_specs().iter().all(|spec| spec.size == SIZE));
    primary.stop();
}

/// The other side may have it made on a file that is larger, or that was the copy of an earlier one: what that holds would be called equal.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_volume_grows_by_before_the_other_side_has_it_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let record = PairRecord::new("west", 0);
    primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
    let pair = primary.add_pair(&record);
    let announced = primary.announce_size("a", 2 * SIZE).await.unwrap();
    primary.grow_volume("a", 2 * SIZE, announced).unwrap();
    assert!(pair.differences.bitmap().is_empty(), "the other side has it");
    let file = primary.parts.disk.open(&directory.path().join("c"), Open::New).unwrap();
    file.grow(SIZE).unwrap();
    primary.add_volume(VolumeFile::new(VolumeIndex(3), "c".into(), file, SIZE)).await.unwrap();
    let announced = primary.announce_size("c", 2 * SIZE).await.unwrap();
    primary.grow_volume("c", 2 * SIZE, announced).unwrap();
    let grown = pair.differences.bitmap().next_run(VolumeIndex(3), SIZE);
    assert_eq!(grown.map(|grown| (grown.offset, grown.end())), Some((SIZE, 2 * SIZE)));
    primary.stop();
}

/// After a restart nobody knows how far it had come: all of it would be copied again.
#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_that_has_begun_goes_on_though_a_volume_grows() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let all = everything(&primary.volume_sizes());
    let copy = CopyRecord { number: 7, ..CopyRecord::first(all.bytes()) };
    let record = PairRecord { copy: Some(copy.clone()), ..PairRecord::new("west", 0) };
    primary.keeper.catalog().put_bitmap(primary.keeper.id(), "west", &encode_new(&all)).unwrap();
    primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
    let pair = primary.add_pair(&record);
    let announced = primary.announce_size("a", 2 * SIZE).await.unwrap();
    primary.grow_volume("a", 2 * SIZE, announced).unwrap();
    assert_eq!(pair.differences.copy(), Some(copy));
    primary.stop();
}

/// It may have grown the volume, too, when it was primary, and keeps what it wrote there until it has all of the copy.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_volume_grows_by_while_an_old_primary_returns_is_copied() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let mut differs = Bitmap::default();
    differs.mark(Extent { volume: VolumeIndex(1), offset: 0, length: 4096 });
    let record = PairRecord {
        state: PairStateRecord::Resync,
        copy: Some(CopyRecord { number: 7, ..CopyRecord::first(differs.bytes()) }),
        parted: Some(PartedRecord { marker: 1, seq: 0, chain: [0; 16], segment: 1, offset: 0 }),
        ..PairRecord::new("west", 0)
    };
    primary.keeper.catalog().put_bitmap(primary.keeper.id(), "west", &encode_new(&differs)).unwrap();
    primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
    let pair = primary.add_pair(&record);
    let announced = primary.announce_size("a", 2 * SIZE).await.unwrap();
    primary.grow_volume("a", 2 * SIZE, announced).unwrap();
    let grown = pair.differences.bitmap().next_run(VolumeIndex(1), SIZE);
    assert_eq!(grown.map(|grown| (grown.offset, grown.end())), Some((SIZE, 2 * SIZE)));
    primary.stop();
}

/// Another start would open the journal while this one still writes it.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_that_cannot_have_both_its_threads_has_none() {
    let directory = tempfile::tempdir().unwrap();
    let journal = JournalOptions { segment_bytes: 8 << 20, capacity_bytes: 64 << 20 };
    let (parts, options) = parts_in(directory.path(), group_of(&["a"]), journal);
    let (primary, stages) = Primary::open(parts, options).unwrap();
    let (ends, ended) = sync_channel(2);
    let spawn = |name: String, work: Work| {
        if name.starts_with("updater") {
            return Err(io::Error::from(io::ErrorKind::WouldBlock));
        }
        let ends = ends.clone();
        std::thread::Builder::new().spawn(move || {
            work();
            ends.send(()).unwrap();
        })
    };
    assert!(matches!(primary.start_threads(stages, spawn), Err(StartError::Thread(_))));
    ended.recv_timeout(Duration::from_secs(20)).expect("the drain goes on");
    assert!(primary.threads.lock().is_empty() && !primary.desk.is_stopped());
}

/// It may have followed until the service ended.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_lags_no_longer_than_the_service_runs_and_stands_suspended_since_it_was() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    for (peer, state, since_start) in
        [("west", PairStateRecord::CatchingUp, true), ("north", PairStateRecord::Suspended, false)]
    {
        let record = PairRecord { state, ..PairRecord::new(peer, 0) };
        primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
        let pair = primary.insert_pair(&record);
        let status = pair.status();
        assert_eq!(status.since > jiff::Timestamp::UNIX_EPOCH, since_start, "{status:?}");
        assert_eq!(pair.goes_on(), state == PairStateRecord::CatchingUp, "what is suspended waits for a person");
        pair.resume().unwrap();
        assert!(pair.goes_on());
    }
    primary.stop();
}

/// A pair whose copy said that it has an image, and answers so from then on: what is shown of it.
async fn shown_after(refusal: Refusal, message: &str) -> PairStatus {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    primary.export("a").unwrap().write(0, &[1; 4096], true).await.unwrap();
    let record = PairRecord::new("west", 0);
    primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
    let pair = primary.insert_pair(&record);
    let far = Position { durable_seq: 1, received_marker: 1, permitted_marker: 1, ..Position::default() };
    {
        let mut view = pair.view.lock();
        view.state = PairState::CatchingUp;
        view.acknowledge(far, Some(Duration::ZERO), primary.clock().monotonic());
    }
    assert!(pair.status().rpo_seconds.is_some());
    let refused = Refused { refusal, message: message.into(), generation: 1 };
    pair.disconnected(Some(HandshakeError::Refused(refused).into()));
    let status = pair.status();
    primary.stop();
    status
}

/// It has no image then: nothing is said of how old that is, and nobody waits for a marker of it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_says_it_is_damaged_is_not_said_to_have_an_image() {
    let status = shown_after(Refusal::Damaged, "its journal is damaged").await;
    assert_eq!((status.state, status.rpo_seconds), (PairState::Differential, None));
    assert_eq!((status.permitted_marker, status.applied_marker), (0, 0));
}

/// Its side gave it up while the line was down, or was put back to before it was made.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_no_more_is_not_said_to_have_an_image() {
    let status = shown_after(Refusal::UnknownGroup, "nothing is known of it").await;
    assert_eq!((status.state, status.rpo_seconds), (PairState::Error, None));
    assert_eq!((status.permitted_marker, status.applied_marker), (0, 0));
}

/// It is read on the primary, and what is wrong is on the other side, under the same paths.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_copy_says_is_told_as_its_words_and_not_covered_up_by_a_stream_that_ends() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let record = PairRecord::new("west", 0);
    primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
    let pair = primary.insert_pair(&record);
    let reason = || pair.status().reason.unwrap_or_default();
    pair.disconnected(Some(LinkError::Abandoned.into()));
    assert_eq!(reason(), LinkError::Abandoned.to_string(), "nothing else is known");
    pair.heard(Message::Trouble("write volume 'a' at 0: no space".into())).unwrap();
    pair.disconnected(Some(LinkError::Abandoned.into()));
    assert_eq!(reason(), "'west' says: write volume 'a' at 0: no space");
    let ended = pair.heard(Message::Goodbye { message: "the copy stands".into() }).unwrap_err();
    pair.disconnected(Some(ended));
    assert_eq!(reason(), "'west' says: the copy stands");
    primary.stop();
}

/// What is in the journal before a copy's begin is not sent, and so neither is the record of that size.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_begins_while_a_volume_grows_says_the_size_it_is_to_have() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let all = everything(&primary.volume_sizes());
    let record = PairRecord { copy: Some(CopyRecord::first(all.bytes())), ..PairRecord::new("west", 0) };
    primary.keeper.catalog().put_bitmap(primary.keeper.id(), "west", &encode_new(&all)).unwrap();
    primary.keeper.update(|group| group.pairs.push(record.clone())).unwrap();
    let pair = primary.add_pair(&record);
    let announced = primary.announce_size("a", 2 * SIZE).await.unwrap();
    let welcome = Welcome {
        version: 1,
        appliance: "west".into(),
        has_history: false,
        generation: 1,
        position: Position::default(),
        chain: [0; 16],
        journal_free_bytes: 64 << 20,
        journal_capacity_bytes: 64 << 20,
    };
    let feeder = pair.begin(&welcome).await.unwrap();
    let begin = feeder.copy.and_then(|copy| copy.begin);
    let Some(ControlRecord::CopyBegin { volumes, .. }) = &begin else { panic!("{begin:?}") };
    let sizes: Vec<u64> = volumes.iter().map(|spec| spec.size).collect();
    assert_eq!(sizes, [2 * SIZE, SIZE]);
    primary.grow_volume("a", 2 * SIZE, announced).unwrap();
    primary.stop();
}

/// The updater stands as it does when a volume's disk hangs.
#[tokio::test(flavor = "multi_thread")]
async fn the_index_is_bounded_while_the_updater_hangs_and_hosts_go_on() {
    const STEP: u64 = 8192;
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let (release, released) = std::sync::mpsc::sync_channel::<()>(1);
    let (tell, told) = std::sync::mpsc::sync_channel::<()>(1);
    let desk = Arc::clone(&primary.writeback);
    let hangs = std::thread::spawn(move || {
        let _held = desk.problem.lock();
        let _ = tell.send(());
        let _ = released.recv();
    });
    told.recv().unwrap();
    let exports = ["a", "b"].map(|name| primary.export(name).unwrap());
    let begin = primary.clock().monotonic();
    let ranges = || primary.image.buffer.index_ranges();
    let check_time = || {
        let waited = primary.clock().monotonic().saturating_sub(begin);
        assert!(waited < Duration::from_secs(20), "{:?} in memory, on the disk", ranges());
    };
    // The updater may take what is written first with its last step.
    while ranges().1 == 0 {
        check_time();
        for (export, value) in exports.iter().zip([2, 3]) {
            for at in (0..SIZE / STEP).map(|step| step * STEP) {
                export.write(at, &[value; 4096], false).await.unwrap();
                // What is only buffered stays in memory, and is not looked at again before that has doubled.
                while primary.image.buffer.bytes() > 64 << 10 {
                    check_time();
                    tokio::task::yield_now().await;
                }
            }
            export.write(SIZE - 4096, &[value; 4096], true).await.unwrap();
        }
        while ranges().0 > 2 * primary.options.index_ranges_max {
            check_time();
            tokio::task::yield_now().await;
        }
    }
    for (export, value) in exports.iter().zip([2, 3]) {
        let mut read = [0_u8; 8192];
        export.read(SIZE - STEP, &mut read).await.unwrap();
        assert_eq!(read, [value; 8192]);
        export.read(STEP, &mut read).await.unwrap();
        assert_eq!((read[4095], read[4096]), (value, 0));
    }
    drop(release);
    hangs.join().unwrap();
    primary.stop();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_leaves_with_all_that_was_written_to_it() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    primary.export("a").unwrap().write(4096, &[2; 4096], false).await.unwrap();
    primary.remove_volume("a").await.unwrap();
    assert_eq!(members(&primary), ["b"]);
    assert!(primary.export("a").is_none());
    assert_eq!(std::fs::read(directory.path().join("a")).unwrap()[4096..8192], [2; 4096]);
    primary.stop();
}

/// Whoever made the round, the drain's thread here: hosts are told, now and from then on.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_a_drain_that_a_panic_has_ended() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let export = primary.export("a").unwrap();
    export.write(0, &[1; 4096], true).await.unwrap();
    // A cut that the drain has passed already.
    let boundary = crate::buffer::Boundary { seq: Seq(0), time: primary.clock().wall(), frozen: Duration::ZERO };
    let mut gate = primary.image.buffer.shut(Duration::from_secs(20)).unwrap();
    gate.note(crate::cut::PendingCut { boundary, request: None });
    drop(gate);
    export.write(0, &[2; 4096], true).await.unwrap_err();
    export.write(0, &[3; 4096], false).await.unwrap_err();
    assert!(primary.problem().unwrap().contains("defect"));
    primary.stop();
}

/// A journal that is full of what a volume does not take was said to go on by itself.
#[tokio::test(flavor = "multi_thread")]
async fn what_keeps_volumes_from_being_written_is_told_beside_what_that_has_filled() {
    let directory = tempfile::tempdir().unwrap();
    let (parts, options) = parts_in(directory.path(), group_of(&["a"]), JOURNAL);
    let (primary, _stages) = Primary::open(parts, options).unwrap();
    *primary.writeback.problem.lock() = Some("volume 'a' takes nothing".into());
    primary.desk.lose(&primary.image.buffer);
    let told = primary.problem().unwrap();
    assert!(told.starts_with("volume 'a' takes nothing. the drain ended"), "{told}");
}

/// Once the record of its volumes has left the journal, each start of a group with a pair writes it again.
#[tokio::test(flavor = "multi_thread")]
async fn a_group_whose_journal_is_full_to_the_last_record_starts() {
    let directory = tempfile::tempdir().unwrap();
    let small = JournalOptions { segment_bytes: 16 << 10, capacity_bytes: 32 << 10 };
    let record = GroupRecord { pairs: vec![PairRecord::new("west", 0)], ..group_of(&["a"]) };
    let (parts, options) = parts_in(directory.path(), record, small);
    let (disk, group, generation) = (Arc::clone(&parts.disk), parts.keeper.id(), parts.keeper.generation().0);
    let opened = journal::open(disk, &options.journal_folder, group, small, None, &mut |_, _, _| {}).unwrap();
    let mut writer = opened.writer;
    let mut others = parts.volumes.specs();
    others.iter_mut().for_each(|spec| spec.size = SIZE / 2);
    let full = loop {
        let other = ControlRecord::Volumes { volumes: others.clone() };
        if let Err(error) = writer.append(&other.frame(&place_at(&parts, &writer, generation)).unwrap()) {
            break error;
        }
    };
    assert!(full.is_journal_full(), "{full}");
    writer.sync().unwrap();
    drop(writer);
    let (primary, _stages) = Primary::open(parts, options).unwrap();
    assert!(primary.image.journal.is_full(), "nothing has left it");
}

/// A journal that is full for as long as a link is down: whoever asks for an image would keep all others waiting.
#[tokio::test(flavor = "multi_thread")]
async fn a_marker_that_an_image_begins_at_is_not_waited_for_without_end() {
    let directory = tempfile::tempdir().unwrap();
    let primary = start(directory.path());
    let late = crate::joint::in_time(&primary, Duration::ZERO, std::future::pending()).await.unwrap_err();
    assert!(late.to_string().contains("group 'g' did not write its marker within 0 s"), "{late}");
    primary.stop();
}

/// Hosts go on and all of it moves: only the copies get no newer moment.
#[tokio::test(flavor = "multi_thread")]
async fn a_primary_that_cuts_no_markers_is_told_when_one_has_been_due_for_long() {
    // Each freeze is longer than none at all.
    for (freeze_limit, is_cut) in [(Duration::from_secs(1), true), (Duration::ZERO, false)] {
        let directory = tempfile::tempdir().unwrap();
        let (parts, mut options) = parts_in(directory.path(), group_of(&["a"]), JOURNAL);
        options.drain.freeze_limit = freeze_limit;
        let (primary, mut stages) = Primary::open(parts, options).unwrap();
        let interval = primary.desk.interval().as_secs();
        let dog = Watchdog::default();
        let stands = |seconds| {
            dog.look("g", primary.movements(), Duration::from_secs(seconds));
            dog.standing("g").iter().any(|one| one.position == Moving::Cut && one.is_stuck())
        };
        assert!(!stands(0) && !stands(2 * interval), "nothing was written");
        primary.export("a").unwrap().write(0, &[1; 4096], false).await.unwrap();
        primary.want_durable(primary.image.buffer.captured());
        while stages.drain.step() == Draining::Did {}
        assert!(!stands(3 * interval + 59), "a marker may come an interval later");
        let (reply, mut done) = oneshot::channel();
        primary.desk.ask_cut(CutRequest { tag: None, reply }, &primary.image.buffer);
        while stages.drain.step() == Draining::Did {}
        assert_eq!(done.try_recv().unwrap().is_ok(), is_cut);
        assert_eq!(stands(3 * interval + 60), !is_cut);
    }
}
