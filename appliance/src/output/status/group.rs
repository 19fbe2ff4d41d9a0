//! One group's block: what it is, how full it is, how long its hosts were held, and its pairs.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_common::api::types::{
    FreezeStatus, GroupStatus, HistoryStatus, ImageStatus, JournalStatus, OnFull, Positions, Role, Status,
};

use tidemark_common::config::format_duration;
use tidemark_common::plural::counted;
use tidemark_common::watchdog::Standing;

use super::{VALUE_COLUMN, labelled, pair};
use crate::output::figures;
use crate::output::text::{Line, Style, bar, wrapped};

/// Columns of a bar.
pub(super) const BAR_COLUMNS: u32 = 20;
/// Lines that a list of volumes may take.
const LIST_LINES_MAX: usize = 3;
/// A store this full is worth a look, and this full needs one now.
const FILL_WARNING: f64 = 0.70;
const FILL_BAD: f64 = 0.90;
/// A history yields to what comes until five sixteenths of the journal are free: one that is emptier has room for it.
const HISTORY_YIELDS_AT: f64 = 0.625;

/// The block, without an empty line around it.
pub(super) fn block(group: &GroupStatus, status: &Status, now: Timestamp, columns: usize) -> Vec<Line> {
    let mut lines = vec![title(group)];
    lines.extend(group.problem.iter().flat_map(|problem| labelled("problem", Style::Bad, &wrapped(problem, columns))));
    let of_volumes = status.volumes.iter().filter(|volume| volume.group.as_ref() == Some(&group.name));
    // What is the group's problem stands there already.
    let of_volumes =
        of_volumes.filter_map(|volume| volume.problem.as_ref()).filter(|told| group.problem.as_ref() != Some(told));
    lines.extend(of_volumes.flat_map(|told| labelled("problem", Style::Bad, &wrapped(told, columns))));
    let stuck: Vec<String> = group.standing.iter().filter(|one| one.is_stuck()).map(Standing::text).collect();
    lines.extend(stuck.iter().flat_map(|text| labelled("stuck", Style::Bad, &wrapped(text, columns))));
    lines.extend(labelled("volumes", Style::Plain, &listed(&sizes(group, status), columns)));
    // A group that does not run has no journal open, and nothing to tell of it.
    if group.journal.capacity_bytes > 0 {
        lines.extend(figures_of(group, now));
    }
    if group.pairs.is_empty() {
        lines.push(unpaired(group));
    }
    lines.extend(group.pairs.iter().flat_map(|pair| pair::block(pair, group, now, columns)));
    lines.extend(images(group, status));
    lines.extend(local_pairs(group, status, columns));
    lines.extend(proven(group, status));
    lines
}

/// Targets on this appliance whose sources are the group's.
fn local_pairs(group: &GroupStatus, status: &Status, columns: usize) -> Vec<Line> {
    let of = status.local_pairs.iter().filter(|pair| pair.group == group.name);
    let said = |pair: &LocalPairStatus| {
        let copy = || format!("{} to copy", figures::bytes(pair.differential_bytes));
        let about = pair.reason.clone().unwrap_or_else(copy);
        let text = format!("{} of {}, {}: {about}", pair.target, pair.source, pair.state.name());
        let style = if pair.state == LocalPairState::Error { Style::Bad } else { Style::Plain };
        labelled("local pair", style, &wrapped(&text, columns))
    };
    of.flat_map(said).collect()
}

fn images(group: &GroupStatus, status: &Status) -> Vec<Line> {
    let marker_of = |image: &ImageStatus| {
        let here = image.moments.iter().find(|moment| moment.group == group.name);
        let here = here.map(|moment| (moment.marker, moment.time));
        here.or_else(|| (image.group == group.name).then_some((image.marker, image.marker_time)))
    };
    let of = status.images.iter().filter_map(|image| Some((image, marker_of(image)?)));
    // What an image shows may be older than the image by any time.
    let said = |(image, (marker, time)): (&ImageStatus, (u64, Timestamp))| {
        let (time, made) = (figures::time(time), figures::seconds(image.age_seconds));
        let about = match &image.reason {
            Some(reason) => format!("broken: {reason}"),
            None => format!("{} kept for it", figures::bytes(image.saved_bytes + image.written_bytes)),
        };
        format!("{} at marker {marker} of {time}, made {made} ago, {about}", image.name)
    };
    let lines: Vec<String> = of.map(said).collect();
    labelled("images", Style::Plain, &lines)
}

