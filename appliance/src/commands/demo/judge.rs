//! The judge: what an image read over NBD proves.
//!
//! Three questions, independent of each other:
//! - [`consistent`] knows nothing but the image: each log record has its file, whole and in its place, and nothing is half
//!   there. This is what a database needs after a disaster.
//! - [`exact`] knows what the host sent: each byte of both volumes is what the first so many writes left there.
//! - [`as_new_as_its_marker`] knows when the host sent and was answered: invariant 3, by the host's own clock.

use std::collections::{BTreeMap, HashMap};

use super::book::{self, DOCUMENTS, Kind, SECTOR, Stamp, Volume};
use super::host::{Host, HostError};
use super::load::{Hosts, Moment};

/// Bytes read at a time.
const WINDOW_BYTES: u64 = 1 << 20;

/// Why an image is not what it should be.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    /// It cannot be read.
    #[error("volume '{}' of the copy cannot be read: {source}", .volume.name())]
    Read {
        /// Which volume.
        volume: Volume,
        /// Why.
        source: HostError,
    },
    /// A place lies outside of the volume.
    #[error("volume '{}' has no {length} bytes at {offset}", .volume.name())]
    Outside {
        /// Which volume.
        volume: Volume,
        /// Where.
        offset: u64,
        /// How much.
        length: u64,
    },
    /// The log is not dense and whole.
    #[error("log record {number} is not whole")]
    Record {
        /// Its number, by its place.
        number: u64,
    },
    /// A log record without its file.
    #[error("log record {number} is there, and {what} of '{path}' that it names is not what it was")]
    File {
        /// The transaction.
        number: u64,
        /// The document.
        path: String,
        /// Which part.
        what: &'static str,
    },
    /// The directory does not lead to what the log says.
    #[error("the directory's entry {document} leads to something else than the log says")]
    Entry {
        /// Its index.
        document: u64,
    },
    /// Something is where nothing was written.
    #[error("volume '{}' holds something near {offset}, where nothing had been written", .volume.name())]
    NotEmpty {
        /// Which volume.
        volume: Volume,
        /// Where.
        offset: u64,
    },
    /// A byte differs.
    #[error("volume '{}' differs at {offset} from what transaction {number} had written there", .volume.name())]
    Differs {
        /// Which volume.
        volume: Volume,
        /// Where.
        offset: u64,
        /// The last to write there.
        number: u64,
    },
    /// The marker was cut later.
    #[error("the image ends after write {prefix}, but {answered} writes had been answered before its marker was cut")]
    TooOld {
        /// Writes in the image.
        prefix: u64,
        /// Writes that must be in it.
        answered: u64,
    },
    /// The marker was cut earlier.
    #[error("the image ends after write {prefix}, but only {sent} writes had been sent when its marker was cut")]
    TooNew {
        /// Writes in the image.
        prefix: u64,
        /// Writes that may be in it.
        sent: u64,
    },
    /// The times prove nothing.
    #[error("the machine's clock was set back while the demo ran: run it again")]
    ClockSetBack,
}

/// An image, read through one window per volume.
#[derive(Debug)]
pub(super) struct Image {
    files: Window,
    log: Window,
}

impl Image {
    /// What these hosts read.
    pub(super) fn new(hosts: Hosts) -> Self {
        Self { files: Window::new(Volume::Files, hosts.files), log: Window::new(Volume::Log, hosts.log) }
    }

    const fn of(&mut self, volume: Volume) -> &mut Window {
        match volume {
            Volume::Files => &mut self.files,
            Volume::Log => &mut self.log,
        }
    }

    /// The hosts again.
    pub(super) fn into_hosts(self) -> Hosts {
        Hosts { files: self.files.host, log: self.log.host }
    }
}

/// A volume as it is read: the bytes near the last place asked for.
#[derive(Debug)]
struct Window {
    volume: Volume,
    host: Host,
    begin: u64,
    data: Vec<u8>,
}

impl Window {
    const fn new(volume: Volume, host: Host) -> Self {
        Self { volume, host, begin: 0, data: Vec::new() }
    }

    /// The bytes of a range.
    fn get(&mut self, offset: u64, length: u64) -> Result<&[u8], Fault> {
        let outside = || Fault::Outside { volume: self.volume, offset, length };
        let size = self.host.size();
        let end = offset.checked_add(length).filter(|end| *end <= size).ok_or_else(outside)?;
        let covered = self.begin + self.data.len() as u64;
        if offset < self.begin || end > covered {
            let wanted = length.max(WINDOW_BYTES.min(size - offset));
            self.data.resize(usize::try_from(wanted).map_err(|_| outside())?, 0);
            self.begin = offset;
            let volume = self.volume;
            self.host.read(offset, &mut self.data).map_err(|source| Fault::Read { volume, source })?;
        }
        let from = usize::try_from(offset - self.begin).unwrap_or(usize::MAX);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        self.data.get(from..).and_then(|rest| rest.get(..length)).ok_or(Fault::Outside {
            volume: self.volume,
            offset,
            length: length as u64,
        })
    }

    /// Nothing was ever written between two places.
    fn empty(&mut self, begin: u64, end: u64) -> Result<(), Fault> {
        let mut offset = begin;
        while offset < end {
            let length = WINDOW_BYTES.min(end - offset);
            if self.get(offset, length)?.iter().any(|byte| *byte != 0) {
                return Err(Fault::NotEmpty { volume: self.volume, offset });
            }
            offset += length;
        }
        Ok(())
    }
}

