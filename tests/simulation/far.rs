//! The secondary's process: its stages, and its end of the conversation.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rand::RngExt;
use rand::rngs::StdRng;
use tidemark_common::clock::Clock;
use tidemark_common::extent::Extent;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Admission, Reorder};
use tidemark_common::overlay::location::Location;
use tidemark_common::overlay::run::RunError;
use tidemark_common::overlay::unapplied::Indexed;
use tidemark_common::overlay::{Locate, Piece};
use tidemark_common::wire::message::{Hello, Message, PROTOCOL_VERSION, Position};
use tidemark_secondary::apply::{Apply, Applying};
use tidemark_secondary::group::Secondary;
use tidemark_secondary::intake::{Intake, Taking};
use tidemark_secondary::receive::QUEUE;
use tokio::sync::watch;

use crate::line::Line;
use crate::site::SimClock;

/// The secondary's end of a conversation.
struct Talk {
    connection: u64,
    reorder: Reorder,
    queue: VecDeque<Bytes>,
    intake: Intake,
    changes: watch::Receiver<u64>,
    /// Nothing is known to be told yet.
    fresh: bool,
}

pub(crate) struct Far {
    pub(crate) secondary: Arc<Secondary>,
    apply: Apply,
    clock: SimClock,
    talk: Option<Talk>,
    /// A call not yet answered: the journal is still in other hands.
    call: Option<(u64, Hello)>,
    /// Steps of the updater.
    steps: u64,
}

impl Far {
    pub(crate) fn new(secondary: Arc<Secondary>, apply: Apply, clock: SimClock) -> Self {
        Self { secondary, apply, clock, talk: None, call: None, steps: 0 }
    }

    /// The call of a primary, which has ordered this copy to begin anew.
    pub(crate) fn called(&mut self, connection: u64, hello: Hello) {
        self.call = Some((connection, hello));
    }

    /// Its updater cannot read the journal.
    pub(crate) fn is_damaged(&self) -> bool {
        self.secondary.state().damage().is_cancelled()
    }

    /// Takes in what has come over the line. Whether there was anything.
    pub(crate) fn receive(&mut self, line: &mut Line, time: Duration, random: &mut StdRng) -> bool {
        let mut did = false;
        while let Some(message) = line.far_hears(time) {
            did = true;
            match message {
                Message::Hello(hello) => self.call = Some((line.current(), hello)),
                Message::Heartbeat { number, as_of_ms, captured_seq, .. } => {
                    self.secondary.state().heartbeat(number, as_of_ms, captured_seq, self.clock.monotonic());
                }
                other => panic!("the primary says {other:?}"),
            }
        }
        did |= self.answer(line, time, random);
        let Some(talk) = self.talk.as_mut().filter(|talk| line.is(talk.connection)) else { return did };
        let first = random.random_range(0..DATA_STREAMS);
        for lane in (first..first + DATA_STREAMS).map(|lane| lane % DATA_STREAMS) {
            if talk.queue.len() >= QUEUE {
                break;
            }
            if let Some((ordinal, frame)) = line.far_receives(lane, time) {
                let admitted = talk.reorder.announce(lane, ordinal, frame.len()).expect("an honest sender");
                assert_eq!(admitted, Admission::Read, "what is under way fits");
                talk.reorder.fill(ordinal, frame);
                did = true;
            }
            while let Some(frame) = talk.reorder.pop().expect("an honest sender") {
                talk.queue.push_back(frame);
            }
        }
        did
    }

    /// Answers a call, once the connection before it has given the journal back.
    fn answer(&mut self, line: &mut Line, time: Duration, random: &mut StdRng) -> bool {
        let Some((connection, hello)) = self.call.take() else { return false };
        if !line.is(connection) {
            return false;
        }
        if self.talk.is_some() {
            self.call = Some((connection, hello));
            return false;
        }
        let Some((welcome, intake)) = self.secondary.enter(&hello, PROTOCOL_VERSION) else {
            let message = self.secondary.journal().poisoned().expect("the journal is free");
            line.tell_near(&Message::Goodbye { message }, time, random);
            return true;
        };
        line.tell_near(&Message::Welcome(welcome), time, random);
        let changes = self.secondary.state().watch();
        let (reorder, queue) = (Reorder::new(DATA_STREAMS), VecDeque::new());
        self.talk = Some(Talk { connection, reorder, queue, intake, changes, fresh: true });
        true
    }

