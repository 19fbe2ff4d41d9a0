//! From the extents of sets to the members of a backup, by reading the images they are taken from.

use super::{Part, SetExtent, partition};
use crate::content::{Content, Run};
use crate::files::{self, NodeKind, Place};
use crate::image::Image;
use crate::plan::{Images, Kind, Member};

/// A set with what it names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataSet {
    /// Its name.
    pub name: String,
    /// Its extents.
    pub extents: Vec<SetExtent>,
}

/// The members of all sets, as given.
///
/// # Errors
/// What cannot be backed up as it is named, and why; nothing was copied.
pub fn members(sets: &[DataSet], images: &Images) -> Result<Vec<Member>, String> {
    let mut members = Vec::new();
    for set in sets {
        let begin = members.len();
        for extent in &set.extents {
            let image = images.get(&extent.volume);
            let image = image.ok_or_else(|| format!("set '{}': there is no volume '{}'", set.name, extent.volume))?;
            let resolved = resolve(&set.name, extent, image.as_ref());
            members.extend(resolved.map_err(|why| format!("set '{}': '{extent}': {why}", set.name))?);
        }
        disjoint(members.get(begin..).unwrap_or_default()).map_err(|why| format!("set '{}': {why}", set.name))?;
    }
    Ok(members)
}

fn resolve(set: &str, extent: &SetExtent, image: &dyn Image) -> Result<Vec<Member>, String> {
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
            directory(
                set,
                volume,
                &format!("{set}/{name}{}", path.trim_end_matches('/')),
                Place { image, offset, length },
                path,
            )
        }
    }
}

fn directory(set: &str, volume: &str, prefix: &str, place: Place<'_>, path: &str) -> Result<Vec<Member>, String> {
    let mut members = Vec::new();
    for entry in files::list(place, path)? {
        let meta = entry.node.meta;
        let kind = match entry.node.kind {
            NodeKind::File => Kind::File(meta),
            NodeKind::Folder => Kind::Folder(meta),
            NodeKind::Link => Kind::Link(meta, entry.leads_to.unwrap_or_default()),
            // Devices, pipes and sockets hold nothing.
            NodeKind::Other => continue,
        };
        let name = if entry.path.is_empty() { prefix.to_owned() } else { format!("{prefix}/{}", entry.path) };
        let content = if entry.node.kind == NodeKind::File { entry.node.content } else { Content::default() };
        members.push(Member { set: set.into(), name, volume: volume.into(), kind, content });
    }
    Ok(members)
}

/// Ranges of one set that overlap: what partitions and directories are is known only now.
fn disjoint(members: &[Member]) -> Result<(), String> {
    let mut places: Vec<(&str, u64, u64, &str)> = Vec::new();
    for member in members {
        let name = member.name.as_str();
        match member.kind {
            Kind::Range { offset } => places.push((&member.volume, offset, offset + member.content.size, name)),
            _ => places.extend(
                member
                    .content
                    .runs
                    .iter()
                    .map(|run: &Run| (member.volume.as_str(), run.from, run.from + run.length, name)),
            ),
        }
    }
    places.sort_unstable();
    let clash = places.windows(2).find_map(|pair| {
        let [(volume, _, end, one), (other_volume, begin, _, other)] = pair else { return None };
        // Files may share blocks (reflinks), and hard links are the same file.
        let ranges = members
            .iter()
            .any(|member| (member.name == *one || member.name == *other) && matches!(member.kind, Kind::Range { .. }));
        (volume == other_volume && begin < end && ranges).then(|| format!("'{one}' and '{other}' overlap"))
    });
    clash.map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::image::memory::Bytes;
    use crate::sets::parse;

    fn resolved(texts: &[&str]) -> Result<Vec<Member>, String> {
        let texts: Vec<_> = texts.iter().map(|text| (*text).to_owned()).collect();
        let set = DataSet { name: "s".into(), extents: parse(&texts)? };
        let image: Arc<dyn Image> = Arc::new(Bytes::new(vec![1; 1 << 20]));
        members(&[set], &Images::from([("a".into(), image)]))
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
}
