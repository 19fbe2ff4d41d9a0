use std::collections::VecDeque;

use proptest::prelude::*;

use super::*;

static ZEROES: [u8; FRAME_STORED_BYTES_MAX] = [0; FRAME_STORED_BYTES_MAX];

fn frame(length: usize) -> Bytes {
    Bytes::from_static(&ZEROES[..length])
}

#[derive(Clone, Copy)]
enum Stage {
    Idle,
    Waiting(u64, usize),
    Reading(u64, usize),
}

/// A lane as the receiver drives it: announces, waits, reads, and so on until its queue is empty.
struct Lane {
    number: usize,
    queue: VecDeque<(u64, usize)>,
    stage: Stage,
    ended: bool,
}

impl Lane {
    /// One step; `false` when there is none to take.
    fn step(&mut self, reorder: &mut Reorder) -> bool {
        match self.stage {
            Stage::Idle => match self.queue.pop_front() {
                Some((ordinal, length)) => {
                    self.stage = match reorder.announce(self.number, ordinal, length).unwrap() {
                        Admission::Read => Stage::Reading(ordinal, length),
                        Admission::Wait => Stage::Waiting(ordinal, length),
                    };
                    true
                }
                None if self.ended => false,
                None => {
                    self.ended = true;
                    reorder.end(self.number).unwrap();
                    true
                }
            },
            Stage::Waiting(ordinal, length) => {
                let admitted = reorder.admit(ordinal, length) == Admission::Read;
                if admitted {
                    self.stage = Stage::Reading(ordinal, length);
                }
                admitted
            }
            Stage::Reading(ordinal, length) => {
                reorder.fill(ordinal, frame(length));
                self.stage = Stage::Idle;
                true
            }
        }
    }
}

fn lanes_of(lengths: &[usize], assignment: &[usize]) -> Vec<Lane> {
    let mut lanes: Vec<Lane> =
        (0..4).map(|number| Lane { number, queue: VecDeque::new(), stage: Stage::Idle, ended: false }).collect();
    for ((ordinal, &length), &lane) in (0..).zip(lengths).zip(assignment) {
        lanes[lane].queue.push_back((ordinal, length));
    }
    lanes
}

fn length() -> impl Strategy<Value = usize> {
    prop_oneof![1..2000_usize, (1_usize << 20)..=FRAME_STORED_BYTES_MAX, Just(FRAME_STORED_BYTES_MAX)]
}

proptest! {
    /// Whatever the striping and the order in which lanes move, frames come out as they were numbered, nothing
    /// deadlocks, and the bound holds. The lanes that `favourites` never picks move only when no other can: that fills
    /// the buffer.
    #[test]
    fn frames_come_out_in_order(
        frames in proptest::collection::vec((length(), 0_usize..4), 1..80),
        favourites in proptest::collection::vec(0_usize..4, 0..400),
    ) {
        let (lengths, assignment): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let mut lanes = lanes_of(&lengths, &assignment);
        let mut reorder = Reorder::new(4);
        let mut out = Vec::new();
        let mut favourites = favourites.into_iter();
        loop {
            let favourite = favourites.next();
            let moved = favourite.is_some_and(|lane| lanes[lane].step(&mut reorder))
                || lanes.iter_mut().rev().any(|lane| lane.step(&mut reorder));
            prop_assert!(reorder.held_bytes() <= REORDER_BYTES_MAX);
            let popped = reorder.pop().unwrap();
            if !moved && popped.is_none() {
                break;
            }
            out.extend(popped.map(|frame| frame.len()));
        }
        prop_assert_eq!(out, lengths);
        prop_assert!(reorder.is_finished());
        prop_assert_eq!(reorder.held_bytes(), 0);
    }

    /// Any announcements at all are survived within the bound, and those accepted are new and rising on their lane.
    #[test]
    fn lies_are_bounded(announced in proptest::collection::vec((0_usize..4, 0_u64..40, length()), 0..100)) {
        let mut reorder = Reorder::new(4);
        let mut last = [None; 4];
        let mut seen = std::collections::BTreeSet::new();
        for (lane, ordinal, length) in announced {
            match reorder.announce(lane, ordinal, length) {
                Ok(Admission::Read) => reorder.fill(ordinal, frame(length)),
                Ok(Admission::Wait) => {}
                Err(_) => break,
            }
            prop_assert!(seen.insert(ordinal) && last[lane] < Some(ordinal));
            last[lane] = Some(ordinal);
            prop_assert!(reorder.held_bytes() <= REORDER_BYTES_MAX);
        }
    }
}

