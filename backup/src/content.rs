//! Where the bytes of a member lie: runs of a volume, with holes between them that read as zeroes.

use crate::image::{Image, ImageError};

/// Runs of one member at most: beyond that, what follows counts as data.
pub const RUNS_MAX: usize = 1 << 20;

/// Bytes of the content that lie in the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    /// Where in the content.
    pub at: u64,
    /// Where in the volume.
    pub from: u64,
    /// How many.
    pub length: u64,
}

impl Run {
    /// One past its last byte of the content.
    #[must_use]
    pub const fn end(&self) -> u64 {
        self.at.saturating_add(self.length)
    }
}

/// What a member holds: runs in their order, none of them empty, none overlapping.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Content {
    /// Bytes, holes included.
    pub size: u64,
    /// What is not a hole.
    pub runs: Vec<Run>,
}

impl Content {
    /// A range of an image, with its holes.
    ///
    /// # Errors
    /// [`ImageError`].
    pub(crate) fn of_range(image: &dyn Image, offset: u64, length: u64) -> Result<Self, ImageError> {
        let end = offset.saturating_add(length);
        let mut content = Self { size: length, runs: Vec::new() };
        let step = step_of(length);
        let mut at = offset;
        while at < end {
            let span = (end - at).min(HOLE_SPAN);
            let hole = image.hole(at, span)?.min(span);
            if hole > 0 {
                at += hole;
                continue;
            }
            let data = if content.runs.len() < RUNS_MAX { data_length(image, at, end, step)? } else { end - at };
            content.push(Run { at: at - offset, from: at, length: data });
            at += data;
        }
        Ok(content)
    }

    /// Adds a run behind the others; joined with the last one where both touch.
    pub fn push(&mut self, run: Run) {
        match self.runs.last_mut() {
            Some(last) if last.end() == run.at && last.from.saturating_add(last.length) == run.from => {
                last.length += run.length;
            }
            _ if run.length > 0 => self.runs.push(run),
            _ => {}
        }
    }

    /// Bytes that are not holes.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.runs.iter().fold(0_u64, |bytes, run| bytes.saturating_add(run.length))
    }

    /// Whether something of it is a hole.
    #[must_use]
    pub(crate) fn is_sparse(&self) -> bool {
        self.data_bytes() < self.size
    }
}

/// Holes are looked for at this distance, so that small ones are read as what they are.
const HOLE_STEP: u64 = 64 << 10;
/// How far one look goes: what it costs grows with what lies there.
const HOLE_SPAN: u64 = 64 << 20;
/// Looks into one member at most, about: in larger ones holes are looked for at larger distances.
const LOOKS: u64 = 1 << 20;

fn step_of(length: u64) -> u64 {
    (length / LOOKS).next_multiple_of(HOLE_STEP).max(HOLE_STEP)
}

/// How far data goes on.
fn data_length(image: &dyn Image, at: u64, end: u64, step: u64) -> Result<u64, ImageError> {
    let mut next = at;
    while next < end {
        // To the next multiple of the step: a hole that begins there is worth a run of its own.
        next = (next / step + 1).saturating_mul(step).min(end);
        if next < end && image.hole(next, HOLE_STEP.min(end - next))? >= HOLE_STEP.min(end - next) {
            break;
        }
    }
    Ok(next - at)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::memory::Bytes;

    proptest! {
        #[test]
        fn holes_and_runs_are_the_range(filled in proptest::collection::vec(0..64_usize, 0..20), begin in 0..60_u64, length in 1..200_u64) {
            let mut bytes = vec![0; 64 * 16384];
            for block in filled {
                bytes[block * 16384..(block + 1) * 16384].fill(7);
            }
            let (offset, length) = (begin * 16384 + 512, length * 512);
            let image = Bytes::new(bytes);
            let length = length.min(image.size() - offset);
            let content = Content::of_range(&image, offset, length).unwrap();
            let mut rebuilt = vec![0; usize::try_from(length).unwrap()];
            let mut end = 0;
            for run in &content.runs {
                prop_assert!(run.at >= end && run.length > 0);
                prop_assert_eq!(run.from - offset, run.at);
                end = run.end();
                let range = usize::try_from(run.at).unwrap()..usize::try_from(end).unwrap();
                image.read(run.from, &mut rebuilt[range]).unwrap();
            }
            prop_assert!(end <= length);
            let begin = usize::try_from(offset).unwrap();
            prop_assert!(rebuilt == image.bytes[begin..begin + rebuilt.len()]);
        }
    }
}
