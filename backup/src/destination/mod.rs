//! Where a backup goes: what the operator named decides which kind of target it is.

pub mod file;
pub mod folder;
pub mod pipe;

use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::manifest::Manifest;
use crate::source::folder_manifest;

/// A kind of target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TargetKind {
    /// An archive in a file that is not there yet.
    File(PathBuf),
    /// An archive to a pipe or a device as a tape: bytes in their order.
    Device(PathBuf),
    /// Raw files in a folder of their own, inside one that is there.
    Folder(PathBuf),
    /// An archive to whoever reads the stream.
    Stream,
}

/// What a path is.
///
/// # Errors
/// Why nothing can be backed up there, and what to do.
pub fn kind_of(text: &str, backup: &str) -> Result<TargetKind, String> {
    if text == "-" {
        return Ok(TargetKind::Stream);
    }
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(format!("the target '{text}' must be an absolute path, or '-' for the standard output"));
    }
    match std::fs::metadata(path) {
        Ok(found) if found.is_dir() => {
            let folder = path.join(backup);
            if folder.symlink_metadata().is_ok() {
                return Err(format!(
                    "{} is there already: name the backup otherwise, or another folder",
                    folder.display()
                ));
            }
            Ok(TargetKind::Folder(folder))
        }
        Ok(found) if found.file_type().is_fifo() || found.file_type().is_char_device() => {
            Ok(TargetKind::Device(path.to_owned()))
        }
        Ok(found) if found.file_type().is_block_device() => {
            Err(format!("{text} is a block device, which may hold something: back up into a file on it, or to a pipe"))
        }
        Ok(found) if found.is_file() => {
            Err(format!("{text} is there already: name a file that is not, or delete this one first"))
        }
        Ok(_) => Err(format!("{text} is neither a file, a folder, a pipe nor a tape")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            // Found when all of it was copied, it would be in the way of the name.
            if !text.ends_with('/') && path.symlink_metadata().is_ok() {
                return Err(format!("{text} is a link that leads nowhere: name another file, or remove it first"));
            }
            let folder = path.parent().unwrap_or(path);
            if text.ends_with('/') || !folder.is_dir() {
                let missing = if text.ends_with('/') { path } else { folder };
                return Err(format!("there is no folder {}: make it first", missing.display()));
            }
            Ok(TargetKind::File(path.to_owned()))
        }
        Err(error) => Err(format!("{text}: {error}")),
    }
}

/// The name under which a file or folder is written until it is complete. Whose it is, is part of it: what another appliance writes for the
/// same name in the same folder, or anybody has called something like this, is no earlier try of ours.
#[must_use]
pub fn part(path: &Path, whose: &str) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{whose}.part"));
    path.with_file_name(name)
}

/// What is written there and must not be by two at once, by whichever way it was named; `None`: whoever reads a stream reads no other.
#[must_use]
pub fn place(kind: &TargetKind) -> Option<PathBuf> {
    let real = |path: &Path| std::fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    match kind {
        TargetKind::File(path) | TargetKind::Folder(path) => {
            let folder = path.parent().map(real).unwrap_or_default();
            Some(folder.join(path.file_name().unwrap_or_default()))
        }
        TargetKind::Device(path) => Some(real(path)),
        TargetKind::Stream => None,
    }
}

/// Whether a file has both its names: then it is complete, and the one under the final name is it.
fn is_named(path: &Path, whose: &str) -> bool {
    let inode = |path: &Path| std::fs::symlink_metadata(path).map(|found| (found.dev(), found.ino())).ok();
    inode(path).is_some_and(|named| inode(&part(path, whose)) == Some(named))
}

/// Whether a backup of which it is not known that it is done is complete all the same. What somebody else put there under its name is
/// not it: a file has its interim name still, a folder a manifest that the caller knows.
#[must_use]
pub fn is_complete(kind: &TargetKind, whose: &str, is_its: impl FnOnce(&Manifest) -> bool) -> bool {
    match kind {
        TargetKind::File(path) => is_named(path, whose),
        TargetKind::Folder(path) => {
            !part(path, whose).exists() && folder_manifest(path).is_ok_and(|manifest| is_its(&manifest))
        }
        TargetKind::Device(_) | TargetKind::Stream => false,
    }
}

