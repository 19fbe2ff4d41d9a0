//! What a backup becomes: an archive ([`crate::archive::write`]) or files in a folder ([`crate::destination::folder`]).

use std::io;

use crate::plan::Member;

/// Takes the members one after another, each with its runs in their order.
pub trait Form {
    /// The next member; its data follows.
    ///
    /// # Errors
    /// As the target says; the backup ends.
    fn begin(&mut self, member: &Member) -> io::Result<()>;
    /// Data of the member at a place of its content.
    ///
    /// # Errors
    /// As [`Form::begin`].
    fn data(&mut self, at: u64, bytes: &[u8]) -> io::Result<()>;
    /// The member is complete.
    ///
    /// # Errors
    /// As [`Form::begin`].
    fn end(&mut self) -> io::Result<()>;
    /// All members are complete; this is the manifest. What was written is durable when this returns, where that can be said.
    ///
    /// # Errors
    /// As [`Form::begin`].
    fn finish(&mut self, manifest: &str) -> io::Result<()>;
}
