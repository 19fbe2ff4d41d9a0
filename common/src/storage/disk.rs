//! The machine's own disks, by plain positioned system calls.

use std::collections::BTreeSet;
use std::fs::{DirBuilder, File};
use std::io;
use std::num::NonZeroU64;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags, SeekFrom, fadvise, fallocate, flock, seek};
use rustix::io::{Errno, ReadWriteFlags};

use super::aligned::is_whole_blocks;
use super::{Claim, Disk, DiskFile, Open};

/// Parts of one system call: what Linux takes.
const PARTS_MAX: usize = 1024;

/// Of what is made here, whatever the process's mask leaves.
const FILE_MODE: u32 = 0o600;
const FOLDER_MODE: u32 = 0o700;

/// Zeroes written at once where a range cannot be zeroed otherwise.
static ZEROES: [u8; 128 << 10] = [0; 128 << 10];

/// Bytes of a device zeroed at once where its page cache is busy.
const BUSY_STEP: u64 = 16 << 20;

/// The machine's file systems.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemDisk;

/// An open file or device.
#[derive(Debug)]
struct SystemFile {
    file: File,
    device: bool,
    /// The same file once more, for direct I/O; `None` inside where there is none.
    direct: OnceLock<Option<File>>,
}

impl Disk for SystemDisk {
    fn open(&self, path: &Path, how: Open) -> io::Result<Arc<dyn DiskFile>> {
        let mut options = File::options();
        // What hosts write is nobody else's, whoever may look into the folder it lies in.
        options.read(true).write(true).mode(FILE_MODE);
        match how {
            Open::Existing => {}
            Open::New => {
                options.create_new(true);
            }
            Open::ExistingOrNew => {
                options.create(true);
            }
        }
        let file = options.open(path)?;
        let device = file.metadata()?.file_type().is_block_device();
        Ok(Arc::new(SystemFile { file, device, direct: OnceLock::new() }))
    }

    fn claim(&self, path: &Path) -> io::Result<Claim> {
        let device = std::fs::metadata(path)?.file_type().is_block_device();
        let held = if device { claim_device(path)? } else { claim_file(path)? };
        Ok(Claim { _held: Some(held) })
    }

    fn list(&self, folder: &Path) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(folder)? {
            if let Ok(name) = entry?.file_name().into_string() {
                names.push(name);
            }
        }
        names.sort();
        Ok(names)
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        std::fs::rename(from, to)?;
        to.parent().map_or(Ok(()), |folder| self.sync_folder(folder))
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    fn create_folder(&self, folder: &Path) -> io::Result<()> {
        make_folder(folder, FOLDER_MODE)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        sync_folder(folder)
    }
}

/// Makes a folder and those above it that are missing, durably, with the permissions of `mode` that the process's mask leaves.
///
/// # Errors
/// What the system said; some of the folders may be there then.
pub fn make_folder(folder: &Path, mode: u32) -> io::Result<()> {
    let is_missing = |above: &&Path| *above != Path::new("") && !above.exists();
    let missing: Vec<&Path> = folder.ancestors().skip(1).take_while(is_missing).collect();
    DirBuilder::new().recursive(true).mode(mode).create(folder)?;
    // The folder itself may be there and not yet be durable: whoever made it was killed.
    let made = [folder].into_iter().chain(missing);
    made.filter_map(Path::parent)
        .try_for_each(|above| sync_folder(if above == Path::new("") { Path::new(".") } else { above }))
}

