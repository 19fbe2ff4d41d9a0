//! One window of frames: which of them wrote each byte last, and their raw data, wherever it is in memory.

use super::UpdaterError;
use crate::journal::ReadFrame;
use crate::overlay::Overlay;
use crate::overlay::frames::Source;
use crate::record::{FrameKind, FrameView};
use crate::storage::aligned::{AlignedBuffer, BLOCK_BYTES};

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window<'a> {
    /// The last writer of each byte.
    pub(super) fold: Overlay<Source>,
    /// The raw data of each frame; it begins at a block's border.
    pub(super) data: Vec<&'a [u8]>,
}

impl<'a> Window<'a> {
    /// Data that is no longer in memory is checked and decompressed.
    pub(super) fn of(frames: &'a [ReadFrame], unpacked: &'a mut AlignedBuffer) -> Result<Self, UpdaterError> {
        make_room(frames, unpacked);
        let mut window = Self::default();
        let mut room = unpacked.as_mut_slice();
        for (number, frame) in frames.iter().enumerate() {
            if frame.header.kind == FrameKind::Control {
                window.data.push(&[]);
                continue;
            }
            let broken = |source| UpdaterError::Frame { position: frame.position, source };
            let view = FrameView::new(&frame.bytes).map_err(broken)?;
            window.fold.take_in(number, &view);
            if let Some(raw) = kept(frame) {
                window.data.push(raw);
                continue;
            }
            let (part, rest) = std::mem::take(&mut room).split_at_mut(padded(frame));
            let (raw, _) = part.split_at_mut(frame.header.raw_bytes as usize);
            view.unpack_into(raw).map_err(broken)?;
            window.data.push(raw);
            room = rest;
        }
        Ok(window)
    }
}

/// The raw data of a frame that still has it.
fn kept(frame: &ReadFrame) -> Option<&[u8]> {
    frame.raw.as_deref().filter(|raw| raw.len() == frame.header.raw_bytes as usize)
}

const fn padded(frame: &ReadFrame) -> usize {
    (frame.header.raw_bytes as usize).next_multiple_of(BLOCK_BYTES)
}

/// What is there from the window before is written over, so that nothing is zeroed in vain.
fn make_room(frames: &[ReadFrame], unpacked: &mut AlignedBuffer) {
    let need = frames.iter().filter(|frame| kept(frame).is_none()).map(padded).sum();
    if unpacked.len() < need {
        unpacked.clear();
        unpacked.resize(need);
    }
}
