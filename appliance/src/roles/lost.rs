//! What an old primary had written and never shipped (invariant 8): listed, exported, and discarded only on request.
//!
//! A tail is a folder with the segments of the old journal from where the histories parted, and with the regions that it no
//! longer reaches back to. It is read as any journal, and exported by the updater that writes volumes.

pub(crate) mod under_way;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tidemark_common::api::types::{ErrorBody, LostExport, LostRange, LostTail, LostVolume};
use tidemark_common::catalog::BeforeRecord;
use tidemark_common::ids::{GroupId, VolumeIndex, check_name};
use tidemark_common::journal::{self, Journal, JournalError, Position};
use tidemark_common::overlay::{Locate, Overlay};
use tidemark_common::record::{ControlRecord, FrameHeader, FrameKind, FrameView};
use tidemark_common::storage::Open;
use tidemark_common::updater::{AppliedPosition, Updater};
use tidemark_common::volumes::{VolumeFile, Volumes};
use tidemark_secondary::group::Secondary;
use tidemark_secondary::returned::is_rest_of;

use super::appliance::{Appliance, Group, failed, groups_folder, invalid, not_found, refused};
use super::lost_regions::runs;
use under_way::Exporting;

/// A range that was written; nothing more is asked of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Written;

impl Locate for Written {
    fn advance(self, _bytes: u64) -> Self {
        self
    }
}

/// Where the tails of a group lie, in its folder.
pub(crate) const LOST: &str = "lost";

/// Beside the tails of a group that was given up: what is needed to know of it.
const NOTE: &str = "given-up.json";

/// In a tail's folder: whose it was when it was kept. Its indexes may be those of other volumes by now.
const THEN: &str = "volumes.json";

/// In a tail's folder as long as it is not one.
const UNFINISHED: &str = "unfinished";

/// Whose a tail is.
#[derive(Debug, Serialize, Deserialize)]
struct Owner {
    name: String,
    /// Hexadecimal.
    id: String,
    /// Index, name and bytes of its volumes.
    volumes: Vec<(u32, String, u64)>,
    /// Where its tails are: what a group had may have been set aside with them.
    #[serde(skip)]
    lost: PathBuf,
}

impl Owner {
    fn id(&self) -> GroupId {
        let mut id = [0; 16];
        // A note with another id than one of 16 bytes is nobody's.
        let _ = hex::decode_to_slice(&self.id, &mut id);
        GroupId(id)
    }
}

/// An opened tail.
struct Tail {
    journal: Arc<Journal>,
    from: Position,
    /// The volumes that its own records name.
    named: Named,
    /// Its last marker.
    newest: u64,
}

/// Name and bytes of volumes, by their index.
type Named = BTreeMap<u32, (String, u64)>;

/// What was written, by the volume's index.
type Ranges = BTreeMap<u32, Vec<LostRange>>;

/// Where the last frame of a journal ends that does not follow something which did not arrive whole: folded frames without their record are of no
/// moment, and neither is what follows them before a marker.
fn whole_end(journal: &Arc<Journal>, from: Position) -> Result<Position, JournalError> {
    let (mut reader, mut end, mut is_open) = (journal.reader(from), from, false);
    while let Some(frame) = reader.next_frame()? {
        // What came later than the rest of it may be older than it.
        is_open = match frame.header.kind {
            FrameKind::Folded => true,
            FrameKind::Writes | FrameKind::Regions => is_open,
            FrameKind::Control => {
                let record = FrameView::new(&frame.bytes).ok().and_then(|view| ControlRecord::of(&view).ok());
                is_open && !matches!(record, Some(ControlRecord::Folded { .. } | ControlRecord::Marker(_)))
            }
        };
        if !is_open {
            end = reader.position();
        }
    }
    Ok(end)
}

