//! A pipe, or a device as a tape: bytes in records of one size. Whoever reads may be slow, or not there yet, and the
//! operator may stop waiting for him at any time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::archive::RECORD;
use crate::stop::Stop;

/// How long one wait for the reader lasts before it is looked whether to stop.
const LOOK: Duration = Duration::from_millis(100);

/// A device being written.
#[derive(Debug)]
pub struct Device {
    file: File,
    record: Vec<u8>,
    stop: Stop,
}

/// Not `Interrupted`, which `write_all` takes for a reason to try again.
fn stopped(stop: &Stop) -> io::Error {
    io::Error::other(stop.reason().unwrap_or_default())
}

impl Device {
    /// Opens it; for a pipe, waits until somebody reads.
    ///
    /// # Errors
    /// As the system says.
    pub fn open(path: &Path, stop: &Stop) -> io::Result<Self> {
        let pipe = std::fs::metadata(path)?.file_type().is_fifo();
        let mut options = OpenOptions::new();
        options.write(true);
        if pipe {
            let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
            options.custom_flags(flags);
        }
        let file = loop {
            match options.open(path) {
                Err(error) if pipe && error.raw_os_error() == Some(Errno::NXIO.raw_os_error()) => {
                    if stop.wait(LOOK) {
                        return Err(stopped(stop));
                    }
                }
                opened => break opened?,
            }
        };
        Ok(Self { file, record: Vec::new(), stop: stop.clone() })
    }

    fn put(&mut self) -> io::Result<()> {
        let mut record = self.record.as_slice();
        while !record.is_empty() {
            match (&self.file).write(record) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "it takes nothing more")),
                Ok(written) => record = record.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.wait()?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        self.record.clear();
        Ok(())
    }

    fn wait(&self) -> io::Result<()> {
        let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
        loop {
            if self.stop.reason().is_some() {
                return Err(stopped(&self.stop));
            }
            let mut waiting = [PollFd::new(&self.file, PollFlags::OUT)];
            match poll(&mut waiting, Some(&look)) {
                Ok(0) | Err(Errno::INTR) => {}
                Ok(_) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl Write for Device {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = usize::try_from(RECORD).unwrap_or(usize::MAX) - self.record.len();
        let some = bytes.get(..room.min(bytes.len())).unwrap_or_default();
        self.record.extend_from_slice(some);
        if some.len() == room {
            self.put()?;
        }
        Ok(some.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.put()
    }
}
