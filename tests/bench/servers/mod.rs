//! What is compared: our live pair, and other people's servers.

mod ours;
mod peer;
mod qmp;

use std::path::Path;

/// Free bytes of the file system of a folder.
pub(crate) fn free_bytes(folder: &Path) -> u64 {
    let about = rustix::fs::statvfs(folder).expect("look at the file system");
    about.f_bavail.saturating_mul(about.f_frsize)
}

/// Why a measure was left out.
pub(crate) fn lacks(need: u64, free: u64) -> String {
    format!("needs {} GiB of free disk, there are {}", need >> 30, free >> 30)
}

pub(crate) use ours::{Group, Ours};
pub(crate) use peer::{Kind, Peer, preallocated, write_back};