/// Makes the name of a complete backup durable, before anybody is told that it is done: who gave it may have been killed before that was.
///
/// # Errors
/// As the system says, with the path; [`remove_unfinished`] takes all of it away then.
pub fn keep_name(kind: &TargetKind, whose: &str) -> Result<(), String> {
    let told = |path: &Path, error: io::Error| format!("sync the folder of {}: {error}", path.display());
    match kind {
        TargetKind::File(path) => file::sync_folder(path).map_err(|error| told(path, error)),
        TargetKind::Folder(path) => file::sync_folder(path).map_err(|error| {
            let _ = std::fs::rename(path, part(path, whose));
            told(path, error)
        }),
        TargetKind::Device(_) | TargetKind::Stream => Ok(()),
    }
}

/// It is recorded that a backup is done: its interim name goes. Nobody else's file of that name does.
///
/// # Errors
/// As the system says, with the path.
pub fn settle(kind: &TargetKind, whose: &str) -> Result<(), String> {
    match kind {
        TargetKind::File(path) if is_named(path, whose) => {
            let interim = part(path, whose);
            gone(&interim, std::fs::remove_file(&interim))
        }
        _ => Ok(()),
    }
}

/// Removes what an unfinished backup left, if anything.
///
/// # Errors
/// As the system says, with the path.
pub fn remove_unfinished(kind: &TargetKind, whose: &str) -> Result<(), String> {
    match kind {
        TargetKind::File(path) => {
            // It was named, and that could not be made durable.
            if is_named(path, whose) {
                gone(path, std::fs::remove_file(path))?;
            }
            let interim = part(path, whose);
            gone(&interim, std::fs::remove_file(&interim))
        }
        TargetKind::Folder(path) => {
            let interim = part(path, whose);
            gone(&interim, std::fs::remove_dir_all(&interim))
        }
        TargetKind::Device(_) | TargetKind::Stream => Ok(()),
    }
}

