//! Frames: what verifies can be read in full, and what was built comes back as it went in.

use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, GroupId, MarkerNumber, Seq, VolumeIndex};
use tidemark_common::limits::{FRAME_RAW_BYTES_MAX, FRAME_STORED_BYTES_MAX};
use tidemark_common::record::view::ExtentKind;
use tidemark_common::record::{Chain, ControlRecord, FrameBuilder, FrameHeader, FrameKind, FrameView, Place, crc32c};

use super::Input;

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() % 3 {
        0 => read(input.0),
        1 => read(&sealed(&mut input)),
        _ => round_trip(&mut input),
    }
}

fn read(bytes: &[u8]) {
    let Ok(view) = FrameView::verified(bytes) else { return };
    assert_eq!(view.header.frame_bytes(), bytes.len());
    assert!(bytes.len() <= FRAME_STORED_BYTES_MAX);
    if view.header.kind == FrameKind::Control {
        let _ = ControlRecord::of(&view);
        return;
    }
    let mut raw = Vec::new();
    if view.unpack(&mut raw).is_err() {
        return;
    }
    assert_eq!(raw.len(), view.header.raw_bytes as usize);
    assert!(raw.len() <= FRAME_RAW_BYTES_MAX);
    for entry in view.extents().filter(|entry| entry.kind == ExtentKind::Data) {
        let begin = entry.raw_offset as usize;
        let end = begin + usize::try_from(entry.extent.length).expect("no longer than the raw data");
        assert!(raw.get(begin..end).is_some(), "{entry:?} of {} raw bytes", raw.len());
    }
}

/// Any tables and data under good checksums, so that they are looked at.
fn sealed(input: &mut Input<'_>) -> Vec<u8> {
    let mut header = header(input);
    let table_bytes = usize::from(input.u16());
    let body = input.0;
    let mut tables = body.get(..table_bytes).unwrap_or(body).to_vec();
    let data = &body[tables.len()..];
    check_chunks(&header, &mut tables, data);
    header.table_bytes = u32::try_from(tables.len()).expect("inputs are short");
    header.body_bytes = u32::try_from(body.len()).expect("inputs are short");
    header.table_check = crc32c(&tables);
    [&header.encode(), &tables[..], data].concat()
}

/// Puts the checksum of the first chunk's stored bytes where its entry has it.
fn check_chunks(header: &FrameHeader, tables: &mut [u8], data: &[u8]) {
    let entry = (header.extents as usize).saturating_mul(24);
    let Some(entry) = tables.get_mut(entry..).and_then(|rest| rest.first_chunk_mut::<16>()) else { return };
    let stored = u32::from_le_bytes([entry[4], entry[5], entry[6], entry[7]]) as usize;
    if let Some(stored) = data.get(..stored) {
        entry[12..].copy_from_slice(&crc32c(stored).to_le_bytes());
    }
}

fn header(input: &mut Input<'_>) -> FrameHeader {
    let kinds = [FrameKind::Writes, FrameKind::Regions, FrameKind::Control, FrameKind::Folded];
    let choice = input.u8();
    FrameHeader {
        kind: kinds[usize::from(choice) % 4],
        history: choice & 64 != 0,
        rebase: choice & 128 != 0,
        group: GroupId([1; 16]),
        member: 0,
        generation: Generation(1),
        first_seq: Seq(u64::from(input.u8())),
        last_seq: Seq(u64::from(input.u8())),
        marker: MarkerNumber(0),
        extents: u32::from(input.u16()),
        chunks: u32::from(input.u16()),
        raw_bytes: input.u32(),
        table_bytes: 0,
        body_bytes: 0,
        table_check: 0,
        chain: Chain::default(),
    }
}

struct Pushed {
    extent: Extent,
    data: Option<Vec<u8>>,
}

fn round_trip(input: &mut Input<'_>) {
    let mut builder = FrameBuilder::new();
    let mut pushed = Vec::new();
    while !input.0.is_empty() && pushed.len() < 8 {
        let extent = Extent { volume: VolumeIndex(input.u8().into()), offset: u64::from(input.u32()) << 9, length: 0 };
        pushed.push(push(&mut builder, extent, input));
    }
    let place = Place {
        group: GroupId([1; 16]),
        member: 0,
        generation: Generation(1),
        first_seq: Seq(1),
        last_seq: Seq(pushed.len().max(1) as u64),
        marker: MarkerNumber(0),
        chain: Chain::default(),
    };
    compare(&builder.finish(FrameKind::Writes, &place), &pushed);
}

/// Adds data whose bytes repeat, up to a chunk of it, or zeroes.
fn push(builder: &mut FrameBuilder, mut extent: Extent, input: &mut Input<'_>) -> Pushed {
    let length = usize::from(input.u16()) + 1;
    extent.length = length as u64;
    let pattern = input.u8();
    if pattern < 64 || !builder.fits(length) {
        builder.push_zero(extent, pattern & 1 != 0);
        return Pushed { extent, data: None };
    }
    let pattern = input.take(usize::from(pattern) - 63);
    let data: Vec<u8> = pattern.iter().copied().cycle().chain([0]).take(length).collect();
    let data = if data.len() == length { data } else { vec![0; length] };
    builder.push_data(extent, &data);
    Pushed { extent, data: Some(data) }
}

fn compare(frame: &[u8], pushed: &[Pushed]) {
    let view = FrameView::verified(frame).expect("what was built verifies");
    let mut raw = Vec::new();
    view.unpack(&mut raw).expect("what was built unpacks");
    let entries: Vec<_> = view.extents().collect();
    assert_eq!(entries.len(), pushed.len());
    for (entry, pushed) in entries.iter().zip(pushed) {
        assert_eq!(entry.extent, pushed.extent);
        match (&pushed.data, entry.kind) {
            (Some(data), ExtentKind::Data) => assert!(raw[entry.raw_offset as usize..].starts_with(data)),
            (Some(data), ExtentKind::Zero { .. }) => assert!(data.iter().all(|byte| *byte == 0)),
            (None, kind) => assert_ne!(kind, ExtentKind::Data),
        }
    }
}
