//! The connection of a copy that is in use: one at a time has the journal's writer. A newer one ends it.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::ids::Generation;
use tidemark_common::journal::Writer;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, LinkError, Parting};
use tidemark_common::record::{CopyCheck, FoldCheck};
use tidemark_common::stage;
use tidemark_common::wire::message::{Hello, Message, Welcome};
use tokio::sync::{MutexGuard, mpsc};
use tokio::task::JoinError;
use tokio_util::sync::CancellationToken;

use super::Secondary;
use crate::intake::{Intake, IntakeError, TRIES};
use crate::receive::{self, ReceiveError};
use crate::state::Concern;

/// A primary sends heartbeats at least once a second; one that is silent for longer than this is not there.
const SILENCE_MAX: Duration = Duration::from_secs(2);

/// A primary that can be reached, and has nothing to send or is not taken anything from, calls again within its longest pause and what a
/// call takes.
pub const CALLS_WITHIN: Duration = Duration::from_secs(10);

/// A primary whose operator has suspended the pair says it again within this time, also when one of its calls got lost.
const SAYS_WITHIN: Duration = Duration::from_secs(30);

/// How long a goodbye may take to arrive.
const GOODBYE_TIMEOUT: Duration = Duration::from_secs(2);

/// Nobody has the journal's writer any more.
const LOST: &str = "what takes in what comes has ended by a defect of Tidemark, and the log has its message. Nothing is lost: restart the service of \
                    the copy's appliance";

/// For who comes then.
fn lost() -> ReceiveError {
    IntakeError::Stands { reason: LOST.into() }.into()
}

/// What an intake leaves.
type Ended = (Writer, Result<(), IntakeError>);

/// What the newest connection is.
#[derive(Debug, Default)]
pub(super) struct Current {
    pub(super) connection: Option<Connection>,
    pub(super) stop: CancellationToken,
    /// Why the last one ended, for people.
    pub(super) error: Option<String>,
    /// When the last one ended though the link was well: the primary sends nothing, or this side takes nothing.
    pub(super) stood: Option<Duration>,
    /// When the primary said last that its operator has suspended the pair, if that is why there is none.
    pub(super) suspended: Option<Duration>,
}

impl Current {
    /// A connection has ended, and it is known why.
    fn stands(&mut self, error: String, stood: Option<Duration>) {
        self.error = Some(error);
        self.stood = stood;
        self.suspended = None;
    }

    /// The primary has ended a connection at this time, and said why.
    fn left(&mut self, parting: Parting, reason: String, now: Duration) {
        self.stands(reason, (parting == Parting::SendsNothing).then_some(now));
        self.suspended = (parting == Parting::Suspended).then_some(now);
    }

    fn goes_on(&mut self) {
        self.error = None;
        self.stood = None;
        self.suspended = None;
    }

    /// Whether the primary says that its operator has suspended the pair. One that is silent may be gone, or the link, or the pair.
    pub(super) fn is_suspended(&self, now: Duration) -> bool {
        self.suspended.is_some_and(|at| now.saturating_sub(at) <= SAYS_WITHIN)
    }

    /// Why the last one ended, as long as that is why there is none: when nobody has called since, it is the link by now.
    pub(super) fn told(&self, now: Duration) -> Option<String> {
        let called = self.stood.is_none_or(|at| now.saturating_sub(at) <= CALLS_WITHIN);
        let says_so = self.suspended.is_none() || self.is_suspended(now);
        self.error.clone().filter(|_| called && says_so)
    }
}

impl Secondary {
    /// Talks with the primary over a connection whose `Hello` was read and found right, until it ends. An older
    /// connection is ended first.
    ///
    /// # Errors
    /// [`ReceiveError`]: why it ended.
    pub async fn serve(
        &self,
        connection: Connection,
        control: ControlSender,
        incoming: ControlReceiver,
        hello: &Hello,
        version: u32,
    ) -> Result<(), ReceiveError> {
        let stop = CancellationToken::new();
        {
            let mut current = self.current.lock();
            current.stop.cancel();
            current.stop = stop.clone();
            if let Some(old) = current.connection.replace(connection.clone()) {
                old.close("a newer connection took over");
            }
        }
        let Some(mut slot) = self.writer_unless(&stop).await else { return Err(ReceiveError::Stopped) };
        let Some(writer) = slot.take() else {
            if self.state.is_stopping() {
                return Err(ReceiveError::Stopped);
            }
            let result = Err(lost());
            self.ended(&connection, control, &result).await;
            return result;
        };
        if stop.is_cancelled() || self.state.is_stopping() {
            *slot = Some(writer);
            return Err(ReceiveError::Stopped);
        }
        if let Err(error) = writer.check() {
            // Not told where it stands: what failed to become durable may be there after a restart.
            *slot = Some(writer);
            let result = Err(ReceiveError::Intake(error.into()));
            self.ended(&connection, control, &result).await;
            return result;
        }
        let damage = self.state.damage();
        control.send(&Message::Welcome(self.welcome(version))).await.inspect_err(|_| stop.cancel()).ok();
        // Why an earlier one ended is over.
        self.current.lock().goes_on();
        let (queue, frames) = mpsc::channel(receive::QUEUE);
        let intake = self.intake(writer, hello);
        let taking = tokio::task::spawn_blocking(move || stage::named(c"intake", || intake.run(frames)));
        let result = tokio::select! {
            result = receive::frames(&connection, queue, stop.clone()) => result,
            result = receive::listen(&connection, incoming, self, &self.parts.pair_metrics) => result,
            result = receive::acknowledge(&control, &self.state, || self.journal.free_bytes()) => result,
            () = stop.cancelled() => Err(ReceiveError::Stopped),
            () = damage.cancelled() => Err(ReceiveError::Damaged(self.state.problem().unwrap_or_default())),
        };
        // The queue is gone with the select: the intake makes durable what it has and gives the writer back.
        let ended = taking.await;
        let result = self.taken(&mut slot, ended).and(result);
        let result = match result {
            Err(ReceiveError::Link(error)) => Err(ReceiveError::Link(connection.reason_behind(error).await)),
            other => other,
        };
        self.ended(&connection, control, &result).await;
        result
    }

