//! What an era that is gone for good leaves to the next older one. Of what it saved, only what that had not saved itself is of use: an image that
//! stays for long would have all that others beside it had saved, again and again what hosts overwrite all the time.
//!
//! ```text
//! its file  ████ saved before ██ taken ████   ──▶   a file behind it  ██ taken      its own is removed
//! ```
//!
//! The new file is whole and durable before the old one goes, and says the same: a start that finds both reads what it would have read.

use std::sync::Arc;

use super::users::LEAVE_LIMIT;
use super::{Eras, file_name};
use crate::extent::Extent;
use crate::t0::concordance::Saved;
use crate::t0::side_file::{Saving, SideFile, batch_bytes};

/// More is not moved: who has it moved waits for that.
const MOVED_BYTES_MAX: u64 = 64 << 20;
/// Pieces of a batch; each has 64 KiB at most, or is zeroes.
const PIECES: usize = 64;

/// Where ranges are saved.
type Placed = Vec<(Extent, Saved)>;

impl Eras {
    /// An older era has taken in an era's own file, and of what is in it needs only what it has taken.
    pub(super) fn spare(&self, file: &Arc<SideFile>, taken: &[(Extent, Saved)]) {
        match self.replace(file, taken) {
            Ok(true) => self.remove_files(std::slice::from_ref(file)),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(path = %file.path().display(), %error, "what an image that is gone has saved stays for an older one");
            }
        }
    }

    /// `false`: it stays.
    fn replace(&self, file: &Arc<SideFile>, taken: &[(Extent, Saved)]) -> Result<bool, String> {
        // What it had swallowed itself is in other files.
        let is_own = |saved: &Saved| match saved {
            Saved::Zero => true,
            Saved::Data(place) => place.file == file.number(),
        };
        let taken: Placed = taken.iter().copied().filter(|(_, saved)| is_own(saved)).collect();
        let data = taken.iter().filter(|(_, saved)| *saved != Saved::Zero);
        let bytes: u64 = data.map(|(extent, _)| extent.length).sum();
        if bytes > MOVED_BYTES_MAX || bytes > file.bytes() / 2 {
            return Ok(false);
        }
        let mut new = None;
        if !taken.is_empty() {
            let Some(number) = self.number_behind(file.number()) else { return Ok(false) };
            new = Some(self.rewritten(number, file, &taken)?);
        }
        // No era goes meanwhile.
        let window = self.window_within(LEAVE_LIMIT);
        let mut state = self.state.write();
        let has = |files: &[Arc<SideFile>]| files.iter().skip(1).any(|held| Arc::ptr_eq(held, file));
        let Some(era) = state.eras.iter_mut().find(|era| window.is_some() && has(&era.files)) else {
            drop(state);
            // The older one has gone, with that; or a disk does not answer.
            if let Some((new, _)) = new {
                self.remove_files(&[new]);
            }
            return Ok(false);
        };
        era.files.retain(|held| !Arc::ptr_eq(held, file));
        if let Some((new, placed)) = new {
            era.concordance.moved(file.number(), &placed);
            era.files.push(new);
        }
        self.recount(&state);
        Ok(true)
    }

    /// The number behind one, where nobody had it: a start goes by the order of files, and nothing may lie between these two.
    fn number_behind(&self, number: u64) -> Option<u64> {
        let mut state = self.state.write();
        let next = number.checked_add(1)?;
        state.spent.insert(next).then_some(next)
    }

    fn rewritten(
        &self,
        number: u64,
        file: &SideFile,
        taken: &[(Extent, Saved)],
    ) -> Result<(Arc<SideFile>, Placed), String> {
        let path = self.parts.folder.join(file_name(number));
        let new = SideFile::create(&*self.parts.disk, &path, self.parts.group, number);
        let new = Arc::new(new.map_err(|error| error.to_string())?);
        self.parts.space.found(new.bytes());
        let copied: Result<Vec<Placed>, String> =
            taken.chunks(PIECES).map(|some| self.copy_saved(file, &new, some)).collect();
        match copied {
            Ok(placed) => Ok((new, placed.concat())),
            Err(error) => {
                self.remove_files(&[new]);
                Err(error)
            }
        }
    }

    fn copy_saved(&self, file: &SideFile, new: &SideFile, some: &[(Extent, Saved)]) -> Result<Placed, String> {
        let mut pieces = Vec::with_capacity(some.len());
        for (extent, saved) in some {
            let mut bytes = None;
            if let Saved::Data(place) = saved {
                let mut read = vec![0; usize::try_from(extent.length).unwrap_or(0)];
                file.read(place, &mut read).map_err(|error| error.to_string())?;
                bytes = Some(read);
            }
            pieces.push(Saving { extent: *extent, bytes });
        }
        let needed = batch_bytes(&pieces);
        self.parts.space.take(needed, 0).map_err(|full| full.to_string())?;
        new.append(&pieces, self.parts.outlive).map_err(|error| {
            self.parts.space.give(needed);
            error.to_string()
        })
    }
}