impl Appliance {
    /// `lost list`.
    pub(crate) fn lost(&self, name: &str) -> Result<Vec<LostTail>, ErrorBody> {
        let mut tails = Vec::new();
        for owner in self.owners(name)? {
            let folder = &owner.lost;
            if folder.exists() {
                let names = self.disk.list(folder);
                let names = names.map_err(|error| failed(format!("read {}: {error}", folder.display())))?;
                let lost = names.into_iter().filter(|tail| self.is_lost(owner.id(), &folder.join(tail)));
                tails.extend(lost.map(|tail| self.describe(&owner, tail)));
            }
        }
        Ok(tails)
    }

    /// Whether what is kept in a folder was lost. What was being kept when a return was broken off, or a failover to an older marker, is of
    /// nothing lost as long as this side's generation is what it was: all of it is still where it was, and what is kept may be half of it.
    fn is_lost(&self, id: GroupId, tail: &Path) -> bool {
        !self.is_in_journal(id, tail) && !self.is_unfinished(id, tail)
    }

    fn is_unfinished(&self, id: GroupId, tail: &Path) -> bool {
        let mark = tail.join(UNFINISHED);
        let Some(group) = self.group_by_id(id).filter(|_| mark.exists()) else { return is_empty(tail) };
        let named = tail.file_name().and_then(|name| name.to_str()).and_then(parse);
        let is_lost = named.is_none_or(|(generation, _)| generation < group.keeper.generation().0);
        if is_lost {
            // It was killed right behind its last step.
            self.finish_tail_or_say(tail);
        }
        !is_lost
    }

    /// Whether a tail is the journal that is there still, under another name: a failover to an older marker was broken off before it cut that.
    /// Who opened the tail would write into the journal.
    fn is_in_journal(&self, id: GroupId, tail: &Path) -> bool {
        let files = |folder: &Path| -> BTreeSet<(u64, u64)> {
            let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
            entries.filter_map(|entry| entry.metadata().ok()).map(|found| (found.dev(), found.ino())).collect()
        };
        !files(tail).is_disjoint(&files(&self.journal_folder(id)))
    }

