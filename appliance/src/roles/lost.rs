//! What an old primary had written and never shipped (invariant 8): listed, exported, and discarded only on request.
//!
//! A tail is a folder with the segments of the old journal from where the histories parted. It is read as any journal, and
//! exported by the updater that writes volumes.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use tidemark_common::api::types::{ErrorBody, LostExport, LostRange, LostTail, LostVolume};
use tidemark_common::ids::{GroupId, VolumeIndex, check_name};
use tidemark_common::journal::{self, Journal, Position};
use tidemark_common::overlay::{Locate, Overlay};
use tidemark_common::record::{ControlRecord, FrameHeader, FrameView};
use tidemark_common::storage::Open;
use tidemark_common::updater::{AppliedPosition, Updater};
use tidemark_common::volumes::{VolumeFile, Volumes};

use super::appliance::{Appliance, Group, failed, invalid, not_found, refused};

/// A range that was written; nothing more is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written;

impl Locate for Written {
    fn advance(self, _bytes: u64) -> Self {
        self
    }
}

/// An opened tail.
struct Tail {
    journal: Arc<Journal>,
    from: Position,
}

impl Appliance {
    /// `lost list`.
    pub(crate) fn lost(&self, name: &str) -> Result<Vec<LostTail>, ErrorBody> {
        let group = self.group(name)?;
        let folder = self.lost_folder(group.keeper.id());
        if !folder.exists() {
            return Ok(Vec::new());
        }
        let names = self.disk.list(&folder).map_err(|error| failed(format!("read {}: {error}", folder.display())))?;
        names.into_iter().map(|tail| self.describe(&group, tail)).collect()
    }

    fn describe(&self, group: &Group, name: String) -> Result<LostTail, ErrorBody> {
        let id = group.keeper.id();
        let tail = self.open_tail(id, &name)?;
        let mut fold: Overlay<Written> = Overlay::default();
        let (mut writes, mut at) = (0, None);
        let mut reader = tail.journal.reader(tail.from);
        while let Some(frame) = reader.next_frame().map_err(failed)? {
            let before = at.unwrap_or_else(|| frame.header.seq_before());
            writes += frame.header.last_seq.0.saturating_sub(before.0);
            at = Some(frame.header.last_seq);
            if frame.header.kind.holds_writes() {
                let view = FrameView::new(&frame.bytes).map_err(failed)?;
                view.extents().for_each(|entry| fold.insert(entry.extent, Written));
            }
        }
        let members = group.keeper.get().volumes;
        let mut volumes: BTreeMap<u32, Vec<LostRange>> = BTreeMap::new();
        for (extent, _) in fold.all() {
            let ranges = volumes.entry(extent.volume.0).or_default();
            match ranges.last_mut().filter(|last| last.offset + last.length == extent.offset) {
                Some(last) => last.length += extent.length,
                None => ranges.push(LostRange { offset: extent.offset, length: extent.length }),
            }
        }
        let (generation, after_marker) = parse(&name).unwrap_or_default();
        let volumes = volumes.into_iter().map(|(index, ranges)| LostVolume {
            name: members.iter().find(|member| member.index == index).map(|member| member.name.clone()),
            index,
            bytes: ranges.iter().map(|range| range.length).sum(),
            ranges,
        });
        let folder = self.lost_folder(id).join(&name).display().to_string();
        Ok(LostTail { name, generation, after_marker, writes, folder, volumes: volumes.collect() })
    }

    /// `lost export`: a sparse file, as large as the volume, with what the tail wrote and holes elsewhere.
    pub(crate) fn export_lost(&self, group: &str, name: &str, request: &LostExport) -> Result<(), ErrorBody> {
        let found = self.group(group)?;
        let tail = self.open_tail(found.keeper.id(), name)?;
        let members = found.keeper.get().volumes;
        let member = members.iter().find(|member| member.name == request.volume);
        let member = member.ok_or_else(|| not_found(format!("group '{group}' has no volume '{}'", request.volume)))?;
        let path = Path::new(&request.to);
        if !path.is_absolute() {
            return Err(invalid(format!("'{}' is not an absolute path", request.to)));
        }
        if path.exists() {
            return Err(refused(format!("{} is there already: name a file that is not", path.display())));
        }
        let size = self.volume(&member.name)?.file.size();
        let at = |error: std::io::Error| failed(format!("write {}: {error}", path.display()));
        let file = self.disk.open(path, Open::New).map_err(at)?;
        file.grow(size).map_err(at)?;
        let volumes = Arc::new(Volumes::default());
        volumes.insert(VolumeFile::new(VolumeIndex(member.index), member.name.clone(), file, size));
        let applied = AppliedPosition { position: tail.from, ..AppliedPosition::default() };
        let mut updater = Updater::new(Arc::clone(&tail.journal), Arc::clone(&volumes), applied);
        let end = tail.journal.durable_end().position;
        while updater.apply_window(end).map_err(failed)?.is_some() {}
        volumes.sync().map_err(|(_, error)| at(error))
    }

    /// `lost discard`.
    pub(crate) fn discard_lost(&self, group: &str, name: &str) -> Result<(), ErrorBody> {
        let folder = self.tail_folder(self.group(group)?.keeper.id(), name)?;
        tracing::warn!(group, folder = %folder.display(), "what was never shipped is discarded, as asked");
        std::fs::remove_dir_all(&folder).map_err(|error| failed(format!("remove {}: {error}", folder.display())))
    }

    fn tail_folder(&self, id: GroupId, name: &str) -> Result<std::path::PathBuf, ErrorBody> {
        check_name(name).map_err(|error| invalid(error.to_string()))?;
        let folder = self.lost_folder(id).join(name);
        if folder.is_dir() {
            return Ok(folder);
        }
        Err(not_found(format!("there is no '{name}': `tidemark lost list` lists what is kept")))
    }

    fn open_tail(&self, id: GroupId, name: &str) -> Result<Tail, ErrorBody> {
        let folder = self.tail_folder(id, name)?;
        let after = parse(name).map_or(0, |(_, marker)| marker);
        let mut from = Position::default();
        let mut visit = |at: Position, header: &FrameHeader, record: Option<&ControlRecord>| {
            if matches!(record, Some(ControlRecord::Marker(marker)) if marker.number == after) {
                from = journal::end_of(at, header);
            }
        };
        let disk = Arc::clone(&self.disk);
        let opened = journal::open(disk, &folder, id, self.journal_options(), None, &mut visit).map_err(failed)?;
        let journal = Arc::clone(opened.writer.journal());
        Ok(Tail { from: from.max(journal.oldest()), journal })
    }
}

/// The name of a tail's folder.
pub(crate) fn tail_name(generation: u64, after_marker: u64) -> String {
    format!("generation-{generation}-after-marker-{after_marker}")
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (generation, marker) = name.strip_prefix("generation-")?.split_once("-after-marker-")?;
    Some((generation.parse().ok()?, marker.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tail_is_named_by_where_it_begins() {
        assert_eq!(parse(&tail_name(3, 41)), Some((3, 41)));
        assert_eq!(parse("something else"), None);
    }
}
