//! Opening a damaged journal: it is refused, or what comes back is a part of what was written, and never less than what
//! was durable when only the tail behind that was touched (invariants 1, 9, 10).

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use tidemark_common::extent::Extent;
use tidemark_common::ids::{GroupId, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::journal::{JournalError, JournalOptions, Position, Recovered, Writer, open};
use tidemark_common::record::{ControlRecord, FrameBuilder, FrameHeader, FrameKind, MarkerRecord, Place, Tip, crc32c};
use tidemark_common::storage::memory::MemoryDisk;
use tidemark_common::storage::{Disk, Open};

use super::Input;

const FOLDER: &str = "/journal";
const GROUP: GroupId = GroupId([9; 16]);
const OPTIONS: JournalOptions = JournalOptions { segment_bytes: 16 << 10, capacity_bytes: 1 << 20 };
const ENVELOPE_BYTES: usize = 32;
const FRAMES: u64 = 48;
const UNSYNCED_FRAMES: u64 = 6;

type Files = BTreeMap<PathBuf, Vec<u8>>;

pub fn check(data: &[u8]) {
    let good = Original::get();
    let mut input = Input(data);
    let reseal = input.u8() & 1 != 0;
    let mut files = good.files.clone();
    let mut damage = Damage { only_behind: good.durable, tail_only: true };
    while !input.0.is_empty() {
        damage.apply(&mut files, &mut input);
    }
    if reseal {
        good.reseal(&mut files);
    }
    let disk = disk_with(&files);
    let found = headers(&disk);
    if reseal {
        return;
    }
    match found {
        Ok(found) => {
            good.holds(&found);
            assert!(!damage.tail_only || found.len() as u64 >= FRAMES - UNSYNCED_FRAMES, "durable frames are gone");
            goes_on(&disk, &found);
        }
        Err(error) => {
            assert!(!damage.tail_only, "a damaged tail is no reason to refuse: {error}");
            assert!(segments(&files_of(&disk)) == segments(&files), "a journal that is refused stays as it is");
        }
    }
}

/// What an intact journal looks like.
struct Original {
    files: Files,
    headers: Vec<FrameHeader>,
    records: Vec<Position>,
    durable: Position,
}

impl Original {
    fn get() -> &'static Self {
        static ORIGINAL: OnceLock<Original> = OnceLock::new();
        ORIGINAL.get_or_init(Self::write)
    }

    fn write() -> Self {
        let disk = MemoryDisk::new();
        let mut writer = start(&disk, &mut |_, _| {}).expect("an empty folder").writer;
        for number in 1..=FRAMES - UNSYNCED_FRAMES {
            append(&mut writer, number);
            if number % 5 == 0 {
                writer.sync().expect("memory syncs");
            }
        }
        let durable = writer.sync().expect("memory syncs").position;
        (0..UNSYNCED_FRAMES).for_each(|number| append(&mut writer, number));
        let files = files_of(&disk);
        let (mut headers, mut records) = (Vec::new(), Vec::new());
        let mut visit = |at, header: &FrameHeader| {
            headers.push(*header);
            records.push(at);
        };
        start(&disk, &mut visit).expect("intact");
        assert_eq!(headers.len() as u64, FRAMES);
        assert!(segments(&files).len() > 2, "the journal has several segments");
        Self { files, headers, records, durable }
    }

    /// What was found is one piece of what was written.
    fn holds(&self, found: &[FrameHeader]) {
        let whole = self.headers.windows(found.len().max(1)).any(|part| part == found);
        assert!(found.is_empty() || whole, "frames that were not written, or not in this order");
    }

    /// Gives good checksums to what was damaged, so that the damage is looked at.
    fn reseal(&self, files: &mut Files) {
        for bytes in files.values_mut() {
            if let Some((header, check)) = bytes.get_mut(..92).and_then(|bytes| bytes.split_last_chunk_mut::<4>()) {
                *check = crc32c(header).to_le_bytes();
            }
        }
        for at in &self.records {
            let begin = usize::try_from(at.offset).expect("small files");
            if let Some(bytes) = files.get_mut(&path(*at)).and_then(|bytes| bytes.get_mut(begin..)) {
                reseal_record(bytes, *at);
            }
        }
    }
}

fn reseal_record(bytes: &mut [u8], at: Position) {
    let Some((envelope, rest)) = bytes.split_first_chunk_mut::<ENVELOPE_BYTES>() else { return };
    let Some((header, check)) = rest.get_mut(..128).and_then(|header| header.split_last_chunk_mut::<4>()) else {
        return;
    };
    *check = crc32c(header).to_le_bytes();
    envelope[20..24].copy_from_slice(check);
    let checked = [&envelope[..28], &at.segment.to_le_bytes(), &at.offset.to_le_bytes()].concat();
    envelope[28..].copy_from_slice(&crc32c(&checked).to_le_bytes());
}

