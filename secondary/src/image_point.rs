//! The moments at which an image of a copy may begin: a permitted marker that the volumes have not passed, or have passed without
//! anything having been written since.

use std::time::Duration;

use tidemark_common::api::types::MarkerInfo;
use tidemark_common::clock::from_unix_ns;
use tidemark_common::journal::{JournalError, Position};
use tidemark_common::markers::info;
use tidemark_common::record::{FrameKind, MarkerRecord};
use tidemark_common::t0::ImagePoint;

use crate::group::Secondary;
use crate::permission::Permitted;

/// A window of the updater is over by then, or no image begins: who asks for one may keep others from changing anything.
const WINDOW_LIMIT: Duration = Duration::from_secs(10);

/// Of markers whose times are no further apart than this, the newer one is the later one, whatever their times say.
const LEEWAY_NS_MIN: i64 = 60_000_000_000;

/// Why no image can begin.
#[derive(Debug, thiserror::Error)]
pub enum PointError {
    /// There is no usable copy.
    #[error("it has no usable copy here: its initial copy is not complete")]
    NoCopy,
    /// The marker is not held.
    #[error(
        "{asked} is not held here: the oldest marker that is held is {}, the newest {}",
        held(oldest),
        held(newest)
    )]
    NotHeld {
        /// What was asked for.
        asked: Asked,
        /// The oldest that is held.
        oldest: Shown,
        /// The newest that is held.
        newest: Shown,
    },
    /// The marker lies between two that are held: the copy never stood at it.
    #[error(
        "marker {number} is no moment of this copy, which went from marker {} to marker {} at once: by a differential copy, or by intervals \
         that were sent as one. Name one of these two",
        held(before),
        held(after)
    )]
    Between {
        /// What was asked for.
        number: u64,
        /// The next older one that is held.
        before: Shown,
        /// The next newer one that is held.
        after: Shown,
    },
    /// The volumes' disk does not answer.
    #[error(
        "its volumes are being written, and that does not come to its end: see to the disks behind them, and try again"
    )]
    Busy,
    /// The journal cannot be read.
    #[error(transparent)]
    Journal(#[from] JournalError),
}

/// A marker's number, and when it was cut.
pub type Shown = (u64, jiff::Timestamp);

fn shown(marker: &MarkerRecord) -> Shown {
    (marker.number, info(marker).time)
}

/// Markers are apart by an interval, or a little more.
fn leeway_ns(interval_ms: u64) -> i64 {
    i64::try_from(interval_ms.saturating_mul(2_000_000)).unwrap_or(i64::MAX).max(LEEWAY_NS_MIN)
}

/// The newest marker, or the one held that was cut by a time, where the newest was not, or only by a clock that was set back by much.
fn nearest(
    newest: &Permitted,
    held: Option<(Position, MarkerRecord)>,
    time_ns: i64,
    leeway_ns: i64,
) -> Option<(Position, MarkerRecord)> {
    let is_by_then = newest.marker.time_ns <= time_ns;
    let is_near = |held: &MarkerRecord| newest.marker.time_ns >= held.time_ns.saturating_sub(leeway_ns);
    if is_by_then && held.as_ref().is_none_or(|(_, held)| is_near(held)) {
        return Some((newest.end, newest.marker.clone()));
    }
    held
}

fn held((number, time): &Shown) -> String {
    format!("{number} of {time:.3}")
}

/// Which moment is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// The newest.
    Newest,
    /// That of a marker.
    Marker(u64),
    /// The newest marker cut by then, nanoseconds since 1970.
    Time(i64),
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Newest => f.write_str("an image"),
            Self::Marker(number) => write!(f, "marker {number}"),
            Self::Time(time_ns) => {
                let time = from_unix_ns(*time_ns);
                write!(f, "a marker of {time:.3} or before")
            }
        }
    }
}

impl Secondary {
    /// A moment that is held, and where the journal goes on behind its marker. The volumes are not written beyond it while the
    /// answer lives.
    ///
    /// # Errors
    /// [`PointError`].
    pub fn image_point(&self, asked: Asked) -> Result<(Permitted, ImagePoint), PointError> {
        let eras = self.eras();
        // Between two windows: until the barrier is there, the volumes stay where they are.
        let _window = eras.window_within(WINDOW_LIMIT).ok_or(PointError::Busy)?;
        let permission = self.state().permission();
        let newest = permission.image().ok_or(PointError::NoCopy)?;
        let applied = eras.applied_position().max(self.state().may_hold);
        // Older ones had other volumes.
        let (begins, _) = self.state().image_begins();
        let is_held = |end: Position, marker: &MarkerRecord| end >= begins && marker.number < newest.marker.number;
        let found = match asked {
            Asked::Newest => Some((newest.end, newest.marker.clone())),
            Asked::Marker(number) if number == newest.marker.number => Some((newest.end, newest.marker.clone())),
            Asked::Marker(number) => {
                self.state().markers.newest_that(|end, marker| marker.number == number && is_held(end, marker))
            }
            Asked::Time(time_ns) => {
                let leeway_ns = leeway_ns(self.keeper().get().interval_ms);
                let held = self.state().markers.cut_by(time_ns, leeway_ns, is_held);
                nearest(newest, held, time_ns, leeway_ns)
            }
        };
        let point = match found {
            Some((end, marker)) => self.moment(end, applied)?.map(|at| (marker, end, at)),
            None => None,
        };
        let Some((marker, end, at)) = point else {
            let oldest = self.oldest_image(applied.max(begins), newest)?;
            return Err(self.not_held(asked, &oldest, &newest.marker));
        };
        // As large as they were there, as far as that is known.
        let volumes = self.state().volumes_at(end).or_else(|| permission.volumes().cloned());
        let volumes = volumes.map_or_else(|| self.files().specs(), |volumes| volumes.to_vec());
        Ok((Permitted { marker: marker.clone(), end }, ImagePoint { marker, barrier: eras.hold(at), volumes }))
    }

