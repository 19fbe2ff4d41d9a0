//! The oracle: could this image have existed?
//!
//! Every block of an image shows one write (or none). Because writes to one block never overlap in time, that decides for
//! each write whether the image holds it: it does when each of its blocks shows it or a later write. What is held must
//! then be a legal moment of the history:
//!
//! - *whole*: no write is held by one of its blocks and missing from another;
//! - *closed* (invariant 2): when B is held, everything answered before B was sent is held too;
//! - *floor* (invariants 1 and 3): everything answered before a given moment is held, and what was there before any image was made;
//! - *ceiling* (invariant 3): nothing sent after a given moment is held;
//! - nothing that was never written, or was lost in an earlier crash, appears.

use std::collections::{HashMap, HashSet};

use crate::history::{Kind, Tick, Write};
use crate::image::Image;
use crate::stamp::{Content, WriteId};

/// What an image at a marker, or after a crash, has to hold and must not hold.
#[derive(Debug, Clone, Copy, Default)]
pub struct Bounds {
    /// Everything answered before this moment is there.
    pub holds_acked_before: Option<Tick>,
    /// Nothing sent after this moment is there.
    pub nothing_sent_after: Option<Tick>,
}

impl Bounds {
    /// After `kill -9` and restart: every acknowledged write is there.
    pub const EVERYTHING_ACKED: Self = Self { holds_acked_before: Some(Tick::MAX), nothing_sent_after: None };
    /// Any legal moment.
    pub const ANY: Self = Self { holds_acked_before: None, nothing_sent_after: None };

    /// The marker of a cut that began and ended at these moments.
    #[must_use]
    pub fn cut(began: Tick, ended: Tick) -> Self {
        Self { holds_acked_before: Some(began), nothing_sent_after: Some(ended) }
    }
}

/// Which writes a legal image holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Verdict {
    held: Vec<bool>,
}

impl Verdict {
    /// Whether it holds this write.
    #[must_use]
    pub fn holds(&self, id: WriteId) -> bool {
        id.checked_sub(1).and_then(|at| self.held.get(at as usize)).copied().unwrap_or(false)
    }

    /// How many writes it holds.
    #[must_use]
    pub fn count(&self) -> usize {
        self.held.iter().filter(|held| **held).count()
    }
}

/// Why an image could not have existed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Violation {
    /// A block shows something nobody wrote there.
    #[error("volume {volume} block {block} shows what nobody wrote: {what}")]
    Foreign {
        /// Which volume.
        volume: usize,
        /// Which block.
        block: u64,
        /// What it shows.
        what: String,
    },
    /// A block shows a write that an earlier crash or failover had lost.
    #[error("volume {volume} block {block} shows write {write}, which was lost before")]
    Resurrected {
        /// Which volume.
        volume: usize,
        /// Which block.
        block: u64,
        /// Which write.
        write: WriteId,
    },
    /// A write is there in part.
    #[error("write {write} is torn: block {held} of volume {volume} has it, block {missing} has not")]
    Torn {
        /// Which write.
        write: WriteId,
        /// Which volume.
        volume: usize,
        /// A block that has it.
        held: u64,
        /// A block that has not.
        missing: u64,
    },
    /// A write is missing although it was acknowledged in time.
    #[error("write {write} is missing, though it was answered at {acked}, before {floor}")]
    Dropped {
        /// Which write.
        write: WriteId,
        /// When it was answered.
        acked: Tick,
        /// Before when everything answered has to be there.
        floor: Tick,
    },
    /// A write is missing and a later, dependent one is there.
    #[error(
        "write {missing} is missing, though write {held} is there and was sent ({sent}) after its answer ({acked})"
    )]
    Reordered {
        /// The missing write.
        missing: WriteId,
        /// When it was answered.
        acked: Tick,
        /// The dependent write.
        held: WriteId,
        /// When that was sent.
        sent: Tick,
    },
    /// A write is there that was sent after the cut ended.
    #[error("write {write} is there, though it was sent at {sent}, after {ceiling}")]
    TooNew {
        /// Which write.
        write: WriteId,
        /// When it was sent.
        sent: Tick,
        /// After when nothing sent may be there.
        ceiling: Tick,
    },
}

