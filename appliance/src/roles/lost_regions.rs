//! What an old primary had written, never shipped, and no longer has in its journal (invariant 8): the regions that its pairs'
//! bitmaps know, as its volumes hold them when it returns.
//!
//! They lie in the tail's folder beside the segments: a bitmap that says which, and for each volume a sparse file as large as the
//! volume, with these regions and holes elsewhere. What the journal still has is newer, and goes over them. Beside each of these files lie
//! the digests of what it holds (invariant 9): tails of before there were any are believed.
//!
//! And what is in neither: what volumes hold that left the group meanwhile.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_common::catalog::GroupVolume;
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::journal::Position;
use tidemark_common::storage::{DiskFile, Open};
use tidemark_common::verify::{RegionDigest, digest};
use tidemark_common::wire::message::VolumeSpec;
use tidemark_primary::differences::Differences;

use super::appliance::{Appliance, Group};

/// Which regions are kept.
const BITMAP: &str = "regions";
/// Bytes copied at once, and of which there is a digest.
const PIECE: u64 = 1 << 20;

fn contents(volume: u32) -> String {
    format!("{volume:08x}.volume")
}

/// Where the digests of what a file holds are.
fn digests_of(file: &Path) -> PathBuf {
    let mut name = file.as_os_str().to_owned();
    name.push(".digests");
    name.into()
}

/// The digests of what a file holds; `None`: it has none.
fn known(file: &Path) -> io::Result<Option<Vec<u8>>> {
    match std::fs::read(digests_of(file)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

impl Appliance {
    /// What may never have reached one of the copies, and may be in no journal.
    pub(crate) fn unshipped_regions(group: &Group) -> Result<Bitmap, String> {
        let mut regions = Bitmap::default();
        for pair in group.keeper.get().pairs {
            let differences = Differences::open(Arc::clone(&group.keeper), &pair);
            differences.check().map_err(|error| error.to_string())?;
            regions.merge(&differences.bitmap());
        }
        Ok(regions)
    }

    /// Copies these regions of the volumes, to which everything was applied, into a tail's folder.
    pub(crate) fn keep_regions(&self, group: &Group, folder: &Path, regions: &Bitmap) -> Result<(), String> {
        let at = |path: &Path, error: io::Error| {
            format!("keep {}: {error}. It holds what was never shipped: make room, and try again", path.display())
        };
        for member in group.keeper.get().volumes {
            let volume = self.volume(&member.name).map_err(|error| error.message)?;
            let (index, size) = (VolumeIndex(member.index), volume.file.size());
            if runs(regions, index, size).next().is_none() {
                continue;
            }
            let path = folder.join(contents(member.index));
            let file = self.disk.open(&path, Open::New).map_err(|error| at(&path, error))?;
            let mut digests = Vec::new();
            let note = |_: u64, piece: &[u8]| {
                digests.extend(digest(piece));
                Ok(())
            };
            file.grow(size).map_err(|error| at(&path, error))?;
            copy(&*volume.file.file, &*file, regions, (index, size), note).map_err(|error| at(&path, error))?;
            let kept = file.sync().and_then(|()| self.keep_bytes(&digests_of(&path), &digests));
            kept.map_err(|error| at(&path, error))?;
        }
        let path = folder.join(BITMAP);
        let bytes = regions.encode();
        let written =
            self.keep_bytes(&digests_of(&path), &digest(&bytes)).and_then(|()| self.keep_bytes(&path, &bytes));
        written.and_then(|()| self.disk.sync_folder(folder)).map_err(|error| at(&path, error))
    }

    fn keep_bytes(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let file = self.disk.open(path, Open::New)?;
        file.write_all_at(bytes, 0)?;
        file.sync()
    }

    /// The regions that a tail's folder has; none in most.
    pub(crate) fn kept_regions(&self, folder: &Path) -> Result<Bitmap, String> {
        let path = folder.join(BITMAP);
        let at = |error: io::Error| format!("read {}: {error}", path.display());
        let bytes = match std::fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Bitmap::default()),
            read => read.map_err(at)?,
        };
        if known(&path).map_err(at)?.is_some_and(|known| known != digest(&bytes)) {
            return Err(format!(
                "{} is damaged: nobody knows which regions were kept. Restore the file",
                path.display()
            ));
        }
        Bitmap::decode(&bytes).map_err(|error| format!("read {}: {error}", path.display()))
    }

    /// Puts a volume's kept regions into a file as large as it.
    pub(crate) fn export_regions(
        &self,
        folder: &Path,
        volume: VolumeIndex,
        size: u64,
        target: &dyn DiskFile,
    ) -> Result<(), String> {
        let regions = self.kept_regions(folder)?;
        if runs(&regions, volume, size).next().is_none() {
            return Ok(());
        }
        let path = folder.join(contents(volume.0));
        let text = |error: io::Error| format!("export {}: {error}", path.display());
        let source = self.disk.open(&path, Open::Existing).map_err(text)?;
        let known = known(&path).map_err(text)?;
        let mut known = known.as_deref().map(|known| known.chunks(size_of::<RegionDigest>()));
        let check = |at: u64, piece: &[u8]| {
            let is_sound = known.as_mut().is_none_or(|known| known.next() == Some(digest(piece).as_slice()));
            is_sound.then_some(()).ok_or_else(|| io::Error::other(format!("it is damaged at {at}. Restore the file")))
        };
        copy(&*source, target, &regions, (volume, size), check).map_err(text)
    }
}

