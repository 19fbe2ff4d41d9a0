#![allow(clippy::cast_possible_truncation, reason = "places of a few kilobytes")]

use proptest::prelude::*;

use super::*;

const SECTORS: usize = 8;

fn file(disk: &MemoryDisk, name: &str) -> Arc<dyn DiskFile> {
    disk.open(Path::new(name), Open::ExistingOrNew).unwrap()
}

/// A durable file of eight sectors full of ones, and what is written to it afterwards, unsynced.
fn written_over() -> MemoryDisk {
    let disk = MemoryDisk::new();
    let f = file(&disk, "f");
    f.write_all_at(&[1; SECTORS * 512], 0).unwrap();
    f.sync().unwrap();
    disk.sync_folder(Path::new("")).unwrap();
    f.write_all_at(&[2; SECTORS * 512], 0).unwrap();
    disk
}

fn sectors(disk: &MemoryDisk) -> Vec<u8> {
    disk.bytes_of(Path::new("f")).unwrap().chunks(512).map(|sector| sector[0]).collect()
}

#[test]
fn a_crash_keeps_what_was_synced() {
    let disk = written_over();
    file(&disk, "f").sync().unwrap();
    for seed in 0..50 {
        assert_eq!(sectors(&disk.fork().crash(seed)), [2; SECTORS]);
    }
}

#[test]
fn a_crash_keeps_loses_and_tears_what_was_not() {
    let after: BTreeSet<Vec<u8>> = (0..200).map(|seed| sectors(&written_over().crash(seed))).collect();
    assert!(after.contains(&vec![1; SECTORS]), "all lost");
    assert!(after.contains(&vec![2; SECTORS]), "all kept");
    assert!(after.iter().any(|found| found[0] == 1 && found[SECTORS - 1] == 2), "reordered");
    assert!(after.len() > 50, "{} outcomes only", after.len());
}

#[test]
fn any_version_since_the_last_sync_may_be_found() {
    let disk = written_over();
    file(&disk, "f").write_all_at(&[3; 512], 0).unwrap();
    let found: BTreeSet<u8> = (0..100).map(|seed| sectors(&disk.fork().crash(seed))[0]).collect();
    assert_eq!(found, BTreeSet::from([1, 2, 3]));
}

#[test]
fn the_same_seed_gives_the_same_disk() {
    let disk = written_over();
    assert_eq!(disk.fork().crash(7).everything(), disk.fork().crash(7).everything());
}

#[test]
fn a_crashed_disk_answers_nothing() {
    let disk = written_over();
    let f = file(&disk, "f");
    let after = disk.crash(1);
    assert!(f.write_all_at(&[9; 512], 0).is_err());
    assert!(disk.list(Path::new("")).is_err());
    assert!(after.list(Path::new("")).is_ok());
}

#[test]
fn names_are_durable_with_their_folder_only() {
    let disk = MemoryDisk::new();
    disk.create_folder(Path::new("/d")).unwrap();
    file(&disk, "/d/a").sync().unwrap();
    let there = |disk: &MemoryDisk| disk.list(Path::new("/d")).unwrap();
    let found: BTreeSet<Vec<String>> = (0..50).map(|seed| there(&disk.fork().crash(seed))).collect();
    assert_eq!(found.len(), 2, "lost and kept: {found:?}");
    disk.rename(Path::new("/d/a"), Path::new("/d/b")).unwrap();
    assert!((0..50).all(|seed| there(&disk.fork().crash(seed)) == ["b"]));
    disk.remove(Path::new("/d/b")).unwrap();
    let found: BTreeSet<Vec<String>> = (0..50).map(|seed| there(&disk.fork().crash(seed))).collect();
    assert_eq!(found.len(), 2, "removed and come back: {found:?}");
}

#[test]
fn power_goes_after_so_many_effects() {
    let disk = written_over();
    disk.power_off_after(1);
    let f = file(&disk, "f");
    f.write_all_at(&[3; 512], 0).unwrap();
    assert!(f.sync().is_err(), "the power went before it was done");
    assert!(f.read_exact_at(&mut [0; 1], 0).is_err());
    assert!((0..50).any(|seed| sectors(&disk.fork().crash(seed))[0] != 3), "it was not synced");
}