fn gone(path: &Path, removed: io::Result<()>) -> Result<(), String> {
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(format!("remove the unfinished {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::tests::of_nothing;

    #[test]
    fn what_is_in_the_way_of_a_name_is_said_before_anything_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let at = |name: &str| folder.path().join(name);
        let kind = |name: &str| kind_of(at(name).to_str().unwrap(), "b");
        assert_eq!(kind("new"), Ok(TargetKind::File(at("new"))));
        assert_eq!(kind(""), Ok(TargetKind::Folder(at("b"))));
        std::fs::write(at("file"), "mine").unwrap();
        std::os::unix::fs::symlink("nowhere", at("link")).unwrap();
        std::os::unix::fs::symlink("nowhere", at("b")).unwrap();
        for (name, why) in [
            ("file", "is there already"),
            ("link", "a link that leads nowhere"),
            ("", "is there already"),
            ("missing/", "make it first"),
            ("missing/new", "make it first"),
        ] {
            let said = kind(name).unwrap_err();
            assert!(said.contains(why), "{name}: {said}");
        }
        assert!(kind_of("here", "b").unwrap_err().contains("absolute"));
        assert_eq!(kind_of("-", "b"), Ok(TargetKind::Stream));
    }

    #[test]
    fn what_somebody_else_put_there_is_no_backup_and_stays() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("b.tar");
        let file = TargetKind::File(path.clone());
        let never = |_: &Manifest| panic!("a file is known by its names");
        // Killed before it had its interim name, while it was written, and somebody has made a file of its name.
        std::fs::write(&path, "a stranger's").unwrap();
        assert!(!is_complete(&file, "us", never));
        std::fs::write(part(&path, "us"), "half of an arch").unwrap();
        assert!(!is_complete(&file, "us", never));
        settle(&file, "us").unwrap();
        assert!(part(&path, "us").exists(), "it is not what is settled");
        remove_unfinished(&file, "us").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"a stranger's");
        assert!(!part(&path, "us").exists());
        // Killed between its two names and the record of its end.
        std::fs::remove_file(&path).unwrap();
        std::fs::write(part(&path, "us"), "an archive").unwrap();
        std::fs::hard_link(part(&path, "us"), &path).unwrap();
        assert!(is_complete(&file, "us", never));
        settle(&file, "us").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"an archive");
        assert!(!part(&path, "us").exists() && !is_complete(&file, "us", never));
        // Its name could not be made durable: the backup has failed, and leaves none.
        std::fs::hard_link(&path, part(&path, "us")).unwrap();
        remove_unfinished(&file, "us").unwrap();
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_is_known_by_its_manifest() {
        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("b");
        let folder = TargetKind::Folder(path.clone());
        let is_b = |manifest: &Manifest| manifest.name == "b";
        std::fs::create_dir(&path).unwrap();
        assert!(!is_complete(&folder, "us", is_b), "a stranger's");
        std::fs::remove_dir(&path).unwrap();
        for (name, complete) in [("b", true), ("another", false)] {
            let mut raw = folder::RawFiles::create(&path, "us").unwrap();
            assert!(!is_complete(&folder, "us", is_b), "it has no name yet");
            crate::form::Form::finish(&mut raw, &of_nothing(name).encode().unwrap()).unwrap();
            assert_eq!(is_complete(&folder, "us", is_b), complete);
            std::fs::remove_dir_all(&path).unwrap();
        }
    }

    #[test]
    fn a_name_that_cannot_be_made_durable_is_told() {
        let folder = tempfile::tempdir().unwrap();
        for kind in [TargetKind::File, TargetKind::Folder] {
            keep_name(&kind(folder.path().join("b")), "us").unwrap();
            let why = keep_name(&kind(folder.path().join("gone/b")), "us").unwrap_err();
            assert!(why.contains("gone/b"), "{why}");
        }
    }

    /// Two appliances with a backup of one name for one folder: each writes its own, one gets the name, and the other leaves it that.
    #[test]
    fn what_another_appliance_writes_for_the_same_name_stays_its_own() {
        use std::io::Write;

        let place = tempfile::tempdir().unwrap();
        let path = place.path().join("b.tar");
        let file = TargetKind::File(path.clone());
        std::fs::write(place.path().join("b.tar.part"), "a stranger's").unwrap();
        let mut ours = file::NamedLater::create(&path, "us").unwrap();
        ours.write_all(b"all of ours").unwrap();
        let mut theirs = file::NamedLater::create(&path, "them").unwrap();
        theirs.write_all(b"half of theirs").unwrap();
        ours.flush().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"all of ours");
        assert_eq!(theirs.flush().unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        remove_unfinished(&file, "them").unwrap();
        assert!(is_complete(&file, "us", |_| true));
        settle(&file, "us").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"all of ours");
        assert_eq!(std::fs::read(place.path().join("b.tar.part")).unwrap(), b"a stranger's");
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 2);

        let path = place.path().join("b");
        let folder = TargetKind::Folder(path.clone());
        std::fs::create_dir(place.path().join("b.part")).unwrap();
        let mut ours = folder::RawFiles::create(&path, "us").unwrap();
        let mut theirs = folder::RawFiles::create(&path, "them").unwrap();
        crate::form::Form::finish(&mut ours, "ours").unwrap();
        assert!(crate::form::Form::finish(&mut theirs, "theirs").is_err());
        remove_unfinished(&folder, "them").unwrap();
        assert_eq!(std::fs::read_to_string(path.join(crate::archive::MANIFEST)).unwrap(), "ours");
        assert!(place.path().join("b.part").is_dir());
        assert_eq!(std::fs::read_dir(place.path()).unwrap().count(), 4);
    }
}