/// What a volume was given while it was in no group is in no journal, and what it was given when it had come again lies under another
/// index: who took over has to send all of one that is a member there still. In come the journal's records of volumes, in their order, and
/// where the histories parted: what the newest record before that names was there then, and may have left with the record behind it.
pub(crate) fn mark_those_that_left(
    dirty: &mut Bitmap,
    records: &[(Position, Vec<VolumeSpec>)],
    parted: Position,
    members: &[GroupVolume],
) {
    let before = records.partition_point(|(at, _)| *at < parted);
    for spec in records.iter().skip(before.saturating_sub(1)).flat_map(|(_, volumes)| volumes) {
        let stayed = members.iter().any(|member| member.index == spec.index && member.name == spec.name);
        if !stayed && spec.size > 0 {
            dirty.mark(Extent { volume: VolumeIndex(spec.index), offset: 0, length: spec.size });
        }
    }
}

/// The regions of one volume, within its size.
pub(crate) fn runs(regions: &Bitmap, volume: VolumeIndex, size: u64) -> impl Iterator<Item = Extent> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let run = regions.next_run(volume, at).filter(|run| run.volume == volume && run.offset < size)?;
        at = run.end();
        Some(Extent { length: run.length.min(size - run.offset), ..run })
    })
}

/// Copies the regions of one volume, each piece when it was seen.
fn copy(
    source: &dyn DiskFile,
    target: &dyn DiskFile,
    regions: &Bitmap,
    (volume, size): (VolumeIndex, u64),
    mut see: impl FnMut(u64, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut buffer = vec![0; usize::try_from(PIECE).unwrap_or(0)];
    for run in runs(regions, volume, size) {
        let mut at = run.offset;
        while at < run.end() {
            let length = usize::try_from(PIECE.min(run.end() - at)).unwrap_or(0);
            let piece = buffer.get_mut(..length).unwrap_or_default();
            source.read_exact_at(piece, at)?;
            see(at, piece)?;
            target.write_all_at(piece, at)?;
            at += length as u64;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Which of volumes 1 to 3 are copied whole, for members of now and records at these offsets; the histories parted at 100.
    fn left(members: &[(u32, &str)], records: &[(u64, &[(u32, &str)])]) -> Vec<u32> {
        let spec = |(index, name): &(u32, &str)| VolumeSpec { index: *index, name: (*name).into(), size: 1 << 20 };
        let records: Vec<_> = records
            .iter()
            .map(|(offset, volumes)| {
                (Position { segment: 1, offset: *offset }, volumes.iter().map(spec).collect::<Vec<_>>())
            })
            .collect();
        let members: Vec<_> =
            members.iter().map(|(index, name)| GroupVolume { index: *index, name: (*name).into() }).collect();
        let mut dirty = Bitmap::default();
        mark_those_that_left(&mut dirty, &records, Position { segment: 1, offset: 100 }, &members);
        (1..4).filter(|index| dirty.is_marked(VolumeIndex(*index), 0)).collect()
    }

    #[test]
    fn a_volume_that_left_is_copied_whole_wherever_the_marker_lies_between_its_records() {
        let (both, one) = ([(1, "v"), (2, "w")], [(1, "v")]);
        assert_eq!(left(&one, &[(120, &both), (130, &one)]), [2], "behind the marker");
        assert_eq!(left(&one, &[(90, &both), (130, &one)]), [2], "its last record as a member lies before the marker");
        assert_eq!(left(&one, &[(90, &both)]), [2], "the record behind it was never made");
        assert_eq!(left(&[(1, "v"), (3, "w")], &[(90, &both), (130, &one)]), [2], "it came again");
        assert!(left(&one, &[(80, &both), (90, &one)]).is_empty(), "both sides know");
        assert!(left(&both, &[(80, &one), (90, &both)]).is_empty(), "nobody left");
        assert!(left(&both, &[]).is_empty());
    }
}
