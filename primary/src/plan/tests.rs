//! Where a connection goes on: a group with one volume and one pair, whose stages go only when they are told to.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use tempfile::TempDir;
use tidemark_common::catalog::{GroupRecord, PairRecord};
use tidemark_common::journal::{self, JournalError, JournalOptions};
use tidemark_common::wire::message::{Message, Position};

use super::*;
use crate::cut::CutDone;
use crate::differences::{DifferencesError, encode_new, everything};
use crate::drain::Draining;
use crate::feeder::{Feeder, Shipment};
use crate::group::{Primary, Stages};
use crate::rig::{SIZE, group_of, parts_in};

const VOLUME: VolumeIndex = VolumeIndex(1);

/// See the module.
pub(crate) struct Rig {
    pub(crate) primary: Arc<Primary>,
    pub(crate) stages: Stages,
    pub(crate) pair: Arc<Pair>,
    _directory: TempDir,
}

impl Rig {
    /// A pair of which so much differs.
    pub(crate) fn new(copy: Option<CopyRecord>, differs: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let pairs = vec![PairRecord { copy, ..PairRecord::new("west", 0) }];
        let journal = JournalOptions { segment_bytes: 512 << 10, capacity_bytes: 16 << 20 };
        let (parts, options) = parts_in(directory.path(), GroupRecord { pairs, ..group_of(&["a"]) }, journal);
        let bitmap = encode_new(&everything(&[(VOLUME, differs)]));
        parts.keeper.catalog().put_bitmap(parts.keeper.id(), "west", &bitmap).unwrap();
        let (primary, stages) = Primary::open(parts, options).unwrap();
        let pair = primary.pair("west").unwrap();
        Self { primary, stages, pair, _directory: directory }
    }

    /// Writes what does not compress, a record of the journal by itself.
    pub(crate) async fn write(&mut self, block: u64) {
        self.primary.export("a").unwrap().write(block << 16, &noise(block), false).await.unwrap();
        self.primary.want_durable(self.primary.image().buffer.captured());
        self.drain();
    }

    /// Makes a marker.
    pub(crate) fn cut(&mut self) -> CutDone {
        let (reply, mut done) = oneshot::channel();
        self.pair.desk.ask_cut(CutRequest { tag: None, reply }, &self.pair.image.buffer);
        self.drain();
        done.try_recv().unwrap().unwrap()
    }

    /// The other side stands behind a write, and has no copy.
    fn behind(&self, seq: u64) -> Welcome {
        let mut reader = self.primary.image().journal.reader(journal::Position::default());
        let mut headers = std::iter::from_fn(|| reader.next_header().unwrap());
        let (_, next) = headers.find(|(_, header)| header.seq_before() == Seq(seq)).unwrap();
        welcome(Position { durable_seq: seq, ..Position::default() }, next.chain.0)
    }

    fn drain(&mut self) {
        while self.stages.drain.step() == Draining::Did {}
    }

    /// The other side welcomes it, and the drain goes on meanwhile.
    fn begin(&mut self, welcome: &Welcome) -> Result<Feeder, ShipError> {
        let pair = Arc::clone(&self.pair);
        let mut begins = pin!(pair.begin(welcome));
        loop {
            match begins.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
                Poll::Ready(begun) => return begun,
                Poll::Pending => self.drain(),
            }
        }
    }
}

pub(crate) fn noise(seed: u64) -> Vec<u8> {
    let mut state = (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[4]
    };
    (0..64 << 10).map(|_| next()).collect()
}

/// From one that has something of the group.
fn welcome(position: Position, chain: [u8; 16]) -> Welcome {
    Welcome {
        version: 1,
        appliance: "west".into(),
        has_history: true,
        generation: 1,
        position,
        chain,
        journal_free_bytes: 64 << 20,
        journal_capacity_bytes: 64 << 20,
    }
}

