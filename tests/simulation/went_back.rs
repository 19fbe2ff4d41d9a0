//! A side that returned with writes of its own goes back to what it was, as long as the copy is not complete
//! (`appliance/src/roles/go_back.rs`, decision 18).

use std::path::Path;
use std::sync::Arc;

use tidemark_common::catalog::RoleRecord;
use tidemark_common::journal;
use tidemark_common::storage::{Disk, Open};
use tidemark_primary::group::{Primary, Stages};
use tidemark_secondary::returned::{Tail, is_rest_of, record_as_before, record_gone_back, was_before};

use crate::site::{GROUP, JOURNAL, Site};

/// Where a tail is kept.
pub(crate) const KEPT: &str = "/lost/tail";

impl Site {
    /// The tail's part of the journal, copied to where nothing replaces it.
    pub(crate) fn keep_tail(&mut self, tail: &Tail) -> Result<(), String> {
        let (disk, ..) = self.open()?;
        let first = tail.cut.map_or(0, |cut| cut.segment);
        let kept = || {
            disk.create_folder(KEPT.as_ref())?;
            empty(&*disk, KEPT)?;
            for name in disk.list(JOURNAL.as_ref())? {
                let number = journal::segment_number(&name);
                if number.is_none_or(|number| number < first) {
                    continue;
                }
                let source = disk.open(&Path::new(JOURNAL).join(&name), Open::Existing)?;
                let mut bytes = vec![0; usize::try_from(source.size()?).unwrap_or(0)];
                source.read_exact_at(&mut bytes, 0)?;
                let copy = disk.open(&Path::new(KEPT).join(&name), Open::New)?;
                copy.write_all_at(&bytes, 0)?;
                copy.sync()?;
            }
            disk.sync_folder(KEPT.as_ref())
        };
        kept().map_err(|error: std::io::Error| error.to_string())
    }

    /// A copy that is not complete is failed over to: it is the primary it was. `None`: there is nothing to go back to any more. Done again
    /// after a death, it comes to the same.
    pub(crate) fn go_back(&mut self) -> Result<Option<(Arc<Primary>, Stages)>, String> {
        if self.group_record().role == RoleRecord::Secondary {
            let (secondary, _) = self.open_secondary().map_err(|why| why.reason)?;
            if secondary.permitted().is_some() || !secondary.state().keeps_before() {
                return Ok(None);
            }
            drop(secondary);
            let (_, keeper, _) = self.open()?;
            let before = was_before(&keeper).ok_or("it is not known what it was")?;
            record_as_before(&keeper, &before, 0).map_err(|error| error.to_string())?;
        }
        self.put_back_journal()?;
        self.open_primary().map(Some)
    }

    /// The kept tail takes the place of the copy's journal.
    fn put_back_journal(&mut self) -> Result<(), String> {
        let (disk, keeper, _) = self.open()?;
        let Some(before) = was_before(&keeper) else { return Ok(()) };
        let replaced = || {
            let kept = disk.list(KEPT.as_ref())?;
            if !kept.is_empty() {
                empty(&*disk, JOURNAL)?;
                // One rename of a folder, which this disk has not: nobody dies between these.
                for name in kept {
                    self.disk.rename(&Path::new(KEPT).join(&name), &Path::new(JOURNAL).join(&name))?;
                }
            }
            disk.sync_folder(JOURNAL.as_ref())
        };
        replaced().map_err(|error: std::io::Error| error.to_string())?;
        let opened = journal::open(disk, JOURNAL.as_ref(), GROUP, self.journal_options(), None, &mut |_, _, _| {});
        is_rest_of(opened.map_err(|error| error.to_string())?.writer.journal(), &before)?;
        record_gone_back(&keeper).map_err(|error| error.to_string())
    }
}

fn empty(disk: &dyn Disk, folder: &str) -> std::io::Result<()> {
    disk.list(folder.as_ref())?.iter().try_for_each(|name| disk.remove(&Path::new(folder).join(name)))
}
