//! One pair's lines: the direction and the state, what a disaster now would lose, how far the copy is, and why.

use jiff::Timestamp;
use tidemark_common::api::types::{ComparisonState, CopyProgress, GroupStatus, PairState, PairStatus, Role};

use super::group::with_bar;
use super::{VALUE_COLUMN, labelled};
use crate::output::figures;
use crate::output::text::{Line, Style, wrapped};

/// Columns of a state and the gap after it.
const STATE_COLUMNS: usize = 14;

/// The lines.
pub(super) fn block(pair: &PairStatus, group: &GroupStatus, now: Timestamp, columns: usize) -> Vec<Line> {
    let mut lines = vec![headline(pair, group.role, now)];
    if !is_over(pair.state) && !is_unheard(pair) {
        lines.push(markers(pair));
    }
    if let Some(said) = behind(pair) {
        lines.extend(labelled("behind", Style::Plain, &wrapped(&said, columns)));
    }
    lines.extend(pair.copy.iter().map(|progress| copy("copy", progress)));
    lines.extend(pair.verify.iter().map(|progress| copy("verify", progress)));
    if let Some(said) = comparison(pair, &group.name) {
        let label = if pair.verify.is_some() { "" } else { "verify" };
        lines.extend(labelled(label, Style::Plain, &wrapped(&said, columns)));
    }
    let style = if is_bad(pair.state) { Style::Bad } else { Style::Plain };
    // What is the group's problem stands there already.
    let reason = pair.reason.iter().filter(|_| pair.reason != group.problem);
    lines.extend(reason.flat_map(|reason| labelled("", style, &wrapped(reason, columns))));
    lines
}

fn headline(pair: &PairStatus, role: Role, now: Timestamp) -> Line {
    let (arrow, arrow_style) = arrow(pair, role);
    let peer = Line::indented(2).with(arrow_style, arrow).plain(" ").with(Style::Strong, &pair.peer);
    let line = peer.plain("  ").to(VALUE_COLUMN);
    let state_ends = line.width() + STATE_COLUMNS;
    let line = line.with(state_style(pair.state), figures::state(pair.state)).to(state_ends);
    let since = format!("   for {}", figures::age(pair.since, now));
    if is_over(pair.state) {
        return line.with(Style::Faint, since.trim_start());
    }
    let line = match link(pair, role) {
        Link::Up => line,
        Link::Begun => line.with(Style::Busy, "connecting   "),
        // The state says it.
        Link::Suspended if pair.state == PairState::Suspended => line,
        Link::Suspended => line.with(Style::Warning, "suspended   "),
        Link::Stands => line.with(Style::Bad, "stands   "),
        Link::Down => line.with(Style::Bad, "link down   "),
    };
    round_trip(loss(line, pair).with(Style::Faint, since), pair)
}

enum Link {
    Up,
    /// Not tried to its end yet.
    Begun,
    /// An operator wants it so, on either side.
    Suspended,
    /// It is not the link: a person has to do what the reason says.
    Stands,
    Down,
}

/// On the side that calls, a link that failed has left its reason.
fn link(pair: &PairStatus, role: Role) -> Link {
    match (pair.connected, &pair.reason, role) {
        (true, _, _) => Link::Up,
        (false, _, _) if is_suspended(pair) => Link::Suspended,
        (false, None, Role::Primary) => Link::Begun,
        (false, Some(_), _) if pair.stands => Link::Stands,
        _ => Link::Down,
    }
}

/// Here, or, as far as that side has told, over there.
fn is_suspended(pair: &PairStatus) -> bool {
    pair.state == PairState::Suspended || pair.suspended_there
}

/// Nothing flows any more, so there is nothing to measure.
const fn is_over(state: PairState) -> bool {
    matches!(state, PairState::FailedOver | PairState::Fenced)
}

/// Points the way data flows; broken when it cannot.
fn arrow(pair: &PairStatus, role: Role) -> (&'static str, Style) {
    match (pair.connected, role) {
        (false, _) if is_over(pair.state) => ("╌╳╌", state_style(pair.state)),
        (false, _) if matches!(link(pair, role), Link::Begun) => ("╌╌╌", Style::Busy),
        (false, _) if is_suspended(pair) => ("╌╌╌", Style::Warning),
        (false, _) => ("╌╳╌", Style::Bad),
        (true, Role::Primary) => ("──▶", state_style(pair.state)),
        (true, Role::Secondary) => ("◀──", state_style(pair.state)),
        (true, Role::Fenced) => ("───", Style::Bad),
    }
}

/// It has not answered since this side was started: its copy is as good as it was then, and nothing here tells how good.
fn is_unheard(pair: &PairStatus) -> bool {
    !pair.connected && pair.permitted_marker == 0 && pair.state != PairState::InitialCopy
}

