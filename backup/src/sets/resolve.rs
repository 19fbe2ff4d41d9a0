//! From the extents of sets to the members of a backup, by reading the images they are taken from.

use std::collections::BTreeSet;

use super::{Part, SetExtent, partition};
use crate::content::{Content, Run};
use crate::files::room::Share;
use crate::files::{self, Entry, NodeKind, Place};
use crate::image::{Bounded, Image};
use crate::manifest::NotKept;
use crate::names::{self, readable};
use crate::plan::{Images, Kind, Member};
use crate::stop::Stop;

/// Reads of one extent's partition table and file system at most: several for each of as many files as there may be.
const READS_MAX: u64 = 1 << 26;

/// A set with what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub extents: Vec<SetExtent>,
}

/// The members of all sets, as given, and what each set has that they have not. The memory that lists of files take is taken for as long as they
/// are needed.
///
/// # Errors
/// What cannot be backed up as it is named, and why, or why it was to stop; nothing was copied.
pub fn members(
    sets: &[DataSet],
    images: &Images,
    stop: &Stop,
    share: &mut Share,
) -> Result<(Vec<Member>, Vec<NotKept>), String> {
    let mut members = Vec::new();
    let mut not_kept = Vec::new();
    for set in sets {
        let mut missing = NotKept::default();
        let begin = members.len();
        for extent in &set.extents {
            let image = images.get(&extent.volume);
            let image = image.ok_or_else(|| format!("set '{}': there is no volume '{}'", set.name, extent.volume))?;
            let image = Bounded::new(image.as_ref(), stop, READS_MAX);
            let resolved = resolve(&set.name, extent, &image, share, &mut missing);
            let failed =
                |why: String| stop.reason().unwrap_or_else(|| format!("set '{}': '{extent}': {why}", set.name));
            members.extend(resolved.map_err(failed)?);
        }
        disjoint(members.get(begin..).unwrap_or_default()).map_err(|why| format!("set '{}': {why}", set.name))?;
        not_kept.push(missing);
    }
    match named_twice(&members) {
        Some(name) => Err(format!("there are two '{name}', of which only one could be restored: name it once")),
        None => Ok((members, not_kept)),
    }
}

fn named_twice(members: &[Member]) -> Option<&str> {
    let mut names = BTreeSet::new();
    members.iter().map(|member| member.name.as_str()).find(|name| !names.insert(*name))
}

fn resolve(
    set: &str,
    extent: &SetExtent,
    image: &dyn Image,
    share: &mut Share,
    not_kept: &mut NotKept,
) -> Result<Vec<Member>, String> {
    let volume = &extent.volume;
    let range = |name: String, offset, length| {
        let content = Content::of_range(image, offset, length).map_err(|error| error.to_string())?;
        let kind = Kind::Range { offset };
        Ok(vec![Member { set: set.into(), name: format!("{set}/{name}"), volume: volume.clone(), kind, content }])
    };
    match &extent.part {
        Part::Whole => range(volume.clone(), 0, image.size()),
        Part::Range { offset, length } => {
            if offset.saturating_add(*length) > image.size() {
                return Err(format!("it ends beyond the volume, which has {} bytes", image.size()));
            }
            range(format!("{volume}@{offset}+{length}"), *offset, *length)
        }
        Part::Partition(number) => {
            let found = partition::find(image, *number)?;
            range(format!("{volume}@p{number}"), found.offset, found.length)
        }
        Part::Directory { partition, path } => {
            let (offset, length, name) = match partition {
                None => (0, image.size(), volume.clone()),
                Some(number) => {
                    let found = partition::find(image, *number)?;
                    (found.offset, found.length, format!("{volume}@p{number}"))
                }
            };
            let name = format!("{set}/{name}{}", readable(&names::bytes(path.trim_end_matches('/'))));
            let listed = files::list(Place { image, offset, length }, path, share)?;
            not_kept.unsettled += u64::from(!listed.is_settled);
            Ok(directory(set, volume, &name, listed.entries, not_kept))
        }
    }
}

