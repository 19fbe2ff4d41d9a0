//! Partition tables read from an image: GPT (its copy at the end when the first is damaged) and MBR with logical partitions.

use crate::bytes::{Bytes, read};
use crate::image::Image;

/// Entries of a GPT that are looked at.
const GPT_ENTRIES_MAX: u32 = 128;
/// Tables of logical partitions of an MBR that are followed.
const LOGICAL_MAX: usize = 128;
/// The number of the first of them.
const FIRST_LOGICAL: u32 = 5;
const MBR_SECTOR: u64 = 512;
const PROTECTIVE: u8 = 0xee;
const EXTENDED: [u8; 3] = [0x05, 0x0f, 0x85];

/// A partition of a volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partition {
    /// As Linux numbers it, from 1.
    pub number: u32,
    /// Where it begins.
    pub offset: u64,
    /// Its bytes.
    pub length: u64,
}

/// The partitions of a volume.
///
/// # Errors
/// What is there instead of a partition table, or what is wrong with it.
pub fn table(image: &dyn Image) -> Result<Vec<Partition>, String> {
    let first = read(image, 0, 512).map_err(|_| "it is too small for a partition table".to_owned())?;
    let mbr = Bytes::new(&first, "its partition table");
    if mbr.be16(510)? != 0x55aa {
        return Err("it has no partition table (neither GPT nor MBR)".into());
    }
    let kinds = (0..4).map(|index| mbr.u8(446 + index * 16 + 4)).collect::<Result<Vec<_>, _>>()?;
    let mut partitions = if kinds.contains(&PROTECTIVE) { gpt(image)? } else { dos(image, &mbr)? };
    partitions.retain(|partition| partition.length > 0);
    let fits =
        |partition: &Partition| partition.offset.checked_add(partition.length).is_some_and(|end| end <= image.size());
    match partitions.iter().find(|partition| !fits(partition)) {
        Some(beyond) => Err(format!("its partition {} ends beyond the volume", beyond.number)),
        None => Ok(partitions),
    }
}

/// One of them.
///
/// # Errors
/// As [`table`]; the partition may not be there.
pub fn find(image: &dyn Image, number: u32) -> Result<Partition, String> {
    let partitions = table(image)?;
    let found = partitions.iter().find(|partition| partition.number == number);
    found.copied().ok_or_else(|| {
        let there: Vec<_> = partitions.iter().map(|partition| format!("p{}", partition.number)).collect();
        format!(
            "it has no partition p{number}; it has {}",
            if there.is_empty() { "none".into() } else { there.join(", ") }
        )
    })
}

fn gpt(image: &dyn Image) -> Result<Vec<Partition>, String> {
    let mut why = String::new();
    for sector in [512_u64, 4096] {
        for place in [sector, (image.size() / sector).saturating_sub(1) * sector] {
            match gpt_at(image, sector, place) {
                Ok(partitions) => return Ok(partitions),
                // The most telling error is that of a header that is one.
                Err(error) if why.is_empty() || !error.starts_with("no ") => why = error,
                Err(_) => {}
            }
        }
    }
    Err(format!("its GPT cannot be used, nor the copy at its end: {why}"))
}

fn gpt_at(image: &dyn Image, sector: u64, place: u64) -> Result<Vec<Partition>, String> {
    let bytes = read(image, place, 512)?;
    let header = Bytes::new(&bytes, "its GPT header");
    if header.part(0, 8)? != b"EFI PART" {
        return Err("no GPT header is there".into());
    }
    let header_bytes = usize::try_from(header.u32(12)?).unwrap_or(0);
    let mut zeroed = header.part(0, header_bytes.clamp(92, 512))?.to_vec();
    if let Some(check) = zeroed.get_mut(16..20) {
        check.fill(0);
    }
    if crc32(&zeroed) != header.u32(16)? {
        return Err("its header's checksum does not agree".into());
    }
    let (count, entry_bytes) = (header.u32(80)?, usize::try_from(header.u32(84)?).unwrap_or(0));
    if !(128..=4096).contains(&entry_bytes) || count > 1024 {
        return Err("its header makes no sense".into());
    }
    let table_bytes = entry_bytes * usize::try_from(count).unwrap_or(0);
    let table_at = header.u64(72)?.checked_mul(sector).ok_or("its header makes no sense")?;
    let table = read(image, table_at, table_bytes)?;
    if crc32(&table) != header.u32(88)? {
        return Err("its table's checksum does not agree".into());
    }
    let mut partitions = Vec::new();
    for (number, entry) in (1..=GPT_ENTRIES_MAX).zip(table.chunks_exact(entry_bytes)) {
        let entry = Bytes::new(entry, "its GPT");
        if entry.part(0, 16)?.iter().all(|byte| *byte == 0) {
            continue;
        }
        let (first, last) = (entry.u64(32)?, entry.u64(40)?);
        let sectors =
            last.checked_sub(first).and_then(|n| n.checked_add(1)).ok_or("a partition ends before it begins")?;
        let bytes = |sectors: u64| sectors.checked_mul(sector).ok_or("a partition is too large");
        partitions.push(Partition { number, offset: bytes(first)?, length: bytes(sectors)? });
    }
    Ok(partitions)
}

