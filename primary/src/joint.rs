//! One freeze over several groups of an appliance: their gates are closed together, so that of two writes, the one sent when the
//! other was answered, no group's marker holds the later without the other group's holding the earlier (invariant 3, across groups).
//!
//! Comes in: the groups. Goes out: for each a marker at which an image may begin. Owned: nothing; the locks while they are held.
//!
//! ```text
//! asker   ── shut gate 1 ── shut gate 2 ── … note the cut in each ── open all ── ring the drains' bells ── await the markers
//! drain i ── takes entries out, looking under gate i ── stops before a noted cut ── takes it over ── appends its marker
//! ```
//!
//! Drains do not meet: a cut is noted in the gate, and whoever takes an entry out of the ring looks there under the same lock. So a
//! drain that stands (a full journal) keeps nobody else, and no gate is closed while anything is waited for but another gate.
//!
//! Nothing can lock up: a gate is the innermost lock of its group, nothing is waited for under it (a full ring sends the host away to
//! wait outside), gates are closed in the order of the groups' ids, and closing the next one is given up after [`HELD_MAX`], counted from
//! the first: then all are opened and it is tried again. So two freezes at once wait for each other that long at most, and hosts are
//! held that long at most plus the noting. Either all groups have the cut or none. Waiting for the markers has an end as well
//! (`MARKERS_WITHIN`), because the groups' updaters stand until all are there.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::clock::Clock;
use tidemark_common::ids::{GroupId, Seq};
use tidemark_common::t0::ImagePoint;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use crate::buffer::{Boundary, Buffer, Shut};
use crate::cut::{CutDone, CutError, CutRequest, PendingCut};
use crate::group::Primary;

/// Hosts of the first group are held so long at most until the last gate is closed.
pub const HELD_MAX: Duration = Duration::from_micros(500);
/// How often it is tried before the cut is abandoned.
const TRIES_MAX: u32 = 100;
/// A group whose journal does not take its marker in this time has the others go on without one.
const MARKERS_WITHIN: Duration = Duration::from_secs(10);

/// One group's part in a freeze.
#[derive(Debug)]
pub struct Member {
    /// Its gate and write buffer.
    pub buffer: Arc<Buffer>,
    /// The cut to be made of it.
    pub request: CutRequest,
}

/// Closes all gates, notes a cut in each, opens them. The members are different groups, in the order of their ids. Returns the
/// boundaries.
///
/// # Errors
/// How long it was tried, when the gates could not be closed together; no group has a cut then.
pub fn freeze(clock: &dyn Clock, members: Vec<Member>, limit: Duration) -> Result<Vec<Seq>, Duration> {
    let began = clock.monotonic();
    let buffers: Vec<_> = members.iter().map(|member| Arc::clone(&member.buffer)).collect();
    for _ in 0..TRIES_MAX {
        let tried = clock.monotonic();
        let Some(mut gates) = shut_all(clock, &buffers, limit.min(HELD_MAX)) else {
            std::thread::yield_now();
            continue;
        };
        let (time, frozen) = (clock.wall(), clock.monotonic().saturating_sub(tried));
        let boundaries = gates.iter().map(Shut::last_seq).collect();
        for (gate, Member { request, .. }) in gates.iter_mut().zip(members) {
            let boundary = Boundary { seq: gate.last_seq(), time, frozen };
            gate.note(PendingCut { boundary, request: Some(request) });
        }
        drop(gates);
        buffers.iter().for_each(|buffer| buffer.bell().ring());
        return Ok(boundaries);
    }
    Err(clock.monotonic().saturating_sub(began))
}

/// All gates closed, or none.
fn shut_all<'a>(clock: &dyn Clock, buffers: &'a [Arc<Buffer>], at_most: Duration) -> Option<Vec<Shut<'a>>> {
    let mut gates = Vec::with_capacity(buffers.len());
    let mut since = None;
    for buffer in buffers {
        let held = since.map_or(Duration::ZERO, |since| clock.monotonic().saturating_sub(since));
        gates.push(buffer.shut(at_most.checked_sub(held)?)?);
        since.get_or_insert_with(|| clock.monotonic());
    }
    Some(gates)
}

/// Makes a marker in each of several groups, all at one moment. The volumes are not written beyond them while the answer lives.
///
/// # Errors
/// [`CutError`]; there is no common moment then, though some groups may have a marker of it.
pub async fn image_points(groups: &[Arc<Primary>], tag: Option<&str>) -> Result<Vec<(GroupId, ImagePoint)>, CutError> {
    let mut groups = groups.to_vec();
    groups.sort_by_key(|group| group.keeper().id().0);
    groups.dedup_by_key(|group| group.keeper().id().0);
    // What is durable now lies before the markers: no updater can pass its own before we know where it lies.
    let mut until_cut = Vec::new();
    for group in &groups {
        until_cut.push(group.eras()?.hold(group.image().journal.durable_end().position));
    }
    let waiting = cut_all(&groups, tag)?;
    let mut points = Vec::new();
    for (group, done) in groups.iter().zip(waiting) {
        let done = in_time(group, MARKERS_WITHIN, group.await_cut(done)).await?;
        let (barrier, volumes) = (group.eras()?.hold(done.next), group.image().volumes.specs());
        points.push((group.keeper().id(), ImagePoint { marker: done.marker, barrier, volumes }));
    }
    Ok(points)
}

type Waiting = oneshot::Receiver<Result<CutDone, CutError>>;

/// Freezes all of them.
fn cut_all(groups: &[Arc<Primary>], tag: Option<&str>) -> Result<Vec<Waiting>, CutError> {
    let Some(first) = groups.first() else { return Ok(Vec::new()) };
    let (members, waiting): (Vec<_>, Vec<_>) = groups.iter().map(|group| member(group, tag)).unzip();
    let limit = groups.iter().map(|group| group.freeze_limit()).min().unwrap_or(HELD_MAX);
    let frozen = block_in_place(|| freeze(first.clock(), members, limit));
    frozen.map_err(|took| {
        groups.iter().for_each(|group| group.on_abandoned(took));
        CutError::NotTogether { groups: groups.len(), took }
    })?;
    Ok(waiting)
}

fn member(group: &Arc<Primary>, tag: Option<&str>) -> (Member, Waiting) {
    let (reply, done) = oneshot::channel();
    let request = CutRequest { tag: tag.map(str::to_owned), reply };
    (Member { buffer: Arc::clone(&group.image().buffer), request }, done)
}

/// Waits for a marker that an image begins at, but not without end: its group's updater stands until it is there, and who asks may keep others
/// from changing anything.
pub(crate) async fn in_time(
    group: &Primary,
    limit: Duration,
    marker: impl Future<Output = Result<CutDone, CutError>>,
) -> Result<CutDone, CutError> {
    let late = |_| {
        let why = group.held_up().unwrap_or_else(|| "its journal is full, or its disk is slow".into());
        let (name, seconds) = (group.keeper().name(), limit.as_secs());
        CutError::Failed { reason: format!("group '{name}' did not write its marker within {seconds} s: {why}") }
    };
    tokio::time::timeout(limit, marker).await.map_err(late)?
}

#[cfg(test)]
mod tests;
