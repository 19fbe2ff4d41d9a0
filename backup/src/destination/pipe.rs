//! A pipe, or a device as a tape: bytes in records of one size. Whoever reads may be slow, or not there yet, and the
//! operator may stop waiting for him at any time.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::os::fd::AsFd;
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
pub struct Device<F = File> {
    file: F,
    record: Vec<u8>,
    stop: Stop,
}

/// Not `Interrupted`, which `write_all` takes for a reason to try again.
fn stopped(stop: &Stop) -> io::Error {
    io::Error::other(stop.reason().unwrap_or_default())
}

/// A tape at its end: what is to be done then, the system does not say.
fn told(error: io::Error) -> io::Error {
    if error.kind() != io::ErrorKind::StorageFull {
        return error;
    }
    let what = "it is at its end, and a backup does not go on on another one: take one with more room, or back up fewer sets at once";
    io::Error::new(error.kind(), format!("{error}: {what}"))
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
}

impl<F: Write + AsFd> Device<F> {
    /// One write is one record of a tape.
    fn put(&mut self) -> io::Result<()> {
        let mut record = self.record.as_slice();
        while !record.is_empty() {
            match self.file.write(record) {
                Ok(0) => return Err(io::Error::new(io::ErrorKind::WriteZero, "it takes nothing more")),
                Ok(written) => record = record.get(written..).unwrap_or_default(),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => wait(&self.file, &self.stop)?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(told(error)),
            }
        }
        self.record.clear();
        Ok(())
    }
}

/// Waits until somebody reads.
fn wait(file: &impl AsFd, stop: &Stop) -> io::Result<()> {
    let look = Timespec { tv_sec: 0, tv_nsec: i64::from(LOOK.subsec_nanos()) };
    loop {
        if stop.reason().is_some() {
            return Err(stopped(stop));
        }
        let mut waiting = [PollFd::new(file, PollFlags::OUT)];
        match poll(&mut waiting, Some(&look)) {
            Ok(0) | Err(Errno::INTR) => {}
            Ok(_) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
}

impl<F: Write + AsFd> Write for Device<F> {
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

#[cfg(test)]
mod tests {
    use std::os::fd::BorrowedFd;

    use super::*;
    use crate::archive::write::ArchiveWriter;
    use crate::form::Form;

    /// Keeps what each write was, takes no more than so much of one, and has room for so many bytes.
    #[derive(Debug)]
    struct Tape {
        writes: Vec<Vec<u8>>,
        at_once: usize,
        room: usize,
        fd: File,
    }

    impl Write for Tape {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let some = &bytes[..bytes.len().min(self.at_once)];
            self.room = self.room.checked_sub(some.len()).ok_or(Errno::NOSPC)?;
            self.writes.push(some.to_vec());
            Ok(some.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl AsFd for Tape {
        fn as_fd(&self) -> BorrowedFd<'_> {
            self.fd.as_fd()
        }
    }

    /// An archive of a manifest on a tape, and how it ended.
    fn archived(manifest: &str, at_once: usize, room: usize) -> (Vec<Vec<u8>>, io::Result<()>) {
        let fd = File::open("/dev/null").unwrap();
        let file = Tape { writes: Vec::new(), at_once, room, fd };
        let mut device = Device { file, record: Vec::new(), stop: Stop::default() };
        let ended = ArchiveWriter::new(&mut device, 0).finish(manifest);
        (device.file.writes, ended)
    }

    fn in_one(manifest: &str) -> Vec<u8> {
        let mut archive = Vec::new();
        ArchiveWriter::new(&mut archive, 0).finish(manifest).unwrap();
        archive
    }

    #[test]
    fn each_write_to_a_tape_is_one_whole_record_the_last_one_too() {
        let record = usize::try_from(RECORD).unwrap();
        for length in [0, 1, 511, 512, 7000, 8192, 10_240, 50_000] {
            let manifest = "m".repeat(length);
            let (writes, ended) = archived(&manifest, usize::MAX, usize::MAX);
            ended.unwrap();
            assert!(writes.iter().all(|write| write.len() == record), "{length} bytes of manifest");
            assert!(writes.concat() == in_one(&manifest), "{length} bytes of manifest");
        }
    }

    #[test]
    fn what_a_device_did_not_take_of_a_record_follows() {
        let manifest = "m".repeat(50_000);
        let (writes, ended) = archived(&manifest, 4097, usize::MAX);
        ended.unwrap();
        assert!(writes.concat() == in_one(&manifest));
        assert_eq!(archived(&manifest, 0, 0).1.unwrap_err().kind(), io::ErrorKind::WriteZero);
    }

    #[test]
    fn a_tape_that_ends_in_the_middle_says_so_and_what_to_do() {
        let record = usize::try_from(RECORD).unwrap();
        let (writes, ended) = archived(&"m".repeat(50_000), usize::MAX, 3 * record + 1);
        let error = ended.unwrap_err();
        assert_eq!((writes.len(), error.kind()), (3, io::ErrorKind::StorageFull));
        for words in ["No space left on device", "at its end", "more room"] {
            assert!(error.to_string().contains(words), "{error}");
        }
    }
}
