//! The picture of an appliance: who it is, then a block for each group with its pairs, then what belongs to no group.
//!
//! A [`Status`], the time and a [`View`] come in, text goes out. Pure: the same goes in, the same comes out, so that every
//! picture is a file under `golden/`.

mod backup;
mod group;
mod pair;
mod restore;

use jiff::Timestamp;
use tidemark_common::api::local_pair::types::LocalPairState;
use tidemark_common::api::types::{GroupStatus, PairState, PairStatus, Status, StrangerStatus};
use tidemark_common::plural::counted;

use super::figures;
use super::text::{Line, Style, View, wrapped};

/// Where values begin: labels stand to the left of it.
const VALUE_COLUMN: usize = 13;
/// Widest a list or a message gets before it is broken into lines.
const WRAP_COLUMNS_MAX: usize = 120;

/// The whole picture, each line ended.
pub(crate) fn render(status: &Status, now: Timestamp, view: View) -> String {
    let mut lines = header(status, now);
    for group in &status.groups {
        lines.push(Line::default());
        lines.extend(group::block(group, status, now, wrap_columns(view)));
    }
    let loose = ungrouped(status, wrap_columns(view));
    if !loose.is_empty() {
        lines.push(Line::default());
        lines.extend(loose);
    }
    for stranger in &status.strangers {
        lines.push(Line::default());
        lines.extend(refused(stranger, now, wrap_columns(view)));
    }
    for backup in &status.backups_under_way {
        lines.push(Line::default());
        lines.extend(backup::block(backup, wrap_columns(view)));
    }
    for restore in &status.restores {
        lines.push(Line::default());
        lines.extend(restore::block(restore, wrap_columns(view)));
    }
    for export in &status.lost_exports {
        lines.push(Line::default());
        lines.push(pair::copy("export", &export.progress));
        let said = format!("'{}' of group {}, volume {}, to {}", export.name, export.group, export.volume, export.to);
        lines.extend(labelled("", Style::Plain, &wrapped(&said, wrap_columns(view))));
    }
    lines.iter().map(|line| line.shown(view) + "\n").collect()
}

fn wrap_columns(view: View) -> usize {
    view.width.min(WRAP_COLUMNS_MAX).saturating_sub(VALUE_COLUMN)
}

fn header(status: &Status, now: Timestamp) -> Vec<Line> {
    let appliance = &status.appliance;
    let up = figures::seconds(appliance.uptime_seconds);
    let first = Line::default().with(Style::Strong, &appliance.name).plain("   ").with(health(status), summary(status));
    let about = format!("   tidemark {}, up {up}, {}", appliance.version, figures::time(now));
    let addresses = &status.addresses;
    let mut lines = vec![first.with(Style::Faint, about)];
    let mut add = |label: &str, value: &str| {
        lines.push(Line::indented(2).with(Style::Faint, label).to(VALUE_COLUMN).with(Style::Faint, value));
    };
    add("id", &appliance.id);
    add("nbd", &addresses.nbd.join("  "));
    add("listens", &format!("replication {}   metrics {}", addresses.replication, addresses.metrics));
    lines
}

/// How many groups there are, and how many of them need somebody.
fn summary(status: &Status) -> String {
    let needy = needy_groups(status).count() + loose_problems(status).count();
    let groups = match status.groups.len() {
        0 => "no groups yet".into(),
        some => counted(some as u64, "group"),
    };
    match needy {
        0 => groups,
        1 => format!("{groups}, 1 needs attention"),
        several => format!("{groups}, {several} need attention"),
    }
}

fn health(status: &Status) -> Style {
    match needy_groups(status).next().is_some() || loose_problems(status).next().is_some() {
        true => Style::Bad,
        false => Style::Good,
    }
}

/// Those that need somebody, also for a target of theirs that stands.
fn needy_groups(status: &Status) -> impl Iterator<Item = &GroupStatus> {
    status.groups.iter().filter(move |group| needs_a_person(group) || has_a_target_that_stands(group, status))
}

fn has_a_target_that_stands(group: &GroupStatus, status: &Status) -> bool {
    status.local_pairs.iter().any(|pair| pair.group == group.name && pair.state == LocalPairState::Error)
}

fn needs_a_person(group: &GroupStatus) -> bool {
    let stuck = |state| matches!(state, PairState::Error | PairState::Fenced);
    let needs = |pair: &PairStatus| pair.stands || stuck(pair.state);
    // What does not arrive over there may be the link's, which comes back by itself.
    let is_stuck = group.standing.iter().any(|one| one.peer.is_none() && one.is_stuck());
    group.problem.is_some() || is_stuck || group.pairs.iter().any(needs)
}

/// What is wrong with volumes in no group.
fn loose_problems(status: &Status) -> impl Iterator<Item = &String> {
    status.volumes.iter().filter(|volume| volume.group.is_none()).filter_map(|volume| volume.problem.as_ref())
}

/// Somebody who calls, and whom nobody trusts here.
fn refused(stranger: &StrangerStatus, now: Timestamp, columns: usize) -> Vec<Line> {
    let StrangerStatus { id, from, calls, last, advice } = stranger;
    let times = if *calls == 1 { "once".into() } else { format!("{calls} times") };
    let said = format!("{from} called {times}, {} ago, with an unknown id: {id}. {advice}", figures::age(*last, now));
    labelled("refused", Style::Warning, &wrapped(&said, columns))
}

fn ungrouped(status: &Status, columns: usize) -> Vec<Line> {
    let loose = status.volumes.iter().filter(|volume| volume.group.is_none());
    let items: Vec<String> = loose.map(|volume| format!("{} {}", volume.name, figures::bytes(volume.size))).collect();
    if items.is_empty() {
        return Vec::new();
    }
    let mut lines = labelled("no group", Style::Plain, &group::listed(&items, columns));
    lines.extend(loose_problems(status).flat_map(|told| labelled("problem", Style::Bad, &wrapped(told, columns))));
    lines
}

/// A label, and values below each other.
fn labelled(label: &str, style: Style, values: &[String]) -> Vec<Line> {
    let labels = std::iter::once(label).chain(std::iter::repeat(""));
    let line = |(label, value): (&str, &String)| {
        Line::indented(2).with(Style::Faint, label).to(VALUE_COLUMN).with(style, value)
    };
    labels.zip(values).map(line).collect()
}

#[cfg(test)]
mod tests;