/// Judges an image against the history; all violations when it could not have existed.
///
/// # Errors
/// The violations.
///
/// # Panics
/// When the history itself breaks the rules that make judging possible.
pub fn judge(writes: &[Write], image: &Image, bounds: Bounds) -> Result<Verdict, Vec<Violation>> {
    let mut violations = Vec::new();
    let blocks = Blocks::of(writes);
    let newest = shown(writes, &blocks, image, bounds, &mut violations);
    let held = held(writes, &blocks, &newest, &mut violations);
    check_closed(writes, &held, &mut violations);
    check_bounds(writes, &held, bounds, &mut violations);
    if violations.is_empty() { Ok(Verdict { held }) } else { Err(violations) }
}

/// Judges an image that must be legal.
///
/// # Panics
/// When it is not, with the first violations.
pub fn assert_legal(what: &str, writes: &[Write], image: &Image, bounds: Bounds) -> Verdict {
    judge(writes, image, bounds).unwrap_or_else(|violations| {
        let lines: Vec<_> = violations.iter().take(12).map(|violation| explained(writes, violation)).collect();
        panic!("{what}: {} violations:\n  {}", violations.len(), lines.join("\n  "));
    })
}

/// A violation with the writes it is about.
fn explained(writes: &[Write], violation: &Violation) -> String {
    let ids = match violation {
        Violation::Foreign { .. } => vec![],
        Violation::Reordered { missing, held, .. } => vec![*missing, *held],
        Violation::Resurrected { write, .. }
        | Violation::Torn { write, .. }
        | Violation::Dropped { write, .. }
        | Violation::TooNew { write, .. } => vec![*write],
    };
    let about = ids.iter().filter_map(|id| writes.get(*id as usize - 1)).map(|write| format!("\n      {write:?}"));
    about.fold(violation.to_string(), |text, line| text + &line)
}

/// The writes of each block that were not lost, oldest first.
struct Blocks {
    writes: HashMap<(usize, u64), Vec<usize>>,
}

impl Blocks {
    fn of(writes: &[Write]) -> Self {
        let mut map: HashMap<(usize, u64), Vec<usize>> = HashMap::new();
        for (at, write) in writes.iter().enumerate().filter(|(_, write)| !write.lost) {
            for block in write.range() {
                let list = map.entry((write.volume, block)).or_default();
                if let Some(before) = list.last().map(|before| &writes[*before]) {
                    let ended = before.acked.is_some_and(|acked| acked < write.sent);
                    assert!(ended, "writes {} and {} to one block overlap in time", before.id, write.id);
                }
                list.push(at);
            }
        }
        Self { writes: map }
    }

    fn at(&self, volume: usize, block: u64) -> &[usize] {
        self.writes.get(&(volume, block)).map_or(&[], Vec::as_slice)
    }
}

/// For each block that was ever written, how many of its writes the image holds there.
fn shown(
    writes: &[Write],
    blocks: &Blocks,
    image: &Image,
    bounds: Bounds,
    violations: &mut Vec<Violation>,
) -> HashMap<(usize, u64), usize> {
    let mut shown = HashMap::new();
    // What was sent after the answer of a write that is missing cannot be there, nor any part of that write itself: a zero is then
    // what was before.
    let missing = certainly_missing(writes, blocks, image);
    let answered = missing.iter().filter_map(|at| writes[*at].acked).min();
    let ceiling = answered.into_iter().chain(bounds.nothing_sent_after).min();
    let may_be_there = |at: usize| !missing.contains(&at) && ceiling.is_none_or(|ceiling| writes[at].sent <= ceiling);
    for (volume, block, content) in image.blocks() {
        let list = blocks.at(volume, block);
        let found = match content {
            Content::Zero => Ok(zero_position(writes, list, may_be_there)),
            Content::Foreign(what) => Err(Violation::Foreign { volume, block, what: what.clone() }),
            Content::Stamp(id) => match list.iter().position(|at| writes[*at].id == *id) {
                Some(position) if writes[list[position]].kind == Kind::Stamp => Ok(position + 1),
                _ => Err(unexpected(writes, volume, block, *id)),
            },
        };
        match found {
            Ok(position) => {
                shown.insert((volume, block), position);
            }
            Err(violation) => violations.push(violation),
        }
    }
    shown
}