fn directory(set: &str, volume: &str, prefix: &str, listed: Vec<Entry>, not_kept: &mut NotKept) -> Vec<Member> {
    not_kept.with_shared_blocks += with_shared_blocks(&listed);
    let mut members = Vec::new();
    let mut inodes = BTreeSet::new();
    for entry in listed {
        let meta = entry.node.meta;
        let kind = match entry.node.kind {
            NodeKind::File => Kind::File(meta),
            NodeKind::Folder => Kind::Folder(meta),
            NodeKind::Link => Kind::Link(meta, entry.leads_to.unwrap_or_default()),
            // Devices, pipes and sockets hold nothing.
            NodeKind::Other => {
                not_kept.special_files += 1;
                continue;
            }
        };
        if !inodes.insert(entry.node.number) {
            not_kept.hard_links += 1;
        }
        not_kept.with_attributes += u64::from(entry.node.has_attributes);
        let name = if entry.path.is_empty() { prefix.to_owned() } else { format!("{prefix}/{}", entry.path) };
        let content = if entry.node.kind == NodeKind::File { entry.node.content } else { Content::default() };
        members.push(Member { set: set.into(), name, volume: volume.into(), kind, content });
    }
    members
}

/// Files with blocks that an earlier one has as well; a further name of a file is none.
fn with_shared_blocks(listed: &[Entry]) -> u64 {
    let mut inodes = BTreeSet::new();
    let files = listed.iter().filter(|entry| entry.node.kind == NodeKind::File && inodes.insert(entry.node.number));
    let mut places: Vec<(u64, u64, usize)> = Vec::new();
    for (number, entry) in files.enumerate() {
        let runs = entry.node.content.runs.iter();
        places.extend(runs.map(|run| (run.from, run.from.saturating_add(run.length), number)));
    }
    places.sort_unstable();
    let (mut sharing, mut farthest) = (BTreeSet::new(), 0);
    for (begin, end, number) in places {
        if begin < farthest {
            sharing.insert(number);
        }
        farthest = farthest.max(end);
    }
    sharing.len() as u64
}

/// A member's bytes in its volume.
struct Taken<'a> {
    volume: &'a str,
    begin: u64,
    end: u64,
    name: &'a str,
    is_range: bool,
}

