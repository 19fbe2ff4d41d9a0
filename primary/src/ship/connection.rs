//! A pair's connection: dialed again and again, talked over and shipped over, and what the other side is told when it ends.

use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_common::catalog::{GroupRecord, OnFullRecord};
use tidemark_common::history::History;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender, DataSender, LinkError, Parting, Stats};
use tidemark_common::stage;
use tidemark_common::wire::handshake::{Versions, read_answer};
use tidemark_common::wire::message::{Message, ON_FULL_VERSION};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinError;

use super::orders::Wanted;
use super::{Pair, ShipError};
use crate::feeder::Feeder;

/// Shipments waiting for the link.
const QUEUE: usize = 2;
/// The longest pause before another try to connect.
pub const PAUSE_MAX: Duration = Duration::from_secs(3);
/// The first one, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(200), PAUSE_MAX);
/// How long what the other side says last may take.
const LAST_WORD: Duration = Duration::from_secs(2);

impl Pair {
    /// [`Self::run`], begun anew when a defect of ours has ended it: nobody else would call the other side any more, and status would show for ever
    /// what it showed last.
    pub(crate) async fn keep_running(self: Arc<Self>) {
        let tell = |ended: &JoinError| self.disconnected(Some(broke_off("the conversation", ended)));
        stage::begin_anew(PAUSE.1, || Arc::clone(&self).run(), tell).await;
    }

    /// Runs until [`Self::stop`].
    pub async fn run(self: Arc<Self>) {
        let mut orders = self.orders.subscribe();
        let mut pause = PAUSE.0;
        loop {
            let now = *orders.borrow_and_update();
            match now.wanted {
                Wanted::Stop | Wanted::Delete => return,
                Wanted::Run if now.held == 0 => {}
                Wanted::Run | Wanted::Suspended => {
                    let changed = tokio::select! {
                        changed = orders.changed() => changed,
                        () = self.ask_while_suspended() => return,
                    };
                    if changed.is_err() {
                        return;
                    }
                    continue;
                }
            }
            let begin = self.clock.monotonic();
            let conversing = Conversing::begin(&self.conversing);
            let result = tokio::select! {
                result = self.converse() => result,
                _ = orders.changed() => Err(ShipError::Stopped),
            };
            // In this order: what its end makes of the pair may be read out of the journal, which whoever waits for the end gives up and trims.
            self.disconnected(result.err());
            drop(conversing);
            if self.view.lock().state == PairState::Fenced {
                return;
            }
            if self.clock.monotonic().saturating_sub(begin) > PAUSE.1 {
                pause = PAUSE.0;
            }
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(PAUSE.1),
                _ = orders.changed() => pause = PAUSE.0,
            }
        }
    }

    /// One connection, from dialing to its end.
    async fn converse(&self) -> Result<(), ShipError> {
        let (id, address) = self.links.reach(&self.peer).map_err(ShipError::Reach)?;
        let endpoint = self.links.endpoint();
        let connection = endpoint.dial(&address, id).await?;
        // Also when this is broken off by an order.
        let _farewell = Farewell { pair: self, connection: &connection };
        let ended = self.talk(&connection).await;
        let of_the_link = |error: &ShipError| {
            matches!(
                error,
                ShipError::Link(_)
                    | ShipError::Handshake(_)
                    | ShipError::Reach(_)
                    | ShipError::Ended
                    | ShipError::Stopped
            )
        };
        if let Err(error) = &ended
            && !of_the_link(error)
        {
            connection.close_as(Parting::SendsNothing, &format!("'{}' sends nothing: {error}", self.links.name()));
        }
        ended
    }

    async fn talk(&self, connection: &Connection) -> Result<(), ShipError> {
        let (control, mut answers) = connection.open_control().await?;
        control.send(&Message::Hello(self.hello())).await?;
        let answer = answers.recv().await?.ok_or(ShipError::Ended)?;
        let welcome = read_answer(Versions::OURS, answer)?;
        // In this order: the other side waits for them no longer than a handshake takes, and a plan may wait for a cut, or for a disk.
        let data = connection.open_data(DATA_STREAMS).await?;
        let feeder = self.begin(&welcome).await?;
        self.ship(connection, (control, data), answers, feeder, Told::in_version(welcome.version)).await
    }

    /// Why it ends a conversation that went well, for the other side and for the people there.
    fn parting(&self) -> (Parting, String) {
        let here = self.links.name();
        match self.orders.borrow().wanted {
            Wanted::Suspended => (Parting::Suspended, self.suspended_here()),
            Wanted::Stop => (Parting::Over, format!("'{here}' was stopped")),
            Wanted::Delete => {
                (Parting::Over, format!("the pair of group '{}' was deleted on '{here}'", self.keeper.name()))
            }
            Wanted::Run => (Parting::Over, format!("'{here}' begins anew")),
        }
    }

    async fn ship(
        &self,
        connection: &Connection,
        (control, mut data): (ControlSender, DataSender),
        answers: ControlReceiver,
        feeder: Feeder,
        told: Told,
    ) -> Result<(), ShipError> {
        let (out, mut shipments) = mpsc::channel(QUEUE);
        let stop = StopOnDrop(Arc::new(AtomicBool::new(false)));
        let stopping = Arc::clone(&stop.0);
        let feeding = tokio::task::spawn_blocking(move || stage::named(c"feeder", || feeder.run(&out, &stopping)));
        let sending = async {
            while let Some(shipment) = shipments.recv().await {
                self.sent(&shipment);
                data.send(shipment.bytes).await?;
                self.see_link(&connection.stats());
            }
            // The feeder ended: it knows why.
            let fed = feeding.await.map_err(|ended| broke_off("what sends to the copy", &ended))?;
            Err::<(), ShipError>(fed.err().map_or(ShipError::Ended, ShipError::Feed))
        };
        let mut listening = pin!(self.listen(answers));
        let ended = tokio::select! {
            result = sending => result,
            result = &mut listening => return result,
            result = self.beat(connection, control, told) => result,
        };
        match ended {
            Err(error) => Err(reason_behind(error, listening).await),
            ended => ended,
        }
    }

    fn see_link(&self, stats: &Stats) {
        self.moment.see(stats.congestion_window_bytes, stats.round_trip, stats.rate_limit, self.desk.interval());
    }

    /// Tells the time and the newest number, so that the other side knows how good its copy is; and what it is to keep.
    async fn beat(&self, connection: &Connection, control: ControlSender, mut told: Told) -> Result<(), ShipError> {
        let mut ticks = tokio::time::interval(self.heartbeat);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut number = 0;
        let mut packets = self.line.packets();
        loop {
            ticks.tick().await;
            for news in told.news(&self.keeper.get()) {
                control.send(&news).await?;
            }
            number += 1;
            control.send(&self.heartbeat(number)).await?;
            let stats = connection.stats();
            let filled_and_starved = connection.filled_and_starved();
            packets.now(stats.sent_packets, stats.lost_packets);
            {
                let mut view = self.view.lock();
                view.round_trip = Some(stats.round_trip);
                view.see_link(stats.blocked, filled_and_starved);
            }
            self.moment.fade();
            self.see_link(&stats);
            self.judge();
        }
    }

    async fn listen(&self, mut answers: ControlReceiver) -> Result<(), ShipError> {
        loop {
            self.heard(answers.recv().await?.ok_or(ShipError::Ended)?)?;
        }
    }
}

