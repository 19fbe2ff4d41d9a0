//! The end of a conversation, and who waits for it; what is given up of the journal: a pair that reaches nobody.

use std::io;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::sync::{OnceLock, Weak};
use std::task::{Context, Waker};
use std::thread::JoinHandle;

use jiff::Timestamp;
use tidemark_common::catalog::{Catalog, CatalogError, GroupRecord, OnFullRecord, PairStateRecord, PartedRecord};
use tidemark_common::clock::SystemClock;
use tidemark_common::journal::{JournalError, JournalOptions};
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::link::{DialError, LinkError};
use tidemark_common::storage::filter::{self, Filter};
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::wire::message::{Message, ON_FULL_VERSION};
use tokio::runtime::Builder;

use super::connection::{Told, reason_behind};
use super::*;
use crate::drain::Draining;
use crate::group::{Primary, Stages};
use crate::plan::tests::Rig;
use crate::pressure::PairSet;
use crate::rig::{group_of, parts_in};
use crate::writeback::Readers;

/// Notes, whenever the time is asked for, whether a pair is conversing.
#[derive(Default)]
struct Noting {
    clock: SystemClock,
    pair: OnceLock<Weak<Pair>>,
    seen: Mutex<Vec<bool>>,
    /// A defect shows while it is.
    fails: bool,
}

impl Clock for Noting {
    fn wall(&self) -> Timestamp {
        self.clock.wall()
    }

    fn monotonic(&self) -> Duration {
        let pair = self.pair.get().and_then(Weak::upgrade);
        let conversing = pair.map(|pair| *pair.conversing.borrow());
        self.seen.lock().extend(conversing);
        assert!(!self.fails || conversing != Some(true), "as it was to");
        self.clock.monotonic()
    }
}

/// A pair that goes by this clock.
fn by(clock: &Arc<Noting>, rig: &Rig) -> Arc<Pair> {
    let parts = PairParts {
        image: rig.pair.image.clone(),
        desk: Arc::clone(&rig.pair.desk),
        keeper: Arc::clone(&rig.pair.keeper),
        links: Arc::clone(&rig.pair.links),
        clock: Arc::clone(clock) as Arc<dyn Clock>,
        heartbeat: rig.pair.heartbeat,
        metrics: rig.pair.metrics.clone(),
    };
    let record = rig.pair.keeper.pair("west").unwrap();
    let pair = Arc::new(Pair::new(&record, parts));
    clock.pair.set(Arc::downgrade(&pair)).unwrap();
    pair
}

/// The updater waits for its end without a limit when the journal is full, and a group that stops waits for the updater.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_over_when_a_panic_has_ended_it() {
    let rig = Rig::new(None, REGION_BYTES);
    let pair = by(&Arc::new(Noting { fails: true, ..Noting::default() }), &rig);
    let ended = tokio::spawn(Arc::clone(&pair).run()).await.unwrap_err();
    assert!(ended.is_panic() && !*pair.conversing.borrow());
}

/// A copy that finds no room drops what is sent to it, and then says what there is to do: the pair showed a link that was given up, again and again.
#[tokio::test]
async fn what_the_other_side_says_last_is_why_a_conversation_ended() {
    let says = || std::future::ready(Err(ShipError::Reach("'west' says: raise journal_bytes".into())));
    let told = reason_behind(LinkError::Abandoned.into(), says()).await;
    assert!(matches!(told, ShipError::Reach(_)), "{told}");
    let told = reason_behind(ShipError::Stopped, says()).await;
    assert!(matches!(told, ShipError::Stopped), "{told}");
    let silent = std::future::ready(Err(ShipError::Ended));
    let told = reason_behind(LinkError::Abandoned.into(), silent).await;
    assert!(matches!(told, ShipError::Link(LinkError::Abandoned)), "{told}");
}

/// A damaged journal is read for the pair when its conversation is over. Who has it stand still meanwhile, to give up what a full journal
/// holds for it, trims that: the pair stood in error then, for no reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_conversation_is_over_when_it_is_known_what_its_end_makes_of_the_pair() {
    let rig = Rig::new(None, REGION_BYTES);
    let clock = Arc::new(Noting::default());
    let pair = by(&clock, &rig);
    let mut runs = pin!(Arc::clone(&pair).run());
    assert!(runs.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending(), "it is tried again later");
    let seen = clock.seen.lock().clone();
    let [before, meanwhile @ .., after] = seen.as_slice() else { panic!("the time is asked for: {seen:?}") };
    assert!(!before && !after, "{seen:?}");
    assert!(!meanwhile.is_empty() && meanwhile.iter().all(|conversing| *conversing), "{seen:?}");
}

