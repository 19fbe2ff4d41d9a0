//! The freeze by itself, over write buffers that nobody drains.

use std::sync::atomic::{AtomicBool, Ordering};

use jiff::Timestamp;
use tempfile::TempDir;
use tidemark_common::clock::SystemClock;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, VolumeIndex};
use tidemark_common::metrics::Metrics;
use tidemark_common::overlay::unapplied::Unapplied;

use super::*;
use crate::ring::Ring;

const BYTES: usize = 512;
const WRITES: u64 = 20_000;
const NEVER: Duration = Duration::from_secs(60);

struct Rig {
    clock: SystemClock,
    buffers: Vec<Arc<Buffer>>,
    _folder: TempDir,
}

fn rig(groups: u8, capacity: u64) -> Rig {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let buffer = |group: u8| {
        let path = folder.path().join(group.to_string());
        let ring = Ring::create(&path, capacity, GroupId([group; 16]), Generation(1)).unwrap();
        let metrics = Metrics::new("alone", "test", Timestamp::UNIX_EPOCH).group("group");
        let buffer = Buffer::new(ring, Arc::new(SystemClock::new()), Seq(1), Unapplied::default(), metrics);
        Arc::new(buffer)
    };
    Rig { clock: SystemClock::new(), buffers: (1..=groups).map(buffer).collect(), _folder: folder }
}

impl Rig {
    fn freeze(&self) -> Result<Vec<Seq>, Duration> {
        let member = |buffer: &Arc<Buffer>| {
            let (reply, _) = oneshot::channel();
            Member { buffer: Arc::clone(buffer), request: CutRequest { tag: None, reply } }
        };
        freeze(&self.clock, self.buffers.iter().map(member).collect(), NEVER)
    }

    /// Captures a write; `None`: there is no room.
    fn write(&self, group: usize) -> Option<Seq> {
        let data = [1; BYTES];
        let extent = Extent { volume: VolumeIndex(1), offset: 0, length: BYTES as u64 };
        let mut written = Box::pin(self.buffers[group].write(extent, &data));
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        match written.as_mut().poll(&mut context) {
            std::task::Poll::Ready(seq) => Some(seq.unwrap()),
            std::task::Poll::Pending => None,
        }
    }
}

/// A host that writes to one group after the other, each write when the one before is answered; two freezes at once, all the time.
#[test]
fn no_cut_has_the_later_of_two_dependent_writes_without_the_earlier() {
    let rig = rig(3, 64 << 20);
    let writing = AtomicBool::new(true);
    let (writes, freezes) = std::thread::scope(|threads| {
        let freezer = || {
            let mut freezes = Vec::new();
            while writing.load(Ordering::SeqCst) {
                freezes.push(rig.freeze().unwrap());
            }
            freezes
        };
        let freezers = [threads.spawn(freezer), threads.spawn(freezer)];
        let round = |_| (0..3).map(|group| rig.write(group).unwrap()).collect::<Vec<_>>();
        let writes: Vec<Vec<Seq>> = (0..WRITES).map(round).collect();
        writing.store(false, Ordering::SeqCst);
        (writes, freezers.map(|freezer| freezer.join().unwrap()).concat())
    });
    for freeze in &freezes {
        // Numbers only grow, so these three rounds say it for all: the one before the last that it has something of, that one, and the next.
        let had =
            |round: usize| writes[round].iter().zip(freeze).map(|(seq, boundary)| seq <= boundary).collect::<Vec<_>>();
        let rounds = writes.partition_point(|round| round[0] <= freeze[0]);
        assert!(rounds < 2 || had(rounds - 2) == [true; 3], "{freeze:?} lacks a write that a later one depends on");
        assert!(
            rounds < 1 || had(rounds - 1).is_sorted_by(|one, next| one >= next),
            "{freeze:?}: {:?}",
            had(rounds - 1)
        );
        assert!(
            rounds == writes.len() || had(rounds) == [false; 3],
            "{freeze:?} has writes that depend on one it lacks"
        );
    }
    assert!(freezes.len() > 100, "{} freezes", freezes.len());
}

#[test]
fn a_gate_that_does_not_close_leaves_the_others_open_and_nobody_with_a_cut() {
    let rig = rig(2, 8 << 20);
    std::thread::scope(|threads| {
        let shut = rig.buffers[1].shut(NEVER).unwrap();
        let freezer = threads.spawn(|| rig.freeze());
        while !freezer.is_finished() {
            assert!(rig.write(0).is_some(), "hosts of the other group go on");
            rig.buffers[0].release(
                rig.buffers[0]
                    .entry_at(rig.buffers[0].tail())
                    .unwrap()
                    .map_or(0, |(at, entry)| at + entry.ring_bytes()),
            );
        }
        freezer.join().unwrap().unwrap_err();
        drop(shut);
    });
    assert!(rig.buffers.iter().all(|buffer| buffer.take_noted().is_empty()), "all or none");
    assert_eq!(rig.freeze().unwrap(), rig.buffers.iter().map(|buffer| buffer.captured()).collect::<Vec<_>>());
}

#[test]
fn a_group_whose_buffer_is_full_holds_up_nobody() {
    let rig = rig(2, 8192);
    while rig.write(0).is_some() {}
    let boundaries = rig.freeze().unwrap();
    assert_eq!(boundaries, [rig.buffers[0].captured(), Seq(0)]);
    assert!(rig.write(1).is_some(), "the gates are open again");
    assert_eq!(rig.buffers[1].entry_at(0).unwrap(), None, "its drain does not pass a cut that it does not know of");
    assert_eq!(rig.buffers[1].take_noted().len(), 1);
    assert!(rig.buffers[1].entry_at(0).unwrap().is_some());
}

#[test]
fn who_waits_for_a_cut_of_a_group_that_stops_is_told() {
    let rig = rig(1, 8192);
    let asked = |_| {
        let (reply, done) = oneshot::channel();
        let member = Member { buffer: Arc::clone(&rig.buffers[0]), request: CutRequest { tag: None, reply } };
        freeze(&rig.clock, vec![member], NEVER).unwrap();
        done
    };
    let mut before = asked(());
    rig.buffers[0].end_cuts();
    assert!(matches!(before.try_recv(), Err(oneshot::error::TryRecvError::Closed)));
    assert!(matches!(asked(()).try_recv(), Err(oneshot::error::TryRecvError::Closed)));
}
