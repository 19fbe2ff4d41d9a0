//! A site changes its role, as an appliance there would do it: what an old primary does to return as the copy
//! (`appliance/src/roles/rejoin.rs`).

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_common::catalog::{Batch, Catalog, GroupRecord, PairRecord, PartedRecord};
use tidemark_common::ids::{MarkerNumber, Seq};
use tidemark_common::journal::{self, Position};
use tidemark_common::record::{Chain, ControlRecord};
use tidemark_primary::differences::written_since;
use tidemark_primary::drain::Draining;
use tidemark_primary::group::Stages;
use tidemark_primary::writeback::WritingBack;
use tidemark_secondary::returned::{Returning, Tail, record_return};

use crate::site::{CATALOG, GROUP, JOURNAL, Site};
use crate::went_back::KEPT;

/// Steps of a primary that only drains and applies, at most.
const STEPS: usize = 20_000;

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
        let (_, keeper, _) = self.open()?;
        let peer = keeper.get().pairs.first().map(|pair| pair.peer.clone()).unwrap_or_default();
        let pair = PairRecord::new(&peer, 0);
        let returning = Returning { primary: [2; 32], generation, parted: *parted, kept: KEPT.into(), pair };
        record_return(&keeper, Batch::new(), returning, tail).map_err(|error| error.to_string())
    }
}
