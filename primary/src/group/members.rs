//! The volumes of a running group: they come, grow and leave.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tidemark_common::catalog::{CatalogError, GroupRecord, GroupVolume};
use tidemark_common::extent::Extent;
use tidemark_common::ids::Seq;
use tidemark_common::record::ControlRecord;
use tidemark_common::volumes::VolumeFile;
use tokio::sync::oneshot;
use tokio::task::block_in_place;

use super::Primary;
use crate::drain::RecordRequest;
use crate::ship::Hold;

/// What a change of the volumes waits for comes, or moves, within this time: all that operators change, failovers too, waits meanwhile.
const STANDS_MAX: Duration = Duration::from_secs(10);

/// Pairs that send nothing while this lives.
#[derive(Debug, Default)]
pub struct HeldPairs(Vec<Hold>);

/// Why nobody knows that a record is in the journal.
#[derive(Debug)]
pub(super) enum Unrecorded {
    /// It is not there, and will not be.
    Not(String),
    /// The drain has it, and stands.
    Perhaps(String),
}

impl Unrecorded {
    fn reason(self) -> String {
        let (Self::Not(reason) | Self::Perhaps(reason)) = self;
        reason
    }
}

impl Primary {
    /// Puts a record of the group's volumes into the journal, none smaller than pairs were told before; resolves when it is durable.
    ///
    /// # Errors
    /// What happened.
    pub async fn record_volumes(&self) -> Result<(), String> {
        self.record_members().await.map_err(Unrecorded::reason)
    }

    async fn record_members(&self) -> Result<(), Unrecorded> {
        self.record(ControlRecord::Volumes { volumes: self.image.volumes.announced_specs() }).await
    }

    /// Takes a volume into the running group: pairs copy it.
    ///
    /// # Errors
    /// What happened. Where that it has come could not be taken back, it is a member.
    pub async fn add_volume(&self, volume: VolumeFile) -> Result<(), String> {
        let extent = Extent { volume: volume.index, offset: 0, length: volume.size() };
        // Marked in the bitmaps first: a volume that belongs to the group is copied, whatever happens in between.
        let _held = self.hold_pairs(extent).await?;
        let member = GroupVolume { index: volume.index.0, name: volume.name.clone() };
        self.join(volume, member).await
    }

    async fn join(&self, volume: VolumeFile, member: GroupVolume) -> Result<(), String> {
        let index = volume.index;
        let recorded = self.change_record(|record| {
            record.next_volume_index = member.index.saturating_add(1);
            record.volumes.push(member.clone());
        });
        recorded.map_err(|error| error.to_string())?;
        self.image.volumes.insert(volume);
        match self.record_members().await {
            Ok(()) => Ok(()),
            // The copy that its pairs need begins with a record of the volumes, too.
            Err(Unrecorded::Perhaps(reason)) => {
                tracing::warn!(volume = %member.name, %reason, "a volume has come to the group, and that is not in its journal yet");
                Ok(())
            }
            Err(Unrecorded::Not(reason)) => {
                let undone = self.change_record(|record| record.volumes.retain(|other| *other != member));
                // Until that is recorded it is a member in every way: what hosts write to it reaches its copies.
                undone.map_err(|error| {
                    let name = &member.name;
                    format!(
                        "{reason}. Volume '{name}' is in the group all the same: that could not be taken back ({error})"
                    )
                })?;
                self.image.volumes.remove(index);
                Err(reason)
            }
        }
    }

    /// Makes room for a larger volume and tells the pairs, who learn of it before any write behind its old end. The volume
    /// keeps its size until [`Self::grow_volume`].
    ///
    /// # Errors
    /// What happened.
    pub async fn announce_size(&self, name: &str, size: u64) -> Result<HeldPairs, String> {
        let volume = self.member(name)?;
        let old = volume.size();
        let size = size.max(old);
        let text = |error: std::io::Error| format!("grow volume '{name}': {error}");
        // A device, or a file larger than the volume, has something there already, which no pair has.
        let grown = block_in_place(|| {
            let held = volume.file.size()?.min(size);
            volume.make_room(size).map(|()| held)
        });
        let held = grown.map_err(text)?;
        // A side that has the volume clears what it grows by, unless it is as large there already: grown alone before that side returned, or made
        // on a file that is.
        let may_differ = self.pairs().iter().any(|pair| pair.may_differ_behind(volume.index, old));
        let copied = if may_differ { size } else { held };
        let mut pairs = HeldPairs::default();
        if copied > old {
            pairs = self.hold_pairs(Extent { volume: volume.index, offset: old, length: copied - old }).await?;
        }
        // A copy that begins behind the record says that size, too.
        volume.announce(size);
        let mut volumes = self.image.volumes.specs();
        volumes.iter_mut().filter(|spec| spec.name == name).for_each(|spec| spec.size = size);
        let recorded = self.record(ControlRecord::Volumes { volumes }).await;
        // What may be in the journal, somebody may be told of.
        recorded.map_err(|why| {
            if matches!(why, Unrecorded::Not(_)) {
                volume.take_back_announced();
            }
            why.reason()
        })?;
        Ok(pairs)
    }