fn sync_folder(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

impl DiskFile for SystemFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buffer, offset)
    }

    fn read_cached_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        let length = buffer.len();
        let mut into = [io::IoSliceMut::new(buffer)];
        match rustix::io::preadv2(&self.file, &mut into, offset, ReadWriteFlags::NOWAIT) {
            Ok(read) => Ok(read == length),
            Err(Errno::AGAIN | Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn read_direct_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<bool> {
        if !is_whole_blocks(buffer, offset) {
            return Ok(false);
        }
        self.past_cache(|direct| direct.read_exact_at(buffer, offset))
    }

    fn write_all_at(&self, data: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(data, offset)
    }

    fn write_direct_at(&self, data: &[u8], offset: u64) -> io::Result<bool> {
        if !is_whole_blocks(data, offset) {
            return Ok(false);
        }
        self.past_cache(|direct| direct.write_all_at(data, offset))
    }

    fn write_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<()> {
        write_parts(&self.file, parts, offset)
    }

    fn write_direct_parts_at(&self, parts: &[&[u8]], offset: u64) -> io::Result<bool> {
        if !parts.iter().all(|part| is_whole_blocks(part, offset)) {
            return Ok(false);
        }
        self.past_cache(|direct| write_parts(direct, parts, offset))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_data()
    }

    fn size(&self) -> io::Result<u64> {
        // A device's metadata says 0; its end does not.
        if self.device { Ok(seek(&self.file, SeekFrom::End(0))?) } else { Ok(self.file.metadata()?.len()) }
    }

    fn grow(&self, size: u64) -> io::Result<()> {
        let now = self.size()?;
        if size <= now {
            return Ok(());
        }
        if self.device {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("the device has {now} bytes only")));
        }
        self.file.set_len(size).map_err(|error| not_grown(error, size))
    }

    fn zero(&self, offset: u64, length: u64, hole: bool) -> io::Result<()> {
        // A device zeroes a range while its caller waits, and writes what its page cache holds there before that: few zeroes are data like any other.
        if self.device && !hole && length <= ZEROES.len() as u64 {
            return self.write_zeroes(offset, length);
        }
        let flags =
            if hole { FallocateFlags::PUNCH_HOLE } else { FallocateFlags::ZERO_RANGE } | FallocateFlags::KEEP_SIZE;
        let give_back = |offset, length| fallocate(&self.file, flags, offset, length);
        match give_back(offset, length) {
            Err(Errno::BUSY) => self.zero_busy(offset, length, give_back),
            Err(error) if is_not_known(error) => self.write_zeroes(offset, length),
            result => Ok(result?),
        }
    }

    fn gives_back(&self) -> bool {
        if self.device {
            return device_gives_back(&self.file);
        }
        // Behind its end a file does not change by this.
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let end = self.size().unwrap_or(0).next_multiple_of(ZEROES.len() as u64);
        !matches!(
            fallocate(&self.file, flags, end, ZEROES.len() as u64),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV)
        )
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let end = self.size()?;
        if offset >= end {
            return Ok(None);
        }
        let begin = match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(begin) => begin,
            Err(Errno::NXIO) => return Ok(None),
            // Devices and some file systems cannot tell: all of it may be data.
            Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((offset, end))),
            Err(error) => return Err(error.into()),
        };
        Ok(Some((begin, seek(&self.file, SeekFrom::Hole(begin))?)))
    }
}

/// The kernel refuses a device that is mounted, or that somebody else has opened this way; file systems and RAID open it so too.
fn claim_device(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::EXCL.bits()).map_err(io::Error::other)?;
    File::options().read(true).write(true).custom_flags(flags).open(path).map_err(|error| {
        if error.raw_os_error() != Some(Errno::BUSY.raw_os_error()) {
            return error;
        }
        let what = "it is in use: mounted, or held by another program (`lsblk` and `fuser -v` tell): unmount it, or stop that \
                    program, or name another device";
        io::Error::new(io::ErrorKind::ResourceBusy, what)
    })
}

/// As its queue says. Where that is not known, it is found out when it is tried.
fn device_gives_back(file: &File) -> bool {
    let Ok(device) = file.metadata().map(|found| found.rdev()) else { return true };
    let (major, minor) = (rustix::fs::major(device), rustix::fs::minor(device));
    let told =
        |queue: &str| std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/{queue}/write_zeroes_max_bytes"));
    // A partition's is that of its disk.
    told("queue").or_else(|_| told("../queue")).ok().is_none_or(|bytes| bytes.trim() != "0")
}

/// Only those that ask for the lock are kept out: other appliances do.
fn claim_file(path: &Path) -> io::Result<File> {
    let file = File::options().read(true).write(true).open(path)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(Errno::WOULDBLOCK) => {
            let what = "it is in use: another appliance or program holds its lock (`lslocks` tells which), and two of them would \
                        destroy each other's data: stop the other one, or name another file";
            Err(io::Error::new(io::ErrorKind::ResourceBusy, what))
        }
        Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::NOLCK) => {
            tracing::warn!(file = %path.display(), "this file system has no locks: nothing keeps a second appliance from this file");
            Ok(file)
        }
        Err(error) => Err(error.into()),
    }
}

/// File systems of which it is said that they take no direct I/O, by their device numbers.
static WITHOUT_DIRECT: Mutex<BTreeSet<u64>> = Mutex::new(BTreeSet::new());

