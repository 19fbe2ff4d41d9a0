//! A side that returned as the copy goes back to what it was, because its new primary is lost before the copy is complete
//! (decision 18, invariants 4 and 8).
//!
//! ```text
//! returned, its volumes as they were; the journal cut where the histories parted, and the copy staged behind that
//!   durably: primary, with the generation above that of the new primary; applied up to where they parted
//!   the journal gives way to the kept tail, which is the old journal from that place on
//!   durably: that is done
//! primary as before, and the other side is fenced when it is met
//! ```
//!
//! Killed in between, the next start does the rest: before the first step it is the copy as before, after it a primary.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{ErrorBody, FailoverReport, MarkerInfo};
use tidemark_common::catalog::BeforeRecord;
use tidemark_common::clock::from_unix_ns;
use tidemark_common::ids::GroupId;
use tidemark_common::journal;
use tidemark_common::keeper::GroupKeeper;
use tidemark_secondary::group::Secondary;
use tidemark_secondary::returned::{is_rest_of, record_as_before, record_gone_back, was_before};

use super::appliance::{Appliance, Engine, Group, failed, refused};

impl Appliance {
    /// Under `changing`, of a copy that is stopped and keeps what this side was before.
    pub(crate) fn go_back(
        &self,
        group: &Group,
        secondary: &Secondary,
        begin: Duration,
    ) -> Result<FailoverReport, ErrorBody> {
        let name = group.keeper.name();
        let (heard, received) = (secondary.state().last_heard(), secondary.state().durable_end());
        let recorded = tokio::task::block_in_place(|| self.record_as_before(group));
        let (generation, before) = match recorded {
            Ok(recorded) => recorded,
            Err(reason) => {
                // Nothing has changed.
                self.run_as_copy(group);
                return Err(failed(format!(
                    "group '{name}' cannot go back to what it was: {reason}. It is the copy as before"
                )));
            }
        };
        tracing::warn!(group = %name, generation, was = before.generation,
            "failed over before the copy was complete: this side goes on with what it was before it returned");
        self.start_serving(group)?;
        let time = from_unix_ns(before.marker_ns);
        let age = self.clock.wall().duration_since(time).unsigned_abs();
        let parted = before.parted.seq;
        let dropped_writes = received.seq.0.saturating_sub(parted);
        Ok(FailoverReport {
            generation,
            marker: MarkerInfo {
                number: before.marker,
                boundary_seq: before.next_seq.saturating_sub(1),
                time,
                tag: None,
            },
            good_as_of: time,
            age_seconds: age.as_secs_f64(),
            dropped_writes,
            dropped_bytes: secondary.bytes_beyond(before.parted.place()),
            missing_writes_known: heard.captured_seq.saturating_sub(parted).max(dropped_writes),
            took_ms: self.clock.monotonic().saturating_sub(begin).as_secs_f64() * 1000.0,
            exports: group.keeper.get().volumes.into_iter().map(|volume| volume.name).collect(),
            group: name,
            kept: None,
            went_back: true,
        })
    }

    /// One step: from here on it is primary.
    fn record_as_before(&self, group: &Group) -> Result<(u64, BeforeRecord), String> {
        let (keeper, id) = (&group.keeper, group.keeper.id());
        let before = was_before(keeper).ok_or("it is not known any more what that was")?;
        // Nothing is given up for a journal that is not there.
        self.check_tail(id, &before)?;
        self.discard_strays(&keeper.name(), &before.volumes);
        let generation = record_as_before(keeper, &before, self.now_ns()).map_err(|error| error.to_string())?;
        Ok((generation, before))
    }

    /// A kept tail that this side would go back to is no longer wanted: the copy takes the place of what this side was.
    pub(crate) fn go_back_no_more(&self, name: &str, tail: &str) -> Result<(), ErrorBody> {
        let Ok(group) = self.group(name) else { return Ok(()) };
        if was_before(&group.keeper).is_none_or(|before| before.tail != tail) {
            return Ok(());
        }
        match group.engine.read().clone() {
            Engine::Secondary(secondary) => secondary.give_up_before().map_err(failed),
            _ => Err(refused(format!(
                "group '{name}' does not run, and may need '{tail}' to do so: mend what `tidemark status` says first"
            ))),
        }
    }

    /// What a side that went back still has to do before it runs; done again after a kill, it comes to the same.
    pub(crate) fn put_back_journal(&self, keeper: &Arc<GroupKeeper>) -> Result<(), String> {
        let Some(before) = was_before(keeper) else { return Ok(()) };
        let (id, folder) = (keeper.id(), self.journal_folder(keeper.id()));
        let tail = self.tail_path(id, &before);
        let text = |what: &str, error: std::io::Error| {
            format!("put the journal back from {}: {what}: {error}", tail.display())
        };
        if tail.is_dir() {
            if folder.exists() {
                let names = self.disk.list(&folder);
                let mut names = names.map_err(|error| text("list the copy's", error))?.into_iter();
                let removed = names.try_for_each(|name| self.disk.remove(&folder.join(name)));
                removed.map_err(|error| text("remove the copy's", error))?;
            }
            // An empty folder gives way.
            self.disk.rename(&tail, &folder).map_err(|error| text("rename", error))?;
        } else {
            // It is in place already.
            let disk = Arc::clone(&self.disk);
            let opened = journal::open(disk, &folder, id, self.journal_options(), None, &mut |_, _, _| {});
            is_rest_of(opened.map_err(|error| error.to_string())?.writer.journal(), &before)?;
        }
        for changed in [self.lost_folder(id), self.group_folder(id)] {
            self.disk.sync_folder(&changed).map_err(|error| text("sync", error))?;
        }
        record_gone_back(keeper).map_err(|error| error.to_string())
    }

    fn tail_path(&self, id: GroupId, before: &BeforeRecord) -> PathBuf {
        self.lost_folder(id).join(&before.tail)
    }
}
