//! Where a backup goes: that no other goes there, and opening it.

use std::io::{self, Write};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use tidemark_backup::archive::write::ArchiveWriter;
use tidemark_backup::destination::file::NamedLater;
use tidemark_backup::destination::folder::RawFiles;
use tidemark_backup::destination::pipe::Device;
use tidemark_backup::destination::{self, TargetKind};
use tidemark_backup::form::Form;
use tidemark_backup::stop::Stop;
use tokio::runtime::Handle;
use tokio::sync::mpsc::Sender;
use tokio::time::timeout;

use super::Backups;
use super::jobs::Job;
use crate::roles::appliance::Appliance;

/// How long one wait lasts before it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(100);
/// A stream that nobody has begun to read after this long ends.
const READER_TIMEOUT: Duration = Duration::from_secs(30);
/// Bytes handed over at once.
const PIECE_BYTES: usize = 256 << 10;

/// Said of a stream whose reader is gone; why it went, only the reader knows.
const HUNG_UP: &str =
    "whoever read the stream hung up, or could not write it where it was to go: the command that read it says which";

/// Pieces of an archive, or why it ends early.
pub(super) type Pieces = Sender<io::Result<Vec<u8>>>;

/// Where the reader of a stream comes in.
pub(super) type Readers = mpsc::Receiver<Pieces>;

impl Backups {
    /// Until it is over, nobody else writes where a backup goes: two that wrote one file or one tape would both be neither, and be called done.
    pub(super) fn claim(&self, job: &Arc<Job>, kind: &TargetKind) -> Result<(), String> {
        let Some(place) = destination::place(kind) else { return Ok(()) };
        let jobs = self.jobs.lock();
        let is_same = |other: &Arc<Job>| !Arc::ptr_eq(other, job) && other.place.get() == Some(&place);
        if let Some((name, _)) = jobs.iter().find(|(_, other)| is_same(other)) {
            return Err(format!(
                "backup '{name}' goes to {}: name another target, wait for it, or `tidemark backup cancel {name}`",
                place.display()
            ));
        }
        let _ = job.place.set(place);
        Ok(())
    }
}

impl Appliance {
    /// What is under way here has this in its interim names: other appliances may back up to the same place.
    pub(super) fn whose(&self) -> String {
        self.identity.id().short()
    }
}

/// Opens a target for things as they were at a time, seconds since 1970.
///
/// # Errors
/// As the system says; for a stream, that nobody reads.
pub(super) fn open(
    kind: &TargetKind,
    whose: &str,
    modified: i64,
    stop: &Stop,
    runtime: &Handle,
    readers: &Readers,
) -> io::Result<Box<dyn Form>> {
    Ok(match kind {
        TargetKind::File(path) => Box::new(ArchiveWriter::new(NamedLater::create(path, whose)?, modified)),
        TargetKind::Folder(path) => Box::new(RawFiles::create(path, whose)?),
        TargetKind::Device(path) => Box::new(ArchiveWriter::new(Device::open(path, stop)?, modified)),
        TargetKind::Stream => {
            let to = reader(readers, stop)?;
            let stream = Stream { to, piece: Vec::new(), stop: stop.clone(), runtime: runtime.clone() };
            Box::new(ArchiveWriter::new(stream, modified))
        }
    })
}

fn reader(readers: &Readers, stop: &Stop) -> io::Result<Pieces> {
    let mut waited = Duration::ZERO;
    while waited < READER_TIMEOUT && stop.reason().is_none() {
        if let Ok(reader) = readers.recv_timeout(LOOK) {
            return Ok(reader);
        }
        waited += LOOK;
    }
    Err(io::Error::new(io::ErrorKind::TimedOut, stop.reason().unwrap_or_else(|| "nobody reads the stream".into())))
}

/// An archive on its way to whoever asked for it.
struct Stream {
    to: Pieces,
    piece: Vec<u8>,
    stop: Stop,
    runtime: Handle,
}

impl Stream {
    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        loop {
            if let Some(reason) = self.stop.reason() {
                return Err(io::Error::other(reason));
            }
            let place = self.runtime.block_on(async { timeout(LOOK, self.to.reserve()).await });
            match place {
                Err(_) => {}
                Ok(Ok(place)) => {
                    place.send(Ok(piece));
                    return Ok(());
                }
                Ok(Err(_)) => return Err(io::Error::new(io::ErrorKind::BrokenPipe, HUNG_UP)),
            }
        }
    }
}

impl Write for Stream {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.send()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.send()
    }
}
