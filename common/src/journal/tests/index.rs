//! The index of what a journal has and the volumes do not: read on as the journal grows, or all at once.

use super::cut::journal;
use super::*;
use crate::overlay::location::locations;
use crate::overlay::unapplied::{Indexed, Spill, Unapplied};
use crate::record::FrameView;

/// What the index says of everything that these journals write.
fn known(index: &Unapplied) -> String {
    let all = Extent { volume: VolumeIndex(1), offset: 0, length: 2 << 30 };
    format!("{:?}", index.look(all).pieces().unwrap())
}

fn of_frames(frames: &[Held]) -> Unapplied {
    let mut index = Unapplied::default();
    for frame in frames {
        let view = FrameView::new(&frame.bytes).unwrap();
        locations(&view, frame.position).for_each(|(extent, location)| index.insert(extent, location));
    }
    index
}

#[test]
fn it_goes_on_where_it_stopped_and_is_never_used_beyond_its_place() {
    let (disk, frames, places) = journal();
    let spill = Spill::new(Arc::new(disk.clone()), "/journal.index".into(), 2);
    let journal = Arc::clone(open(&disk).writer.journal());
    let mut growing = Indexed::default();
    for (count, place) in places.iter().enumerate() {
        growing.go_on(&journal, *place, &spill).unwrap();
        let mut at_once = Indexed::default();
        at_once.go_on(&journal, *place, &spill).unwrap();
        assert!(growing.up_to() <= *place);
        let at_once = at_once.unless_beyond(*place).into_index();
        assert!(at_once.in_memory() <= 2, "{} ranges in memory", at_once.in_memory());
        assert_eq!(known(&at_once), known(&of_frames(&frames[..count])), "up to frame {count}");
    }
    assert_eq!(growing.up_to(), *places.last().unwrap());
    let before_the_last = places[places.len() - 2];
    let mut cut = growing.unless_beyond(before_the_last);
    assert_eq!(cut.up_to(), Position::default(), "begun anew");
    cut.go_on(&journal, before_the_last, &spill).unwrap();
    assert_eq!(known(&cut.into_index()), known(&of_frames(&frames[..frames.len() - 1])));
}
