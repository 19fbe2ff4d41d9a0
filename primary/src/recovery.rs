//! Starting a primary from what a clean stop, a kill, a loss of power or a failover left: journal, index, ring.
//!
//! | ring | meaning | what happens |
//! |---|---|---|
//! | none | first start, or memory was lost | a new one; what was not flushed is gone, as after any loss of power |
//! | of this generation | the process died | entries beyond the journal's tip are drained again |
//! | of an older generation | a role change came in between | set aside under another name: it is the lost tail |
//! | missing, and the machine was not restarted | an error: see `ring_place` |
//! | does not follow the journal | one of the two is not this group's | an error; nothing is touched |

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tidemark_common::catalog::CatalogError;
use tidemark_common::extent::Extent;
use tidemark_common::ids::{Generation, GroupId, Seq};
use tidemark_common::journal::{self, Journal, JournalError, JournalOptions, Position, Writer};
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::overlay::location::Location;
use tidemark_common::overlay::unapplied::{IndexError, Indexed, Spill, Unapplied};
use tidemark_common::record::{ControlRecord, FrameError, FrameHeader, MarkerRecord, crc32c};
use tidemark_common::storage::Disk;
use tidemark_common::updater::AppliedPosition;
use tidemark_common::wire::message::VolumeSpec;

use crate::ring::{ENTRY_BYTES, Entry, EntryKind, Ring, RingError};

/// Why a primary does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The journal.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The write buffer.
    #[error(transparent)]
    Ring(#[from] RingError),
    /// The catalogue.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The index of what the volumes do not have.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A frame.
    #[error("a frame of the journal is not sound: {0}")]
    Frame(#[from] FrameError),
    /// Ring and journal do not fit together.
    #[error(
        "the write buffer {} begins at write {found}, and the journal ends at write {tip}: one of them is not this \
         group's newest. Nothing was changed",
        path.display()
    )]
    RingGap {
        /// The ring's file.
        path: PathBuf,
        /// The first write in it.
        found: Seq,
        /// The last write in the journal.
        tip: Seq,
    },
    /// The ring of before a kill is neither where it was nor where it should be now.
    #[error(
        "the write buffer {} is not there, and holds writes that were acknowledged before the service was killed. Put it back \
         there{}, and restart the service (is the file system under ring_directory mounted?). When it is lost: `touch {}` and restart, \
         which starts without those of them that were not flushed",
        path.display(), or_to(path, configured), given_up.display()
    )]
    RingLost {
        /// Where it was.
        path: PathBuf,
        /// Where it is wanted now.
        configured: PathBuf,
        /// The file that gives it up.
        given_up: PathBuf,
    },
    /// The images of older moments.
    #[error("the images of this group cannot go on: {0}")]
    Images(#[from] tidemark_common::t0::T0Error),
    /// A thread could not be started.
    #[error("a thread could not be started: {0}")]
    Thread(#[from] std::io::Error),
}

/// The second place where a write buffer is looked for, when that is another.
fn or_to(path: &Path, configured: &Path) -> String {
    if path == configured { String::new() } else { format!(", or to {}", configured.display()) }
}

/// A journal that was taken over while its copy ran: nothing of it is read again.
#[derive(Debug)]
pub struct Taken {
    /// Its writer, behind the marker that is served.
    pub writer: Writer,
    /// The markers it holds, oldest first.
    pub markers: Vec<(Position, MarkerRecord)>,
    /// The volumes as of the last record of them in it.
    pub volumes: Option<Vec<VolumeSpec>>,
    /// What has been indexed of it already.
    pub indexed: Indexed,
}

impl Taken {
    /// Reads a journal from the disk.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn open(
        disk: Arc<dyn Disk>,
        folder: &Path,
        keeper: &GroupKeeper,
        options: JournalOptions,
    ) -> Result<Self, StartError> {
        let (mut markers, mut volumes) = (Vec::new(), None);
        let mut visit = |at: Position, _: &FrameHeader, control: Option<&ControlRecord>| match control {
            Some(ControlRecord::Marker(marker)) => markers.push((at, marker.clone())),
            Some(ControlRecord::Volumes { volumes: now } | ControlRecord::CopyBegin { volumes: now, .. }) => {
                volumes = Some(now.clone());
            }
            _ => {}
        };
        let opened = journal::open(disk, folder, keeper.id(), options, None, &mut visit)?;
        if let Some(torn) = opened.torn {
            tracing::warn!(group = %keeper.name(), at = ?torn.position, "a torn end of the journal was cut: it was never acknowledged as durable");
        }
        Ok(Self { writer: opened.writer, markers, volumes, indexed: Indexed::default() })
    }
}