#[test]
fn a_full_disk_takes_the_part_that_fits() {
    let disk = written_over();
    disk.limit_space(Some(disk.used_bytes() + 512));
    let f = file(&disk, "f");
    f.write_all_at(&[3; 4096], 0).unwrap();
    let error = f.write_all_at(&[3; 1024], 4096).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::StorageFull);
    assert_eq!(f.size().unwrap(), 4608);
    f.zero(0, 4096, true).unwrap();
    f.write_all_at(&[4; 1024], 4096).unwrap();
    disk.remove(Path::new("f")).unwrap();
    assert_eq!(disk.used_bytes(), 0);
}

#[test]
fn a_failed_sync_leaves_doubt_until_the_sectors_are_written_again() {
    let disk = written_over();
    let f = file(&disk, "f");
    disk.fail_next_sync(io::ErrorKind::Other);
    assert!(f.sync().is_err());
    f.sync().unwrap();
    assert_eq!(sectors(&disk), [2; SECTORS], "it reads well from the cache");
    assert!((0..50).any(|seed| sectors(&disk.fork().crash(seed))[0] == 1), "and is not durable");
    f.write_all_at(&[2; SECTORS * 512], 0).unwrap();
    f.sync().unwrap();
    assert!((0..50).all(|seed| sectors(&disk.fork().crash(seed)) == [2; SECTORS]));
}

#[test]
fn a_broken_sector_reads_again_once_written() {
    let disk = written_over();
    let f = file(&disk, "f");
    disk.break_sector(Path::new("f"), 700).unwrap();
    assert!(f.read_exact_at(&mut [0; 512], 0).is_ok());
    assert!(f.read_exact_at(&mut [0; 513], 0).is_err());
    f.write_all_at(&[5; 1], 800).unwrap();
    assert!(f.read_exact_at(&mut [0; 513], 0).is_ok());
}

#[test]
fn a_flipped_bit_is_durable() {
    let disk = MemoryDisk::new();
    let f = file(&disk, "f");
    f.write_all_at(&[0; 512], 0).unwrap();
    disk.flip_bit(Path::new("f"), 11).unwrap();
    assert_eq!(disk.bytes_of(Path::new("f")).unwrap()[1], 8);
    assert!(disk.flip_bit(Path::new("f"), 4096).is_err());
}

#[derive(Debug, Clone)]
enum Step {
    Write { offset: u64, data: Vec<u8> },
    Zero { offset: u64, length: u64, hole: bool },
    Grow { size: u64 },
}

fn step() -> impl Strategy<Value = Step> {
    let data = (1_u8..=255, 1_usize..1500).prop_map(|(byte, length)| vec![byte; length]);
    prop_oneof![
        (0_u64..6000, data).prop_map(|(offset, data)| Step::Write { offset, data }),
        (0_u64..8000, 0_u64..3000, any::<bool>()).prop_map(|(offset, length, hole)| Step::Zero {
            offset,
            length,
            hole
        }),
        (0_u64..8000).prop_map(|size| Step::Grow { size }),
    ]
}

proptest! {
    #[test]
    fn reads_like_one_run_of_bytes(steps in proptest::collection::vec(step(), 1..20)) {
        let disk = MemoryDisk::new();
        let f = file(&disk, "f");
        let mut bytes: Vec<u8> = Vec::new();
        for step in steps {
            match step {
                Step::Write { offset, data } => {
                    f.write_all_at(&data, offset).unwrap();
                    let begin = offset as usize;
                    bytes.resize(bytes.len().max(begin + data.len()), 0);
                    bytes[begin..begin + data.len()].copy_from_slice(&data);
                }
                Step::Zero { offset, length, hole } => {
                    f.zero(offset, length, hole).unwrap();
                    let end = bytes.len().min((offset + length) as usize);
                    bytes[end.min(offset as usize)..end].fill(0);
                }
                Step::Grow { size } => {
                    f.grow(size).unwrap();
                    bytes.resize(bytes.len().max(size as usize), 0);
                }
            }
            prop_assert_eq!(f.size().unwrap(), bytes.len() as u64);
        }
        prop_assert_eq!(&disk.bytes_of(Path::new("f")).unwrap(), &bytes);
        for begin in (0..bytes.len()).step_by(501) {
            let mut read = vec![7; (bytes.len() - begin).min(900)];
            f.read_exact_at(&mut read, begin as u64).unwrap();
            prop_assert_eq!(&read, &bytes[begin..begin + read.len()]);
        }
        let mut at = 0;
        while let Some((begin, end)) = f.next_data(at).unwrap() {
            prop_assert!(bytes[at as usize..begin as usize].iter().all(|byte| *byte == 0));
            at = end;
        }
        prop_assert!(bytes[at as usize..].iter().all(|byte| *byte == 0));
    }
}
