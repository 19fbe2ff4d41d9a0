//! A site changes its role, as an appliance there would do it: what an old primary does to return as the copy
//! (`appliance/src/roles/rejoin.rs`).

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_common::catalog::{
    Batch, Catalog, CopyRecord, GroupRecord, PairRecord, PairStateRecord, PartedRecord, RoleRecord,
};
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::{MarkerNumber, Seq};
use tidemark_common::journal::{self, Position};
use tidemark_common::record::{Chain, ControlRecord, MarkerRecord};
use tidemark_primary::differences::written_since;

use tidemark_primary::drain::Draining;
use tidemark_primary::group::Stages;
use tidemark_primary::writeback::WritingBack;

use crate::site::{CATALOG, GROUP, JOURNAL, Site};
use crate::went_back::before;

/// The number of a copy that is open until the new primary begins one.
pub(crate) const NOT_BEGUN: u64 = u64::MAX;

/// Steps of a primary that only drains and applies, at most.
const STEPS: usize = 20_000;

/// What an old primary has that who took over has not.
pub(crate) struct Tail {
    /// Where its journal is to be cut; `None`: it does not hold the place where the histories parted.
    pub(crate) cut: Option<Position>,
    pub(crate) dirty: Bitmap,
    pub(crate) writes: u64,
    /// The newest marker of the old journal.
    pub(crate) newest: Option<MarkerRecord>,
    /// The number behind its last write.
    pub(crate) next_seq: Seq,
}

impl Tail {
    pub(crate) const fn is_known(&self) -> bool {
        self.cut.is_some()
    }
}

impl Site {
    /// What its catalogue says of the group: of a process that is gone, whatever role it had.
    pub(crate) fn group_record(&self) -> GroupRecord {
        let twin = self.twin(None);
        let catalog = Catalog::open_simulated(&twin.disk, CATALOG.as_ref(), &twin.clock).expect("the catalogue");
        catalog.groups().expect("its groups").remove(0)
    }

    /// This old primary, which does not run and which hosts cannot reach, starts, drains, applies, and stops: the newest write it
    /// captured, and its volumes.
    pub(crate) fn settle_captured(&mut self) -> Result<(u64, Vec<Vec<u8>>), String> {
        let (primary, Stages { mut drain, mut writeback }) = self.open_primary()?;
        primary.refuse_hosts();
        for _ in 0..STEPS {
            self.clock.now_ns.fetch_add(500_000, Ordering::SeqCst);
            let drained = drain.step();
            let written = writeback.step(writeback.image.journal.durable_end().position);
            if drained == Draining::Ended || written == WritingBack::Failed {
                return Err(primary.problem().unwrap_or_else(|| "it cannot drain".into()));
            }
            let at = primary.status().positions;
            if at.captured_seq == at.journaled_seq && at.journaled_seq == at.applied_seq {
                let volumes = self.try_read_all(&primary).map_err(|error| format!("{error:?}"))?;
                primary.stop();
                writeback.step(writeback.image.journal.durable_end().position);
                return Ok((at.captured_seq, volumes));
            }
        }
        Err(format!("it does not drain: {:?}", primary.status()))
    }

    /// What lies in its journal behind the place where the histories parted.
    pub(crate) fn tail(&mut self, parted: &PartedRecord) -> Result<Tail, String> {
        let (disk, keeper, _) = self.open()?;
        let mut newest = None;
        let mut visit = |_: Position, _: &_, record: Option<&ControlRecord>| {
            if let Some(ControlRecord::Marker(marker)) = record {
                newest = Some(marker.clone());
            }
        };
        let opened = journal::open(disk, JOURNAL.as_ref(), GROUP, self.journal_options(), None, &mut visit);
        let writer = opened.map_err(|error| error.to_string())?.writer;
        let (journal, next_seq) = (Arc::clone(writer.journal()), writer.tip().seq.next());
        let found = journal.reader_at_chain(Seq(parted.seq), Chain(parted.chain)).map_err(|error| error.to_string())?;
        let from = found.as_ref().map_or_else(|| journal.oldest(), |reader| reader.position());
        let (dirty, writes, _) = written_since(&journal, from).map_err(|error| error.to_string())?;
        let marker = keeper.catalog().marker(GROUP, MarkerNumber(parted.marker)).map_err(|error| error.to_string())?;
        let cut = found.map(|reader| reader.position()).filter(|_| marker.is_some());
        Ok(Tail { cut, dirty, writes, newest, next_seq })
    }

    /// Then, in one step: from here on it is a copy, whatever happens.
    pub(crate) fn become_copy(&mut self, parted: &PartedRecord, generation: u64, tail: &Tail) -> Result<(), String> {
        let (disk, keeper, _) = self.open()?;
        let is_empty = tail.cut.is_some() && tail.dirty.is_empty();
        let mut batch = Batch::new();
        batch.delete_markers_after(GROUP, MarkerNumber(if is_empty { parted.marker } else { 0 }));
        batch.delete_history(GROUP);
        if tail.cut.is_none() {
            batch.delete_applied(GROUP);
        }
        let mut pairs = keeper.get().pairs;
        let before = before(&keeper.get(), parted, tail);
        for pair in &pairs {
            batch.delete_bitmap(GROUP, &pair.peer).map_err(|error| error.to_string())?;
        }
        for pair in &mut pairs {
            *pair = PairRecord::new(&pair.peer, 0);
            if is_empty {
                pair.state = PairStateRecord::CatchingUp;
            } else {
                let direct = before.is_none();
                pair.copy = Some(CopyRecord { number: NOT_BEGUN, direct, ..CopyRecord::first(1) });
                pair.before.clone_from(&before);
            }
        }
        let recorded = keeper.update_with(batch, |record| {
            record.role = RoleRecord::Secondary;
            record.generation = generation;
            record.generation_start_seq = parted.seq + 1;
            record.primary = Some([2; 32]);
            record.pairs = pairs;
            record.cut = tail.cut.map(|cut| (cut.segment, cut.offset));
        });
        recorded.map_err(|error| error.to_string())?;
        if tail.cut.is_none() {
            let removed = disk
                .list(JOURNAL.as_ref())
                .and_then(|names| names.iter().try_for_each(|name| disk.remove(&Path::new(JOURNAL).join(name))));
            removed.map_err(|error| error.to_string())?;
        }
        Ok(())
    }
}