/// Indexes what the journal has and the volumes do not, in bounded memory.
///
/// # Errors
/// [`StartError`].
pub(crate) fn index_unapplied(
    journal: &Arc<Journal>,
    applied: &AppliedPosition,
    indexed: Indexed,
    spill: &Spill,
) -> Result<Unapplied, StartError> {
    journal.check_goes_on_from(applied.position, applied.seq)?;
    let end = journal.durable_end().position;
    // Where the volumes have gone on, or the journal was cut, an index that was begun says nothing.
    let goes_on = (applied.position..=end).contains(&indexed.up_to());
    let mut indexed = if goes_on { indexed } else { Indexed::from(applied.position) };
    indexed.go_on(journal, end, spill)?;
    Ok(indexed.into_index())
}

/// A ring ready for use, the next number to give out, and the index with what the ring holds.
pub struct RecoveredRing {
    /// The ring; its tail is the first entry still to be drained.
    pub ring: Ring,
    /// The next sequence number.
    pub next_seq: Seq,
    /// Entries found that were never answered.
    pub void: u64,
    /// Entries that will be drained again.
    pub kept: u64,
}

/// Opens or makes the ring of a group.
///
/// # Errors
/// [`StartError`]: a ring that cannot be understood is never thrown away.
pub(crate) fn recover_ring(
    path: &Path,
    capacity: u64,
    group: GroupId,
    generation: Generation,
    tip: Seq,
    index: &mut Unapplied,
) -> Result<RecoveredRing, StartError> {
    let fresh = || -> Result<RecoveredRing, StartError> {
        let ring = Ring::create(path, capacity, group, generation)?;
        Ok(RecoveredRing { ring, next_seq: tip.next(), void: 0, kept: 0 })
    };
    let Some((ring, written_by)) = Ring::open(path, group)? else { return fresh() };
    if written_by != generation {
        let aside = path.with_extension(format!("generation-{written_by}"));
        std::fs::rename(path, &aside).map_err(|source| RingError::Io { action: "set aside", path: aside, source })?;
        return fresh();
    }
    let (head, tail) = ring.ends();
    let mut recovered = RecoveredRing { ring, next_seq: tip.next(), void: 0, kept: 0 };
    let mut at = tail;
    let mut begin = None;
    while at < head {
        let entry = recovered.ring.entry(at)?;
        if entry.kind != EntryKind::Pad && entry.seq > tip {
            if entry.seq != recovered.next_seq {
                return Err(StartError::RingGap { path: path.to_owned(), found: entry.seq, tip });
            }
            begin.get_or_insert(at);
            keep(&mut recovered, at, &entry, index)?;
        }
        at += entry.ring_bytes();
    }
    recovered.ring.set_tail(begin.unwrap_or(head));
    Ok(recovered)
}

fn keep(recovered: &mut RecoveredRing, at: u64, entry: &Entry, index: &mut Unapplied) -> Result<(), RingError> {
    recovered.next_seq = entry.seq.next();
    if !recovered.ring.is_committed(at)? {
        // Never answered: it keeps its number and does nothing.
        let void = Entry { extent: Extent { length: 0, ..entry.extent }, ..*entry };
        recovered.ring.write_entry(at, &void);
        let payload = recovered.ring.payload(at, entry).to_vec();
        recovered.ring.write_payload(at, &payload);
        recovered.ring.commit(at);
        recovered.void += 1;
        return Ok(());
    }
    if entry.kind == EntryKind::Data && crc32c(recovered.ring.payload(at, entry)) != entry.payload_check {
        return Err(recovered.ring.damaged("the checksum of a write's data does not match"));
    }
    let location = match entry.kind {
        EntryKind::Data => Location::Buffer { seq: entry.seq, position: at + ENTRY_BYTES },
        EntryKind::Zero { .. } | EntryKind::Pad => Location::BufferZero { seq: entry.seq },
    };
    index.insert(entry.extent, location);
    recovered.kept += 1;
    Ok(())
}