/// Writes parts one behind the other, with as few calls as the system takes.
fn write_parts(file: &File, parts: &[&[u8]], offset: u64) -> io::Result<()> {
    let mut at = offset;
    for some in parts.chunks(PARTS_MAX) {
        let mut slices: Vec<io::IoSlice<'_>> = some.iter().map(|part| io::IoSlice::new(part)).collect();
        let mut left = slices.as_mut_slice();
        while !left.is_empty() {
            match rustix::io::pwritev(file, left, at) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(written) => {
                    at += written as u64;
                    io::IoSlice::advance_slices(&mut left, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(())
}

impl SystemFile {
    /// `Ok(false)`: the file takes no such reads and writes.
    fn past_cache(&self, transfer: impl FnOnce(&File) -> io::Result<()>) -> io::Result<bool> {
        let Some(direct) = self.direct.get_or_init(|| self.open_direct()) else { return Ok(false) };
        match transfer(direct) {
            Ok(()) => Ok(true),
            // Some file systems tell only now, or want larger blocks: all of it is read or written once more the usual way.
            Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => {
                self.tell_no_direct();
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }

    /// By its descriptor: the name may have changed since it was opened. A device keeps its one handle.
    fn open_direct(&self) -> Option<File> {
        if self.device {
            return None;
        }
        let flags = i32::try_from(OFlags::DIRECT.bits()).ok()?;
        let path = format!("/proc/self/fd/{}", self.file.as_raw_fd());
        let direct = File::options().read(true).write(true).custom_flags(flags).open(path).ok();
        if direct.is_none() {
            self.tell_no_direct();
        }
        direct
    }

    /// Once for each file system.
    fn tell_no_direct(&self) {
        let Ok(device) = self.file.metadata().map(|metadata| metadata.dev()) else { return };
        if WITHOUT_DIRECT.lock().insert(device) {
            let file = std::fs::read_link(format!("/proc/self/fd/{}", self.file.as_raw_fd())).unwrap_or_default();
            tracing::info!(file = %file.display(), "this file system takes no direct I/O: reads and writes go through the page cache");
        }
    }

    /// Of a device that somebody has claimed, as this appliance has its own ([`claim_device`]), the kernel gives nothing back where its page
    /// cache holds what is not written yet. So that is written first; where somebody writes again meanwhile, zeroes are written over it.
    fn zero_busy(
        &self,
        offset: u64,
        length: u64,
        mut give_back: impl FnMut(u64, u64) -> Result<(), Errno>,
    ) -> io::Result<()> {
        let end = offset.saturating_add(length);
        let mut at = offset;
        while at < end {
            let step = (end - at).min(BUSY_STEP);
            // Has it written, and waits for nothing. A sync would take away an error that the next one is to tell.
            let _ = fadvise(&self.file, at, NonZeroU64::new(step), Advice::DontNeed);
            match give_back(at, step) {
                // A device that cannot do it at all says so only now.
                Err(error) if error == Errno::BUSY || is_not_known(error) => self.write_zeroes(at, step)?,
                result => result?,
            }
            at += step;
        }
        Ok(())
    }

    fn write_zeroes(&self, offset: u64, length: u64) -> io::Result<()> {
        let mut at = offset;
        let end = offset.saturating_add(length);
        while at < end {
            let step = usize::try_from(end - at).unwrap_or(usize::MAX).min(ZEROES.len());
            self.file.write_all_at(ZEROES.get(..step).unwrap_or(&ZEROES), at)?;
            at += step as u64;
        }
        Ok(())
    }
}

/// Whether a file or device cannot zero a range otherwise than by being written.
fn is_not_known(error: Errno) -> bool {
    matches!(error, Errno::OPNOTSUPP | Errno::NOSYS | Errno::NODEV | Errno::INVAL)
}

/// Why a file cannot have so many bytes; where that is the file system's limit, with what to do.
fn not_grown(error: io::Error, size: u64) -> io::Error {
    if error.kind() != io::ErrorKind::FileTooLarge {
        return error;
    }
    let told = format!(
        "its file system takes no file of {size} bytes ({error}). ext4 takes files of up to 16 TiB, XFS larger ones: use a folder on XFS, or a \
         block device"
    );
    io::Error::new(io::ErrorKind::FileTooLarge, told)
}

#[cfg(test)]
mod tests {
    use super::super::aligned::AlignedBuffer;
    use super::super::pool::Room;
    use super::*;

    #[test]
    fn folders_are_made_wherever_they_lie() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("a/b/c");
        SystemDisk.create_folder(&deep).unwrap();
        SystemDisk.create_folder(&deep).unwrap();
        assert_eq!(SystemDisk.list(&deep).unwrap(), Vec::<String>::new());
        SystemDisk.create_folder(Path::new(".")).unwrap();
        SystemDisk.create_folder(Path::new("src")).unwrap();
        SystemDisk.create_folder(Path::new("/")).unwrap();
    }

    /// The directory of an appliance may be open to all, as the root of a file system is that was just made.
    #[test]
    fn what_is_made_is_its_makers_alone() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("volumes/a");
        SystemDisk.create_folder(&deep).unwrap();
        let (new, other) = (deep.join("new"), deep.join("other"));
        SystemDisk.open(&new, Open::New).unwrap();
        SystemDisk.open(&other, Open::ExistingOrNew).unwrap();
        for path in [folder.path().join("volumes"), deep, new, other] {
            let mode = std::fs::metadata(&path).unwrap().mode() & 0o077;
            assert_eq!(mode, 0, "{}", path.display());
        }
    }

    #[test]
    fn a_file_is_claimed_once_and_opened_as_often_as_is_wanted() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("f");
        let made = SystemDisk.open(&path, Open::New).unwrap();
        let claim = SystemDisk.claim(&path).unwrap();
        SystemDisk.open(&path, Open::Existing).unwrap().write_all_at(&[1; 512], 0).unwrap();
        made.sync().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink(&path, &link).unwrap();
        for name in [&path, &link] {
            let refused = SystemDisk.claim(name).unwrap_err();
            assert_eq!(refused.kind(), io::ErrorKind::ResourceBusy, "{refused}");
        }
        drop(claim);
        SystemDisk.claim(&link).unwrap();
        assert_eq!(SystemDisk.claim(&folder.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }

    #[test]
    fn a_file_that_its_file_system_cannot_hold_is_named_with_its_size_and_what_can() {
        let told = not_grown(Errno::FBIG.into(), 64 << 40).to_string();
        for word in ["70368744177664 bytes", "16 TiB", "XFS", "block device"] {
            assert!(told.contains(word), "{word}: {told}");
        }
        assert_eq!(not_grown(Errno::NOSPC.into(), 1).raw_os_error(), Some(Errno::NOSPC.raw_os_error()));
    }

    #[test]
    fn whole_blocks_go_past_the_cache_and_are_seen_and_anything_else_is_left_to_the_usual_way() {
        let folder = tempfile::tempdir().unwrap();
        let file = SystemDisk.open(&folder.path().join("f"), Open::New).unwrap();
        file.write_all_at(&[1; 16384], 0).unwrap();
        let mut data = AlignedBuffer::default();
        data.extend_from_slice(&[2; 8192]);
        if !file.write_direct_at(data.as_slice(), 4096).unwrap() {
            eprintln!("no direct I/O in {}", folder.path().display());
            return;
        }
        assert!(!file.write_direct_at(data.as_slice(), 100).unwrap());
        assert!(!file.write_direct_at(&data.as_slice()[..100], 0).unwrap());
        assert!(!file.write_direct_at(&data.as_slice()[1..4097], 0).unwrap());
        let mut read = [0; 16384];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..4096].iter().chain(&read[12288..]).all(|byte| *byte == 1));
        assert!(read[4096..12288].iter().all(|byte| *byte == 2));
        let mut room = Room::new(64 << 10);
        assert!(file.read_direct_at(&mut room[..12288], 4096).unwrap());
        assert!(room[..8192].iter().all(|byte| *byte == 2) && room[8192..12288].iter().all(|byte| *byte == 1));
        assert!(!file.read_direct_at(&mut room[..12288], 100).unwrap());
        assert!(!file.read_direct_at(&mut room[..100], 0).unwrap());
        assert!(!file.read_direct_at(&mut room[1..4097], 0).unwrap());
        assert!(file.read_direct_at(&mut room[..8192], 12288).is_err(), "beyond the end");
    }

    #[test]
    fn parts_are_written_one_behind_the_other_past_the_cache_and_through_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = SystemDisk.open(&folder.path().join("f"), Open::New).unwrap();
        let small: Vec<Vec<u8>> = (0..3000_usize).map(|at| vec![u8::try_from(at % 251).unwrap(); at % 7]).collect();
        let parts: Vec<&[u8]> = small.iter().map(Vec::as_slice).collect();
        file.write_parts_at(&parts, 5).unwrap();
        let whole = small.concat();
        let mut read = vec![0; whole.len()];
        file.read_exact_at(&mut read, 5).unwrap();
        assert!(read == whole);
        assert!(!file.write_direct_parts_at(&parts, 0).unwrap(), "no whole blocks");
        let mut blocks = AlignedBuffer::default();
        blocks.extend_from_slice(&[3; 4096]);
        blocks.extend_from_slice(&[4; 8192]);
        let (one, two) = blocks.as_slice().split_at(4096);
        if file.write_direct_parts_at(&[two, one], 4096).unwrap() {
            let mut read = vec![0; 12288];
            file.read_exact_at(&mut read, 4096).unwrap();
            assert!(read[..8192].iter().all(|byte| *byte == 4) && read[8192..].iter().all(|byte| *byte == 3));
        }
    }

    #[test]
    fn what_is_busy_is_asked_for_again_in_steps_and_at_last_written_over() {
        const BYTES: u64 = 2 * BUSY_STEP + 4096;
        let folder = tempfile::tempdir().unwrap();
        let file = File::options().read(true).write(true).create_new(true).open(folder.path().join("f")).unwrap();
        let file = SystemFile { file, device: false, direct: OnceLock::new() };
        let edges = [0, 512, BUSY_STEP, 2 * BUSY_STEP, BYTES - 1024, BYTES - 512];
        edges.iter().for_each(|at| file.write_all_at(&[7; 512], *at).unwrap());
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let mut asked = Vec::new();
        let give_back = |at, length| {
            asked.push((at, length));
            match at {
                512 => Err(Errno::BUSY),
                _ if asked.len() == 2 => Err(Errno::OPNOTSUPP),
                _ => fallocate(&file.file, flags, at, length),
            }
        };
        file.zero_busy(512, BYTES - 1024, give_back).unwrap();
        let steps =
            [(512, BUSY_STEP), (512 + BUSY_STEP, BUSY_STEP), (512 + 2 * BUSY_STEP, BYTES - 1024 - 2 * BUSY_STEP)];
        assert_eq!(asked, steps);
        for at in edges {
            let mut read = [1; 512];
            file.read_exact_at(&mut read, at).unwrap();
            let expected = if at == 0 || at == BYTES - 512 { 7 } else { 0 };
            assert_eq!(read, [expected; 512], "{at}");
        }
        let fails = file.zero_busy(0, 512, |_, _| Err(Errno::IO)).unwrap_err();
        assert_eq!(fails.raw_os_error(), Some(Errno::IO.raw_os_error()));
    }

    #[test]
    fn few_zeroes_on_a_device_are_data_like_any_other() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::options().read(true).write(true).create_new(true).open(folder.path().join("f")).unwrap();
        let file = SystemFile { file, device: true, direct: OnceLock::new() };
        file.write_all_at(&[7; 8192], 0).unwrap();
        file.zero(0, 4096, false).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some((0, 8192)));
        let mut read = [9; 8192];
        file.read_exact_at(&mut read, 0).unwrap();
        assert!(read[..4096] == [0; 4096] && read[4096..] == [7; 4096]);
    }

    #[test]
    fn whether_a_file_gives_back_is_found_out_without_changing_it() {
        let folder = tempfile::tempdir().unwrap();
        let file = SystemDisk.open(&folder.path().join("f"), Open::New).unwrap();
        file.write_all_at(&[7; 1000], 0).unwrap();
        let gives_back = file.gives_back();
        let mut read = [0; 1000];
        file.read_exact_at(&mut read, 0).unwrap();
        assert_eq!((file.size().unwrap(), read), (1000, [7; 1000]));
        file.zero(0, 1000, true).unwrap();
        assert_eq!(gives_back, file.gives_back());
    }

    #[test]
    fn zeroes_and_holes_are_seen() {
        let folder = tempfile::tempdir().unwrap();
        let file = SystemDisk.open(&folder.path().join("f"), Open::New).unwrap();
        file.grow(1 << 20).unwrap();
        file.write_all_at(&[1; 8192], 65536).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some((65536, 73728)));
        file.zero(65536, 4096, true).unwrap();
        assert_eq!(file.next_data(0).unwrap(), Some((69632, 73728)));
        file.zero(69632, 4096, false).unwrap();
        let mut read = [9; 8192];
        file.read_exact_at(&mut read, 65536).unwrap();
        assert!(read.iter().all(|byte| *byte == 0));
        assert_eq!(file.next_data(80000).unwrap(), None);
        assert!(file.read_exact_at(&mut read, (1 << 20) - 4096).is_err());
    }
}