/// What a disaster now would lose.
fn loss(line: Line, pair: &PairStatus) -> Line {
    let line = match pair.rpo_seconds {
        Some(seconds) => line.with(Style::Faint, "RPO ").plain(figures::seconds(seconds)),
        None if is_unheard(pair) => line.with(Style::Faint, "RPO ").with(Style::Warning, "not known until it answers"),
        None => line.with(Style::Faint, "RPO ").with(Style::Warning, "no usable copy"),
    };
    let line = line.with(Style::Faint, "   lag ").plain(figures::bytes(pair.lag_bytes));
    match pair.differential_bytes {
        0 => line,
        bytes => line.with(Style::Faint, "   to compare ").with(Style::Warning, figures::bytes(bytes)),
    }
}

fn round_trip(line: Line, pair: &PairStatus) -> Line {
    match pair.round_trip_ms {
        Some(ms) => line.with(Style::Faint, format!("   rtt {}", figures::microseconds(ms * 1000.0))),
        None => line,
    }
}

fn markers(pair: &PairStatus) -> Line {
    let number = |line: Line, label: &str, marker: u64| line.with(Style::Faint, label).plain(marker.to_string());
    let line = number(Line::indented(VALUE_COLUMN), "marker received ", pair.received_marker);
    let line = number(line, "   permitted ", pair.permitted_marker);
    number(line, "   applied ", pair.applied_marker)
}

/// Where it waits, what it waits for, and how long.
fn behind(pair: &PairStatus) -> Option<String> {
    let lag = &pair.lag;
    let cause = lag.cause.filter(|_| pair.connected)?;
    let stages =
        [("in the write buffer", lag.buffer_bytes), ("not sent", lag.unsent_bytes), ("under way", lag.under_way_bytes)];
    let stages = stages.into_iter().filter(|(_, bytes)| *bytes > 0);
    let waits: Vec<_> = stages.map(|(stage, bytes)| format!("{} {stage}", figures::bytes(bytes))).collect();
    let rates = [lag.written_bytes_per_second, lag.delivered_bytes_per_second].map(figures::rate);
    let left = lag.seconds_left.map_or_else(
        || "it gets no nearer at this rate".into(),
        |seconds| format!("caught up in {}", figures::seconds(seconds)),
    );
    let [written, delivered] = rates;
    let waits = if waits.is_empty() { String::new() } else { waits.join(", ") + "; " };
    Some(format!("{}: {waits}hosts write {written}, {delivered} arrive, {left}", cause.text()))
}

/// How far something is that goes over bytes.
pub(super) fn copy(label: &str, copy: &CopyProgress) -> Line {
    let line = Line::indented(2).with(Style::Faint, label).to(VALUE_COLUMN);
    let line = with_bar(line, figures::share(copy.done_bytes, copy.total_bytes), Style::Busy);
    let amount = format!("   {} of {}", figures::bytes(copy.done_bytes), figures::bytes(copy.total_bytes));
    let left = copy.seconds_left.map_or_else(|| "time left unknown".into(), |left| figures::seconds(left) + " left");
    line.with(Style::Faint, format!("{amount}   {}   {left}", figures::rate(copy.bytes_per_second)))
}

/// Of a comparison that was interrupted, stands, or has found differences.
fn comparison(pair: &PairStatus, group: &str) -> Option<String> {
    let comparison = pair.comparison.as_ref()?;
    let command = format!("`tidemark verify {group} --to {} --resume`", pair.peer);
    let at = format!("{} of {}", figures::bytes(comparison.done_bytes), figures::bytes(comparison.total_bytes));
    let differ = match comparison.different_bytes {
        0 => String::new(),
        bytes => format!(", {} differ", figures::bytes(bytes)),
    };
    match comparison.state {
        ComparisonState::Runs if pair.verify.is_none() => {
            Some(format!("waits for the pair at {at}{differ}, and goes on by itself"))
        }
        ComparisonState::Runs if comparison.resumed > 0 => Some(format!(
            "went on from {} at markers {} to {}{differ}",
            figures::bytes(comparison.resumed_at_bytes),
            comparison.from_marker,
            comparison.marker
        )),
        ComparisonState::Stands => {
            let reason = comparison.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
            Some(format!("stands at {at}{differ}{reason}: {command} goes on"))
        }
        ComparisonState::Ended if comparison.different_bytes > 0 => {
            let (from, to) = (comparison.from_marker, comparison.marker);
            let mended = match comparison.repaired_bytes {
                0 => String::new(),
                bytes => format!(", {} copied again", figures::bytes(bytes)),
            };
            Some(format!("ended at markers {from} to {to}{differ}{mended}: {command} tells where"))
        }
        ComparisonState::Runs | ComparisonState::Ended => None,
    }
}

const fn is_bad(state: PairState) -> bool {
    matches!(state, PairState::Error | PairState::Fenced)
}

const fn state_style(state: PairState) -> Style {
    match state {
        PairState::Paired => Style::Good,
        PairState::InitialCopy | PairState::Resync => Style::Busy,
        PairState::CatchingUp | PairState::Differential | PairState::Suspended | PairState::FailedOver => {
            Style::Warning
        }
        PairState::Fenced | PairState::Error => Style::Bad,
    }
}
