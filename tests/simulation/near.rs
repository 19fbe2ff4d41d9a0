//! The primary's process: its stages, and its end of the conversation.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use tidemark_common::api::types::PairState;
use tidemark_common::wire::handshake::{Versions, read_answer};
use tidemark_common::wire::message::Message;
use tidemark_primary::cut::{CutDone, CutError};
use tidemark_primary::drain::{Drain, Draining};
use tidemark_primary::feeder::{FeedError, Feeder, Feeding};
use tidemark_primary::group::{Primary, Stages};
use tidemark_primary::ship::{Pair, ShipError};
use tidemark_primary::writeback::{Writeback, WritingBack};
use tokio::sync::oneshot;

use crate::line::Line;

/// Frames on their way at once.
const WINDOW: usize = 8;
const BEAT: Duration = Duration::from_millis(40);

pub(crate) type Waiting<T> = Pin<Box<dyn Future<Output = T>>>;

/// What has become of a future by now.
pub(crate) fn now<T>(future: &mut Waiting<T>) -> Option<T> {
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(done) => Some(done),
        Poll::Pending => None,
    }
}

enum Stage {
    /// Hello is said.
    Called,
    /// It finds out from where to go on.
    Begins(Waiting<Result<Feeder, ShipError>>),
    /// It sends.
    Feeds(Box<Feeder>, Option<oneshot::Receiver<Result<CutDone, CutError>>>),
}

/// The primary's end of a conversation.
struct Talk {
    connection: u64,
    orders: u64,
    stage: Stage,
    beats: u64,
    next_beat: Duration,
}

pub(crate) struct Near {
    pub(crate) primary: Arc<Primary>,
    pub(crate) pair: Arc<Pair>,
    drain: Drain,
    writeback: Writeback,
    talk: Option<Talk>,
    next_call: Duration,
    pub(crate) suspended: bool,
    /// The drain gave up: only a restart helps.
    pub(crate) ended: bool,
    /// Bytes of a turn of a copy.
    pub(crate) turn: usize,
    /// Bytes of a stretch that is folded.
    pub(crate) stretch_bytes: u64,
}

impl Near {
    pub(crate) fn new(primary: Arc<Primary>, stages: Stages, (turn, stretch_bytes): (usize, u64)) -> Self {
        let pair = primary.pairs().pop().expect("the pair");
        // Whom it took over from is called once that has returned, and nobody by a pair that is suspended.
        let suspended = matches!(pair.status().state, PairState::FailedOver | PairState::Suspended);
        let Stages { drain, writeback } = stages;
        Self {
            primary,
            pair,
            drain,
            writeback,
            talk: None,
            next_call: Duration::ZERO,
            suspended,
            ended: false,
            turn,
            stretch_bytes,
        }
    }

    pub(crate) fn pair_is_suspended(&self) -> bool {
        self.pair.status().state == PairState::Suspended
    }

    pub(crate) fn drain(&mut self) -> bool {
        if self.ended {
            return false;
        }
        let drained = self.drain.step();
        self.ended = drained == Draining::Ended;
        drained == Draining::Did
    }

    pub(crate) fn write_back(&mut self) -> bool {
        let limit = self.writeback.image.journal.durable_end().position;
        self.writeback.step(limit) == WritingBack::Did
    }

    /// The journal's memory of its newest frames is given back.
    pub(crate) fn rest_journal(&self) {
        self.writeback.image.journal.rest();
    }

    /// Where the journal ends: a segment and a place in it.
    pub(crate) fn journal_end(&self) -> (u64, u64) {
        let end = self.writeback.image.journal.durable_end().position;
        (end.segment, end.offset)
    }

    /// Says what is to be said, sends what can be sent. Whether it did anything.
    pub(crate) fn converse(&mut self, line: &mut Line, time: Duration, random: &mut StdRng) -> bool {
        let Some(mut talk) = self.talk.take() else { return self.call(line, time, random) };
        if !line.is(talk.connection) || self.pair.orders() != talk.orders {
            let why = if line.is(talk.connection) { ShipError::Stopped } else { ShipError::Ended };
            self.over(why, line, time, random);
            return true;
        }
        match self.go_on(&mut talk, line, time, random) {
            Ok(did) => {
                self.talk = Some(talk);
                did
            }
            Err(error) => {
                self.over(error, line, time, random);
                true
            }
        }
    }

    fn over(&mut self, why: ShipError, line: &mut Line, time: Duration, random: &mut StdRng) {
        line.lose();
        self.pair.disconnected(Some(why));
        self.next_call = time + Duration::from_micros(random.random_range(0..40_000));
    }

    fn call(&mut self, line: &mut Line, time: Duration, random: &mut StdRng) -> bool {
        if self.suspended || time < self.next_call {
            return false;
        }
        let Some(connection) = line.connect(time) else { return false };
        line.tell_far(&Message::Hello(self.pair.hello()), time, random);
        let orders = self.pair.orders();
        self.talk = Some(Talk { connection, orders, stage: Stage::Called, beats: 0, next_beat: time });
        true
    }

    fn go_on(&self, talk: &mut Talk, line: &mut Line, time: Duration, random: &mut StdRng) -> Result<bool, ShipError> {
        match &mut talk.stage {
            Stage::Called => {
                let Some(answer) = line.near_hears(time) else { return Ok(false) };
                let welcome = read_answer(Versions::OURS, answer)?;
                let pair = Arc::clone(&self.pair);
                talk.stage = Stage::Begins(Box::pin(async move { pair.begin(&welcome).await }));
                Ok(true)
            }
            Stage::Begins(begins) => {
                let Some(feeder) = now(begins) else { return Ok(false) };
                let mut feeder = feeder?;
                feeder.turn_bytes = self.turn;
                self.pair.moment().set(self.stretch_bytes, 1);
                talk.stage = Stage::Feeds(Box::new(feeder), None);
                Ok(true)
            }
            Stage::Feeds(feeder, cut) => {
                let mut did = false;
                while let Some(message) = line.near_hears(time) {
                    self.pair.heard(message)?;
                    did = true;
                }
                if time >= talk.next_beat {
                    talk.beats += 1;
                    talk.next_beat = time + BEAT;
                    line.tell_far(&self.pair.heartbeat(talk.beats), time, random);
                }
                Ok(self.feed(feeder, cut, line, time, random)? || did)
            }
        }
    }

    fn feed(
        &self,
        feeder: &mut Feeder,
        cut: &mut Option<oneshot::Receiver<Result<CutDone, CutError>>>,
        line: &mut Line,
        time: Duration,
        random: &mut StdRng,
    ) -> Result<bool, ShipError> {
        if let Some(asked) = cut {
            match asked.try_recv() {
                Ok(done) => feeder.end_is_cut(done.map_err(FeedError::from)?)?,
                Err(oneshot::error::TryRecvError::Empty) => return Ok(false),
                Err(oneshot::error::TryRecvError::Closed) => return Err(ShipError::Stopped),
            }
            *cut = None;
        }
        if line.frames_under_way() >= WINDOW {
            return Ok(false);
        }
        match feeder.step()? {
            Feeding::Ready => {
                for shipment in feeder.take_ready() {
                    self.pair.sent(&shipment);
                    line.send_frame(shipment.bytes, time, random);
                }
                Ok(true)
            }
            Feeding::Journal(_) => Ok(false),
            Feeding::Cut(asked) => {
                *cut = Some(asked);
                Ok(true)
            }
        }
    }
}