    /// Of a copy that runs: what a failover to an older marker had kept, and that did not come to its cut, is all in the journal. It goes: it would be
    /// taken for lost, at the latest when those segments are in use again.
    pub(crate) fn discard_uncut(&self, copy: &Secondary) {
        let (id, generation) = (copy.keeper().id(), copy.keeper().generation().0);
        let newest = copy.permitted().map_or(0, |permitted| permitted.marker.number);
        let is_held = |folder: &Path| {
            let named = folder.file_name().and_then(|name| name.to_str()).and_then(parse);
            // Nothing was taken over since, and the copy has more than that marker.
            named.is_some_and(|(kept_by, marker)| kept_by >= generation && newest > marker)
                && self.has_all_of(copy, folder)
        };
        let Ok(tails) = std::fs::read_dir(self.lost_folder(id)) else { return };
        let tails = tails.flatten().map(|tail| tail.path());
        // One that is the journal still is not opened.
        for folder in tails.filter(|folder| self.is_in_journal(id, folder) || is_held(folder)) {
            tracing::info!(folder = %folder.display(), "what a failover that was broken off had kept goes: nothing was lost by it");
            if let Err(error) = self.remove_unfinished(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "what is of nothing lost could not be removed");
            }
        }
    }

    /// Whether a copy's journal has what was kept, to its end: it may have been cut, and less have come again since.
    fn has_all_of(&self, copy: &Secondary, folder: &Path) -> bool {
        if folder.join(UNFINISHED).exists() || is_empty(folder) {
            return true;
        }
        let Ok(tail) = self.open_tail(copy.keeper().id(), folder) else { return false };
        let (end, received) = (tail.journal.durable_end(), copy.state().position().received_marker);
        tail.newest <= received && matches!(copy.journal().reader_at_chain(end.seq, end.chain), Ok(Some(_)))
    }

    /// What begins to be kept is no tail before that is ended.
    pub(crate) fn begin_tail(&self, folder: &Path) -> std::io::Result<()> {
        self.disk.open(&folder.join(UNFINISHED), Open::ExistingOrNew).and_then(|file| file.sync())?;
        self.disk.sync_folder(folder)
    }

    /// It is one, durably: before anything of it is cut away elsewhere.
    pub(crate) fn finish_tail(&self, folder: &Path) -> std::io::Result<()> {
        self.disk.remove(&folder.join(UNFINISHED))?;
        self.disk.sync_folder(folder)
    }

    /// The same, where this side's generation tells it already.
    pub(crate) fn finish_tail_or_say(&self, folder: &Path) {
        if let Err(error) = self.finish_tail(folder) {
            tracing::warn!(folder = %folder.display(), %error, "what was lost is listed all the same");
        }
    }

    /// What a change of roles that was broken off had begun to keep goes before this side's generation changes in another way.
    pub(crate) fn discard_unfinished(&self, group: &Group) {
        let (id, lost) = (group.keeper.id(), self.lost_folder(group.keeper.id()));
        let Ok(tails) = std::fs::read_dir(&lost) else { return };
        for folder in tails.flatten().map(|tail| tail.path()).filter(|folder| self.is_unfinished(id, folder)) {
            tracing::info!(folder = %folder.display(), "what a change of roles that was broken off had kept goes: nothing was lost by it");
            if let Err(error) = self.remove_unfinished(&folder) {
                tracing::warn!(folder = %folder.display(), %error, "what is of nothing lost could not be removed");
            }
        }
    }

    /// What is kept of nothing lost goes, and its mark last: of whatever a kill leaves of it nothing is called lost.
    pub(crate) fn remove_unfinished(&self, folder: &Path) -> std::io::Result<()> {
        // A full disk may take no mark, and gets its room.
        let _ = self.begin_tail(folder);
        let held = self.disk.list(folder)?;
        let mut held = held.iter().filter(|name| *name != UNFINISHED);
        held.try_for_each(|name| self.disk.remove(&folder.join(name)))?;
        std::fs::remove_dir_all(folder)
    }

    /// Those that have or had this name: the group that is there, and groups that were given up and left something.
    fn owners(&self, name: &str) -> Result<Vec<Owner>, ErrorBody> {
        let here = self.group(name).map(|group| self.owner(&group));
        let mut owners = self.forgotten(name);
        match here {
            Ok(here) => owners.insert(0, here),
            Err(error) if owners.is_empty() => return Err(error),
            Err(_) => {}
        }
        Ok(owners)
    }

    fn owner(&self, group: &Group) -> Owner {
        let record = group.keeper.get();
        let size = |name: &str| self.volume(name).map_or(0, |volume| volume.file.size());
        let volumes = record.volumes.into_iter().map(|member| {
            let size = size(&member.name);
            (member.index, member.name, size)
        });
        let (id, lost) = (hex::encode(record.id), self.lost_folder(GroupId(record.id)));
        Owner { name: record.name, id, volumes: volumes.collect(), lost }
    }

    fn forgotten(&self, name: &str) -> Vec<Owner> {
        let Ok(groups) = std::fs::read_dir(groups_folder(&self.directory)) else { return Vec::new() };
        let owners = groups.flatten().filter_map(|group| {
            let note = std::fs::read(group.path().join(NOTE)).ok()?;
            let owner = serde_json::from_slice::<Owner>(&note).ok()?;
            Some(Owner { lost: group.path().join(LOST), ..owner })
        });
        // Of one that has come back, it is the group itself that has what lies there.
        let is_left =
            |owner: &Owner| owner.lost != self.lost_folder(owner.id()) || self.group_by_id(owner.id()).is_none();
        owners.filter(|owner| owner.name == name && is_left(owner)).collect()
    }

    /// A group is given up: what it never shipped stays, and is found by its name.
    pub(crate) fn note_lost(&self, group: &Group) -> Result<(), ErrorBody> {
        let lost = self.lost_folder(group.keeper.id());
        let Some(folder) = lost.parent().filter(|_| lost.exists()) else { return Ok(()) };
        self.write_note(group, folder, NOTE).map_err(failed)
    }

    /// The group's volumes as they are now go with a tail that is being kept.
    pub(crate) fn note_volumes(&self, group: &Group, folder: &Path) -> Result<(), String> {
        self.write_note(group, folder, THEN)
    }

    /// Whose it is, durably.
    fn write_note(&self, group: &Group, folder: &Path, name: &str) -> Result<(), String> {
        let path = folder.join(name);
        let at = |error: std::io::Error| format!("write {}: {error}", path.display());
        let note = serde_json::to_vec(&self.owner(group)).map_err(|error| error.to_string())?;
        std::fs::write(&path, note).map_err(at)?;
        std::fs::File::open(&path).and_then(|file| file.sync_all()).map_err(at)?;
        self.disk.sync_folder(folder).map_err(at)
    }

    /// Whose a tail was when it was kept, where that was noted.
    fn owner_then(tail: &Path) -> Option<Owner> {
        let note = std::fs::read(tail.join(THEN)).ok()?;
        serde_json::from_slice(&note).ok()
    }

    /// The one of them that has a tail.
    fn owner_of(&self, group: &str, tail: &str) -> Result<Owner, ErrorBody> {
        check_name(tail).map_err(|error| invalid(error.to_string()))?;
        let has = |owner: &Owner| owner.lost.join(tail).is_dir();
        let none = || not_found(format!("there is no '{tail}': `tidemark lost list {group}` lists what is kept"));
        self.owners(group)?.into_iter().find(has).ok_or_else(none)
    }

    /// Whose the indexes of a tail are: by its own records of the group's volumes, and by the note from when it was kept. Of one
    /// without a note, what its records do not name goes by the volumes of now.
    fn volumes_then(owner: &Owner, folder: &Path, tail: &Tail) -> Named {
        let mut named = tail.named.clone();
        let then = Self::owner_then(folder);
        for (index, volume, size) in &then.as_ref().unwrap_or(owner).volumes {
            let known = (volume.clone(), *size);
            if then.is_some() {
                named.insert(*index, known);
            } else {
                named.entry(*index).or_insert(known);
            }
        }
        named
    }

    /// The ranges that a tail has of each volume, and how many writes that were.
    fn written(&self, folder: &Path, tail: &Tail, named: &Named) -> Result<(Ranges, u64), ErrorBody> {
        let mut fold: Overlay<Written> = Overlay::default();
        // In whole regions, and older than what the journal has.
        let regions = self.kept_regions(folder).map_err(failed)?;
        for (index, (_, size)) in named {
            runs(&regions, VolumeIndex(*index), *size).for_each(|run| fold.insert(run, Written));
        }
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
        let mut written = Ranges::new();
        for (extent, _) in fold.all() {
            let ranges = written.entry(extent.volume.0).or_default();
            match ranges.last_mut().filter(|last| last.offset + last.length == extent.offset) {
                Some(last) => last.length += extent.length,
                None => ranges.push(LostRange { offset: extent.offset, length: extent.length }),
            }
        }
        Ok((written, writes))
    }

    /// One that cannot be read is listed with the reason: it is kept all the same, and no other one is hidden by it.
    fn describe(&self, owner: &Owner, name: String) -> LostTail {
        let folder = owner.lost.join(&name);
        let (generation, after_marker) = parse(&name).unwrap_or_default();
        let ((volumes, writes), problem) = match self.held(owner, &folder) {
            Ok(held) => (held, None),
            Err(error) => ((Vec::new(), 0), Some(error.message)),
        };
        let folder = folder.display().to_string();
        LostTail { name, generation, after_marker, writes, folder, volumes, problem }
    }

    /// What a tail has of each volume, and how many writes that were.
    fn held(&self, owner: &Owner, folder: &Path) -> Result<(Vec<LostVolume>, u64), ErrorBody> {
        let tail = self.open_tail(owner.id(), folder)?;
        let named = Self::volumes_then(owner, folder, &tail);
        let (written, writes) = self.written(folder, &tail, &named)?;
        let volumes = written.into_iter().map(|(index, ranges)| LostVolume {
            name: named.get(&index).map(|(name, _)| name.clone()),
            index,
            bytes: ranges.iter().map(|range| range.length).sum(),
            ranges,
        });
        Ok((volumes.collect(), writes))
    }

    /// `lost export`: a sparse file, as large as the volume, with what the tail wrote and holes elsewhere.
    pub(crate) fn export_lost(&self, group: &str, name: &str, request: &LostExport) -> Result<(), ErrorBody> {
        let owner = self.owner_of(group, name)?;
        let folder = owner.lost.join(name);
        if !self.is_lost(owner.id(), &folder) {
            return Err(refused(format!("nothing of '{name}' was lost: group '{group}' has all of it")));
        }
        let path = Path::new(&request.to);
        if !path.is_absolute() {
            return Err(invalid(format!("'{}' is not an absolute path", request.to)));
        }
        let shown = self.lost_exports.begin(group, name, request)?;
        if path.exists() {
            return Err(refused(format!("{} is there already: name a file that is not", path.display())));
        }
        let tail = self.open_tail(owner.id(), &folder)?;
        shown.reaches(0, tail.journal.bytes_between(tail.from, tail.journal.durable_end().position));
        let named = Self::volumes_then(&owner, &folder, &tail);
        let (written, _) = self.written(&folder, &tail, &named)?;
        let index = index_of(&request.volume, &named, &written).map_err(|why| {
            let is_known = named.values().any(|(volume, _)| *volume == request.volume);
            let told = format!("'{name}' of group '{group}' {why}: `tidemark lost list {group}` lists what it has");
            if is_known { refused(told) } else { not_found(told) }
        })?;
        let (member, size) = named.get(&index).cloned().unwrap_or_else(|| (index.to_string(), 0));
        // Of a volume that is not known any more, as much as was written.
        let end = written.get(&index).and_then(|ranges| ranges.last()).map_or(0, |last| last.offset + last.length);
        let size = size.max(end);
        // Whatever stops it: what has that name is all of it.
        let part = PathBuf::from(format!("{}.tidemark-part", request.to));
        let exported = self.export_into(&part, (VolumeIndex(index), member, size), &folder, &tail, &shown);
        let named =
            |()| self.disk.rename(&part, path).map_err(|error| failed(format!("write {}: {error}", path.display())));
        let exported = exported.and_then(named);
        if exported.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        exported
    }

    fn export_into(
        &self,
        part: &Path,
        (index, member, size): (VolumeIndex, String, u64),
        folder: &Path,
        tail: &Tail,
        shown: &Exporting<'_>,
    ) -> Result<(), ErrorBody> {
        let at = |error: std::io::Error| failed(format!("write {}: {error}", part.display()));
        // As a kill leaves it.
        if part.exists() {
            std::fs::remove_file(part).map_err(at)?;
        }
        let file = self.disk.open(part, Open::New).map_err(at)?;
        file.grow(size).map_err(at)?;
        self.export_regions(folder, index, size, &*file).map_err(failed)?;
        let volumes = Arc::new(Volumes::default());
        volumes.insert(VolumeFile::new(index, member, file, size));
        let applied = AppliedPosition { position: tail.from, ..AppliedPosition::default() };
        let mut updater = Updater::new(Arc::clone(&tail.journal), Arc::clone(&volumes), applied);
        let end = whole_end(&tail.journal, tail.from).map_err(failed)?;
        let bytes_to = |position: Position| tail.journal.bytes_between(tail.from, position);
        while updater.apply_window(end).map_err(failed)?.is_some() {
            shown.reaches(bytes_to(updater.applied().position), bytes_to(end));
        }
        volumes.sync().map_err(|(_, error)| at(error))
    }

    /// `lost discard`.
    pub(crate) fn discard_lost(&self, group: &str, name: &str) -> Result<(), ErrorBody> {
        let folder = self.owner_of(group, name)?.lost.join(name);
        // Without it there is nothing to go back to.
        self.go_back_no_more(group, name)?;
        tracing::warn!(group, folder = %folder.display(), "what was never shipped is discarded, as asked");
        std::fs::remove_dir_all(&folder).map_err(|error| failed(format!("remove {}: {error}", folder.display())))?;
        // With the last one of a group that is no more goes what was kept to know of it.
        if let Some(lost) = folder.parent()
            && std::fs::remove_dir(lost).is_ok()
            && let Some(group) = lost.parent()
        {
            let _ = std::fs::remove_file(group.join(NOTE));
            let _ = std::fs::remove_dir(group);
        }
        Ok(())
    }

    fn open_tail(&self, id: GroupId, folder: &Path) -> Result<Tail, ErrorBody> {
        if !folder.is_dir() {
            return Err(not_found(format!(
                "there is no {}: `tidemark lost list` lists what is kept",
                folder.display()
            )));
        }
        let named = folder.file_name().and_then(|name| name.to_str()).and_then(parse);
        let after = named.map_or(0, |(_, marker)| marker);
        let (mut from, mut named, mut newest) = (Position::default(), Named::new(), 0);
        let mut visit = |at: Position, header: &FrameHeader, record: Option<&ControlRecord>| match record {
            Some(ControlRecord::Marker(marker)) => {
                newest = marker.number;
                if marker.number == after {
                    from = journal::end_of(at, header);
                }
            }
            Some(ControlRecord::Volumes { volumes }) => {
                named.extend(volumes.iter().map(|spec| (spec.index, (spec.name.clone(), spec.size))));
            }
            _ => {}
        };
        let disk = Arc::clone(&self.disk);
        let opened = journal::open(disk, folder, id, self.journal_options(), None, &mut visit).map_err(failed)?;
        let journal = Arc::clone(opened.writer.journal());
        Ok(Tail { from: from.max(journal.oldest()), journal, named, newest })
    }

    /// Whether a kept tail is still the rest of the journal that a side had before it returned.
    pub(crate) fn check_tail(&self, id: GroupId, before: &BeforeRecord) -> Result<(), String> {
        let tail = self.open_tail(id, &self.lost_folder(id).join(&before.tail)).map_err(|error| error.message)?;
        is_rest_of(&tail.journal, before)
    }
}

