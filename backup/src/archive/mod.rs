//! The archive: a pax archive that any tar reads, with the manifest as its end. `docs/BACKUP_FORMAT.md` describes it.

pub mod head;
pub mod map;
pub mod read;
pub(crate) mod records;
#[cfg(test)]
mod tests;
pub mod write;

/// The member that ends the archive's content.
pub const MANIFEST: &str = "tidemark-manifest.json";
/// The digest of the manifest's text, as `b3sum --check` takes it: the archive's last member.
pub const MANIFEST_CHECK: &str = "tidemark-manifest.json.b3";
/// Bytes of a block of a tar archive.
pub const BLOCK: u64 = 512;
/// An archive is a multiple of this: one record of a tape as every tar reads it.
pub const RECORD: u64 = 20 * BLOCK;

/// Bytes that fill up to the next block.
#[must_use]
pub const fn padding(length: u64) -> u64 {
    length.wrapping_neg() % BLOCK
}
