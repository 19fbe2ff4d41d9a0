//! Where a group's ring lies: what the catalogue says, what the configuration wants, and what is there.
//!
//! | recorded | there | what happens |
//! |---|---|---|
//! | nothing | | the last stop was clean, or this is the first start: a ring where the configuration wants it |
//! | a place | the ring | it is used there, also when the configuration has changed; it moves with the next clean stop |
//! | a place | nothing, but a ring where the configuration wants it | somebody moved it: it is used |
//! | a place, in an older boot | nothing | memory was lost: as after any loss of power |
//! | a place, in this boot | nothing | it holds what was answered and is somewhere: the group does not start (invariant 1) |

use std::fs::{DirBuilder, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use tidemark_common::catalog::{Catalog, CatalogError, RingRecord};
use tidemark_common::ids::GroupId;

use crate::recovery::StartError;
use crate::ring::RingError;

/// Beside the journal's folder: somebody starts the group without what the ring held.
const GIVEN_UP: &str = "start-without-write-buffer";

/// What is known of a ring's place before it is opened.
pub(crate) struct RingPlace<'a> {
    pub(crate) catalog: &'a Catalog,
    pub(crate) group: GroupId,
    /// Where the configuration wants it.
    pub(crate) configured: &'a Path,
    /// This boot of the machine; empty when the system does not tell.
    pub(crate) boot: &'a str,
    pub(crate) journal_folder: &'a Path,
}

impl RingPlace<'_> {
    /// Where to open it.
    ///
    /// # Errors
    /// [`StartError::RingLost`].
    pub(crate) fn find(&self) -> Result<PathBuf, StartError> {
        let Some(known) = self.catalog.ring(self.group)? else { return Ok(self.configured.to_owned()) };
        let recorded = PathBuf::from(&known.path);
        if is_there(&recorded)? {
            if recorded != self.configured {
                tracing::warn!(used = %recorded.display(), configured = %self.configured.display(), "the write buffer of before the kill lies where ring_directory was then: it is used there until the next clean stop");
            }
            return Ok(recorded);
        }
        let memory_lost = known.boot.is_empty() || known.boot != self.boot;
        if is_there(self.configured)? || memory_lost {
            return Ok(self.configured.to_owned());
        }
        let given_up = self.given_up();
        if given_up.exists() {
            tracing::warn!(ring = %recorded.display(), "the write buffer is given up: what it held and was not flushed is lost");
            return Ok(self.configured.to_owned());
        }
        Err(StartError::RingLost { path: recorded, configured: self.configured.to_owned(), given_up })
    }

    /// A ring is open there, and nothing is in it that is not recorded so: before the first host.
    pub(crate) fn record(&self, path: &Path) -> Result<(), CatalogError> {
        let record = RingRecord { path: path.to_string_lossy().into_owned(), boot: self.boot.to_owned() };
        if self.catalog.ring(self.group)?.as_ref() != Some(&record) {
            self.catalog.put_ring(self.group, &record)?;
        }
        // It counts once.
        let _ = std::fs::remove_file(self.given_up());
        Ok(())
    }

    fn given_up(&self) -> PathBuf {
        self.journal_folder.with_file_name(GIVEN_UP)
    }
}

fn is_there(path: &Path) -> Result<bool, RingError> {
    path.try_exists().map_err(|source| RingError::Io { action: "look for", path: path.to_owned(), source })
}

/// Only this one: what should be a tmpfs and is not mounted is not made on another disk.
pub(crate) fn make_folder(folder: &Path) -> Result<(), RingError> {
    match DirBuilder::new().mode(0o700).create(folder) {
        Err(source) if source.kind() != io::ErrorKind::AlreadyExists => {
            Err(RingError::Folder { folder: folder.to_owned(), source })
        }
        _ => close_folder(folder),
    }
}

/// A tmpfs is open to all. Whoever had made the folder before the service, or may write to it, would put a ring there and have it written to volumes.
pub(crate) fn close_folder(folder: &Path) -> Result<(), RingError> {
    let io = |source| RingError::Io { action: "look at the folder of", path: folder.to_owned(), source };
    let found = std::fs::symlink_metadata(folder).map_err(io)?;
    check_own(&found, folder)?;
    if found.is_dir() && found.mode() & 0o022 != 0 {
        std::fs::set_permissions(folder, Permissions::from_mode(0o700)).map_err(io)?;
    }
    Ok(())
}

