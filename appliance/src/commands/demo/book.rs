//! The data of the demo: an order book on two volumes. Pure; everything follows from the number of a transaction.
//!
//! ```text
//! files   0        the directory: one sector for each document, rewritten in place by each new version of it
//!         512 KiB  the versions, one behind the other: a sector that describes it, and its text
//! log     0        one sector for each transaction, dense
//! ```
//!
//! Transaction n writes one version of one document. Its writes go out one after the other, each when the one before is
//! answered: the text, its description, the directory's sector, and last of all, with FUA, the log's sector. So a log record
//! that is there without its file would be a lie, whatever moment an image shows.
//!
//! All three kinds of sector say the same in plain text, with a checksum: whoever finds one can judge what belongs to it.

use std::fmt::Write as _;

/// Bytes of a sector.
pub(super) const SECTOR: u64 = 512;
/// Documents in the tree.
pub(super) const DOCUMENTS: u64 = 1024;
/// Transactions a host begins per second at most.
pub(super) const TRANSACTIONS_PER_SECOND_MAX: u32 = 1500;
/// What the volumes have room for.
pub(super) const TRANSACTIONS_MAX: u64 = LOG_BYTES / SECTOR;

const FILES_BYTES: u64 = 512 << 20;
const LOG_BYTES: u64 = 32 << 20;
/// Lengths of the texts, in turn, bytes.
const LENGTHS: [u64; 8] = [713, 5_200, 2_901, 20_007, 1_490, 9_099, 4_000, 6_144];
/// Texts longer than this take two writes.
const ONE_WRITE_BYTES: u64 = 8 << 10;
/// Bytes of eight versions.
const CYCLE: u64 = offset_in_cycle(LENGTHS.len());

const _: () = {
    assert!(DOCUMENTS * SECTOR + (TRANSACTIONS_MAX / 8 + 1) * CYCLE <= FILES_BYTES, "every version has its place");
};

/// The volumes, in the order they are named.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Volume {
    /// The documents.
    Files,
    /// The transactions.
    Log,
}

impl Volume {
    /// Both.
    pub(super) const ALL: [Self; 2] = [Self::Files, Self::Log];

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Files => "files",
            Self::Log => "log",
        }
    }

    /// Its size.
    pub(super) const fn bytes(self) -> u64 {
        match self {
            Self::Files => FILES_BYTES,
            Self::Log => LOG_BYTES,
        }
    }
}

/// What a sector describes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// The version behind it.
    File,
    /// The newest version of a document.
    Entry,
    /// A transaction.
    Record,
}

impl Kind {
    const ALL: [Self; 3] = [Self::File, Self::Entry, Self::Record];

    const fn word(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Entry => "entry",
            Self::Record => "record",
        }
    }
}

/// What a sector says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    /// Of what.
    pub(super) kind: Kind,
    /// The transaction.
    pub(super) number: u64,
    /// The document.
    pub(super) path: String,
    /// Where on `files` the version's description lies; its text follows.
    pub(super) place: u64,
    /// Bytes of its text.
    pub(super) length: u64,
    /// blake3 of its text, hexadecimal.
    pub(super) checksum: String,
}

impl Stamp {
    /// The sector.
    pub(super) fn sector(&self) -> Vec<u8> {
        let Self { kind, number, path, place, length, checksum } = self;
        let word = kind.word();
        let mut text = format!("tidemark-demo {word} {number} {path} at {place} bytes {length} blake3 {checksum}\n");
        let sum = blake3::hash(text.as_bytes()).to_hex();
        let _ = writeln!(text, "{sum}");
        padded(text.into_bytes())
    }

    /// What a sector says: `Ok(None)` when nothing was ever written there, `Err` when it is not whole.
    pub(super) fn read(sector: &[u8]) -> Result<Option<Self>, NotWhole> {
        if sector.iter().all(|byte| *byte == 0) {
            return Ok(None);
        }
        let text = std::str::from_utf8(sector).map_err(|_| NotWhole)?;
        let stamp = Self::parse(text.lines().next().unwrap_or_default()).ok_or(NotWhole)?;
        // The same words give the same sector, checksum and padding included.
        if stamp.sector() == sector { Ok(Some(stamp)) } else { Err(NotWhole) }
    }

    fn parse(line: &str) -> Option<Self> {
        let words: Vec<&str> = line.split(' ').collect();
        let ["tidemark-demo", kind, number, path, "at", place, "bytes", length, "blake3", checksum] = words[..] else {
            return None;
        };
        Some(Self {
            kind: Kind::ALL.into_iter().find(|known| known.word() == kind)?,
            number: number.parse().ok()?,
            path: path.into(),
            place: place.parse().ok()?,
            length: length.parse().ok()?,
            checksum: checksum.into(),
        })
    }
}

/// A sector that was not written in one piece by this program.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the sector is not whole")]
pub(super) struct NotWhole;

/// One write of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    /// On which volume.
    pub(super) volume: Volume,
    /// Where.
    pub(super) offset: u64,
    /// What.
    pub(super) bytes: Vec<u8>,
    /// Answered when durable.
    pub(super) fua: bool,
}