/// Which volume of a tail is wanted, by its name or, where that is not known or several had it, its index; or why none is exported: an
/// image without anything in it looks like one of a volume that nobody wrote.
fn index_of(wanted: &str, named: &Named, written: &Ranges) -> Result<u32, String> {
    let of_name: Vec<u32> = named.iter().filter(|(_, (name, _))| name == wanted).map(|(index, _)| *index).collect();
    let held: Vec<u32> = of_name.iter().copied().filter(|index| written.contains_key(index)).collect();
    let by_index = || wanted.parse::<u32>().ok().filter(|index| written.contains_key(index));
    match (held.as_slice(), of_name.is_empty()) {
        ([one], _) => Ok(*one),
        ([], true) => by_index().ok_or_else(|| format!("knows no volume '{wanted}'")),
        ([], false) => by_index().ok_or_else(|| format!("holds nothing of volume '{wanted}'")),
        (several, _) => Err(format!(
            "holds volume '{wanted}' more than once, for it left the group and joined it again: export each by its index, \
             --volume {}, the later ones over the earlier",
            several.iter().map(u32::to_string).collect::<Vec<_>>().join(", --volume ")
        )),
    }
}

/// Without its mark, a tail that holds nothing has only begun, or is all but gone.
fn is_empty(tail: &Path) -> bool {
    std::fs::read_dir(tail).is_ok_and(|mut held| held.next().is_none())
}

/// The name of a tail's folder.
pub(crate) fn tail_name(generation: u64, after_marker: u64) -> String {
    format!("generation-{generation}-after-marker-{after_marker}")
}

/// The first segment of the old journal that a tail needs, for the place where the histories parted, if it is held, and the one up to which all
/// is recorded as applied. That may lie further back, when the record of the rest failed: who goes back to what the tail holds goes on from
/// there.
pub(crate) fn first_segment(parted: Option<Position>, applied: Option<Position>) -> u64 {
    parted.map_or(0, |parted| parted.min(applied.unwrap_or_default()).segment)
}

fn parse(name: &str) -> Option<(u64, u64)> {
    let (generation, marker) = name.strip_prefix("generation-")?.split_once("-after-marker-")?;
    Some((generation.parse().ok()?, marker.parse().ok()?))
}

#[cfg(test)]
mod tests;
