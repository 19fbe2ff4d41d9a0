//! Backups of data sets: from images at a marker to an archive in the order asked for.
//!
//! Reading order: [`image`] (what is read), [`sets`] and [`files`] (what of it), [`plan`] (in which order), [`copy`] (reading
//! and writing at a [`pace`]), [`archive`] and [`destination`] (what it becomes and where), [`manifest`], [`source`] (verifying) and
//! [`restore`].

pub mod archive;
mod attributes;
mod bytes;
pub mod content;
pub mod copy;
pub mod destination;
pub mod digest;
pub mod files;
pub mod form;
pub mod image;
pub mod manifest;
pub mod names;
pub mod pace;
pub mod plan;
pub mod ranges;
pub mod restore;
pub mod sets;
pub mod source;
pub mod stop;