/// A feeder may wait for the cut it asked for while its connection is lost, and the next one sends again what did not arrive: that
/// may hold what was written behind that cut (invariant 4).
#[tokio::test(flavor = "multi_thread")]
async fn only_who_sends_now_says_where_a_copy_ends() {
    let mut rig = Rig::new(Some(CopyRecord::first(SIZE)), SIZE);
    let nothing = Welcome { has_history: false, ..welcome(Position::default(), [0; 16]) };
    let mut old = rig.begin(&nothing).unwrap();
    let copy = rig.pair.differences.copy().unwrap();
    let done = rig.cut();
    let position = Position {
        durable_seq: copy.start_seq,
        received_marker: copy.start_marker,
        copy: copy.number,
        ..Position::default()
    };
    let new = rig.begin(&welcome(position, copy.start_chain)).unwrap();
    assert_eq!(new.copy.map(|copy| (copy.number, copy.end)), Some((copy.number, None)), "it goes on");
    assert!(matches!(old.end_is_cut(done), Err(FeedError::Stopped)));
    assert_eq!(rig.pair.differences.copy().unwrap().end_marker, None);
}

/// The updater asks what pairs need, syncs the volumes, and trims: a pair whose other side was set back comes in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_passes_over_nothing_that_was_trimmed_while_it_was_planned() {
    let mut rig = Rig::new(None, REGION_BYTES);
    for block in 0..SIZE >> 16 {
        rig.write(block).await;
    }
    let (kept, stands) = (Arc::clone(&rig.primary.image().journal), rig.behind(1));
    let pair = Arc::clone(&rig.pair);
    let mut begins = pin!(pair.begin(&stands));
    let mut context = Context::from_waker(Waker::noop());
    assert!(begins.as_mut().poll(&mut context).is_pending(), "it waits for its cut");
    assert!(kept.trim(kept.durable_end().position).unwrap() > 0);
    rig.drain();
    let Poll::Ready(Err(error)) = begins.as_mut().poll(&mut context) else { panic!("a copy without what is gone") };
    assert!(
        matches!(error, ShipError::Differences(DifferencesError::Journal(JournalError::Trimmed { .. }))),
        "{error}"
    );
    assert_eq!(rig.pair.differences.copy(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_of_another_history_is_not_laid_to_damage_because_hosts_wrote_everywhere() {
    let mut rig = Rig::new(None, SIZE);
    let elsewhere = welcome(Position { durable_seq: 5, ..Position::default() }, [9; 16]);
    let Err(ShipError::Stands(said)) = rig.begin(&elsewhere) else { panic!("it has no base") };
    assert!(said.contains("not this group's"), "{said}");
}

/// The machine here was restored to last week: the advice to copy everything anew would overwrite what hosts have written since.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_further_than_this_side_is_not_given_up_unasked() {
    let mut rig = Rig::new(None, SIZE);
    for block in 0..2 {
        rig.write(block).await;
    }
    let mut said = |durable_seq| {
        let elsewhere = welcome(Position { durable_seq, ..Position::default() }, [9; 16]);
        let Err(ShipError::Stands(said)) = rig.begin(&elsewhere) else { panic!("it has no base") };
        said
    };
    let advice = "`tidemark failover g --force` on west";
    assert!(said(3).contains(advice) && !said(2).contains(advice));
}

/// The same while a first copy was under way last week: nobody has asked for what hosts have written since to be overwritten (invariant 5).
#[tokio::test(flavor = "multi_thread")]
async fn a_first_copy_of_last_week_does_not_go_on_over_a_copy_that_is_further() {
    let position = Position { durable_seq: 9, permitted_marker: 3, permitted_seq: 9, ..Position::default() };
    let (begun, ordered) = (CopyRecord { number: 1, ..CopyRecord::first(SIZE) }, CopyRecord::first(SIZE));
    let mut rig = Rig::new(Some(begun), SIZE);
    let Err(ShipError::Stands(said)) = rig.begin(&welcome(position, [9; 16])) else { panic!("it is overwritten") };
    assert!(said.contains("`tidemark failover g --force` on west"), "{said}");
    let no_image = Position { permitted_marker: 0, ..position };
    rig.begin(&welcome(no_image, [9; 16])).unwrap();
    // Asked for just now, over one connection after the other.
    let mut rig = Rig::new(Some(ordered), SIZE);
    for _ in 0..2 {
        rig.begin(&welcome(position, [9; 16])).unwrap();
    }
    assert_ne!(rig.pair.differences.copy().unwrap().number, 0);
}

/// It was set back, for example with its machine, to a place that the journal still holds.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_is_not_sent_again_over_a_base_it_was_not_counted_for() {
    let mut rig = Rig::new(None, REGION_BYTES);
    for block in 0..4 {
        rig.write(block).await;
    }
    // All of them but the last are permitted over there.
    let stands = rig.behind(3);
    let at = rig.primary.image().journal.reader_at_chain(Seq(3), Chain(stands.chain)).unwrap().unwrap().position();
    rig.pair.view.lock().holds = Some(at);
    let bitmap = |feeder: Feeder| feeder.copy.unwrap().bitmap;
    let first = bitmap(rig.begin(&stands).unwrap());
    assert_eq!([0, 1, 2, 3].map(|block| first.is_marked(VOLUME, block << 16)), [true, false, false, true]);
    assert_eq!(bitmap(rig.begin(&stands).unwrap()), first, "it does not have the begin of it");
    let set_back = rig.behind(1);
    let again = bitmap(rig.begin(&set_back).unwrap());
    assert_eq!([0, 1, 2, 3].map(|block| again.is_marked(VOLUME, block << 16)), [true; 4]);
}

