//! Cutting the journal behind a place, as failover does.

use super::*;
use crate::storage::Disk;

/// A journal over several segments, and where each of its records begins; the last place is the end.
pub(super) fn journal() -> (MemoryDisk, Vec<Held>, Vec<Position>) {
    let (disk, mut writer) = fresh();
    let frames: Vec<Held> = (0..10).flat_map(|_| fill(&mut writer, 1)).collect();
    let mut places = Vec::new();
    super::super::open(Arc::new(disk.clone()), &folder(), GROUP, options(), None, &mut |at, _, _| places.push(at))
        .unwrap();
    places.push(writer.end());
    (disk, frames, places)
}

type Cut = fn(&MemoryDisk, Position) -> Result<Writer, JournalError>;

/// As it is opened, and while it is open.
const CUTS: [Cut; 2] = [
    |disk, place| try_open(disk, Some(place)).map(|opened| opened.writer),
    |disk, place| {
        let writer = try_open(disk, None)?.writer;
        let journal = Arc::clone(writer.journal());
        drop(writer);
        super::super::cut_behind(&journal, place)
    },
];

#[test]
fn exactly_what_is_before_the_place_stays() {
    let (disk, frames, places) = journal();
    for (cut, (count, place)) in CUTS.iter().flat_map(|cut| places.iter().enumerate().map(move |place| (cut, place))) {
        let disk = disk.fork();
        let mut writer = cut(&disk, *place).unwrap();
        assert_eq!(writer.tip().seq, Seq(count as u64));
        assert_eq!(held(writer.journal()), frames[..count], "cut at {place:?}");
        let frame = role(writer.tip());
        let mut expected = [&frames[..count], &[append(&mut writer, frame)]].concat();
        assert!(names(&disk).len() <= 4, "what was cut takes no space: {:?}", names(&disk));
        expected.extend(fill(&mut writer, 5));
        assert_eq!(held(writer.journal()), expected);
        assert_eq!(reopened(&disk), expected, "cut at {place:?}");
    }
}

#[test]
fn the_end_of_a_segment_is_a_place_too() {
    let (disk, frames, _) = journal();
    let at_end = Position { segment: 1, offset: frames[3].position.offset - 32 + 3040 };
    for cut in CUTS {
        assert_eq!(held(cut(&disk.fork(), at_end).unwrap().journal()), frames[..4]);
    }
}

fn refused(disk: &MemoryDisk, place: Position) -> JournalError {
    let before = disk.everything();
    let [error, while_open] = CUTS.map(|cut| cut(disk, place).expect_err("no place to cut"));
    assert_eq!(error.to_string(), while_open.to_string());
    assert_eq!(disk.everything(), before, "{error}");
    error
}

#[test]
fn a_place_inside_a_record_is_refused() {
    let (disk, frames, _) = journal();
    for frame in [&frames[2], &frames[9]] {
        assert!(matches!(refused(&disk, frame.position), JournalError::Gap { .. }));
    }
}

#[test]
fn a_place_behind_the_end_is_refused() {
    let (disk, _, places) = journal();
    let end = places[10];
    let error = refused(&disk, Position { offset: end.offset + 32, ..end });
    assert!(matches!(error, JournalError::Damaged { .. } | JournalError::Gap { .. }), "{error}");
    let error = refused(&disk, Position { segment: 9, offset: 4096 });
    assert!(matches!(error, JournalError::Trimmed { .. }), "{error}");
}

#[test]
fn a_trimmed_place_is_refused() {
    let (disk, frames, _) = journal();
    open(&disk).writer.journal().trim(Position { segment: 3, offset: 0 }).unwrap();
    let place = Position { segment: 1, offset: 4096 };
    assert!(matches!(refused(&disk, place), JournalError::Trimmed { .. }));
    assert_eq!(reopened(&disk), frames[8..]);
}

#[test]
fn a_cut_can_be_followed_by_another() {
    let (disk, frames, places) = journal();
    for cut in CUTS {
        let disk = disk.fork();
        let mut writer = cut(&disk, places[6]).unwrap();
        let more = fill(&mut writer, 6);
        let again = Position { offset: more[4].position.offset - 32, ..more[4].position };
        let writer = cut(&disk, again).unwrap();
        assert_eq!(held(writer.journal()), [&frames[..6], &more[..4]].concat());
        let writer = cut(&disk, places[3]).unwrap();
        assert_eq!(held(writer.journal()), frames[..3], "back over the first cut");
        assert_eq!(reopened(&disk), frames[..3]);
    }
}

#[test]
fn a_cut_below_damage_opens() {
    let (disk, frames, places) = journal();
    disk.flip_bit(&path_of(3), (frames[8].position.offset + 60) * 8).unwrap();
    assert!(matches!(try_open(&disk, None), Err(JournalError::Damaged { .. })));
    let writer = try_open(&disk, Some(places[8])).unwrap().writer;
    assert_eq!(held(writer.journal()), frames[..8]);
}

#[test]
fn power_may_go_at_any_moment_of_a_cut() {
    for (cut, place) in CUTS.iter().flat_map(|cut| [2, 5, 8, 9].map(|place| (cut, place))) {
        for effects in 0.. {
            let (disk, frames, places) = journal();
            disk.power_off_after(effects);
            let done = cut(&disk, places[place]).is_ok();
            for seed in 0..10 {
                let disk = disk.fork().crash(seed);
                let found = reopened(&disk.fork());
                let all = !done && found == frames;
                assert!(all || found == frames[..place], "{effects} effects, seed {seed}: {found:?}");
                let writer = try_open(&disk, Some(places[place])).unwrap().writer;
                assert_eq!(held(writer.journal()), frames[..place], "done again after {effects} effects");
            }
            if done {
                break;
            }
        }
    }
}

/// What a killed cut leaves behind is taken away by the next opening.
#[test]
fn leftovers_of_a_cut_go() {
    let (disk, frames, places) = journal();
    let kept = disk.bytes_of(&path_of(3)).unwrap();
    try_open(&disk, Some(places[5])).unwrap();
    let leftover = disk.open(&path_of(3), crate::storage::Open::New).unwrap();
    leftover.write_all_at(&kept, 0).unwrap();
    assert_eq!(reopened(&disk), frames[..5]);
    assert!(!names(&disk).contains(&"0000000000000003.segment".to_owned()), "{:?}", names(&disk));
}