/// The catalogue answers nobody until the first of what is returned goes.
fn hanging_catalogue(keeper: &Arc<GroupKeeper>) -> (SyncSender<()>, JoinHandle<Result<(), CatalogError>>) {
    let keeper = Arc::clone(keeper);
    let ((hangs, ends), (begins, begun)) = (sync_channel::<()>(1), sync_channel(1));
    let changing = std::thread::spawn(move || {
        keeper.update(|_| {
            begins.send(()).unwrap();
            ends.recv().unwrap_err();
        })
    });
    begun.recv().unwrap();
    (hangs, changing)
}

/// A link that is lost while the catalogue's disk hangs is told of in each pair's state: one after the other, they took all threads, and nobody
/// was heard any more.
#[test]
fn a_state_that_cannot_be_recorded_yet_keeps_no_thread_of_the_runtime() {
    let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let inside = runtime.enter();
    let rig = Rig::new(None, REGION_BYTES);
    let (hangs, changing) = hanging_catalogue(&rig.pair.keeper);
    let pair = Arc::clone(&rig.pair);
    let entering = runtime.spawn(async move { pair.enter(PairState::Error, None).is_ok_and(|entered| entered) });
    let (tells, told) = sync_channel(1);
    runtime.spawn(async move { tells.send(()) });
    let heard = told.recv_timeout(Duration::from_secs(20));
    drop(hangs);
    assert!(heard.is_ok(), "no thread is left");
    assert!(runtime.block_on(entering).unwrap());
    changing.join().unwrap().unwrap();
    assert_eq!(rig.pair.status().state, PairState::Error);
    drop(inside);
}

/// A pair whose catalogue is on this disk.
fn recorded_on(disk: &MemoryDisk, record: &PairRecord, rig: &Rig) -> Arc<Pair> {
    let catalog = Catalog::open_simulated(disk, "records".as_ref(), &SystemClock::new()).unwrap();
    let group = GroupRecord { pairs: vec![record.clone()], ..group_of(&["a"]) };
    catalog.put_group(&group).unwrap();
    let parts = PairParts {
        image: rig.pair.image.clone(),
        desk: Arc::clone(&rig.pair.desk),
        keeper: Arc::new(GroupKeeper::new(catalog, group)),
        links: Arc::clone(&rig.pair.links),
        clock: Arc::clone(&rig.pair.clock),
        heartbeat: rig.pair.heartbeat,
        metrics: rig.pair.metrics.clone(),
    };
    Arc::new(Pair::new(record, parts))
}

/// There was a line with each heartbeat, and one with each window of the updater, for as long as the disk of the catalogue was full.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_catalogue_is_logged_when_it_begins_and_when_it_ends() {
    let mut rig = Rig::new(None, REGION_BYTES);
    for block in 0..16 {
        rig.write(block).await;
    }
    // Something of it is still to be recorded.
    let (state, reason) = (PairStateRecord::CatchingUp, Some("it lagged".to_owned()));
    let record = PairRecord { state, reason, ..PairRecord::new("west", 0) };
    let judges: fn(&Arc<Pair>, &PairSet) = |pair, _| pair.judge();
    let makes_room: fn(&Arc<Pair>, &PairSet) = |_, set| set.make_room(&mut || None);
    for (tries, next) in [(judges, PairState::Paired), (makes_room, PairState::Differential)] {
        for ends in [false, true] {
            let disk = MemoryDisk::new();
            let pair = recorded_on(&disk, &record, &rig);
            let now = pair.clock.monotonic();
            {
                let mut view = pair.view.lock();
                (view.connected, view.heard, view.age) = (true, now, Some((Duration::ZERO, now)));
                view.remote.permitted_marker = 1;
            }
            let set = PairSet::new(&pair.image.journal, Arc::clone(&pair.desk), pair.metrics.clone());
            set.pairs.write().push(Arc::clone(&pair));
            let logged = if next == PairState::Paired { &pair.unrecorded } else { &pair.not_given_up };
            let fails = || {
                disk.fail_next_sync(io::ErrorKind::StorageFull);
                tries(&pair, &set);
                assert_eq!(pair.status().state, PairState::CatchingUp);
            };
            fails();
            if ends {
                tries(&pair, &set);
                assert_eq!(pair.status().state, next);
                assert!(!logged.ends(), "{next}: that was written");
            } else {
                assert!(logged.ends(), "{next}: its begin was written");
                fails();
                assert!(!logged.ends(), "{next}: and not again");
            }
        }
    }
}