fn crc32(bytes: &[u8]) -> u32 {
    u32::try_from(crc_fast::checksum(crc_fast::CrcAlgorithm::Crc32IsoHdlc, bytes)).unwrap_or(0)
}

fn dos(image: &dyn Image, mbr: &Bytes<'_>) -> Result<Vec<Partition>, String> {
    let mut partitions = Vec::new();
    let mut next = FIRST_LOGICAL;
    for number in 1..=4_u32 {
        let (kind, first, sectors) = dos_entry(mbr, number - 1)?;
        if EXTENDED.contains(&kind) && sectors > 0 {
            next = logical(image, first, next, &mut partitions)?;
        } else if kind != 0 {
            partitions.push(Partition { number, offset: first * MBR_SECTOR, length: sectors * MBR_SECTOR });
        }
    }
    Ok(partitions)
}

fn dos_entry(mbr: &Bytes<'_>, index: u32) -> Result<(u8, u64, u64), String> {
    let at = 446 + 16 * usize::try_from(index).unwrap_or(0);
    Ok((mbr.u8(at + 4)?, mbr.u32(at + 8)?.into(), mbr.u32(at + 12)?.into()))
}

/// Logical partitions are a chain of tables, each with a partition and the place of the next table; the number behind the last one.
///
/// As Linux counts them: a table whose partition was deleted has no number, and partition and next table may change places. What stands in the
/// third and fourth entry is used by nobody's tools.
fn logical(image: &dyn Image, extended: u64, first_number: u32, found: &mut Vec<Partition>) -> Result<u32, String> {
    let (mut at, mut number) = (extended, first_number);
    for _ in 0..LOGICAL_MAX {
        let bytes = read(image, at * MBR_SECTOR, 512)?;
        let table = Bytes::new(&bytes, "a logical partition's table");
        if table.be16(510)? != 0x55aa {
            return Err("its chain of logical partitions is broken".into());
        }
        let mut follows = None;
        for index in 0..2 {
            let (kind, first, sectors) = dos_entry(&table, index)?;
            if sectors == 0 {
                continue;
            }
            if EXTENDED.contains(&kind) {
                follows = follows.or(Some(extended + first));
            } else {
                found.push(Partition { number, offset: (at + first) * MBR_SECTOR, length: sectors * MBR_SECTOR });
                number += 1;
            }
        }
        let Some(next) = follows else { return Ok(number) };
        at = next;
    }
    Err("its chain of logical partitions has no end".into())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::image::memory::Bytes as Memory;

    const DISK: usize = 64 << 20;

    fn put(disk: &mut [u8], at: usize, bytes: &[u8]) {
        disk[at..at + bytes.len()].copy_from_slice(bytes);
    }

    /// One entry of an MBR or of a logical partition's table, in sectors.
    fn dos_entry_at(disk: &mut [u8], table: usize, index: usize, kind: u8, first: u32, sectors: u32) {
        let at = table * 512 + 446 + index * 16;
        disk[at + 4] = kind;
        put(disk, at + 8, &first.to_le_bytes());
        put(disk, at + 12, &sectors.to_le_bytes());
        put(disk, table * 512 + 510, &[0x55, 0xaa]);
    }

    /// A GPT as UEFI 2.10 section 5.3 describes it: (number, first sector, sectors).
    fn gpt_disk(partitions: &[(usize, u64, u64)]) -> Memory {
        let mut disk = vec![0; DISK];
        dos_entry_at(&mut disk, 0, 0, PROTECTIVE, 1, u32::MAX);
        let mut table = vec![0; 128 * 128];
        for (number, first, sectors) in partitions {
            let at = (number - 1) * 128;
            table[at..at + 16].fill(7);
            put(&mut table, at + 32, &first.to_le_bytes());
            put(&mut table, at + 40, &(first + sectors - 1).to_le_bytes());
        }
        let last = DISK / 512 - 1;
        for (place, table_at) in [(1_usize, 2_usize), (last, last - 32)] {
            let mut header = vec![0; 92];
            put(&mut header, 0, b"EFI PART");
            put(&mut header, 12, &92_u32.to_le_bytes());
            put(&mut header, 72, &(table_at as u64).to_le_bytes());
            put(&mut header, 80, &128_u32.to_le_bytes());
            put(&mut header, 84, &128_u32.to_le_bytes());
            put(&mut header, 88, &crc32(&table).to_le_bytes());
            let check = crc32(&header);
            put(&mut header, 16, &check.to_le_bytes());
            put(&mut disk, place * 512, &header);
            put(&mut disk, table_at * 512, &table);
        }
        Memory::new(disk)
    }

    /// One primary partition, and an extended one at sector 20480 with two logical ones.
    fn dos_disk() -> Memory {
        let mut disk = vec![0; DISK];
        dos_entry_at(&mut disk, 0, 0, 0x83, 2048, 8192);
        dos_entry_at(&mut disk, 0, 1, 0x05, 20480, 65536);
        dos_entry_at(&mut disk, 20480, 0, 0x83, 2048, 4096);
        dos_entry_at(&mut disk, 20480, 1, 0x05, 20480, 8192);
        dos_entry_at(&mut disk, 40960, 0, 0x83, 2048, 6144);
        Memory::new(disk)
    }

    const MIB: u64 = 1 << 20;

    #[test]
    fn a_gpt_is_read_and_its_copy_when_the_first_is_damaged() {
        let mut disk = gpt_disk(&[(1, 2048, 16384), (3, 40960, 32768)]);
        let there = [
            Partition { number: 1, offset: MIB, length: 8 * MIB },
            Partition { number: 3, offset: 20 * MIB, length: 16 * MIB },
        ];
        assert_eq!(table(&disk).unwrap(), there);
        assert_eq!(find(&disk, 2).unwrap_err(), "it has no partition p2; it has p1, p3");
        disk.bytes[512 + 40] ^= 1;
        assert_eq!(table(&disk).unwrap(), there);
        let end = disk.bytes.len();
        disk.bytes[end - 512 + 40] ^= 1;
        assert!(table(&disk).unwrap_err().contains("checksum"));
    }

    #[test]
    fn an_mbr_is_read_with_its_logical_partitions() {
        let disk = dos_disk();
        let found: Vec<_> = table(&disk).unwrap().iter().map(|part| (part.number, part.offset, part.length)).collect();
        assert_eq!(found, [(1, MIB, 4 * MIB), (5, 11 * MIB, 2 * MIB), (6, 21 * MIB, 3 * MIB)]);
    }

    /// Who asks for p6 is to get what his host calls sda6, also when one before it was deleted.
    #[test]
    fn logical_partitions_have_the_numbers_that_linux_gives_them() {
        let found = |disk: &Memory| {
            table(disk).unwrap().iter().map(|part| (part.number, part.offset, part.length)).collect::<Vec<_>>()
        };
        // The first one was deleted: its table stays, with nothing but the place of the next.
        let mut disk = dos_disk();
        dos_entry_at(&mut disk.bytes, 20480, 0, 0, 0, 0);
        assert_eq!(found(&disk), [(1, MIB, 4 * MIB), (5, 21 * MIB, 3 * MIB)]);
        // The place of the next one stands first.
        let mut disk = dos_disk();
        dos_entry_at(&mut disk.bytes, 20480, 0, 0x05, 20480, 8192);
        dos_entry_at(&mut disk.bytes, 20480, 1, 0x83, 2048, 4096);
        assert_eq!(found(&disk), [(1, MIB, 4 * MIB), (5, 11 * MIB, 2 * MIB), (6, 21 * MIB, 3 * MIB)]);
        // A second extended partition goes on counting.
        let mut disk = dos_disk();
        dos_entry_at(&mut disk.bytes, 0, 2, 0x0f, 100_000, 20_000);
        dos_entry_at(&mut disk.bytes, 100_000, 0, 0x83, 2400, 8192);
        assert_eq!(found(&disk).last(), Some(&(7, 102_400 * 512, 4 * MIB)));
        // One that leads back to itself.
        let mut disk = dos_disk();
        dos_entry_at(&mut disk.bytes, 40960, 1, 0x05, 20480, 8192);
        assert!(table(&disk).unwrap_err().contains("no end"));
    }

    #[test]
    fn what_is_no_table_is_said() {
        assert!(table(&Memory::new(vec![0; 4096])).unwrap_err().contains("no partition table"));
        assert!(table(&Memory::new(vec![0; 100])).unwrap_err().contains("too small"));
    }

    proptest! {
        #[test]
        fn a_damaged_table_never_panics(flips in proptest::collection::vec((0..17_000_usize, any::<u8>()), 1..40), gpt: bool) {
            static DISKS: std::sync::LazyLock<[Vec<u8>; 2]> = std::sync::LazyLock::new(|| [
                gpt_disk(&[(1, 2048, 16384)]).bytes,
                dos_disk().bytes,
            ]);
            let mut disk = Memory::new(DISKS[usize::from(gpt)].clone());
            for (at, value) in flips {
                let at = if at < 512 { 446 + at % 66 } else { at };
                disk.bytes[at] = value;
                // Tables of logical partitions, and headers whose checksum agrees all the same.
                disk.bytes[20480 * 512 + 446 + at % 66] = value;
            }
            if let Ok(partitions) = table(&disk) {
                prop_assert!(partitions.iter().all(|part| part.offset + part.length <= 64 << 20));
            }
        }
    }
}