    /// A volume whose new size is announced and recorded: hosts may write behind its old end, and the pairs go on.
    ///
    /// # Errors
    /// What happened.
    pub fn grow_volume(&self, name: &str, size: u64, pairs: HeldPairs) -> Result<(), String> {
        let volume = self.member(name)?;
        block_in_place(|| volume.grow(size)).map_err(|error| format!("grow volume '{name}': {error}"))?;
        drop(pairs);
        Ok(())
    }

    /// Pairs that send nothing until they have marked a range; those that cannot mark it keep all from going on.
    async fn hold_pairs(&self, extent: Extent) -> Result<HeldPairs, String> {
        let mut held = HeldPairs::default();
        for pair in self.pairs() {
            let hold = tokio::time::timeout(STANDS_MAX, pair.hold_for(extent)).await;
            let stands = |_| format!("what is sent to '{}' does not end: nothing was changed, try again", pair.peer());
            held.0.push(hold.map_err(stands)??);
        }
        Ok(held)
    }

    fn member(&self, name: &str) -> Result<Arc<VolumeFile>, String> {
        self.image.volumes.by_name(name).ok_or_else(|| format!("the group has no volume '{name}'"))
    }

    /// Takes a volume out of the running group, once all that was written to it is in its file. No host may be writing it.
    ///
    /// # Errors
    /// What happened; the volume is a member as before.
    pub async fn remove_volume(&self, name: &str) -> Result<(), String> {
        let volume = self.member(name)?;
        self.applied_up_to(self.image.buffer.captured()).await?;
        // All that the system holds back of it may have to be written.
        block_in_place(|| volume.sync()).map_err(|error| format!("sync volume '{name}': {error}"))?;
        // What was written to it lies in the journal under an index: whoever reads that finds its name behind it.
        self.record_volumes().await?;
        let members = self.keeper.get().volumes;
        let leave = |record: &mut GroupRecord| record.volumes.retain(|member| member.name != name);
        self.change_record(leave).map_err(|error| error.to_string())?;
        let others = self.image.volumes.specs().into_iter().filter(|spec| spec.name != name).collect();
        if let Err(why) = self.record(ControlRecord::Volumes { volumes: others }).await {
            self.take_back_leaving(name, members, why)?;
        }
        // Only now: as long as it is in the set, what hosts write to it is written back.
        self.image.volumes.remove(volume.index);
        for pair in self.pairs() {
            // A pair does it again before it copies anything: after a kill just here, too.
            if let Err(error) = block_in_place(|| pair.let_go()) {
                tracing::warn!(volume = name, peer = %pair.peer(), %error, "what differs of a volume that left is still counted");
            }
        }
        Ok(())
    }

    /// Changes the group's record on a thread that may wait for the catalogue's disk.
    fn change_record(&self, change: impl FnOnce(&mut GroupRecord)) -> Result<(), CatalogError> {
        block_in_place(|| self.keeper.update(change))
    }

    /// A volume has left, as the catalogue has it, and the journal does not tell the pairs: it comes back. Where it cannot, or they may be told
    /// still, it has left, and they are told with the next record of the volumes.
    pub(super) fn take_back_leaving(
        &self,
        name: &str,
        members: Vec<GroupVolume>,
        why: Unrecorded,
    ) -> Result<(), String> {
        let reason = match why {
            Unrecorded::Perhaps(reason) => reason,
            Unrecorded::Not(reason) => match self.change_record(|record| record.volumes = members) {
                Ok(()) => return Err(reason),
                Err(error) => format!("{reason}; {error}"),
            },
        };
        tracing::warn!(volume = name, %reason, "a volume has left the group, and its pairs are told of that later");
        Ok(())
    }

    /// Puts a record into the journal; resolves when it is durable.
    async fn record(&self, record: ControlRecord) -> Result<(), Unrecorded> {
        self.record_within(STANDS_MAX, record).await
    }

    pub(super) async fn record_within(&self, limit: Duration, record: ControlRecord) -> Result<(), Unrecorded> {
        let (reply, done) = oneshot::channel();
        let taken = Arc::new(AtomicBool::new(false));
        self.desk.ask_record(RecordRequest { record, taken: Arc::clone(&taken), reply }, &self.image.buffer);
        match tokio::time::timeout(limit, done).await {
            Ok(Ok(recorded)) => recorded.map_err(Unrecorded::Not),
            Ok(Err(_)) => Err(Unrecorded::Not("the group is stopping".into())),
            Err(_) => {
                let reason = self.held_up().unwrap_or_else(|| format!("the journal has taken no record for {limit:?}"));
                Err(if taken.swap(true, Ordering::AcqRel) {
                    Unrecorded::Perhaps(reason)
                } else {
                    Unrecorded::Not(reason)
                })
            }
        }
    }

    /// Resolves when the volumes have everything up to a number.
    async fn applied_up_to(&self, seq: Seq) -> Result<(), String> {
        self.desk.want(seq, &self.image.buffer);
        let (mut seen, mut since) = (0, self.clock().monotonic());
        loop {
            let applied = self.writeback.applied_seq.load(Ordering::Acquire);
            if applied >= seq.0 {
                return Ok(());
            }
            if let Some(problem) = self.held_up() {
                return Err(problem);
            }
            let now = self.clock().monotonic();
            if applied != seen {
                (seen, since) = (applied, now);
            } else if now.saturating_sub(since) >= STANDS_MAX {
                return Err("what hosts have written is not written to the volumes: `tidemark status` says what stands, and `tidemark leases` what \
                            waits there"
                    .into());
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
}
