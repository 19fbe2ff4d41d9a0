//! Where a backup goes: what the operator named decides which kind of target it is.

pub mod file;
pub mod folder;
pub mod pipe;

use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};

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
            if folder.exists() {
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

/// The name under which a file or folder is written until it is complete.
#[must_use]
pub fn part(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    path.with_file_name(name)
}

/// Removes what an unfinished backup left, if anything.
///
/// # Errors
/// As the system says, with the path.
pub fn remove_unfinished(kind: &TargetKind) -> Result<(), String> {
    let (path, removed) = match kind {
        TargetKind::File(path) => (part(path), std::fs::remove_file(part(path))),
        TargetKind::Folder(path) => (part(path), std::fs::remove_dir_all(part(path))),
        TargetKind::Device(_) | TargetKind::Stream => return Ok(()),
    };
    match removed {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("remove the unfinished {}: {error}", path.display()))
        }
        _ => Ok(()),
    }
}