/// Why a conversation ended: who takes nothing more drops the streams first, and then says why.
pub(super) async fn reason_behind(
    error: ShipError,
    listening: impl Future<Output = Result<(), ShipError>>,
) -> ShipError {
    if !matches!(error, ShipError::Link(LinkError::Abandoned)) {
        return error;
    }
    match tokio::time::timeout(LAST_WORD, listening).await {
        Ok(Err(said @ ShipError::Reach(_))) => said,
        _ => error,
    }
}

/// What the other side was told, over this connection, of what the operator wants of the group.
#[derive(Debug)]
pub(super) struct Told {
    /// Spoken with it.
    version: u32,
    history: Option<History>,
    throttles: bool,
}

impl Told {
    /// Nothing yet.
    pub(super) const fn in_version(version: u32) -> Self {
        Self { version, history: None, throttles: false }
    }

    /// What it does not know yet.
    pub(super) fn news(&mut self, group: &GroupRecord) -> Vec<Message> {
        let (history, throttles) = (group.history, group.on_full == OnFullRecord::Throttle);
        let mut news = Vec::new();
        if self.history.replace(history) != Some(history) {
            news.push(Message::History(history));
        }
        // A copy begins as one that does not. An older one would hear of a message that it does not know, again and again.
        if self.version >= ON_FULL_VERSION && std::mem::replace(&mut self.throttles, throttles) != throttles {
            news.push(Message::OnFull { throttles });
        }
        news
    }
}

/// Why what a thread or a task did ended without a word.
pub(super) fn broke_off(what: &'static str, ended: &JoinError) -> ShipError {
    if ended.is_panic() { ShipError::Defect { what } } else { ShipError::Stopped }
}

/// A conversation under way. Whatever ends it, a defect of ours too, ends this: the updater waits for it when the journal is full.
struct Conversing<'a>(&'a watch::Sender<bool>);

impl<'a> Conversing<'a> {
    fn begin(conversing: &'a watch::Sender<bool>) -> Self {
        conversing.send_replace(true);
        Self(conversing)
    }
}

impl Drop for Conversing<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
    }
}

/// Tells the other side why a conversation is over, whatever ends it.
struct Farewell<'a> {
    pair: &'a Pair,
    connection: &'a Connection,
}

impl Drop for Farewell<'_> {
    fn drop(&mut self) {
        let (parting, words) = self.pair.parting();
        self.connection.close_as(parting, &words);
    }
}

/// Tells a thread to stop when the task that needs it is gone.
struct StopOnDrop(Arc<AtomicBool>);

impl Drop for StopOnDrop {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}