/// Announces, reads and fills at once.
fn take(reorder: &mut Reorder, lane: usize, ordinal: u64) -> Result<(), OrderError> {
    assert_eq!(reorder.announce(lane, ordinal, 1)?, Admission::Read);
    reorder.fill(ordinal, frame(1));
    Ok(())
}

#[test]
fn repeats_are_refused_wherever_they_come_from() {
    let mut reorder = Reorder::new(2);
    take(&mut reorder, 0, 0).unwrap();
    take(&mut reorder, 0, 2).unwrap();
    assert_eq!(take(&mut reorder, 0, 2), Err(OrderError::Repeated { lane: 0, ordinal: 2 }), "waiting, same lane");
    assert!(reorder.pop().unwrap().is_some());
    assert_eq!(take(&mut reorder, 1, 0), Err(OrderError::Repeated { lane: 1, ordinal: 0 }), "delivered");
    let mut reorder = Reorder::new(2);
    take(&mut reorder, 0, 2).unwrap();
    assert_eq!(take(&mut reorder, 1, 2), Err(OrderError::Repeated { lane: 1, ordinal: 2 }), "waiting, other lane");
}

#[test]
fn falling_ordinals_are_refused() {
    let mut reorder = Reorder::new(2);
    take(&mut reorder, 0, 5).unwrap();
    assert_eq!(take(&mut reorder, 0, 4), Err(OrderError::Falling { lane: 0, ordinal: 4, last: 5 }));
}

#[test]
fn a_gap_is_found_as_soon_as_no_lane_can_fill_it() {
    let mut reorder = Reorder::new(2);
    take(&mut reorder, 0, 1).unwrap();
    assert_eq!(take(&mut reorder, 1, 2), Err(OrderError::Missing { ordinal: 0 }), "every lane is beyond it");

    let mut reorder = Reorder::new(2);
    take(&mut reorder, 0, 1).unwrap();
    assert_eq!(reorder.end(1), Err(OrderError::Missing { ordinal: 0 }), "the lane that could have had it ended");

    let mut reorder = Reorder::new(2);
    take(&mut reorder, 0, 0).unwrap();
    take(&mut reorder, 0, 2).unwrap();
    take(&mut reorder, 1, 3).unwrap();
    assert_eq!(reorder.pop(), Err(OrderError::Missing { ordinal: 1 }), "delivery uncovers it");
}

/// One silent lane and three that run ahead: held within the bound, in bytes and in number, until the silent one speaks.
#[test]
fn lanes_that_run_ahead_wait() {
    for length in [1, FRAME_STORED_BYTES_MAX] {
        let mut reorder = Reorder::new(4);
        let mut ordinal = 1;
        while reorder.announce(1, ordinal, length).unwrap() == Admission::Read {
            reorder.fill(ordinal, frame(length));
            ordinal += 1;
        }
        let held = reorder.held_bytes();
        assert!(held <= REORDER_BYTES_MAX - RESERVED_BYTES && held > REORDER_BYTES_MAX - 3 * RESERVED_BYTES);
        assert!(ordinal <= (REORDER_BYTES_MAX / FRAME_OVERHEAD_BYTES) as u64, "{ordinal} frames");
        assert_eq!(reorder.announce(0, 0, FRAME_STORED_BYTES_MAX), Ok(Admission::Read), "the next always fits");
    }
}