/// It was set back, its journal was damaged, or it went back and returns: what came to it behind the copy's begin is in no bitmap, and
/// here it has left the journal (invariant 6).
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_back_before_a_copy_that_it_had_begun_is_no_base() {
    let mut rig = Rig::new(None, REGION_BYTES);
    let blocks = SIZE >> 16;
    for block in 0..blocks / 2 {
        rig.write(block).await;
    }
    let stands = rig.behind(2);
    rig.begin(&stands).unwrap();
    let copy = rig.pair.differences.copy().unwrap();
    assert!(rig.pair.differences.knows(Seq(2), Chain(stands.chain)));
    for block in blocks / 2..blocks {
        rig.write(block).await;
    }
    let end = rig.primary.image().journal.durable_end();
    let position = Position {
        durable_seq: end.seq.0,
        received_marker: copy.start_marker,
        copy: copy.number,
        ..Position::default()
    };
    let ack = Message::Ack { position, heartbeat: 1, good_as_of_ms: 0, journal_free_bytes: 64 << 20 };
    rig.pair.heard(ack).unwrap();
    rig.pair.view.lock().holds = Some(end.position);
    assert!(rig.primary.image().journal.trim(end.position).unwrap() > 0);
    assert!(rig.primary.image().journal.oldest() > copy.start());
    let Err(ShipError::Stands(_)) = rig.begin(&stands) else { panic!("a copy without what came behind its begin") };
}

/// A primary whose disk was put back, and that copies everything anew; or the third side of a group of which two took over from each other.
/// What such a copy has been for long has higher numbers than the end of what is sent to it, and it says so until it has taken the begin.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_side_has_of_another_history_ends_no_copy_and_lets_nothing_go() {
    let mut rig = Rig::new(Some(CopyRecord::first(SIZE)), SIZE);
    let number = 1 << 20;
    let elsewhere = Position {
        durable_seq: number,
        received_marker: number,
        permitted_marker: number,
        permitted_seq: number,
        applied_marker: number,
        ..Position::default()
    };
    let mut feeder = rig.begin(&welcome(elsewhere, [9; 16])).unwrap();
    let holds = rig.pair.holds();
    rig.write(0).await;
    let done = rig.cut();
    let end = done.marker.number;
    let bytes = bytes::Bytes::new();
    let (seq, marker, next) = (Seq(done.marker.boundary_seq), MarkerNumber(end), done.next);
    feeder.end_is_cut(done).unwrap();
    // All of it is on its way.
    rig.pair.sent(&Shipment { bytes, seq, marker, next, spared_bytes: 0 });
    let says = |position| {
        let ack = Message::Ack { position, heartbeat: 1, good_as_of_ms: 1, journal_free_bytes: 64 << 20 };
        rig.pair.heard(ack).unwrap();
        (rig.pair.differences.copy().is_some(), rig.pair.holds() == holds, rig.pair.remote().permitted_marker)
    };
    let told = || {
        let Message::Heartbeat { captured_seq, .. } = rig.pair.heartbeat(1) else { panic!("a heartbeat") };
        captured_seq
    };
    assert_eq!(told(), number + 1, "its image is not as good as that of the newest write here");
    assert_eq!(says(elsewhere), (true, true, 0));
    let given_up = Position { permitted_marker: 0, permitted_seq: 0, applied_marker: 0, ..elsewhere };
    assert_eq!(says(given_up), (true, true, 0), "its image, for the copy");
    let arrived = Position {
        durable_seq: seq.0,
        received_marker: end,
        permitted_marker: end,
        permitted_seq: seq.0,
        ..Position::default()
    };
    assert_eq!(says(arrived), (false, false, end), "all of it at once");
    assert_eq!(told(), seq.0);
}