    /// Puts frames into the journal.
    pub(crate) fn take_in(&mut self, line: &mut Line, time: Duration, random: &mut StdRng) -> bool {
        let Some(talk) = &mut self.talk else { return false };
        let over = !line.is(talk.connection);
        if talk.queue.is_empty() && talk.intake.waiting.is_none() {
            if over {
                self.leave();
            }
            return over;
        }
        let mut at_once = random.random_range(1..=QUEUE);
        let queue = &mut talk.queue;
        let taken = talk.intake.step(|| {
            at_once = at_once.checked_sub(1)?;
            queue.pop_front()
        });
        match taken {
            Ok(taking) => taking == Taking::Did,
            Err(error) => {
                if !over {
                    line.tell_near(&Message::Goodbye { message: error.to_string() }, time, random);
                }
                self.leave();
                true
            }
        }
    }

    fn leave(&mut self) {
        if let Some(talk) = self.talk.take() {
            self.secondary.leave(talk.intake);
        }
    }

    /// Tells the primary how far it is, when that has changed. Returns what it told.
    pub(crate) fn acknowledge(&mut self, line: &mut Line, time: Duration, random: &mut StdRng) -> Option<Position> {
        let talk = self.talk.as_mut().filter(|talk| line.is(talk.connection))?;
        if !talk.fresh && !talk.changes.has_changed().unwrap_or(false) {
            return None;
        }
        talk.fresh = false;
        talk.changes.borrow_and_update();
        let message = self.secondary.acknowledgement();
        line.tell_near(&message, time, random);
        match message {
            Message::Ack { position, .. } => Some(position),
            _ => None,
        }
    }

    pub(crate) fn apply(&mut self) -> bool {
        self.apply.keep_history();
        let state = self.secondary.state();
        let (limit, end) = state.limit_and_end();
        self.apply.index_permitted(limit, 0);
        self.apply.look_ahead(limit, end, 0);
        let did = self.apply.step(state.limit()) == Applying::Did;
        self.steps += 1;
        if self.steps.is_multiple_of(8) {
            self.check_index();
        }
        did
    }

    /// An index that grew while the volumes followed says what one says that is made now, from where they are.
    fn check_index(&self) {
        let Apply { indexed, updater, journal, volumes, spill, .. } = &self.apply;
        let applied = updater.applied().position;
        let indexed = &*indexed.lock();
        let mut made_now = Indexed::from(applied);
        if indexed.up_to() < applied || made_now.go_on(journal, indexed.up_to(), spill).is_err() {
            return;
        }
        for volume in volumes.all() {
            let whole = Extent { volume: volume.index, offset: 0, length: volume.size() };
            // The disk may fail just now.
            let Ok((grown, made_now)) = said(indexed, whole).and_then(|grown| Ok((grown, said(&made_now, whole)?)))
            else {
                return;
            };
            assert!(
                grown == made_now,
                "what volume {} lacks at {applied:?}: {grown:?}, and not {made_now:?}",
                volume.name
            );
        }
    }
}

/// Where each sector of a range is said to be.
fn said(indexed: &Indexed, extent: Extent) -> Result<Vec<Option<Location>>, RunError> {
    let pieces = indexed.look(extent).pieces()?;
    let sectors = |piece: Piece<Location>| {
        let steps = (0..piece.extent.length).step_by(512);
        steps.map(move |at| piece.location.map(|location| location.advance(at)))
    };
    Ok(pieces.into_iter().flat_map(sectors).collect())
}