/// What a consistent image holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Consistent {
    /// Log records, each with its file.
    pub(super) records: u64,
    /// Documents in the directory.
    pub(super) documents: u64,
    /// Bytes of the files.
    pub(super) bytes: u64,
}

/// Judges an image by nothing but itself.
pub(super) fn consistent(image: &mut Image) -> Result<Consistent, Fault> {
    let mut newest: HashMap<String, Stamp> = HashMap::new();
    let (mut records, mut bytes) = (0, 0);
    while let Some(record) = record(&mut image.log, records + 1)? {
        file(&mut image.files, &record)?;
        records += 1;
        bytes += record.length;
        newest.insert(record.path.clone(), record);
    }
    let end = image.log.host.size();
    image.log.empty(records * SECTOR, end)?;
    let documents = directory(&mut image.files, &newest, records)?;
    Ok(Consistent { records, documents, bytes })
}

/// The log's record of this number; `None` behind the last one.
fn record(log: &mut Window, number: u64) -> Result<Option<Stamp>, Fault> {
    let offset = (number - 1) * SECTOR;
    if offset >= log.host.size() {
        return Ok(None);
    }
    match Stamp::read(log.get(offset, SECTOR)?) {
        Ok(Some(stamp)) if stamp.number == number && stamp.kind == Kind::Record => Ok(Some(stamp)),
        Ok(None) => Ok(None),
        _ => Err(Fault::Record { number }),
    }
}

/// A version of a document is whole and in its place.
fn file(files: &mut Window, stamp: &Stamp) -> Result<(), Fault> {
    let wrong = |what| Fault::File { number: stamp.number, path: stamp.path.clone(), what };
    let described = Stamp { kind: Kind::File, ..stamp.clone() };
    if files.get(stamp.place, SECTOR)? != described.sector() {
        return Err(wrong("the description"));
    }
    let begin = stamp.place.checked_add(SECTOR).ok_or_else(|| wrong("the place"))?;
    let text = files.get(begin, stamp.length)?;
    if blake3::hash(text).to_hex().as_str() != stamp.checksum {
        return Err(wrong("the text"));
    }
    Ok(())
}

/// Each entry leads to the newest version the log knows, or to that of the one transaction under way, whose file is whole
/// then too. How many there are.
fn directory(files: &mut Window, newest: &HashMap<String, Stamp>, records: u64) -> Result<u64, Fault> {
    let mut found = 0;
    let mut under_way = 0;
    for document in 0..DOCUMENTS {
        let wrong = || Fault::Entry { document };
        let Some(entry) = Stamp::read(files.get(document * SECTOR, SECTOR)?).map_err(|_| wrong())? else { continue };
        let as_logged = newest.get(&entry.path).map(|record| Stamp { kind: Kind::Entry, ..record.clone() });
        if as_logged.as_ref() != Some(&entry) {
            if entry.number != records + 1 || entry.kind != Kind::Entry {
                return Err(wrong());
            }
            under_way += u64::from(as_logged.is_none());
        }
        file(files, &entry)?;
        found += 1;
    }
    // No document of the log may be missing in the directory.
    if found != newest.len() as u64 + under_way {
        return Err(Fault::Entry { document: DOCUMENTS });
    }
    Ok(found)
}

/// Judges an image by what the host sent: it is the state after that many writes, in each byte. How many bytes that are.
pub(super) fn exact(image: &mut Image, prefix: u64) -> Result<u64, Fault> {
    let last = last_writers(prefix);
    let mut bytes = 0;
    for volume in Volume::ALL {
        let window = image.of(volume);
        let mut at = 0;
        for ((_, offset), number) in last.range((volume, 0)..=(volume, u64::MAX)) {
            window.empty(at, *offset)?;
            // Were one not found, the place would have to be empty.
            let written =
                book::writes(*number).into_iter().find(|write| (write.volume, write.offset) == (volume, *offset));
            let written = written.map(|write| write.bytes).unwrap_or_default();
            let length = written.len() as u64;
            let there = window.get(*offset, length)?;
            if let Some(byte) = there.iter().zip(&written).position(|(a, b)| a != b) {
                return Err(Fault::Differs { volume, offset: offset + byte as u64, number: *number });
            }
            at = offset + length;
        }
        window.empty(at, window.host.size())?;
        bytes += window.host.size();
    }
    Ok(bytes)
}

/// Which transaction wrote a place last, in the first so many writes. Writes to one place are of one length.
fn last_writers(prefix: u64) -> BTreeMap<(Volume, u64), u64> {
    let numbered = (1..).flat_map(|number| book::writes(number).into_iter().map(move |write| (write, number)));
    let prefix = usize::try_from(prefix).unwrap_or(usize::MAX);
    numbered.take(prefix).map(|(write, number)| ((write.volume, write.offset), number)).collect()
}

/// Judges a marker by the host's clock: everything answered before the cut is inside, nothing sent after it is. How many
/// writes had been answered by then.
pub(super) fn as_new_as_its_marker(moments: &[Moment], cut_ns: i64, prefix: u64) -> Result<u64, Fault> {
    let times = moments.iter().flat_map(|moment| [Some(moment.sent_ns), moment.answered_ns]).flatten();
    if !times.is_sorted() {
        return Err(Fault::ClockSetBack);
    }
    let answered =
        moments.partition_point(|moment| moment.answered_ns.is_some_and(|answered| answered < cut_ns)) as u64;
    let sent = moments.partition_point(|moment| moment.sent_ns <= cut_ns) as u64;
    if prefix < answered {
        return Err(Fault::TooOld { prefix, answered });
    }
    if prefix > sent {
        return Err(Fault::TooNew { prefix, sent });
    }
    Ok(answered)
}
