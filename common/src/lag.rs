//! Where what a copy lacks waits, and what for (decision 19). Pure: time and positions come in.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::types::PairState;

/// What is looked back on.
const WINDOW: Duration = Duration::from_secs(60);
/// What counts as now.
const NOW: Duration = Duration::from_secs(10);
/// Between two samples.
const STEP: Duration = Duration::from_secs(1);

/// What a pair waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LagCause {
    /// Hosts have written more than the link carries, and on the average of a minute they do not: it catches up.
    HostBurst,
    /// The journal here.
    Buffer,
    /// The link: it is down, was down, or carries less than hosts write.
    Link,
    /// The journal over there: it does not take what the link brings.
    RemoteJournal,
    /// The volumes over there: the journal there is full of what is not in them.
    Apply,
}

impl LagCause {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::HostBurst, Self::Buffer, Self::Link, Self::RemoteJournal, Self::Apply];

    /// As in JSON and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::HostBurst => "host-burst",
            Self::Buffer => "buffer",
            Self::Link => "link",
            Self::RemoteJournal => "remote-journal",
            Self::Apply => "apply",
        }
    }

    /// For people.
    #[must_use]
    pub const fn text(self) -> &'static str {
        match self {
            Self::HostBurst => "hosts wrote more for a while than the link carries",
            Self::Buffer => "the journal here takes less than hosts write: look at its disk",
            Self::Link => "the link carries no more, or was down",
            Self::RemoteJournal => "the copy's journal takes no more: look at its disk",
            Self::Apply => "the copy's journal is full of what its volumes have not taken: look at their disk",
        }
    }
}

/// Where what a copy lacks waits. Bytes are those of the journal, compressed; of the write buffer, as hosts wrote them.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize, ToSchema)]
pub struct Lag {
    /// In the write buffer, not yet in the journal.
    pub buffer_bytes: u64,
    /// In the journal here, and not yet handed to the link.
    pub unsent_bytes: u64,
    /// Handed to the link, and not known to be durable over there.
    pub under_way_bytes: u64,
    /// Durable over there, and not in the volumes there; what is known of it here. A disaster does not lose it.
    pub unapplied_bytes: Option<u64>,
    /// What hosts write in a second, over the last ten.
    pub written_bytes_per_second: f64,
    /// What becomes durable over there in a second, over the last ten: frames, and regions of a copy.
    pub delivered_bytes_per_second: f64,
    /// Seconds until it has caught up, if hosts and link go on as in the last ten; none while it does not.
    pub seconds_left: Option<f64>,
    /// What it waits for; none while the pair is where it should be, or nobody knows.
    pub cause: Option<LagCause>,
}

impl Lag {
    /// What a disaster now would lose of the journal and the write buffer.
    #[must_use]
    pub const fn missing_bytes(&self) -> u64 {
        self.buffer_bytes + self.unsent_bytes + self.under_way_bytes
    }
}

/// What else is known when the cause is looked for.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances {
    /// The pair's.
    pub state: PairState,
    /// Whether the other side answers.
    pub answers: bool,
    /// The journal over there has no room, as far as it has said.
    pub is_full_there: bool,
    /// What still has to be copied beside the journal.
    pub differential_bytes: u64,
}

/// Totals at a moment.
#[derive(Debug, Clone, Copy, Default)]
struct Sample {
    at: Duration,
    written: u64,
    delivered: u64,
    held_back: u64,
}

/// Whether the other side takes what the link brings. More than its windows was handed over: on a slow link that is so all the time. But when the
/// link has nothing to do meanwhile, it is the other side that takes no more.
#[derive(Debug, Clone, Copy, Default)]
pub struct Taking {
    /// How often it took no more, in all.
    pub refused: u64,
    /// Of this connection, as they were last.
    blocked: u64,
    filled: u64,
    starved: u64,
    /// Times at which more than the windows was handed over, since the link was last full.
    open: u64,
}

impl Taking {
    /// Another connection.
    pub const fn begin(&mut self) {
        *self = Self { refused: self.refused, blocked: 0, filled: 0, starved: 0, open: 0 };
    }

    /// What the connection has done so far: how often more than the windows was handed over, and batches of acknowledgements while the link was full,
    /// and while it was not.
    pub fn see(&mut self, blocked: u64, filled_and_starved: Option<(u64, u64)>) {
        let Some((filled, starved)) = filled_and_starved else { return };
        self.open += blocked.saturating_sub(self.blocked);
        let (full, idle) = (filled.saturating_sub(self.filled), starved.saturating_sub(self.starved));
        if idle > full {
            self.refused += std::mem::take(&mut self.open);
        } else if full > 0 {
            self.open = 0;
        }
        (self.blocked, self.filled, self.starved) = (blocked, filled, starved);
    }
}

/// How fast both ends of a pair go on. Totals only ever grow; a total that is less than before begins anew.
#[derive(Debug, Default)]
pub struct Flow {
    samples: VecDeque<Sample>,
}