/// A pair whose link was lost was called paired, and connecting, for as long as the disk of the catalogue was full.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_lost_its_link_is_not_said_to_follow_though_nothing_can_be_recorded() {
    let rig = Rig::new(None, REGION_BYTES);
    let disk = MemoryDisk::new();
    let record = PairRecord { state: PairStateRecord::CatchingUp, ..PairRecord::new("west", 0) };
    let pair = recorded_on(&disk, &record, &rig);
    assert!(pair.enter(PairState::Paired, None).unwrap());
    disk.fail_next_sync(io::ErrorKind::StorageFull);
    pair.disconnected(Some(ShipError::Reach("nobody answers".into())));
    let told = pair.status();
    assert_eq!((told.state, told.reason.as_deref()), (PairState::CatchingUp, Some("nobody answers")));
    // An error is recorded first.
    assert!(pair.enter(PairState::Paired, None).unwrap());
    pair.disconnected(Some(ShipError::Stands("look here".into())));
    let told = pair.status();
    assert_eq!((told.state, told.stands), (PairState::CatchingUp, true));
    assert!(told.reason.as_ref().is_some_and(|reason| reason.starts_with("look here. That could not")), "{told:?}");
}

/// The disk of the catalogue hangs: heartbeats waited for it as soon as the pair fell behind or caught up, and each side called the link lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_falls_behind_and_catches_up_whatever_the_catalogue_does() {
    let rig = Rig::new(None, REGION_BYTES);
    let pair = Arc::clone(&rig.pair);
    assert!(pair.enter(PairState::CatchingUp, None).unwrap());
    let (hangs, changing) = hanging_catalogue(&pair.keeper);
    let (tells, told) = sync_channel(1);
    std::thread::spawn(move || {
        let why = || Some("the link is lost".to_owned());
        let enters = |state| pair.enter(state, why()).is_ok_and(|entered| entered);
        tells.send([PairState::Paired, PairState::CatchingUp].map(enters))
    });
    let entered = told.recv_timeout(Duration::from_secs(20));
    drop(hangs);
    changing.join().unwrap().unwrap();
    assert_eq!(entered, Ok([true, true]));
}

/// An answer of the copy, or the loss of the link, that came while a suspension was being recorded made the pair follow again: it said that it
/// lags, asked nobody whether this side was replaced, and went on by itself with the next start.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_found_before_a_pair_was_suspended_does_not_make_it_go_on() {
    let rig = Rig::new(None, REGION_BYTES);
    let pair = &rig.pair;
    assert!(pair.enter(PairState::CatchingUp, None).unwrap());
    pair.suspend().unwrap();
    for state in [PairState::Paired, PairState::CatchingUp, PairState::Differential, PairState::Error] {
        assert!(!pair.enter(state, Some("it was so before".into())).unwrap(), "{state}");
        assert_eq!(pair.status().state, PairState::Suspended);
        assert_eq!(pair.keeper.pair("west").unwrap().state, PairStateRecord::Suspended);
    }
    pair.resume().unwrap();
    assert_eq!(pair.status().state, PairState::Differential);
    pair.suspend().unwrap();
    assert!(pair.enter(PairState::Fenced, None).unwrap(), "by who has taken over");
}

/// A side that is gone, or whose pair is suspended, was said to need a person for what it had told before.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_other_side_said_of_itself_ends_with_its_answers() {
    let rig = Rig::new(None, REGION_BYTES);
    let pair = &rig.pair;
    let trouble = || pair.heard(Message::Trouble("no space here".into())).unwrap();
    trouble();
    pair.view.lock().round_trip = Some(Duration::from_millis(12));
    assert!(pair.status().stands);
    let address = "west:7411".into();
    pair.disconnected(Some(DialError::Resolve { address, source: io::ErrorKind::NotFound.into() }.into()));
    let told = pair.status();
    assert_eq!((told.stands, told.round_trip_ms), (false, None));
    trouble();
    pair.suspend().unwrap();
    assert!(!pair.status().stands);
}

/// What is read while a pair is known, and how much of it while the journal could have been folded.
#[derive(Default)]
struct Reads {
    pair: OnceLock<Weak<Pair>>,
    all: AtomicUsize,
    while_it_may_be_folded: AtomicUsize,
}

impl Filter for Reads {
    fn before_read(&self, _bytes: usize) -> io::Result<()> {
        if let Some(pair) = self.pair.get().and_then(Weak::upgrade) {
            self.all.fetch_add(1, Ordering::AcqRel);
            let is_free = pair.reading.try_lock().is_some();
            self.while_it_may_be_folded.fetch_add(usize::from(is_free), Ordering::AcqRel);
        }
        Ok(())
    }
}