/// The writes that some block lacks for certain: it shows an older one, or zeroes that nothing wrote later.
fn certainly_missing(writes: &[Write], blocks: &Blocks, image: &Image) -> HashSet<usize> {
    let lacking = image.blocks().flat_map(|(volume, block, content)| {
        let list = blocks.at(volume, block);
        let newest = match content {
            Content::Stamp(id) => list.iter().position(|at| writes[*at].id == *id).map(|position| position + 1),
            Content::Zero if list.iter().any(|at| writes[*at].kind == Kind::Zero) => None,
            Content::Zero => Some(0),
            Content::Foreign(_) => None,
        };
        newest.map_or(&[][..], |newest| &list[newest..])
    });
    lacking.copied().collect()
}

/// A zero shows the one write that zeroed the block, or that it was never written: so it does when the image cannot hold that
/// write. What was written before and is not there is missing then.
fn zero_position(writes: &[Write], list: &[usize], may_be_there: impl Fn(usize) -> bool) -> usize {
    let zeroes = |at: usize| writes[at].kind == Kind::Zero && may_be_there(at);
    let mut zeroed = list.iter().enumerate().filter(|(_, at)| zeroes(**at));
    let last = zeroed.next().map_or(0, |(position, _)| position + 1);
    assert!(zeroed.next().is_none(), "a block was zeroed twice: the history is ambiguous");
    last
}

fn unexpected(writes: &[Write], volume: usize, block: u64, id: WriteId) -> Violation {
    let lost = writes.iter().any(|write| write.id == id && write.lost);
    if lost {
        Violation::Resurrected { volume, block, write: id }
    } else {
        Violation::Foreign { volume, block, what: format!("write {id} was never sent there") }
    }
}

/// For each write, whether the image holds it.
fn held(
    writes: &[Write],
    blocks: &Blocks,
    newest: &HashMap<(usize, u64), usize>,
    violations: &mut Vec<Violation>,
) -> Vec<bool> {
    writes
        .iter()
        .enumerate()
        .map(|(at, write)| {
            if write.lost {
                return false;
            }
            let has = |block: &u64| {
                let list = blocks.at(write.volume, *block);
                let position = list.iter().position(|other| *other == at).expect("listed");
                newest.get(&(write.volume, *block)).is_some_and(|newest| *newest > position)
            };
            let (held, missing): (Vec<u64>, Vec<u64>) = write.range().partition(has);
            if let (Some(held), Some(missing)) = (held.first(), missing.first()) {
                let (held, missing) = (*held, *missing);
                violations.push(Violation::Torn { write: write.id, volume: write.volume, held, missing });
            }
            missing.is_empty()
        })
        .collect()
}

fn check_closed(writes: &[Write], held: &[bool], violations: &mut Vec<Violation>) {
    let there = writes.iter().zip(held).filter(|(_, held)| **held).map(|(write, _)| write);
    let Some(last) = there.max_by_key(|write| write.sent) else { return };
    for write in missing(writes, held) {
        if let Some(acked) = write.acked.filter(|acked| *acked < last.sent) {
            violations.push(Violation::Reordered { missing: write.id, acked, held: last.id, sent: last.sent });
        }
    }
}

fn check_bounds(writes: &[Write], held: &[bool], bounds: Bounds, violations: &mut Vec<Violation>) {
    for write in missing(writes, held) {
        let floor = if write.everywhere { Some(Tick::MAX) } else { bounds.holds_acked_before };
        if let Some((acked, floor)) = write.acked.zip(floor).filter(|(acked, floor)| acked < floor) {
            violations.push(Violation::Dropped { write: write.id, acked, floor });
        }
    }
    if let Some(ceiling) = bounds.nothing_sent_after {
        for (write, _) in writes.iter().zip(held).filter(|(write, held)| **held && write.sent > ceiling) {
            violations.push(Violation::TooNew { write: write.id, sent: write.sent, ceiling });
        }
    }
}

fn missing<'a>(writes: &'a [Write], held: &'a [bool]) -> impl Iterator<Item = &'a Write> {
    writes.iter().zip(held).filter(|(write, held)| !**held && !write.lost).map(|(write, _)| write)
}

#[cfg(test)]
mod tests;