/// What was done to the files.
struct Damage {
    only_behind: Position,
    tail_only: bool,
}

impl Damage {
    /// One change: some bytes of a file written over, the file cut, gone, or under another's name.
    fn apply(&mut self, files: &mut Files, input: &mut Input<'_>) {
        let names: Vec<PathBuf> = files.keys().cloned().collect();
        let Some(name) = names.get(usize::from(input.u8()) % names.len().max(1)) else { return };
        let Some(bytes) = files.get_mut(name) else { return };
        let offset = usize::from(input.u16()) % bytes.len().max(1);
        self.tail_only &= *name == path(self.only_behind) && offset as u64 >= self.only_behind.offset;
        match input.u8() {
            255 => {
                self.tail_only = false;
                files.remove(name);
            }
            254 => {
                self.tail_only = false;
                let bytes = bytes.clone();
                let other = Position { segment: u64::from(input.u8()), offset: 0 };
                files.insert(path(other), bytes);
            }
            253 => {
                self.tail_only = false;
                bytes.truncate(offset);
            }
            length => {
                let patch = input.take(usize::from(length % 64) + 1);
                bytes[offset..].iter_mut().zip(patch).for_each(|(byte, patch)| *byte = *patch);
            }
        }
    }
}

/// A recovered journal opens again as it is, and takes more.
fn goes_on(disk: &MemoryDisk, found: &[FrameHeader]) {
    assert_eq!(headers(disk).expect("recovered once").as_slice(), found, "recovery is not repeatable");
    let mut writer = start(disk, &mut |_, _| {}).expect("recovered twice").writer;
    append(&mut writer, 1);
    writer.sync().expect("memory syncs");
    let after = headers(disk).expect("recovered and written");
    assert_eq!(after.len(), found.len() + 1);
    assert!(after.starts_with(found));
}

fn disk_with(files: &Files) -> MemoryDisk {
    let disk = MemoryDisk::new();
    disk.create_folder(Path::new(FOLDER)).expect("memory has folders");
    for (path, bytes) in files {
        let file = disk.open(path, Open::New).expect("memory has files");
        file.write_all_at(bytes, 0).expect("memory has room");
    }
    disk
}

fn files_of(disk: &MemoryDisk) -> Files {
    disk.everything().into_iter().collect()
}

fn headers(disk: &MemoryDisk) -> Result<Vec<FrameHeader>, JournalError> {
    let mut found = Vec::new();
    start(disk, &mut |_, header| found.push(*header)).map(|_| found)
}

fn start(disk: &MemoryDisk, visit: &mut dyn FnMut(Position, &FrameHeader)) -> Result<Recovered, JournalError> {
    let disk = Arc::new(disk.clone());
    open(disk, Path::new(FOLDER), GROUP, OPTIONS, None, &mut |at, header, _| visit(at, header))
}

/// Every fourth frame is a marker, the others are writes of growing size.
fn append(writer: &mut Writer, number: u64) {
    let tip = *writer.tip();
    let frame = if number.is_multiple_of(4) { marker(&tip) } else { writes(&tip, number) };
    writer.append(&frame).expect("a frame that follows");
}

fn place(tip: &Tip, writes: u64) -> Place {
    Place {
        group: GROUP,
        member: 0,
        generation: tip.generation,
        first_seq: tip.seq.next(),
        last_seq: Seq(tip.seq.0 + writes),
        marker: tip.marker,
        chain: tip.chain,
    }
}

fn marker(tip: &Tip) -> Vec<u8> {
    let MarkerNumber(number) = tip.marker.next();
    let record = MarkerRecord { number, boundary_seq: tip.seq.0, time_ns: 0, freeze_ns: 0, tag: Some("cut".into()) };
    ControlRecord::Marker(record).frame(&place(tip, 0)).expect("a small record")
}

fn writes(tip: &Tip, number: u64) -> Vec<u8> {
    let mut builder = FrameBuilder::new();
    for index in 0..3_u8 {
        let length = 100 * usize::try_from(number).expect("small") + usize::from(index);
        let extent = Extent { volume: VolumeIndex(index.into()), offset: number << 12, length: length as u64 };
        // Bytes that do not compress, so that data lies in the file as it is.
        let data = (0..length as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 24) as u8 | 1).collect::<Vec<_>>();
        builder.push_data(extent, &data);
    }
    builder.finish(FrameKind::Writes, &place(tip, 3)).to_vec()
}

fn path(at: Position) -> PathBuf {
    Path::new(FOLDER).join(format!("{:016x}.segment", at.segment))
}

/// The segment files; spares come and go.
fn segments(files: &Files) -> Files {
    let segment = |path: &Path| path.extension().is_some_and(|extension| extension == "segment");
    files.iter().filter(|(path, _)| segment(path)).map(|(path, bytes)| (path.clone(), bytes.clone())).collect()
}
