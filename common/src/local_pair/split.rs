//! A split: pairs at one marker, all or none; or, when their sources are of several groups, at the markers of one freeze.
//!
//! The updater stands before the marker. What the source's file will have been written by then is in `differences` (marked when it
//! was written) or in the frames still to come (the era's index); whatever is written later is the source's own.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::bits::{Bits, VOLUME};
use super::error::LocalPairError;
use super::pair::{LocalPair, Now};
use super::states::Event;
use crate::catalog::{Batch, LocalPairRecord};
use crate::extent::Extent;
use crate::ids::VolumeIndex;
use crate::t0::{ImagePoint, Joined};

/// Splits pairs at a moment of their sources' groups, one point for each. The targets can be opened when this returns.
///
/// # Errors
/// [`LocalPairError`]; nothing has changed then.
pub fn split(pairs: &[Arc<LocalPair>], points: &[ImagePoint]) -> Result<(), LocalPairError> {
    // In one order, whatever order they were named in: two splits at once do not wait for each other.
    let mut pairs: Vec<&Arc<LocalPair>> = pairs.iter().collect();
    pairs.sort_by(|one, other| one.parts.target.name.cmp(&other.parts.target.name));
    pairs.dedup_by(|one, other| Arc::ptr_eq(one, other));
    let _no_steps = pairs.iter().map(|pair| pair.hold_copying()).collect::<Result<Vec<_>, _>>()?;
    let mut begun = Vec::new();
    let left: Vec<Option<u64>> = pairs.iter().map(|pair| pair.record().era).collect();
    let done = begin_all(&pairs, points, &mut begun).and_then(|()| commit(&pairs, points, &begun));
    match &done {
        Ok(()) => pairs.iter().zip(left).for_each(|(pair, era)| pair.leave(era)),
        Err(_) => pairs.iter().zip(&begun).for_each(|(pair, joined)| pair.leave(Some(joined.era))),
    }
    done
}

/// The moment of a pair's source.
fn point_of<'a>(pair: &LocalPair, points: &'a [ImagePoint]) -> Result<&'a ImagePoint, LocalPairError> {
    let point = points.iter().find(|point| Arc::ptr_eq(point.barrier.eras(), &pair.parts.eras));
    point.ok_or_else(|| LocalPairError::Changed { volume: pair.record().source })
}

fn begin_all(pairs: &[&Arc<LocalPair>], points: &[ImagePoint], begun: &mut Vec<Joined>) -> Result<(), LocalPairError> {
    for pair in pairs {
        let (record, point) = (pair.record(), point_of(pair, points)?);
        let same =
            |spec: &&crate::wire::message::VolumeSpec| spec.index == record.source_index && spec.size == record.size;
        if point.volumes.iter().find(same).is_none() {
            return Err(LocalPairError::Changed { volume: record.source });
        }
        let volumes = BTreeSet::from([VolumeIndex(record.source_index)]);
        begun.push(pair.parts.eras.begin(&point.barrier, &volumes)?);
    }
    Ok(())
}

/// One batch: a crash finds all of them split, or none.
fn commit(pairs: &[&Arc<LocalPair>], points: &[ImagePoint], begun: &[Joined]) -> Result<(), LocalPairError> {
    let _no_commits: Vec<_> = pairs.iter().map(|pair| pair.kept.lock()).collect();
    let mut held: Vec<_> = pairs.iter().map(|pair| pair.now.lock()).collect();
    let mut batch = Batch::new();
    let mut next = Vec::new();
    for ((pair, now), joined) in pairs.iter().zip(&held).zip(begun) {
        let (record, bits) = split_one(pair, now, point_of(pair, points)?, *joined)?;
        batch.put_local_pair(&record, &bits.encode())?;
        next.push((record, bits));
    }
    let Some(first) = pairs.first() else { return Ok(()) };
    first.parts.catalog.commit(batch)?;
    for ((pair, now), (record, bits)) in pairs.iter().zip(&mut held).zip(next) {
        now.image = LocalPair::image_of(&pair.parts, &record);
        now.take_in(&pair.parts, record, bits);
        pair.work.notify_one();
    }
    held.iter().for_each(|now| now.spare());
    Ok(())
}

fn split_one(
    pair: &LocalPair,
    now: &Now,
    point: &ImagePoint,
    joined: Joined,
) -> Result<(LocalPairRecord, Bits), LocalPairError> {
    let mut bits = now.bits.split();
    let source = VolumeIndex(now.record.source_index);
    let mark = |extent: Extent| bits.differences.mark(Extent { volume: VOLUME, ..extent });
    pair.parts.eras.each_pending(joined.era, source, mark)?;
    let record = LocalPairRecord {
        era: Some(joined.era),
        begin: Some((joined.begin.segment, joined.begin.offset)),
        marker: point.marker.number,
        marker_ns: point.marker.time_ns,
        ..pair.after(&now.record, Event::Split)?
    };
    Ok((record, bits))
}