/// What drills have proven.
fn proven(group: &GroupStatus, status: &Status) -> Option<Line> {
    let drills = status.drills.iter().find(|drills| drills.group == group.name)?;
    let last = drills.last?;
    let passed = drills.last_passed.unwrap_or(false);
    let moment = match (drills.proven_marker, drills.proven_age_seconds) {
        (Some(marker), Some(age)) => format!("marker {marker}, {} old", figures::seconds(age)),
        _ => "nothing yet".into(),
    };
    let style = if passed { Style::Plain } else { Style::Bad };
    let result = if passed { "passed" } else { "failed" };
    Some(value("proven").plain(moment).with(style, format!("   drill {last} {result}")))
}

fn figures_of(group: &GroupStatus, now: Timestamp) -> Vec<Line> {
    let mut lines = vec![value("marker").plain(marker(group, now))];
    // A copy that was never primary has neither a write buffer nor freezes.
    if group.buffer.capacity_bytes > 0 {
        lines.push(fill("buffer", group.buffer.bytes, group.buffer.capacity_bytes));
    }
    lines.push(journal(&group.journal));
    if group.role == Role::Primary || group.freeze.count > 0 {
        lines.push(freeze(&group.freeze));
    }
    lines.push(positions(&group.positions));
    lines.extend(group.history.map(|kept| history(&kept, group)));
    lines
}

fn title(group: &GroupStatus) -> Line {
    let style = match group.role {
        Role::Primary => Style::Good,
        Role::Secondary => Style::Busy,
        Role::Fenced => Style::Bad,
    };
    let interval = format_duration(Duration::from_millis(group.interval_ms));
    let slows = if group.on_full == OnFull::Throttle { ", hosts slowed while the journal fills" } else { "" };
    let about = format!("generation {}, a cut every {interval}{slows}", group.generation);
    let title = Line::default().with(Style::Strong, &group.name).plain("   ").with(style, figures::role(group.role));
    title.plain("   ").with(Style::Faint, about)
}

fn value(label: &str) -> Line {
    Line::indented(2).with(Style::Faint, label).to(VALUE_COLUMN)
}

fn sizes(group: &GroupStatus, status: &Status) -> Vec<String> {
    let size = |name: &str| status.volumes.iter().find(|volume| volume.name == name).map(|volume| volume.size);
    let shown =
        |name: &String| size(name).map_or_else(|| name.clone(), |size| format!("{name} {}", figures::bytes(size)));
    group.volumes.iter().map(shown).collect()
}

/// Items beside each other in a few lines; those that find no room are counted.
pub(super) fn listed(items: &[String], columns: usize) -> Vec<String> {
    if items.is_empty() {
        return vec!["none".into()];
    }
    let mut lines = vec![String::new()];
    for (index, item) in items.iter().enumerate() {
        let more = format!("and {} more", items.len() - index);
        let last = lines.len() == LIST_LINES_MAX;
        let Some(line) = lines.last_mut() else { break };
        let gap = if line.is_empty() { "" } else { ", " };
        let taken = line.chars().count() + gap.len() + item.chars().count();
        // In the last line, what is left over must still find room to be counted.
        let reserved = if last && index + 1 < items.len() { more.len() + 2 } else { 0 };
        if line.is_empty() || taken + reserved <= columns {
            line.push_str(gap);
            line.push_str(item);
        } else if last {
            line.push_str(gap);
            line.push_str(&more);
            break;
        } else {
            line.push(',');
            lines.push(item.clone());
        }
    }
    lines
}

fn marker(group: &GroupStatus, now: Timestamp) -> String {
    match group.marker.time {
        Some(time) => format!("{}, {} old", group.marker.last, figures::age(time, now)),
        None => "none yet".into(),
    }
}

fn fill(label: &str, bytes: u64, capacity: u64) -> Line {
    let share = figures::share(bytes, capacity);
    let style = match share {
        full if full >= FILL_BAD => Style::Bad,
        high if high >= FILL_WARNING => Style::Warning,
        _ => Style::Good,
    };
    let amount = format!("   {} of {}", figures::bytes(bytes), figures::bytes(capacity));
    with_bar(value(label), share, style).with(Style::Faint, amount)
}