/// Ranges of one set that overlap another, or a file: what partitions and directories are is known only now. Files may share
/// blocks (reflinks), and hard links are the same file.
fn disjoint(members: &[Member]) -> Result<(), String> {
    let mut places: Vec<Taken<'_>> = Vec::new();
    for member in members {
        let (volume, name) = (member.volume.as_str(), member.name.as_str());
        let taken = |begin: u64, length: u64, is_range| {
            let end = begin.saturating_add(length);
            Taken { volume, begin, end, name, is_range }
        };
        match member.kind {
            Kind::Range { offset } => places.push(taken(offset, member.content.size, true)),
            _ => places.extend(member.content.runs.iter().map(|run: &Run| taken(run.from, run.length, false))),
        }
    }
    places.sort_by_key(|place| (place.volume, place.begin, place.end));
    // Of what begins no later: what reaches farthest, of ranges and of files.
    let (mut range, mut file): (Option<&Taken<'_>>, Option<&Taken<'_>>) = (None, None);
    for place in &places {
        let reaches = |before: &&Taken<'_>| before.volume == place.volume && place.begin < before.end;
        let clash = range.filter(reaches).or_else(|| file.filter(reaches).filter(|_| place.is_range));
        if let Some(before) = clash {
            return Err(format!("'{}' and '{}' overlap", before.name, place.name));
        }
        let farthest = if place.is_range { &mut range } else { &mut file };
        if farthest.is_none_or(|before| before.volume != place.volume || before.end < place.end) {
            *farthest = Some(place);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::files::Node;
    use crate::files::room::Room;
    use crate::image::memory::Bytes;
    use crate::plan::{Meta, data_bytes};
    use crate::sets::parse;

    fn share() -> Share {
        Share::of(Arc::new(Room::of(1 << 20)))
    }

    fn resolved(texts: &[&str]) -> Result<Vec<Member>, String> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let set = DataSet { name: "s".into(), extents: parse(&texts)? };
        let image: Arc<dyn Image> = Arc::new(Bytes::new(vec![1; 1 << 20]));
        members(&[set], &Images::from([("a".into(), image)]), &Stop::default(), &mut share())
            .map(|(members, _)| members)
    }

    #[test]
    fn ranges_become_members() {
        let members = resolved(&["a:512KiB+4KiB", "a:0+64KiB"]).unwrap();
        let names: Vec<_> = members.iter().map(|member| (member.name.as_str(), member.content.size)).collect();
        assert_eq!(names, [("s/a@524288+4096", 4096), ("s/a@0+65536", 65536)]);
        assert_eq!(resolved(&["a"]).unwrap()[0].name, "s/a");
    }

    #[test]
    fn what_is_not_there_is_said() {
        for (texts, words) in [
            (&["b"][..], "set 's': there is no volume 'b'"),
            (&["a:1MiB+1"], "ends beyond the volume, which has 1048576 bytes"),
            (&["a:p1"], "no partition table"),
            (&["a:/x"], "no file system"),
        ] {
            let why = resolved(texts).unwrap_err();
            assert!(why.contains(words), "{why}");
        }
    }

    #[test]
    fn two_members_of_one_name_are_refused() {
        let image: Arc<dyn Image> = Arc::new(Bytes::new(vec![1; 4096]));
        let sets = [(); 2].map(|()| DataSet { name: "s".into(), extents: parse(&["a".to_owned()]).unwrap() });
        let why = members(&sets, &Images::from([("a".into(), image)]), &Stop::default(), &mut share()).unwrap_err();
        assert!(why.contains("two 's/a'"), "{why}");
    }

    #[test]
    fn who_looks_for_what_is_to_be_copied_is_stopped_in_the_middle() {
        let image: Arc<dyn Image> = Arc::new(Bytes::new(vec![1; 1 << 20]));
        let images = Images::from([("a".into(), image)]);
        let stop = Stop::default();
        stop.stop("cancelled");
        for text in ["a", "a:p1", "a:/x"] {
            let set = DataSet { name: "s".into(), extents: parse(&[text.to_owned()]).unwrap() };
            assert_eq!(members(&[set], &images, &stop, &mut share()).unwrap_err(), "cancelled", "{text}");
        }
    }

    fn member(name: &str, volume: &str, kind: Kind, runs: &[(u64, u64)]) -> Member {
        let runs: Vec<Run> = runs.iter().map(|(from, length)| Run { at: 0, from: *from, length: *length }).collect();
        let size = runs.iter().map(|run| run.length).sum();
        Member { set: "s".into(), name: name.into(), volume: volume.into(), kind, content: Content { size, runs } }
    }

    fn range(name: &str, offset: u64, length: u64) -> Member {
        let content = Content { size: length, runs: Vec::new() };
        Member { content, ..member(name, "a", Kind::Range { offset }, &[]) }
    }

    fn file(name: &str, runs: &[(u64, u64)]) -> Member {
        member(name, "a", Kind::File(Meta::default()), runs)
    }

    #[test]
    fn what_reaches_into_a_range_is_found_wherever_it_begins() {
        let clash = |members: &[Member]| disjoint(members).err().unwrap_or_default();
        // Files that share blocks, a file with runs before and behind, and a range in the first one's middle.
        let files = [file("long", &[(0, 1000)]), file("short", &[(10, 10)]), file("split", &[(2000, 5), (1500, 5)])];
        assert_eq!(clash(&files), "");
        let with = |range: Member| clash(&[&files[..], &[range]].concat());
        assert_eq!(with(range("r", 500, 1)), "'long' and 'r' overlap");
        assert_eq!(with(range("r", 0, 1)), "'r' and 'long' overlap");
        assert_eq!(with(range("r", 999, 2)), "'long' and 'r' overlap");
        assert_eq!(with(range("r", 1400, 200)), "'r' and 'split' overlap");
        assert_eq!(with(range("r", 1000, 500)), "");
        // A range that covers others, and what lies behind those.
        let wide = [range("wide", 0, 1000), file("in", &[(5, 5)])];
        assert_eq!(clash(&wide), "'wide' and 'in' overlap");
        assert_eq!(clash(&[range("wide", 0, 1000), range("late", 900, 50)]), "'wide' and 'late' overlap");
        // Another volume is another place.
        let other = member("other", "b", Kind::Range { offset: 0 }, &[(0, 1000)]);
        assert_eq!(clash(&[file("long", &[(0, 1000)]), other, range("r", 1000, 9)]), "");
        // Folders and links take no place.
        assert_eq!(clash(&[member("d", "a", Kind::Folder(Meta::default()), &[]), range("r", 0, 9)]), "");
    }

    /// An ext4 with `shared_blocks`, or reflinks of XFS: a backup of the files is larger than the volume, and nothing said why.
    #[test]
    fn files_that_share_blocks_are_whole_and_counted() {
        let entry = |number: u64, runs: &[(u64, u64)]| {
            let mut content = Content::default();
            for (from, length) in runs {
                content.push(Run { at: content.size, from: *from, length: *length });
                content.size += length;
            }
            let (kind, meta) = (NodeKind::File, Meta::default());
            let node = Node { number, kind, meta, content, inside: None, has_attributes: false };
            Entry { path: number.to_string(), node, leads_to: None }
        };
        let counted = |entries: Vec<Entry>| {
            let mut not_kept = NotKept::default();
            let members = directory("s", "a", "s/a", entries, &mut not_kept);
            (not_kept.with_shared_blocks, not_kept.hard_links, data_bytes(&members))
        };
        let apart = [entry(1, &[(0, 100)]), entry(2, &[(100, 50), (300, 10)]), entry(1, &[(0, 100)])];
        assert_eq!(counted(apart.into()), (0, 1, 260), "a second name is a hard link");
        let sharing = [entry(1, &[(0, 100)]), entry(2, &[(500, 10), (90, 10)]), entry(3, &[(0, 100)])];
        assert_eq!(counted(sharing.into()), (2, 0, 220));
    }

    #[test]
    fn a_partition_and_a_range_inside_it_are_refused() {
        // An MBR whose first partition is 256 sectors from sector 64.
        let mut disk = vec![1; 1 << 20];
        disk[446..512].fill(0);
        disk[450] = 0x83;
        disk[454] = 64;
        disk[459] = 1;
        disk[510..512].copy_from_slice(&[0x55, 0xaa]);
        let image: Arc<dyn Image> = Arc::new(Bytes::new(disk));
        let images = Images::from([("a".into(), image)]);
        let found = |texts: &[&str]| {
            let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
            members(
                &[DataSet { name: "s".into(), extents: parse(&texts).unwrap() }],
                &images,
                &Stop::default(),
                &mut share(),
            )
            .map(|(members, _)| members)
        };
        for inside in ["a:0+32769", "a:64KiB+512", "a:163328+512"] {
            let why = found(&["a:p1", inside]).unwrap_err();
            assert!(
                why.starts_with("set 's': ") && why.contains("s/a@p1") && why.contains("overlap"),
                "{inside}: {why}"
            );
        }
        let beside = found(&["a:163840+512", "a:p1", "a:0+32KiB"]).unwrap();
        assert_eq!(beside.iter().map(|member| member.content.size).collect::<Vec<_>>(), [512, 128 << 10, 32 << 10]);
    }
}