/// Into the journal, from whose disk it is read then.
async fn write(primary: &Primary, stages: &mut Stages, block: u64) {
    primary.export("a").unwrap().write(block << 16, &[1; 4096], false).await.unwrap();
    primary.want_durable(primary.image().buffer.captured());
    while stages.drain.step() == Draining::Did {}
    primary.image().journal.rest();
}

/// By an operator, while the updater folds what the pair was never sent; and where a record is damaged.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_given_up_of_the_journal_is_not_folded_meanwhile() {
    let directory = tempfile::tempdir().unwrap();
    let group = GroupRecord { pairs: vec![PairRecord::new("west", 0)], ..group_of(&["a"]) };
    let journal = JournalOptions { segment_bytes: 512 << 10, capacity_bytes: 16 << 20 };
    let (mut parts, options) = parts_in(directory.path(), group, journal);
    let reads = Arc::new(Reads::default());
    parts.disk = filter::disk(Arc::clone(&parts.disk), &reads);
    let (primary, mut stages) = Primary::open(parts, options).unwrap();
    let pair = primary.pair("west").unwrap();
    write(&primary, &mut stages, 0).await;
    reads.pair.set(Arc::downgrade(&pair)).unwrap();
    pair.release().unwrap();
    let seen = || (reads.all.load(Ordering::Acquire), reads.while_it_may_be_folded.load(Ordering::Acquire));
    let (released, unlocked) = seen();
    assert!(released > 0 && unlocked == 0, "{unlocked} of {released}");
    write(&primary, &mut stages, 1).await;
    let before = seen();
    pair.copy_around(&JournalError::TooLarge { bytes: 0 }).unwrap();
    let after = seen();
    assert!(after.0 > before.0 && after.1 == before.1, "{before:?} {after:?}");
}

/// After a change of roles, a copy that a person had to see to fell back to its bitmap though the group slows its hosts.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_has_returned_is_waited_for_as_any_other_copy() {
    let rig = Rig::new(None, REGION_BYTES);
    let parted = PartedRecord { marker: 0, seq: 0, chain: [0; 16], segment: 0, offset: 0 };
    let record = PairRecord { state: PairStateRecord::Error, parted: Some(parted), ..PairRecord::new("west", 0) };
    let pair = recorded_on(&MemoryDisk::new(), &record, &rig);
    assert!(pair.awaits_return());
    pair.view.lock().remote.permitted_marker = 1;
    assert!(!pair.awaits_return(), "it has an image");
}

/// Whoever took over a group that slows its hosts did not, and let its copies fall back to bitmaps.
#[test]
fn the_other_side_is_told_what_the_group_does_when_its_journal_is_full() {
    let mut group = group_of(&["a"]);
    let mut told = Told::in_version(ON_FULL_VERSION);
    assert_eq!(told.news(&group), [Message::History(group.history)]);
    group.on_full = OnFullRecord::Throttle;
    assert_eq!(told.news(&group), [Message::OnFull { throttles: true }]);
    assert!(told.news(&group).is_empty());
    group.on_full = OnFullRecord::Fold;
    assert_eq!(told.news(&group), [Message::OnFull { throttles: false }]);
}

/// It ended each conversation by a message that it did not know, and its copy followed no more.
#[test]
fn a_side_of_an_older_version_is_told_nothing_that_it_does_not_know() {
    let group = GroupRecord { on_full: OnFullRecord::Throttle, ..group_of(&["a"]) };
    let mut told = Told::in_version(ON_FULL_VERSION - 1);
    assert_eq!(told.news(&group), [Message::History(group.history)]);
    assert!(told.news(&group).is_empty());
}

/// The pair connected and lost its connection again and again, and nobody was told why.
#[tokio::test]
async fn a_feeder_that_a_panic_has_ended_is_told() {
    let ended = tokio::task::spawn_blocking(|| -> bool { panic!("as it was to") }).await.unwrap_err();
    let told = super::connection::broke_off("what sends to the copy", &ended);
    assert!(told.waits_for_a_person() && !told.needs_a_person() && told.to_string().contains("defect"), "{told}");
}

/// Nobody called the other side any more, and status showed what it had shown last.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_that_a_panic_has_ended_says_so_and_goes_on() {
    let rig = Rig::new(None, REGION_BYTES);
    let pair = by(&Arc::new(Noting { fails: true, ..Noting::default() }), &rig);
    let keeps = tokio::spawn(Arc::clone(&pair).keep_running());
    let says = || pair.view.lock().reason.as_ref().is_some_and(|reason| reason.contains("defect"));
    while !says() {
        assert!(!keeps.is_finished(), "nobody has stopped it");
        tokio::task::yield_now().await;
    }
    assert!(!keeps.is_finished(), "it is begun anew");
    keeps.abort();
}