/// What a side was before it returned is no image of this history: whether it keeps that, only it knows. The operator's word was kept from it.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_side_was_before_it_returned_is_given_up_when_the_operator_says_so() {
    let mut rig = Rig::new(Some(CopyRecord::first(SIZE)), SIZE);
    let not_begun = Welcome { has_history: false, ..welcome(Position::default(), [0; 16]) };
    let gives_up = |rig: &mut Rig, welcome: &Welcome| rig.begin(welcome).unwrap().copy.map(|copy| copy.gives_up);
    assert_eq!(gives_up(&mut rig, &not_begun), Some(false));
    rig.pair.resume_in_place().unwrap();
    assert_eq!(gives_up(&mut rig, &not_begun), Some(true));
    let copy = rig.pair.differences.copy().unwrap();
    let position = Position {
        durable_seq: copy.start_seq,
        received_marker: copy.start_marker,
        copy: copy.number,
        ..Position::default()
    };
    let full = Welcome { journal_free_bytes: 0, ..welcome(position, copy.start_chain) };
    assert_eq!(gives_up(&mut rig, &full), Some(true), "where it stands");
}

/// So much written at once pushes a pair that does not follow out of the journal here, and into a resync that finds no room.
#[tokio::test(flavor = "multi_thread")]
async fn a_pair_is_outrun_by_more_than_either_journal_keeps_for_it() {
    const MIB: u64 = 1 << 20;
    let rig = Rig::new(None, REGION_BYTES);
    let journal_there = |bytes| rig.pair.view.lock().journal_capacity_bytes = Some(bytes);
    assert_eq!(rig.pair.outrun_by(64 * MIB), None, "nothing is known of the other side");
    rig.pair.view.lock().remote.permitted_marker = 1;
    journal_there(16 * MIB);
    assert_eq!(rig.pair.outrun_by(12 * MIB), None, "the journal here keeps all of it");
    assert_eq!(rig.pair.outrun_by(13 * MIB), Some((12 * MIB, 12 * MIB)));
    journal_there(64 * MIB);
    assert_eq!(rig.pair.outrun_by(13 * MIB), None, "it is copied beside the image over there");
    assert_eq!(rig.pair.outrun_by(48 * MIB), Some((12 * MIB, 48 * MIB)), "with what differs already");
    rig.pair.keeper.update(|group| group.on_full = OnFullRecord::Throttle).unwrap();
    assert_eq!(
        rig.pair.outrun_by(48 * MIB),
        Some((12 * MIB, 48 * MIB)),
        "hosts are not slowed to a stop for who is away"
    );
    {
        let mut view = rig.pair.view.lock();
        (view.connected, view.heard) = (true, rig.pair.clock.monotonic());
    }
    assert_eq!(rig.pair.outrun_by(48 * MIB), None, "hosts are slowed");
    let first = Rig::new(Some(CopyRecord::first(SIZE)), SIZE);
    first.pair.view.lock().remote.permitted_marker = 1;
    first.pair.view.lock().journal_capacity_bytes = Some(16 * MIB);
    assert_eq!(first.pair.outrun_by(64 * MIB), None, "a first copy takes the image's place by itself");
}
