//! Images at a moment: what a group's volumes held at a marker, readable while they go on changing (decision 3).
//!
//! ```text
//!  frames ─▶ updater ─▶ save: old content of what is about to be written ─▶ side file, synced ─▶ concordance ─▶ volume
//!
//!  eras of a group, in the order the volumes reached them          an image of era 1 reads, the first that has it:
//!  ├── era 1 ──┼── era 2 ──┼── era 3 ─ ─ ▶ now                      saved in era 1, 2, 3 │ the journal, while the
//!     marker 7    marker 9    marker 12                             volumes are not there yet │ the volume
//! ```
//!
//! An *era* begins at a marker and lasts until the next one begins. What is overwritten is saved once, in the era in which that
//! happens, for all images of that era and of older ones. T0 copies, clones, drills and backups are users of eras; an era
//! without users becomes part of the next older one that has some, and is gone when there is none.
//!
//! Reading order: [`space`] (what all of it may take), [`side_file`] (where saved content lies), [`concordance`] (which range
//! lies where), [`eras`] (begin, save, end), [`image`] (reading), [`clone`] (writing over one), [`export`] (what hosts open), [`follow`] (who is
//! told of what was written).
//!
//! Keeps: 4 and 9 for images; hosts and replication never wait for an image, and none ever fails because of one.

pub mod clone;
pub mod clone_map;
pub mod concordance;
pub mod eras;
pub mod export;
pub mod follow;
mod held;
pub mod image;
mod recover;
mod save;
pub mod side_file;
pub mod space;
#[cfg(test)]
mod tests;

pub use clone::{CloneError, CloneSpace, CloneVolume};
pub use eras::{Barrier, EraUser, Eras, ErasParts, ErasWatch, ImagePoint, Joined, T0Error};
pub use export::{BlockExport, BlockVolume, CloneExport, ImageExport};
pub use follow::Follower;
pub use image::{Image, ImageError, ImageVolume};
pub use space::{Full, SideSpace};