impl Flow {
    /// What hosts have written, what has become durable over there, and how often the other side took no more.
    pub fn see(&mut self, at: Duration, written: u64, delivered: u64, held_back: u64) {
        let sample = Sample { at, written, delivered, held_back };
        if let Some(last) = self.samples.back() {
            if written < last.written || delivered < last.delivered || held_back < last.held_back {
                self.samples.clear();
            } else if at.saturating_sub(last.at) < STEP {
                return;
            }
        }
        self.samples.push_back(sample);
        while self.samples.front().is_some_and(|first| at.saturating_sub(first.at) > WINDOW) {
            self.samples.pop_front();
        }
    }

    /// The stages of a lag, with how fast it goes and what all of it waits for.
    #[must_use]
    pub fn lag(&self, stages: Lag, known: Circumstances) -> Lag {
        let (written, delivered) = (self.rate(NOW, |sample| sample.written), self.rate(NOW, |sample| sample.delivered));
        let waiting = stages.missing_bytes() + known.differential_bytes;
        #[expect(clippy::cast_precision_loss, reason = "seconds for people")]
        let left =
            (known.answers && waiting > 0 && delivered > written).then(|| waiting as f64 / (delivered - written));
        Lag {
            written_bytes_per_second: written,
            delivered_bytes_per_second: delivered,
            seconds_left: left,
            cause: self.cause(&stages, known, waiting),
            ..stages
        }
    }

    fn cause(&self, stages: &Lag, known: Circumstances, waiting: u64) -> Option<LagCause> {
        let copies = match known.state {
            PairState::InitialCopy | PairState::Resync => true,
            PairState::CatchingUp | PairState::Differential => false,
            PairState::Paired | PairState::Suspended | PairState::FailedOver | PairState::Fenced | PairState::Error => {
                return None;
            }
        };
        if !known.answers {
            return Some(LagCause::Link);
        }
        if waiting == 0 {
            return None;
        }
        if stages.buffer_bytes > waiting / 2 {
            return Some(LagCause::Buffer);
        }
        if self.is_held_back() {
            return Some(if known.is_full_there { LagCause::Apply } else { LagCause::RemoteJournal });
        }
        // A copy goes as fast as disks and link let it: it is late by what there is of it, for no other cause.
        (!copies).then(|| if self.is_burst() { LagCause::HostBurst } else { LagCause::Link })
    }

    /// The other side took no more, lately or since it last took anything.
    fn is_held_back(&self) -> bool {
        let Some(last) = self.samples.back() else { return false };
        let lately = self.since(NOW).is_some_and(|then| last.held_back > then.held_back);
        let stood = self.samples.iter().find(|sample| sample.delivered == last.delivered);
        let before = stood.and_then(|stood| self.samples.iter().rev().find(|sample| sample.at < stood.at));
        let when_it_stopped = before.is_some_and(|before| last.held_back > before.held_back);
        lately || (when_it_stopped && stood.is_some_and(|stood| stood.at < last.at))
    }

    /// Hosts wrote faster than it arrives, and in all of the last minute they did not.
    fn is_burst(&self) -> bool {
        let delivered = self.rate(NOW, |sample| sample.delivered);
        let pairs = self.samples.iter().zip(self.samples.iter().skip(1));
        let peak = pairs.map(|(a, b)| per_second(*a, *b, |sample| sample.written)).fold(0.0, f64::max);
        peak > delivered && self.rate(WINDOW, |sample| sample.written) < delivered
    }

    fn since(&self, span: Duration) -> Option<&Sample> {
        let last = self.samples.back()?;
        self.samples.iter().find(|sample| last.at.saturating_sub(sample.at) <= span)
    }

    fn rate(&self, span: Duration, of: impl Fn(Sample) -> u64) -> f64 {
        let Some((then, last)) = self.since(span).zip(self.samples.back()) else { return 0.0 };
        per_second(*then, *last, of)
    }
}

