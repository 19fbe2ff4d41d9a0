//! Where a test's appliances live: a short temporary directory and addresses nobody else uses.

use std::net::{Ipv4Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::appliance::{Appliance, Options};
use crate::small_disk::SmallDisk;

/// A test's place. Keep it until the appliances in it are gone.
#[derive(Debug)]
pub struct Cluster {
    /// Disks of some appliances' own, by the appliances' names; unmounted before the directory goes.
    disks: Vec<(String, SmallDisk)>,
    directory: TempDir,
}

impl Cluster {
    /// A fresh place.
    ///
    /// # Panics
    /// When the temporary directory cannot be made.
    #[must_use]
    pub fn new() -> Self {
        // Short, because the path of a Unix socket may have only 107 bytes.
        let directory = tempfile::Builder::new().prefix("tm").tempdir().expect("make a temporary directory");
        Self { disks: Vec::new(), directory }
    }

    /// Gives the directory of an appliance that is not initialised yet a disk of its own, of this size.
    #[must_use]
    pub fn with_disk(mut self, name: &str, bytes: u64) -> Self {
        let disk = SmallDisk::mount(&self.join(name), bytes);
        self.disks.push((name.into(), disk));
        self
    }

    /// The disk of an appliance that was given one.
    ///
    /// # Panics
    /// When it was given none.
    #[must_use]
    pub fn disk(&self, name: &str) -> &SmallDisk {
        let found = self.disks.iter().find(|(of, _)| of == name);
        &found.unwrap_or_else(|| panic!("{name} has no disk of its own")).1
    }

    /// Its directory.
    #[must_use]
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// A path in it.
    #[must_use]
    pub fn join(&self, name: &str) -> PathBuf {
        self.path().join(name)
    }

    /// An initialised appliance that is not running yet.
    #[must_use]
    pub fn appliance(&self, name: &str) -> Appliance {
        Appliance::init(&self.join(name), name, &Options::default())
    }

    /// A running appliance.
    #[must_use]
    pub fn running(&self, name: &str) -> Appliance {
        let mut appliance = self.appliance(name);
        appliance.start();
        appliance
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self::new()
    }
}

/// Changes one byte of a file, and changes it back when this is called again.
///
/// # Panics
/// When the file cannot be changed.
pub fn flip_byte(path: &Path, offset: u64) {
    flip(path, offset, 0xff);
}

/// Changes one bit of a file: the bit of that number (0 to 7) in the byte at an offset.
///
/// # Panics
/// When the file cannot be changed.
pub fn flip_bit(path: &Path, offset: u64, bit: u32) {
    flip(path, offset, 1 << bit);
}

fn flip(path: &Path, offset: u64, mask: u8) {
    let file = std::fs::File::options().read(true).write(true).open(path).expect("open the file");
    let mut byte = [0];
    file.read_exact_at(&mut byte, offset).expect("read the byte");
    file.write_all_at(&[byte[0] ^ mask], offset).expect("write the byte");
}

/// This process's own loopback address, so that tests running at the same time never race for a port.
#[must_use]
pub fn loopback() -> Ipv4Addr {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, (high & 0x7f) | 0x80, middle, low.clamp(1, 254))
}

/// A UDP port nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_udp() -> SocketAddr {
    UdpSocket::bind((loopback(), 0)).and_then(|socket| socket.local_addr()).expect("a free UDP port")
}

/// A TCP port nobody listens on.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn free_tcp() -> SocketAddr {
    TcpListener::bind((loopback(), 0)).and_then(|socket| socket.local_addr()).expect("a free TCP port")
}
