//! Invariant 3 through the whole engine: the image at each marker, read from the journal, holds what was answered before
//! the cut and nothing sent after it, and numbers are dense.

use std::collections::BTreeMap;
use std::time::Duration;

use tidemark_common::ids::VolumeIndex;
use tidemark_common::record::view::ExtentKind;
use tidemark_common::record::{ControlRecord, FrameKind, FrameView};
use tidemark_tests::image::Image;
use tidemark_tests::oracle::{Bounds, assert_legal};

use crate::hosts::{Hosts, Story};
use crate::machine::{Machine, Settings, VOLUMES};
use crate::staged::Call;

const CUTS: usize = 40;

/// The image at each marker of the journal, by the markers' numbers.
fn images(machine: &Machine) -> BTreeMap<u64, Image> {
    let length = machine.settings.volume_bytes() as usize;
    let mut volumes = vec![vec![0; length]; machine.settings.volumes as usize];
    let mut images = BTreeMap::new();
    let mut reader = machine.journal().reader(Default::default());
    while let Some(frame) = reader.next_frame().unwrap() {
        let view = FrameView::verified(&frame.bytes).unwrap();
        if frame.header.kind == FrameKind::Control {
            if let ControlRecord::Marker(marker) = ControlRecord::of(&view).unwrap() {
                assert_eq!(marker.boundary_seq, frame.header.last_seq.0);
                let doubled = images.insert(marker.number, Image::from_bytes(&volumes));
                assert!(doubled.is_none(), "marker {} is there twice", marker.number);
            }
            continue;
        }
        apply(&view, &mut volumes);
    }
    images
}

fn apply(view: &FrameView<'_>, volumes: &mut [Vec<u8>]) {
    let mut raw = Vec::new();
    view.unpack(&mut raw).unwrap();
    for entry in view.extents() {
        let VolumeIndex(index) = entry.extent.volume;
        let begin = entry.extent.offset as usize;
        let target = &mut volumes[index as usize - 1][begin..][..entry.extent.length as usize];
        match entry.kind {
            ExtentKind::Data => target.copy_from_slice(&raw[entry.raw_offset as usize..][..target.len()]),
            ExtentKind::Zero { .. } => target.fill(0),
        }
    }
}

fn cut_under_load(settings: Settings, seed: u64) {
    let machine = Machine::new(settings);
    let engine = machine.start();
    // What is not written back is not trimmed.
    engine.disk.hold(Call::Write, VOLUMES);
    let story = Story::begin(&machine, &engine);
    // Before this one, blocks that were never written look like those zeroed later.
    let first = machine.soon("a cut", engine.primary.cut(None)).unwrap().number;
    let hosts = Hosts::start(&machine, &engine, &story, seed);
    hosts.wait_acked(10);
    let mut bounds = BTreeMap::new();
    for _ in 0..CUTS {
        let began = story.history.tick();
        let marker = machine.soon("a cut", engine.primary.cut(None)).unwrap();
        bounds.insert(marker.number, Bounds::cut(began, story.history.tick()));
    }
    assert_eq!(hosts.end(), vec![]);
    machine.kill(engine, None);
    let images = images(&machine);
    assert!(images.keys().copied().eq(1..=images.len() as u64), "numbers are dense: {:?}", images.keys());
    for (number, image) in images.range(first..) {
        // Those between were cut because their time had come: nobody saw when.
        let bounds = bounds.get(number).copied().unwrap_or(Bounds::ANY);
        assert_legal(&format!("seed {seed}, marker {number}"), &story.history.writes(), image, bounds);
    }
    assert!(bounds.keys().all(|number| images.contains_key(number)));
}

#[test]
fn a_marker_holds_what_was_answered_before_and_nothing_sent_after() {
    for seed in 0..4 {
        cut_under_load(Settings::keeping(), seed);
    }
}

#[test]
fn markers_asked_for_and_markers_due_come_in_one_order() {
    for seed in 0..4 {
        cut_under_load(Settings { interval: Duration::from_millis(1), ..Settings::keeping() }, seed);
    }
}

#[test]
fn numbers_go_on_after_a_kill() {
    let machine = Machine::new(Settings::keeping());
    for number in 1..=4 {
        let engine = machine.start();
        machine.write(&engine, 0, 0, &[number; 4096]).unwrap();
        let marker = machine.soon("a cut", engine.primary.cut(None)).unwrap();
        assert_eq!((marker.number, marker.boundary_seq), (u64::from(number), u64::from(number)));
        machine.kill(engine, None);
    }
}

/// Nothing was written since the last one: it is a marker nevertheless, for who asked.
#[test]
fn a_cut_of_an_idle_group_is_answered() {
    let machine = Machine::new(Settings::keeping());
    let engine = machine.start();
    for number in 1..=3 {
        let marker = machine.soon("a cut", engine.primary.cut(None)).unwrap();
        assert_eq!((marker.number, marker.boundary_seq), (number, 0));
    }
}