    /// What came of an intake that has ended.
    fn taken(&self, slot: &mut Option<Writer>, ended: Result<Ended, JoinError>) -> Result<(), ReceiveError> {
        match ended {
            Ok((writer, taken)) => {
                *slot = Some(writer);
                Ok(taken?)
            }
            Err(error) if error.is_panic() => {
                self.state.set_problem(Concern::Intake, Some(LOST.into()));
                Err(lost())
            }
            Err(_) => Err(ReceiveError::Stopped),
        }
    }

    /// The journal's writer, once the connection before has given it back. A disk may keep that for hours, and the primary calls every few
    /// seconds: only the newest connection waits.
    async fn writer_unless(&self, stop: &CancellationToken) -> Option<MutexGuard<'_, Option<Writer>>> {
        tokio::select! {
            slot = self.writer.lock() => Some(slot),
            () = stop.cancelled() => None,
        }
    }

    /// The primary says, with no connection of the pair, that its operator has suspended it.
    pub fn hear_suspended(&self, reason: &str) {
        let now = self.parts.clock.monotonic();
        let mut current = self.current.lock();
        // A connection that is there goes on, or says itself why it ends.
        if current.connection.is_none() {
            current.left(Parting::Suspended, reason.to_owned(), now);
        }
    }

    /// What takes the frames of a connection.
    fn intake(&self, writer: Writer, hello: &Hello) -> Intake {
        self.parts.pair_metrics.connected();
        self.state.heard(self.parts.clock.monotonic());
        // What it was told in the welcome, where the regions go on.
        let durable = self.state.position();
        Intake {
            group: self.parts.keeper.id(),
            name: self.parts.keeper.name(),
            appliance: self.parts.appliance.clone(),
            generation: Generation(hello.generation),
            writer,
            volumes: Arc::clone(&self.parts.volumes),
            provider: Arc::clone(&self.parts.provider),
            state: Arc::clone(&self.state),
            metrics: self.parts.metrics.clone(),
            line: self.parts.pair_metrics.clone(),
            untold: Vec::new(),
            waiting: None,
            fitted: false,
            // It stands since an earlier connection: who comes again is told at once.
            refused: self.state.problem_of(Concern::Intake).map_or(0, |_| TRIES),
            folds: FoldCheck::default(),
            copy: CopyCheck::at(durable.copy, (durable.copy_volume, durable.copy_offset)),
        }
    }

    /// The answer to a `Hello` that was found right, and what takes the frames; for whoever carries the messages otherwise.
    /// `None` while another connection has the journal, which is given back with [`Self::leave`], and when it has failed.
    #[must_use]
    pub fn enter(&self, hello: &Hello, version: u32) -> Option<(Welcome, Intake)> {
        let mut slot = self.writer.try_lock().ok()?;
        let writer = slot.take_if(|writer| writer.check().is_ok())?;
        Some((self.welcome(version), self.intake(writer, hello)))
    }

    /// A conversation begun with [`Self::enter`] is over.
    pub fn leave(&self, intake: Intake) {
        if let Ok(mut slot) = self.writer.try_lock() {
            *slot = Some(intake.leave());
        }
    }

    /// The acknowledgement of now.
    #[must_use]
    pub fn acknowledgement(&self) -> Message {
        self.state.acknowledgement(self.journal.free_bytes())
    }

    /// What came last found no room, and none comes back before more is permitted.
    fn is_out_of_room(&self) -> bool {
        self.state.is_refusing_at_rest() && self.journal.is_full()
    }

    fn welcome(&self, version: u32) -> Welcome {
        let position = self.state.position();
        Welcome {
            version,
            appliance: self.parts.appliance.clone(),
            has_history: position.durable_seq > 0 || position.received_marker > 0 || position.copy > 0,
            generation: self.parts.keeper.generation().0,
            position,
            // Behind the same write as the position: a journal that failed may have taken more than it made durable.
            chain: self.state.durable_end().chain.0,
            journal_free_bytes: if self.is_out_of_room() { 0 } else { self.journal.free_bytes() },
            journal_capacity_bytes: self.journal.capacity_bytes(),
        }
    }

    async fn ended(&self, connection: &Connection, control: ControlSender, result: &Result<(), ReceiveError>) {
        if let Err(error) = result {
            if let Some(left_out) = self.repeats.news(&error.to_string(), self.parts.clock.monotonic()) {
                tracing::info!(group = %self.parts.keeper.name(), %error, left_out, "the connection of the primary ended");
            }
            let now = self.parts.clock.monotonic();
            if let ReceiveError::Link(LinkError::PeerClosed { reason, parting }) = error {
                self.current.lock().left(*parting, reason.clone(), now);
            }
            if matches!(error, ReceiveError::Intake(_) | ReceiveError::Damaged(_)) {
                self.current.lock().stands(error.to_string(), Some(now));
                // Closing at once would lose what was not yet acknowledged: the other side is to know why.
                let goodbye = async {
                    control.send(&Message::Goodbye { message: error.to_string() }).await?;
                    control.finish().await
                };
                let _ = tokio::time::timeout(GOODBYE_TIMEOUT, goodbye).await;
            }
        }
        connection.close("the conversation is over");
        let mut current = self.current.lock();
        if current.connection.as_ref().is_some_and(|now| now.is(connection)) {
            current.connection = None;
        }
    }

    /// When the last connection ended though the link was well, if that is how: a primary that lives calls again ([`CALLS_WITHIN`]). Monotonic.
    #[must_use]
    pub fn stood(&self) -> Option<Duration> {
        self.current.lock().stood
    }

    /// Whether the primary is connected and was heard lately: a connection may be lost for seconds before that is noticed.
    #[must_use]
    pub(crate) fn is_connected(&self) -> bool {
        let silent = self.state.last_heard().at.map(|at| self.parts.clock.monotonic().saturating_sub(at));
        self.current.lock().connection.is_some() && silent.is_some_and(|silent| silent <= SILENCE_MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests::copy;

    /// Each of them keeps a task, and what has come over it.
    #[tokio::test]
    async fn a_connection_that_a_newer_one_has_ended_waits_for_no_disk() {
        let (secondary, _apply, _records) = copy();
        // By a connection whose disk does not answer.
        let held = secondary.writer.lock().await;
        let stop = CancellationToken::new();
        stop.cancel();
        let ended = tokio::time::timeout(Duration::from_secs(20), secondary.writer_unless(&stop)).await;
        assert!(ended.is_ok_and(|slot| slot.is_none()));
        drop(held);
        let newest = CancellationToken::new();
        assert!(secondary.writer_unless(&newest).await.is_some_and(|slot| slot.is_some()));
    }

    /// Whoever came from then on was sent away without a word.
    #[tokio::test]
    async fn an_intake_that_a_panic_has_ended_is_told_here_and_to_who_comes() {
        let (secondary, _apply, _records) = copy();
        let mut slot = secondary.writer.lock().await;
        slot.take();
        let ended = tokio::task::spawn_blocking(|| -> Ended { panic!("as it was to") }).await;
        let told = secondary.taken(&mut slot, ended).unwrap_err();
        assert!(matches!(&told, ReceiveError::Intake(_)) && told.to_string().contains("restart"), "{told}");
        assert!(secondary.state().problem_of(Concern::Intake).is_some_and(|problem| problem.contains("restart")));
        assert!(slot.is_none());
    }

    #[test]
    fn a_pair_is_suspended_for_its_copy_as_long_as_the_primary_says_so() {
        let mut current = Current::default();
        let begin = Duration::from_secs(100);
        let (end, later) = (begin + SAYS_WITHIN, begin + SAYS_WITHIN + Duration::from_secs(1));
        current.left(Parting::Suspended, "suspended on 'east'".into(), begin);
        assert!(current.is_suspended(end) && current.told(end).is_some());
        assert!(!current.is_suspended(later) && current.told(later).is_none(), "it is gone, or the link, or the pair");
        current.left(Parting::Suspended, "suspended on 'east'".into(), later);
        assert!(current.is_suspended(later) && current.told(later).is_some());
        current.left(Parting::Over, "'east' was stopped".into(), later);
        assert!(!current.is_suspended(later) && current.told(later + end).is_some(), "that stays true");
        current.left(Parting::SendsNothing, "'east' sends nothing".into(), later);
        assert!(current.told(later + CALLS_WITHIN).is_some() && current.told(later + end).is_none());
    }
}