/// The writes of a transaction in their order.
pub(super) fn writes(number: u64) -> Vec<Write> {
    let (place, text) = (place(number), text(number));
    let document = document(number);
    let stamp = |kind| Stamp {
        kind,
        number,
        path: path(document),
        place,
        length: length(number),
        checksum: blake3::hash(&text).to_hex().to_string(),
    };
    let on_files = |offset, bytes| Write { volume: Volume::Files, offset, bytes, fua: false };
    let (file, entry, record) = (stamp(Kind::File), stamp(Kind::Entry), stamp(Kind::Record));
    let mut first = padded(text);
    let half =
        if length(number) > ONE_WRITE_BYTES { first.len().div_ceil(2).next_multiple_of(512) } else { first.len() };
    let second = first.split_off(half);
    let begin = place + SECTOR;
    let middle = begin + first.len() as u64;
    let mut writes = vec![on_files(begin, first)];
    if !second.is_empty() {
        writes.push(on_files(middle, second));
    }
    writes.push(on_files(place, file.sector()));
    writes.push(on_files(document * SECTOR, entry.sector()));
    let offset = (number - 1) * SECTOR;
    writes.push(Write { volume: Volume::Log, offset, bytes: record.sector(), fua: true });
    writes
}

/// How many writes the transactions up to this one take.
pub(super) fn writes_until(number: u64) -> u64 {
    (1..=number).map(|number| if length(number) > ONE_WRITE_BYTES { 5 } else { 4 }).sum()
}

/// Bytes of the text a transaction writes.
const fn length(number: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, clippy::indexing_slicing, reason = "below eight")]
    LENGTHS[turn(number) as usize]
}

const fn turn(number: u64) -> u64 {
    (number - 1) % 8
}

/// Where a transaction's version begins on `files`. Numbers begin at 1.
const fn place(number: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "below eight")]
    let turn = turn(number) as usize;
    DOCUMENTS * SECTOR + (number - 1) / 8 * CYCLE + offset_in_cycle(turn)
}

const fn offset_in_cycle(turn: usize) -> u64 {
    let (mut offset, mut before) = (0, 0);
    while before < turn {
        #[expect(clippy::indexing_slicing, reason = "evaluated for at most eight")]
        let length = LENGTHS[before];
        offset += SECTOR + length.next_multiple_of(SECTOR);
        before += 1;
    }
    offset
}

/// The document a transaction writes: first each in turn, so that the tree is complete soon, then any.
const fn document(number: u64) -> u64 {
    if number <= DOCUMENTS { number - 1 } else { scattered(number) % DOCUMENTS }
}

fn path(document: u64) -> String {
    format!("customers/{:02}/{:02}/order-{document:04}.txt", document / 64, (document / 8) % 8)
}

/// A number that looks like chance (splitmix64).
const fn scattered(number: u64) -> u64 {
    let mut z = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// The text of a version: an order with as many lines as it has room for.
fn text(number: u64) -> Vec<u8> {
    const GOODS: [&str; 8] = ["lamp", "rope", "anchor", "compass", "chart", "lantern", "barrel", "sail"];
    let length = usize::try_from(length(number)).unwrap_or_default();
    let mut text = format!("order of transaction {number}\n");
    let mut line = 0;
    while text.len() < length {
        line += 1;
        let chance = scattered(number ^ (line << 32));
        let goods = GOODS.iter().cycle().nth((chance % 8).try_into().unwrap_or_default()).unwrap_or(&"");
        let _ = writeln!(
            text,
            "{line:4} {:4} x {goods:8} {:5}.{:02} EUR",
            (chance >> 8) & 0xff,
            (chance >> 16) & 0x3fff,
            (chance >> 32) & 63
        );
    }
    text.truncate(length);
    text.into_bytes()
}

/// Zeroes up to the end of the last sector.
fn padded(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes.resize(bytes.len().next_multiple_of(512), 0);
    bytes
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_sector_says_what_it_was_told_and_damage_shows() {
        let record = writes(17).pop().unwrap();
        let stamp = Stamp::read(&record.bytes).unwrap().unwrap();
        assert_eq!((stamp.kind, stamp.number, stamp.length), (Kind::Record, 17, length(17)));
        assert_eq!(Stamp::read(&[0; 512]), Ok(None));
        for byte in 0..512 {
            let mut damaged = record.bytes.clone();
            damaged[byte] ^= 1;
            assert_eq!(Stamp::read(&damaged), Err(NotWhole), "byte {byte}");
        }
        assert_eq!(Stamp::read(&record.bytes[..511]), Err(NotWhole));
    }

    /// What the judge relies on: writes that meet are of one length, so the last one is what an image shows.
    #[test]
    fn writes_overlap_wholly_or_not_at_all() {
        let mut taken = BTreeMap::new();
        for write in (1..=3000).flat_map(writes) {
            let end = write.offset + write.bytes.len() as u64;
            assert!(end <= write.volume.bytes() && write.bytes.len().is_multiple_of(512));
            let known = *taken.entry((write.volume, write.offset)).or_insert(end);
            assert_eq!(known, end);
        }
        let mut places: Vec<_> = taken.into_iter().collect();
        places.dedup_by(|((next, begin), _), ((volume, _), end)| {
            assert!(next != volume || begin >= end);
            false
        });
    }

    #[test]
    fn the_log_comes_last_and_durable() {
        for number in 1..=16 {
            let writes = writes(number);
            let durable: Vec<_> = writes.iter().map(|write| write.fua && write.volume == Volume::Log).collect();
            assert_eq!(durable.iter().filter(|log| **log).count(), 1);
            assert_eq!(durable.last(), Some(&true));
        }
        assert_eq!(writes(4).len(), 5, "a long text takes two writes");
        assert_eq!(writes(1).len(), 4);
        assert_eq!(writes_until(20), (1..=20).flat_map(writes).count() as u64);
    }
}
