//! Pairs of a source and a target volume on one appliance (decision 7).
//!
//! ```text
//!  updater ─▶ source volume, then mark ─▶ bits ◀─ take away, then copy ◀─ copier ─▶ target volume
//!                                          │
//!  a host at the target, once it is split: ├─ differs: the image of the split's era ─▶ copied first when written
//!                                          └─ does not: the target's file
//! ```
//!
//! Reading order: [`bits`] (what differs), [`states`] (what follows what), [`pair`] (the owner: marks, commits), `change` (what
//! changes its state), [`copier`] (a piece at a time), [`split`] (several pairs at one moment), [`target`] (what hosts read and
//! write), [`redirect`] (the same as a file, for backups).
//!
//! Keeps: no mark is lost by a crash; a target is the image at its marker or is not served; the source's hosts never wait.

pub mod bits;
mod change;
pub mod copier;
pub mod error;
pub mod pair;
pub mod redirect;
pub mod split;
pub mod states;
pub mod target;
#[cfg(test)]
mod tests;

pub use copier::Copied;
pub use error::LocalPairError;
pub use pair::{LocalPair, LocalPairParts};
pub use redirect::RedirectFile;
pub use target::TargetVolume;
