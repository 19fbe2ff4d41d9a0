//! Other people's servers, from Debian's packages, each with a preallocated file of its own.

use std::fs::File;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::fs::{FallocateFlags, fallocate};
use tidemark_tests::wait::wait_until;

use super::qmp::Monitor;

const START_LIMIT: Duration = Duration::from_secs(20);

/// Which server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `nbdkit file`: copies nothing.
    Nbdkit,
    /// `qemu-nbd`: copies nothing.
    QemuNbd,
    /// `qemu-storage-daemon`, mirroring to a second server behind the host's back.
    MirrorBackground,
    /// The same, with each write answered when the second server has it.
    MirrorBlocking,
    /// `qemu-storage-daemon`, which backs its disk up to a file when it is told to.
    Backup,
}

impl Kind {
    /// All that are measured beside the host path.
    pub(crate) const ALL: [Self; 4] = [Self::Nbdkit, Self::QemuNbd, Self::MirrorBackground, Self::MirrorBlocking];

    /// For tables.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit file",
            Self::QemuNbd => "qemu-nbd",
            Self::MirrorBackground => "qsd mirror background",
            Self::MirrorBlocking => "qsd mirror write-blocking",
            Self::Backup => "qsd blockdev-backup",
        }
    }

    const fn short(self) -> &'static str {
        match self {
            Self::Nbdkit => "nbdkit",
            Self::QemuNbd => "qemunbd",
            Self::MirrorBackground => "mirrorbg",
            Self::MirrorBlocking => "mirrorwb",
            Self::Backup => "backup",
        }
    }
}

/// A running server; ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Peer {
    /// What it is.
    pub(crate) kind: Kind,
    processes: Vec<Child>,
    socket: PathBuf,
    files: Vec<PathBuf>,
    /// Of a storage daemon.
    monitor: Option<Monitor>,
}

impl Peer {
    /// Starts one that serves a new file of this size in a folder.
    pub(crate) fn start(kind: Kind, folder: &Path, bytes: u64) -> Self {
        let name = kind.short();
        let socket = folder.join(format!("{name}.sock"));
        let image = preallocated(&folder.join(format!("{name}.img")), bytes);
        Self::over(kind, &socket, &image, bytes)
    }

    /// Starts one that serves a file that is there.
    pub(crate) fn over(kind: Kind, socket: &Path, image: &Path, bytes: u64) -> Self {
        let (socket, files) = (socket.to_owned(), vec![image.to_owned()]);
        let mut peer = Self { kind, processes: Vec::new(), socket, files, monitor: None };
        let (at, path) = (peer.socket.display().to_string(), image.display().to_string());
        match kind {
            Kind::Nbdkit => peer.spawn("nbdkit", &["-f", "-U", &at, "file", &path]),
            Kind::QemuNbd => peer.spawn("qemu-nbd", &qemu_nbd(&at, &path)),
            Kind::MirrorBackground => peer.mirror("background", &path, bytes),
            Kind::MirrorBlocking => peer.mirror("write-blocking", &path, bytes),
            Kind::Backup => peer.with_target(&path, bytes),
        }
        await_socket(&peer.socket);
        peer
    }

    /// Where hosts attach.
    pub(crate) fn uri(&self) -> String {
        format!("nbd+unix:///?socket={}", self.socket.display())
    }

    /// What the kernel still has to write burdens nobody who is measured next.
    pub(crate) fn settle(&self) {
        self.files.iter().for_each(|file| write_back(file));
    }

    fn spawn(&mut self, program: &str, args: &[&str]) {
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", program])
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.processes.push(child.unwrap_or_else(|error| panic!("start {program}: {error}")));
    }

    /// The remote copy that people build by hand: a mirror job to a second NBD server.
    fn mirror(&mut self, mode: &str, image: &str, bytes: u64) {
        let target = self.socket.with_extension("target");
        let copy = preallocated(&self.socket.with_extension("copy"), bytes);
        self.spawn("qemu-nbd", &qemu_nbd(&target.display().to_string(), &copy.display().to_string()));
        self.files.push(copy);
        await_socket(&target);
        let target = format!("driver=nbd,node-name=t0,server.type=unix,server.path={}", target.display());
        self.daemon(image, &target).mirror("r0", "t0", mode);
    }

    fn with_target(&mut self, image: &str, bytes: u64) {
        let copy = preallocated(&self.socket.with_extension("copy"), bytes);
        let target = format!("driver=file,node-name=t0,filename={}", copy.display());
        self.files.push(copy);
        self.daemon(image, &target);
    }

    /// Begins to back up, at so many bytes per second.
    pub(crate) fn back_up(&mut self, bytes_per_second: u64) {
        self.monitor.as_mut().expect("a monitor").back_up("r0", "t0", bytes_per_second);
    }

    /// Whether it still does.
    pub(crate) fn backs_up(&mut self) -> bool {
        self.monitor.as_mut().expect("a monitor").is_running()
    }

    /// A storage daemon that serves an image, with another node beside it.
    fn daemon(&mut self, image: &str, target: &str) -> &mut Monitor {
        let monitor = self.socket.with_extension("qmp");
        let words = [
            "--blockdev".to_owned(),
            format!("driver=file,node-name=f0,filename={image}"),
            "--blockdev".into(),
            "driver=raw,node-name=r0,file=f0".into(),
            "--blockdev".into(),
            target.to_owned(),
            "--nbd-server".into(),
            format!("addr.type=unix,addr.path={},max-connections=16", self.socket.display()),
            "--export".into(),
            "type=nbd,id=e0,node-name=r0,writable=on,name=".into(),
            "--chardev".into(),
            format!("socket,id=q,path={},server=on,wait=off", monitor.display()),
            "--monitor".into(),
            "chardev=q".into(),
        ];
        self.spawn("qemu-storage-daemon", &words.iter().map(String::as_str).collect::<Vec<_>>());
        await_socket(&monitor);
        self.monitor.insert(Monitor::connect(&monitor))
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        for child in self.processes.iter_mut().rev() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn qemu_nbd<'a>(socket: &'a str, image: &'a str) -> [&'a str; 9] {
    ["-k", socket, "-f", "raw", "--cache=writeback", "-e", "16", "-t", image]
}

/// A file whose blocks are reserved, as somebody who cares for speed would make it.
pub(crate) fn preallocated(path: &Path, bytes: u64) -> PathBuf {
    let file = File::create(path).expect("make an image");
    fallocate(&file, FallocateFlags::empty(), 0, bytes).expect("reserve an image");
    path.to_owned()
}

fn await_socket(path: &Path) {
    wait_until(&format!("a server at {}", path.display()), START_LIMIT, || {
        UnixStream::connect(path).map(drop).map_err(|error| error.to_string())
    });
}

/// Waits until what was written to a file is on the disk.
pub(crate) fn write_back(path: &Path) {
    File::open(path)
        .and_then(|file| file.sync_all())
        .unwrap_or_else(|error| panic!("sync {}: {error}", path.display()));
}
