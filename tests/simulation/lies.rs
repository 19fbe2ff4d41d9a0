//! Disks that lie: writes to a journal that went nowhere, or elsewhere, though their sync succeeded. What they were cannot be
//! brought back; but it is noticed, or what is left is an image that really was. Nothing can tell of the newest ones, which no
//! later record follows: where less is left than was told, nothing is judged.
//!
//! Most are told to the disk of a twin that is looked at once; some to that of a copy that goes on over it.

use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, Open};
use tidemark_common::wire::message::Position;

use crate::site::{JOURNAL, Site};
use crate::world::{Side, World};

/// What is written at once is whole blocks.
const BLOCK: usize = 4096;
const BLOCKS_MAX: usize = 4;

impl World {
    /// What a start now would make of it, on either side.
    pub(crate) fn look_at_lies(&mut self) {
        let side = if self.liar.random() { Side::Near } else { Side::Far };
        let mut twin = self.site(side).twin(None);
        let Some(what) = lie(&twin.disk, &mut self.liar) else { return };
        let what = format!("{side:?}, {what}");
        let kept_all = side == Side::Far && self.far_position().is_some_and(|position| holds(&twin, &position));
        let opened = match side {
            Side::Near => twin.open_primary().map(|(primary, _)| Some((None, primary))),
            Side::Far => twin.take_over(|_| None).map(|taken| taken.map(|taken| (Some(taken.marker), taken.primary))),
        };
        self.figures.lies += 1;
        if side == Side::Far && opened.is_ok() && !kept_all {
            return;
        }
        let (marker, primary) = match opened {
            Ok(Some(opened)) => opened,
            // There is no image yet.
            Ok(None) => return,
            Err(_) => {
                self.figures.lies_noticed += 1;
                return;
            }
        };
        let left = primary.status().positions.journaled_seq;
        let Ok(volumes) = twin.try_read_all(&primary) else {
            self.figures.lies_noticed += 1;
            return;
        };
        match marker {
            Some(marker) => self.hosts.judge_copy(&what, &volumes, self.moment(marker.boundary_seq)),
            None if left >= self.journaled() => self.hosts.judge_remains(&what, &volumes),
            None => {}
        }
    }
}

impl Site {
    /// The same on the disk over which this copy goes on, behind the header of a segment that is not the newest one.
    pub(crate) fn lie_in_journal(&self, random: &mut StdRng) -> bool {
        let segments = self.older_segments();
        let Some((path, bytes)) = place(&segments, random) else { return false };
        let Some((_, other)) = place(&segments, random) else { return false };
        let blocks = bytes.len().min(other.len()) / BLOCK;
        if blocks < 2 {
            return false;
        }
        let [at, source] = [(); 2].map(|()| random.random_range(1..blocks) * BLOCK);
        let never_written = random.random();
        let length = (random.random_range(1..=BLOCKS_MAX) * BLOCK).min(blocks * BLOCK - at.max(source));
        // Behind all that the disk does to those who write to it.
        for byte in 0..length {
            let meant = if never_written { 0 } else { other[source + byte] };
            let wrong = bytes[at + byte] ^ meant;
            for bit in (0..8).filter(|bit| (wrong >> bit) & 1 == 1) {
                self.disk.flip_bit(path, (at + byte) as u64 * 8 + bit).expect("it is there");
            }
        }
        true
    }
}

/// Whether a copy would still hold what it held at this position.
fn holds(site: &Site, position: &Position) -> bool {
    let Ok((secondary, _)) = site.twin(None).open_secondary() else { return true };
    // A start applies again what is not known to be applied.
    let known = |position: &Position| Position { applied_marker: 0, ..*position };
    known(&secondary.state().position()) == known(position)
}

/// Some blocks of a segment are not what was written there last: never written at all, or what belongs elsewhere.
fn lie(disk: &MemoryDisk, random: &mut StdRng) -> Option<String> {
    let files = disk.everything().into_iter();
    let segments: Vec<(PathBuf, Vec<u8>)> = files.filter(|(path, _)| path.starts_with(JOURNAL)).collect();
    let (path, bytes) = place(&segments, random)?;
    let (from, other) = place(&segments, random)?;
    let blocks = random.random_range(1..=BLOCKS_MAX);
    let (at, source) = (block_of(bytes, random)?, block_of(other, random)?);
    let length = (blocks * BLOCK).min(bytes.len() - at).min(other.len() - source);
    let (told, content) = if random.random() {
        ("never written".to_owned(), vec![0; length])
    } else {
        (format!("what was meant for {} at {source}", from.display()), other[source..source + length].to_vec())
    };
    let file = disk.open(path, Open::Existing).expect("it is there");
    file.write_all_at(&content, at as u64).expect("it can be written");
    file.sync().expect("it can be synced");
    Some(format!("{length} bytes of {} at {at}: {told}", path.display()))
}

fn place<'a>(segments: &'a [(PathBuf, Vec<u8>)], random: &mut impl Rng) -> Option<(&'a Path, &'a [u8])> {
    let at = random.random_range(0..segments.len().max(1));
    segments.get(at).map(|(path, bytes)| (path.as_path(), bytes.as_slice()))
}

fn block_of(bytes: &[u8], random: &mut impl Rng) -> Option<usize> {
    let blocks = bytes.len() / BLOCK;
    (blocks > 0).then(|| random.random_range(0..blocks) * BLOCK)
}
