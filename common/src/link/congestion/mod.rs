//! How fast to send: as fast as the path delivers, whatever it loses on its way.
//!
//! In: what quinn says of packets sent, acknowledged and lost. Out: how many bytes may be under way; quinn spreads them over a
//! round trip. Nothing is guessed from a single loss: a long path loses packets that no sender caused. What is under way is what
//! the path delivers in its own delay, and a little more, the *slack*, that waits in the queue before the slowest hop:
//!
//! ```text
//!   window = rate × (delay of the path alone + slack)
//! ```
//!
//! While the path has room, a window with slack delivers more in the next round, so the window grows by itself; as soon as the queue
//! is as long as the slack, it stays. This is the law of FAST TCP (Jin, Wei, Low: "FAST TCP: Motivation, Architecture,
//! Algorithms, Performance", INFOCOM 2004) with the rate measured as BBR does it (Cardwell et al.: "BBR: Congestion-Based Congestion
//! Control", ACM Queue 14/5, 2016). A faster sender takes less slack, so that several on one path come to equal shares.
//!
//! ```text
//!   Start ──▶ Down ──▶ Look ──▶ Back ──▶ Hold      Start: twice as much each round, until a queue shows
//!               ▲                         │         Down, Look: half, to see the path's own delay and loss
//!               └─────────────────────────┘         Back: as before; Hold: the law above
//! ```

mod law;
mod path;

use std::any::Any;
use std::sync::Arc;
use std::time::Instant;

use quinn::congestion::{Controller, ControllerFactory};
use quinn_proto::RttEstimator;

use law::Law;

/// Makes the controllers of connections.
#[derive(Debug, Default)]
pub(super) struct SteadyConfig;

impl ControllerFactory for SteadyConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(Steady { law: Law::new(now, current_mtu), filled: 0, starved: 0 })
    }
}

/// The law, spoken to by quinn.
#[derive(Debug, Clone)]
struct Steady {
    law: Law,
    /// Batches of acknowledgements while the window was what kept data here, and while it was not.
    filled: u64,
    starved: u64,
}

/// How often what a connection sends was kept by its window, and how often by something else: nothing to send, or a peer that takes no more.
/// `None`: its controller does not tell.
pub(super) fn filled_and_starved(controller: Box<dyn Controller>) -> Option<(u64, u64)> {
    controller.into_any().downcast::<Steady>().ok().map(|steady| (steady.filled, steady.starved))
}

impl Controller for Steady {
    fn on_sent(&mut self, now: Instant, _bytes: u64, _last_packet_number: u64) {
        self.law.sent(now);
    }

    fn on_ack(&mut self, _now: Instant, sent: Instant, bytes: u64, app_limited: bool, _rtt: &RttEstimator) {
        self.law.acknowledged(sent, bytes, app_limited);
    }

    fn on_end_acks(&mut self, now: Instant, in_flight: u64, app_limited: bool, _largest: Option<u64>) {
        if app_limited {
            self.starved = self.starved.saturating_add(1);
        } else {
            self.filled = self.filled.saturating_add(1);
        }
        self.law.batch_ends(now, in_flight, app_limited);
    }

    fn on_congestion_event(&mut self, now: Instant, sent: Instant, is_persistent: bool, lost_bytes: u64) {
        match (is_persistent, lost_bytes) {
            (true, _) => self.law.restart(now),
            (false, 0) => self.law.marked(),
            (false, bytes) => self.law.lost(now, sent, bytes),
        }
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.law.set_mtu(new_mtu);
    }

    fn window(&self) -> u64 {
        self.law.window()
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(self.clone())
    }

    fn initial_window(&self) -> u64 {
        law::BEGIN_BYTES
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}