    fn not_held(&self, asked: Asked, oldest: &MarkerRecord, newest: &MarkerRecord) -> PointError {
        match asked {
            Asked::Marker(number) if oldest.number < number && number < newest.number => {
                let markers = &self.state().markers;
                let before = markers.newest_that(|_, marker| marker.number < number);
                PointError::Between {
                    number,
                    before: before.map_or_else(|| shown(oldest), |(_, marker)| shown(&marker)),
                    after: markers.after(number).first().map_or_else(|| shown(newest), shown),
                }
            }
            _ => PointError::NotHeld { asked, oldest: shown(oldest), newest: shown(newest) },
        }
    }

    /// The markers at which an image can begin now, newest first.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read.
    pub fn held_markers(&self) -> Result<Vec<MarkerInfo>, JournalError> {
        let permission = self.state().permission();
        let Some(newest) = permission.image() else { return Ok(Vec::new()) };
        let (begins, _) = self.state().image_begins();
        let applied = self.eras().applied_position().max(self.state().may_hold);
        let oldest = self.oldest_image(applied.max(begins), newest)?;
        Ok(self.markers().into_iter().filter(|marker| marker.number >= oldest.number).collect())
    }

    /// Whether the volumes lack some of a marker's image: that is in the journal alone.
    ///
    /// # Errors
    /// [`JournalError`] when the journal cannot be read.
    pub fn lacks(&self, permitted: &Permitted) -> Result<bool, JournalError> {
        self.writes_between(self.eras().applied_position(), permitted.end)
    }

    /// Where the image of a marker that ends at a place can begin now.
    fn moment(&self, end: Position, applied: Position) -> Result<Option<Position>, JournalError> {
        if end >= applied || !self.writes_between(end, applied)? {
            return Ok(Some(end.max(self.eras().applied_position())));
        }
        Ok(None)
    }

    fn writes_between(&self, from: Position, to: Position) -> Result<bool, JournalError> {
        let mut reader = self.journal().reader(from);
        while reader.position() < to {
            match reader.next_header() {
                Ok(Some((at, header))) if at < to => {
                    if header.kind != FrameKind::Control {
                        return Ok(true);
                    }
                }
                Ok(_) => break,
                Err(JournalError::Trimmed { .. }) => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        Ok(false)
    }

    /// The oldest marker at which an image can begin now.
    fn oldest_image(&self, from: Position, newest: &Permitted) -> Result<MarkerRecord, JournalError> {
        let markers = &self.state().markers;
        let mut oldest = markers.oldest_from(from).unwrap_or_else(|| newest.marker.clone());
        // Nothing may have been written since some that lie before.
        while let Some((end, marker)) = markers.newest_that(|_, marker| marker.number < oldest.number) {
            if self.moment(end, from)?.is_none() {
                break;
            }
            oldest = marker;
        }
        Ok(oldest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::apply::tests::copy;

    #[test]
    fn the_newest_marker_is_not_of_an_earlier_time_because_the_clock_was_set_back() {
        let marker = |number, seconds: i64| {
            let time_ns = seconds * 1_000_000_000;
            MarkerRecord { number, boundary_seq: 1, time_ns, freeze_ns: 0, tag: None }
        };
        let found = |newest_seconds, seconds: i64| {
            let newest = Permitted { marker: marker(9, newest_seconds), end: Position::default() };
            let held = Some((Position::default(), marker(5, 7_000)));
            let found = nearest(&newest, held, seconds * 1_000_000_000, leeway_ns(1_000));
            found.map(|(_, marker)| marker.number)
        };
        assert_eq!(found(7_100, 7_050), Some(5), "it was cut later");
        assert_eq!(found(7_100, 7_200), Some(9));
        assert_eq!(found(6_950, 7_050), Some(9), "as after a small step");
        assert_eq!(found(100, 7_050), Some(5), "the clock is two hours behind");
        assert_eq!([leeway_ns(60_000), leeway_ns(u64::MAX)], [120_000_000_000, i64::MAX]);
    }

    /// A drill that came due would keep all that operators change waiting, failovers of other groups too.
    #[test]
    fn no_image_waits_without_end_for_volumes_whose_disk_does_not_answer() {
        let (secondary, _apply, _records) = copy();
        let window = secondary.eras().window();
        let refused = std::thread::scope(|scope| scope.spawn(|| secondary.image_point(Asked::Newest).err()).join());
        assert!(matches!(refused, Ok(Some(PointError::Busy))), "{refused:?}");
        drop(window);
        assert!(matches!(secondary.image_point(Asked::Newest), Err(PointError::NoCopy)));
    }
}