#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn per_second(then: Sample, now: Sample, of: impl Fn(Sample) -> u64) -> f64 {
    let seconds = now.at.saturating_sub(then.at).as_secs_f64();
    if seconds > 0.0 { of(now).saturating_sub(of(then)) as f64 / seconds } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const BEHIND: Circumstances =
        Circumstances { state: PairState::CatchingUp, answers: true, is_full_there: false, differential_bytes: 0 };
    const UNSENT: Lag = Lag {
        buffer_bytes: MIB,
        unsent_bytes: 30 * MIB,
        under_way_bytes: MIB,
        unapplied_bytes: None,
        written_bytes_per_second: 0.0,
        delivered_bytes_per_second: 0.0,
        seconds_left: None,
        cause: None,
    };

    /// Each second so much is written, so much arrives, and so often it is held back.
    fn flow(seconds: impl Iterator<Item = (u64, u64, u64)>) -> Flow {
        let (mut flow, mut total) = (Flow::default(), (0, 0, 0));
        for (second, (written, delivered, held_back)) in (0..).zip(seconds) {
            total = (total.0 + written * MIB, total.1 + delivered * MIB, total.2 + held_back);
            flow.see(Duration::from_secs(second), total.0, total.1, total.2);
        }
        flow
    }

    fn cause(flow: &Flow, known: Circumstances) -> Option<LagCause> {
        flow.lag(UNSENT, known).cause
    }

    #[test]
    fn a_link_that_carries_less_than_hosts_write_is_the_cause_and_nobody_knows_when_it_ends() {
        let flow = flow((0..30).map(|_| (4, 2, 0)));
        let lag = flow.lag(UNSENT, BEHIND);
        assert_eq!((lag.cause, lag.seconds_left), (Some(LagCause::Link), None));
        assert_eq!(lag.written_bytes_per_second, 4.0 * MIB as f64);
        assert_eq!(lag.delivered_bytes_per_second, 2.0 * MIB as f64);
        assert_eq!(cause(&flow, Circumstances { answers: false, ..BEHIND }), Some(LagCause::Link));
        assert_eq!(cause(&flow, Circumstances { state: PairState::Paired, ..BEHIND }), None);
        assert_eq!(cause(&flow, Circumstances { state: PairState::Resync, ..BEHIND }), None, "a copy is no lag");
    }

    #[test]
    fn hosts_that_wrote_more_for_a_while_are_the_cause_until_it_has_caught_up() {
        let burst = flow((0..40).map(|second| (if second < 5 { 20 } else { 1 }, 4, 0)));
        let lag = burst.lag(UNSENT, BEHIND);
        assert_eq!(lag.cause, Some(LagCause::HostBurst));
        assert!((lag.seconds_left.unwrap() - 32.0 / 3.0).abs() < 0.01, "{lag:?}");
        let after_an_outage = flow((0..40).map(|second| (1, if second < 20 { 0 } else { 4 }, 0)));
        assert_eq!(cause(&after_an_outage, BEHIND), Some(LagCause::Link), "hosts wrote as ever");
    }

    #[test]
    fn another_side_that_takes_no_more_is_the_cause_also_while_it_takes_nothing_at_all() {
        let slow = flow((0..30).map(|_| (4, 2, 1)));
        assert_eq!(cause(&slow, BEHIND), Some(LagCause::RemoteJournal));
        assert_eq!(cause(&slow, Circumstances { is_full_there: true, ..BEHIND }), Some(LagCause::Apply));
        let stands = flow((0..50).map(|second| match second {
            0..10 => (4, 4, 0),
            10 => (4, 0, 1),
            _ => (4, 0, 0),
        }));
        assert_eq!(cause(&stands, BEHIND), Some(LagCause::RemoteJournal));
        let was = flow((0..50).map(|second| (4, 2, u64::from(second == 10))));
        assert_eq!(cause(&was, BEHIND), Some(LagCause::Link), "that was long ago");
    }

    #[test]
    fn a_link_that_is_full_holds_back_what_is_handed_over_and_one_that_is_idle_does_not() {
        let mut taking = Taking::default();
        // A slow link: whoever writes is ahead of it by all the windows hold.
        (1..10).for_each(|times| taking.see(times, Some((100 * times, times))));
        assert_eq!(taking.refused, 0);
        taking.see(12, Some((900, 60)));
        assert_eq!(taking.refused, 3);
        // It stands: what was said once is not said again.
        taking.see(12, Some((900, 62)));
        assert_eq!(taking.refused, 3);
        taking.begin();
        taking.see(2, Some((0, 9)));
        assert_eq!(taking.refused, 5);
        taking.see(4, None);
        assert_eq!(taking.refused, 5, "another controller does not tell");
    }

    #[test]
    fn what_waits_in_the_write_buffer_waits_for_the_journal_here() {
        let flow = flow((0..30).map(|_| (4, 4, 0)));
        let full = Lag { buffer_bytes: 60 * MIB, unsent_bytes: 0, ..UNSENT };
        assert_eq!(flow.lag(full, BEHIND).cause, Some(LagCause::Buffer));
        let nothing = Lag { buffer_bytes: 0, unsent_bytes: 0, under_way_bytes: 0, ..UNSENT };
        assert_eq!(flow.lag(nothing, BEHIND).cause, None);
        assert_eq!(flow.lag(nothing, BEHIND).seconds_left, None);
    }

    #[test]
    fn totals_that_begin_anew_are_another_flow() {
        let mut flow = flow((0..10).map(|_| (4, 2, 0)));
        flow.see(Duration::from_secs(11), 50 * MIB, 0, 0);
        flow.see(Duration::from_secs(21), 60 * MIB, 10 * MIB, 0);
        let lag = flow.lag(UNSENT, BEHIND);
        assert_eq!(lag.delivered_bytes_per_second, MIB as f64);
    }

    #[test]
    fn causes_are_named_in_json_as_in_labels() {
        for cause in LagCause::ALL {
            assert_eq!(serde_json::to_value(cause).unwrap(), cause.name());
        }
    }
}
