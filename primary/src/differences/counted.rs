//! What frames of the journal write, counted apart, and where it stands that some of them cannot be read.

use std::sync::Arc;

use tidemark_common::differential::Bitmap;
use tidemark_common::ids::Seq;
use tidemark_common::journal::{Journal, JournalError, Position};
use tidemark_common::record::{Chain, FrameView};

use super::POINTS_MAX;

/// What some frames of the journal write.
#[derive(Debug, Default)]
pub(super) struct Counted {
    pub(super) bitmap: Bitmap,
    pub(super) points: Vec<(Seq, Chain)>,
    writes: u64,
    bytes: u64,
    /// A record that cannot be read, the first of them: nobody knows what it writes, nor what the rest of its segment does.
    pub(super) damage: Option<JournalError>,
}

/// What was marked though a part of the journal cannot be read: everything, for what that part wrote.
pub type Unread = Option<JournalError>;

impl Counted {
    /// Marks what the frames between two places write; with `sent_up_to`, keeps their points up to there.
    pub(super) fn between(
        journal: &Arc<Journal>,
        from: Position,
        up_to: Position,
        sent_up_to: Option<Position>,
    ) -> Result<Self, JournalError> {
        let (mut counted, mut at) = (Self::default(), None);
        // Behind the last frame that could be read.
        let mut point = None;
        let mut reader = journal.reader(from);
        while reader.position() < up_to {
            let begin = reader.position();
            let frame = match reader.next_tables() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) if error.is_of_the_records() || error.is_unreadable() => {
                    // What was sent last may end just here, and what comes next cannot say so.
                    counted.points.extend(point.take().filter(|_| sent_up_to.is_some_and(|sent| begin <= sent)));
                    // The next segment says where the history stands again.
                    counted.damage.get_or_insert(error);
                    let Some(next) = journal.begin_of_next_segment(begin).filter(|next| *next < up_to) else { break };
                    reader = journal.reader(next);
                    continue;
                }
                Err(error) => return Err(error),
            };
            let header = &frame.header;
            // Also where the range ends: what was sent last may be the last frame of a segment, and nobody else keeps its end.
            if header.continues_history() && sent_up_to.is_some_and(|sent| begin <= sent) {
                if counted.points.len() >= 2 * POINTS_MAX {
                    counted.points.drain(..POINTS_MAX);
                }
                counted.points.push((header.seq_before(), header.chain));
            }
            if header.continues_history() {
                point = Some((header.last_seq, header.chain_behind()));
            }
            if frame.position >= up_to {
                break;
            }
            counted.writes += header.last_seq.0.saturating_sub(at.unwrap_or_else(|| header.seq_before()).0);
            at = Some(header.last_seq);
            if header.kind.holds_writes()
                && let Ok(view) = FrameView::new(&frame.bytes)
            {
                view.extents().for_each(|entry| {
                    counted.bytes += entry.extent.length;
                    counted.bitmap.mark(entry.extent);
                });
            }
        }
        Ok(counted)
    }

    /// Where a part could not be read, everything may differ.
    pub(super) fn mark_unread(&mut self, all: &Bitmap) -> Unread {
        if self.damage.is_some() {
            self.bitmap.merge(all);
        }
        self.damage.take()
    }
}

/// Marks what the frames of a journal from a place on write, and counts those writes and their bytes.
///
/// # Errors
/// [`JournalError`].
pub fn written_since(journal: &Arc<Journal>, from: Position) -> Result<(Bitmap, u64, u64), JournalError> {
    let mut counted = Counted::between(journal, from, journal.durable_end().position, None)?;
    if let Some(damage) = counted.damage.take() {
        return Err(damage);
    }
    Ok((counted.bitmap, counted.writes, counted.bytes))
}
