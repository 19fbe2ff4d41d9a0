//! Memory for what is large, short-lived and goes from thread to thread: batches, frames, windows.
//!
//! An allocator keeps such memory by thread and in pieces of every size, so that the process holds the most that each of its threads ever had, and
//! more for what does not fit into the gaps. Here it is one pool for all: sizes come in four steps for each doubling, a piece that
//! is given back is the next one taken, and what is too much goes back to the system.

use std::ops::{Deref, DerefMut};

use bytes::Bytes;
use memmap2::MmapMut;
use parking_lot::Mutex;

/// Smaller pieces are the allocator's.
pub(super) const POOLED_BYTES_MIN: usize = 64 << 10;
/// Bytes kept for the next one who asks.
const SPARE_BYTES_MAX: usize = 48 << 20;

static SPARES: Mutex<Spares> = Mutex::new(Spares { pieces: Vec::new(), bytes: 0 });

#[derive(Debug)]
struct Spares {
    /// What came back last is at the end.
    pieces: Vec<MmapMut>,
    bytes: usize,
}

impl Spares {
    fn take(&mut self, size: usize) -> Option<MmapMut> {
        let at = self.pieces.iter().rposition(|piece| piece.len() == size)?;
        self.bytes -= size;
        Some(self.pieces.remove(at))
    }

    /// Keeps a piece; what goes for it is given back to the system by the caller, without the lock.
    fn put(&mut self, piece: MmapMut) -> Vec<MmapMut> {
        self.bytes += piece.len();
        self.pieces.push(piece);
        let mut gone = 0;
        while self.bytes > SPARE_BYTES_MAX
            && let Some(oldest) = self.pieces.get(gone)
        {
            self.bytes -= oldest.len();
            gone += 1;
        }
        self.pieces.drain(..gone).collect()
    }
}

/// All that is kept goes back to the system.
pub(crate) fn give_back() {
    let spares = {
        let mut spares = SPARES.lock();
        spares.bytes = 0;
        std::mem::take(&mut spares.pieces)
    };
    drop(spares);
}

/// A piece of memory that begins at a page's border. What is in it before it is written is unspecified.
#[derive(Debug)]
pub(super) struct Pooled(Option<MmapMut>);

impl Pooled {
    /// At least so many bytes; `None` when that is the allocator's, or the system has none, or no more pieces.
    pub(super) fn take(bytes: usize) -> Option<Self> {
        if bytes < POOLED_BYTES_MIN {
            return None;
        }
        let size = size_for(bytes);
        let spare = SPARES.lock().take(size);
        spare.or_else(|| MmapMut::map_anon(size).ok()).map(|piece| Self(Some(piece)))
    }
}

/// The size of the piece that is taken for so many bytes.
fn size_for(bytes: usize) -> usize {
    let bytes = bytes.max(POOLED_BYTES_MIN);
    bytes.next_multiple_of(1 << (bytes.ilog2() - 2))
}

impl Deref for Pooled {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.0.as_deref().unwrap_or_default()
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut [u8] {
        self.0.as_deref_mut().unwrap_or_default()
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let too_much = self.0.take().map(|piece| SPARES.lock().put(piece));
        drop(too_much);
    }
}

/// So many bytes to be filled. What is in them before is unspecified; large ones begin at a page's border, as direct I/O wants them.
#[derive(Debug)]
pub struct Room(Source);

#[derive(Debug)]
enum Source {
    Heap(Vec<u8>),
    Pooled(Pooled, usize),
}

impl Room {
    /// Room for this many.
    #[must_use]
    pub fn new(length: usize) -> Self {
        Self(
            Pooled::take(length).map_or_else(|| Source::Heap(vec![0; length]), |pooled| Source::Pooled(pooled, length)),
        )
    }

    /// They are filled. The memory is given back with the last of what shares them.
    #[must_use]
    pub fn freeze(self) -> Bytes {
        match self.0 {
            Source::Heap(bytes) => bytes.into(),
            Source::Pooled(..) => Bytes::from_owner(self),
        }
    }
}

impl Deref for Room {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.0 {
            Source::Heap(bytes) => bytes,
            Source::Pooled(pooled, length) => pooled.get(..*length).unwrap_or_default(),
        }
    }
}

impl DerefMut for Room {
    fn deref_mut(&mut self) -> &mut [u8] {
        match &mut self.0 {
            Source::Heap(bytes) => bytes,
            Source::Pooled(pooled, length) => pooled.get_mut(..*length).unwrap_or_default(),
        }
    }
}

impl AsRef<[u8]> for Room {
    fn as_ref(&self) -> &[u8] {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_waste_a_quarter_at_most_and_never_fall_short() {
        let mut bytes = 1;
        while bytes < 64 << 20 {
            let size = size_for(bytes);
            assert!(size >= bytes && size.is_multiple_of(4096));
            assert!(bytes < POOLED_BYTES_MIN || size - bytes <= bytes / 4, "{size} for {bytes}");
            assert_eq!(size_for(size), size);
            bytes += bytes / 7 + 1;
        }
    }

    #[test]
    fn what_is_given_back_is_taken_next_and_too_much_goes() {
        let mut spares = Spares { pieces: Vec::new(), bytes: 0 };
        let piece = |size: usize, tag: u8| {
            let mut piece = MmapMut::map_anon(size).unwrap();
            piece[0] = tag;
            piece
        };
        for tag in 0..5 {
            assert!(spares.put(piece(SPARE_BYTES_MAX / 8, tag)).is_empty());
        }
        assert!(spares.take(SPARE_BYTES_MAX / 4).is_none(), "none of that size");
        assert_eq!(spares.take(SPARE_BYTES_MAX / 8).unwrap()[0], 4);
        let gone = spares.put(piece(SPARE_BYTES_MAX * 3 / 4, 9));
        assert_eq!(gone.iter().map(|piece| piece[0]).collect::<Vec<_>>(), [0, 1], "the oldest");
        assert_eq!(spares.bytes, spares.pieces.iter().map(|piece| piece.len()).sum::<usize>());
        assert_eq!(spares.put(piece(2 * SPARE_BYTES_MAX, 10)).len(), 4, "and what is too large for it");
        assert_eq!(spares.bytes, 0);
    }

    #[test]
    fn room_is_as_long_as_it_was_asked_for_and_shared_when_full() {
        for length in [0, 1, POOLED_BYTES_MIN - 1, POOLED_BYTES_MIN, POOLED_BYTES_MIN + 1, 3 << 20] {
            let mut room = Room::new(length);
            assert_eq!(room.len(), length);
            room.fill(7);
            let bytes = room.freeze();
            let half = bytes.slice(length / 2..);
            drop(bytes);
            let mut next = Room::new(length);
            next.fill(9);
            assert!(
                half.len() == length - length / 2 && half.iter().all(|byte| *byte == 7),
                "taken while it was shared"
            );
        }
    }
}
