//! A copy's journal that is damaged: how far it is sound, and what is left when it is emptied.

use super::*;
use crate::journal::{Sound, remove, sound};

fn how_far(disk: &MemoryDisk) -> Option<Sound> {
    sound(Arc::new(disk.clone()), &folder(), GROUP, options(), &mut |_, _, _| {}).unwrap()
}

#[test]
fn it_is_sound_up_to_the_first_bad_record_and_goes_on_from_there() {
    let (disk, mut writer) = fresh();
    let frames: Vec<Held> = (0..10).flat_map(|_| fill(&mut writer, 1)).collect();
    drop(writer);
    let whole = how_far(&disk).unwrap();
    assert_eq!(whole.seq, Seq(10));
    for (number, frame) in frames.iter().enumerate().take(9) {
        let record = frame.position.offset - 32;
        // Envelope, header, tables, data: all of it is read.
        for byte in [0, 20, 32, 100, 32 + 128 + 4, 32 + 128 + 48 + 16 + 100] {
            let disk = disk.fork();
            disk.flip_bit(&path_of(frame.position.segment), (record + byte) * 8 + 3).unwrap();
            let before = disk.everything();
            let left = how_far(&disk).unwrap();
            assert_eq!(disk.everything(), before, "it is only looked at");
            assert_eq!((left.oldest, left.seq), (whole.oldest, Seq(number as u64)), "frame {number}, byte {byte}");
            let mut writer = try_open(&disk, Some(left.end)).unwrap().writer;
            let mut expected = frames[..number].to_vec();
            expected.extend(fill(&mut writer, 3));
            assert_eq!(held(writer.journal()), expected);
            assert_eq!(reopened(&disk), expected);
        }
    }
    let header = disk.fork();
    header.flip_bit(&path_of(3), 100).unwrap();
    assert_eq!(how_far(&header), None, "what belongs to it cannot be told");
}

/// Segments are numbered from one again, and a file that was one of the same number is taken for a new one.
#[test]
fn an_emptied_journal_begins_anew_and_meets_nothing_of_the_old_one() {
    let (disk, mut writer) = fresh();
    fill(&mut writer, 30);
    writer.journal().trim(Position { segment: 3, offset: 0 }).unwrap();
    drop(writer);
    assert!(names(&disk).iter().any(|name| name.ends_with(".spare")), "{:?}", names(&disk));
    remove(Arc::new(disk.clone()), &folder(), GROUP, options()).unwrap();
    assert_eq!((names(&disk), how_far(&disk)), (Vec::new(), None));
    let mut writer = open(&disk).writer;
    let anew = fill(&mut writer, 9);
    assert_eq!(anew[0].position.segment, 1);
    drop(writer);
    assert_eq!(reopened(&disk), anew);
}