/// What holds writes was made by who uses it.
pub(crate) fn check_own(found: &Metadata, path: &Path) -> Result<(), RingError> {
    let uid = found.uid();
    if uid == geteuid().as_raw() { Ok(()) } else { Err(RingError::Foreign { path: path.to_owned(), uid }) }
}

#[cfg(test)]
mod tests {
    use tidemark_common::clock::SystemClock;
    use tidemark_common::ids::Generation;

    use super::*;
    use crate::ring::Ring;

    /// Found or not, by what is recorded, what is there, and in which boot.
    #[test]
    fn a_ring_that_must_be_there_is_found_or_missed() {
        let directory = tempfile::tempdir().unwrap();
        let catalog = Catalog::open(directory.path(), &SystemClock::new()).unwrap();
        let (old, new) = (directory.path().join("old"), directory.path().join("new"));
        let journal_folder = directory.path().join("journal");
        let place = |configured, boot| RingPlace {
            catalog: &catalog,
            group: GroupId([7; 16]),
            configured,
            boot,
            journal_folder: &journal_folder,
        };
        assert_eq!(place(&old, "1").find().unwrap(), old);
        place(&old, "1").record(&old).unwrap();
        std::fs::write(&old, "ring").unwrap();
        assert_eq!(place(&new, "1").find().unwrap(), old, "it is where it was");
        std::fs::rename(&old, &new).unwrap();
        assert_eq!(place(&new, "1").find().unwrap(), new, "somebody moved it");
        std::fs::remove_file(&new).unwrap();
        assert!(matches!(place(&new, "1").find(), Err(StartError::RingLost { path, .. }) if path == old));
        assert!(place(&new, "1").find().unwrap_err().to_string().contains(", or to "), "two places");
        assert!(!place(&old, "1").find().unwrap_err().to_string().contains(", or to "), "one place");
        assert_eq!(place(&new, "2").find().unwrap(), new, "memory was lost");
        std::fs::write(place(&new, "1").given_up(), "").unwrap();
        assert_eq!(place(&new, "1").find().unwrap(), new, "it is given up");
        place(&new, "1").record(&new).unwrap();
        assert!(matches!(place(&new, "1").find(), Err(StartError::RingLost { .. })), "once");
    }

    /// Anybody may make the folder before the service does, also in between a clean stop and the next start.
    #[test]
    fn a_ring_that_somebody_else_could_have_made_is_not_used() {
        use std::os::unix::fs::chown;
        if !geteuid().is_root() {
            assert!(matches!(close_folder(Path::new("/")), Err(RingError::Foreign { uid: 0, .. })));
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let (path, group) = (folder.path().join("ring"), GroupId([1; 16]));
        let create = || Ring::create(&path, 1 << 20, group, Generation(1)).map(drop);
        create().unwrap();
        for foreign in [path.as_path(), folder.path()] {
            chown(foreign, Some(4711), None).unwrap();
            let opened = Ring::open(&path, group).map(drop);
            assert!(matches!(opened, Err(RingError::Foreign { uid: 4711, .. })), "{opened:?}");
            if foreign != path {
                assert!(matches!(create(), Err(RingError::Foreign { uid: 4711, .. })));
            }
            chown(foreign, Some(0), None).unwrap();
        }
        Ring::open(&path, group).unwrap();
    }

    #[test]
    fn the_folder_of_rings_is_closed_to_others() {
        let folder = tempfile::tempdir().unwrap();
        let rings = folder.path().join("rings");
        for _ in 0..2 {
            Ring::create(&rings.join("ring"), 1 << 20, GroupId([1; 16]), Generation(1)).unwrap();
            assert_eq!(std::fs::metadata(&rings).unwrap().mode() & 0o077, 0);
            std::fs::set_permissions(&rings, Permissions::from_mode(0o777)).unwrap();
        }
    }
}