/// How full it is, when it will be full, and what that costs hosts already.
fn journal(journal: &JournalStatus) -> Line {
    let mut line = fill("journal", journal.bytes, journal.capacity_bytes);
    if let Some(seconds) = journal.full_in_seconds {
        let when = if seconds > 0.0 { format!(", full in {}", figures::seconds(seconds)) } else { ", full".into() };
        line = line.with(Style::Warning, when);
    }
    if journal.throttle_ms > 0.0 {
        line = line.with(Style::Warning, format!(", hosts held back {:.2} ms a write", journal.throttle_ms));
    }
    line
}

/// Adds a bar and its percentage.
pub(super) fn with_bar(line: Line, share: f64, style: Style) -> Line {
    let bar = line.with(Style::Faint, "▕").with(style, bar(share, BAR_COLUMNS)).with(Style::Faint, "▏");
    bar.plain(format!("{:>5}", figures::percent(share)))
}

fn freeze(freeze: &FreezeStatus) -> Line {
    if freeze.count == 0 && freeze.abandoned == 0 {
        return value("freeze").with(Style::Faint, "none yet");
    }
    let held = |label: &str, us: f64| format!("{label} {}   ", figures::microseconds(us));
    let quantiles = held("p50", freeze.p50_us) + &held("p99", freeze.p99_us) + &held("max", freeze.max_us);
    let line = value("freeze").plain(quantiles).with(Style::Faint, format!("in {}", counted(freeze.count, "cut")));
    match freeze.abandoned {
        0 => line,
        abandoned => line.with(Style::Warning, format!("   {abandoned} abandoned")),
    }
}

fn positions(positions: &Positions) -> Line {
    let Positions { captured_seq, journaled_seq, applied_seq } = positions;
    let arrow = |line: Line| line.with(Style::Faint, " → ");
    let line = arrow(value("writes").plain(format!("captured {captured_seq}")));
    arrow(line.plain(format!("journaled {journaled_seq}"))).plain(format!("applied {applied_seq}"))
}

/// How far back a copy can go.
fn history(kept: &HistoryStatus, group: &GroupStatus) -> Line {
    let asked = figures::history(&kept.asked);
    let line = value("history");
    match kept.oldest_marker {
        _ if group.role == Role::Primary => line.plain(format!("{asked} on its copies")),
        None => line.with(Style::Faint, format!("{asked} asked for; nothing to keep yet")),
        Some(oldest) => {
            let line = line.plain(format!("{} back to marker {oldest}", figures::seconds(kept.seconds)));
            let line = line
                .with(Style::Faint, format!("   in {} of the journal; {asked} asked for", figures::bytes(kept.bytes)));
            let filled = figures::share(group.journal.bytes, group.journal.capacity_bytes);
            match kept.shortened {
                true if filled < HISTORY_YIELDS_AT => line.with(Style::Warning, ", was cut short and grows again"),
                true => line.with(Style::Warning, ", the journal has no room for more"),
                false => line,
            }
        }
    }
}

fn unpaired(group: &GroupStatus) -> Line {
    let hint = match group.role {
        Role::Primary => format!("no pair: `tidemark pair create {} --to PEER` starts a copy", group.name),
        Role::Secondary => "no pair".into(),
        Role::Fenced => "no pair".to_owned(),
    };
    value("").with(Style::Faint, hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_is_counted_at_its_end() {
        let items: Vec<String> = (1..=40).map(|number| format!("vol{number:02}")).collect();
        let lines = listed(&items, 24);
        assert_eq!(lines, ["vol01, vol02, vol03,", "vol04, vol05, vol06,", "vol07, and 33 more"]);
        assert_eq!(listed(&items[..9], 24).last().unwrap(), "vol07, vol08, vol09");
        assert_eq!(listed(&items[..2], 24), ["vol01, vol02"]);
        assert_eq!(listed(&["a-name-that-is-too-long".into()], 4), ["a-name-that-is-too-long"]);
        assert_eq!(listed(&[], 24), ["none"]);
    }
}
