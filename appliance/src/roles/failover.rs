//! Failover: a secondary becomes primary, without asking anybody.
//!
//! No new frames; the newest permitted marker is the image, or an older one that is held (decision 9); generation + 1 durably;
//! the journal, which stays open, is cut behind the marker, and what is not yet applied is read there (decision 11).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{ErrorBody, Failover, FailoverReport};
use tidemark_common::catalog::{Batch, PartedRecord};
use tidemark_common::journal::Writer;
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::limits::INDEX_RANGES_MAX;
use tidemark_common::markers::info;
use tidemark_common::overlay::unapplied::{Indexed, Spill};
use tidemark_common::updater::AppliedPosition;
use tidemark_common::wire::message::VolumeSpec;
use tidemark_primary::group::Primary;
use tidemark_primary::recovery::Taken;
use tidemark_secondary::group::Secondary;
use tidemark_secondary::image_point::Asked;
use tidemark_secondary::permission::Permitted;
use tidemark_secondary::takeover::{self, TakeOverError};

use super::alive::refuse_living;
use super::appliance::{Appliance, Engine, Failure, Group, changing, failed, refused};
use super::image_moments::{asked, held_point};
use super::lost::tail_name;
use super::stop_copy::STOPS_WITHIN;

/// How long a stop waits for the other side to have a marker of the last writes.
const LAST_MARKER: Duration = Duration::from_secs(5);

/// Why a copy that is stopped was not taken over.
enum NotTaken {
    /// What came until the stop does not allow it: it is the copy as before.
    Refused(String),
    /// Its journal is whole: it is the copy as before.
    Uncut(String),
    /// Its journal could not be cut, or not to the end, and nothing more was recorded: it is the copy still, with the marker at least.
    Uncertain(String),
    /// What was recorded until then decides what a restart makes of it.
    Unended(String),
}

/// What a copy that is stopped, and not changed yet, is to serve.
struct Ready {
    permitted: Permitted,
    /// How large its volumes were there, of a moment that was asked for.
    then: Option<Arc<[VolumeSpec]>>,
    /// Where in the journal lies what the volumes lack of it.
    indexed: Indexed,
    /// Of an older marker: what lies behind it.
    kept: Option<PathBuf>,
    dropped_writes: u64,
    dropped_bytes: u64,
}

impl Appliance {
    /// `failover`.
    pub(crate) async fn fail_over(&self, name: &str, request: &Failover) -> Result<FailoverReport, ErrorBody> {
        if !request.force {
            self.give_time_to_call(&*self.group(name)?).await;
        }
        let _alone = self.changing.lock().await;
        self.fail_over_alone(name, request, STOPS_WITHIN).await
    }

    /// Under `changing`.
    pub(crate) async fn fail_over_alone(
        &self,
        name: &str,
        request: &Failover,
        stops_within: Duration,
    ) -> Result<FailoverReport, ErrorBody> {
        let begin = self.clock.monotonic();
        let group = self.group(name)?;
        let is_unended = matches!(&*group.engine.read(), Engine::Failed(failure) if failure.unended);
        if is_unended {
            self.go_on_with_unended(&group)?;
        }
        let secondary = copy_here(&group)?;
        let heard = secondary.state().last_heard();
        // One that is gone on with has looked before.
        if !request.force && !is_unended {
            refuse_living(name, heard.at, secondary.stood(), begin)?;
        }
        let goes_back = || secondary.permitted().is_none() && secondary.state().keeps_before();
        if secondary.permitted().is_none() && !goes_back() {
            return Err(refused(format!("group '{name}' has no usable copy here: its initial copy is not complete")));
        }
        // The volumes are not written beyond an older marker that is asked for.
        let older = match asked(request.marker, request.time)? {
            Asked::Newest => None,
            asked => {
                let now = self.clock.wall();
                let (permitted, point) = tokio::task::block_in_place(|| held_point(&secondary, name, asked, now))?;
                check_sizes(&secondary, name, &permitted)?;
                Some((permitted, point))
            }
        };
        self.stop_copy(&group, &secondary, "failed over", stops_within).await?;
        // Only now is it final: nothing comes in any more.
        if goes_back() {
            return self.go_back(&group, &secondary, begin);
        }
        let at = older.as_ref().map(|(at, _)| at.clone());
        let ready = tokio::task::block_in_place(|| self.make_ready(&group, &secondary, at));
        drop(older);
        let ready = ready.map_err(|why| self.not_taken(&group, why))?;
        let Ready { permitted, then, indexed, kept, dropped_writes, dropped_bytes } = ready;
        let taken = tokio::task::block_in_place(|| {
            self.take_over(&group, &permitted, then.as_deref(), &secondary, indexed, kept.as_deref())
        });
        let (generation, primary) = taken.map_err(|why| self.not_taken(&group, why))?;
        self.change_engine(&group, Engine::Primary(primary));
        let exports: Vec<String> = group.keeper.get().volumes.into_iter().map(|volume| volume.name).collect();
        let took = self.clock.monotonic().saturating_sub(begin);
        let newest_ms = heard.as_of.good_ms();
        let good_as_of_ms = if kept.is_some() { permitted.marker.time_ns / 1_000_000 } else { newest_ms };
        let further = Duration::from_millis(newest_ms.saturating_sub(good_as_of_ms).max(0).unsigned_abs());
        let age = heard.as_of.age(self.clock.monotonic(), self.clock.wall()) + further;
        tracing::warn!(
            group = name,
            generation,
            marker = permitted.marker.number,
            "failed over: this appliance is primary now"
        );
        Ok(FailoverReport {
            group: name.into(),
            generation,
            marker: info(&permitted.marker),
            good_as_of: jiff::Timestamp::from_millisecond(good_as_of_ms).unwrap_or_default(),
            age_seconds: age.as_secs_f64(),
            dropped_writes,
            dropped_bytes,
            missing_writes_known: heard.captured_seq.saturating_sub(permitted.marker.boundary_seq),
            took_ms: took.as_secs_f64() * 1000.0,
            exports,
            kept: kept.map(|path| path.display().to_string()),
            went_back: false,
        })
    }

    /// What a copy that is stopped is to serve: the marker that was asked for, or the newest. Nothing is cut yet.
    fn make_ready(&self, group: &Group, secondary: &Secondary, at: Option<Permitted>) -> Result<Ready, NotTaken> {
        let (name, state) = (group.keeper.name(), secondary.state());
        let Some(newest) = secondary.permitted() else {
            let why = format!("group '{name}' has no usable copy here any more: the copy under way is not complete");
            return Err(NotTaken::Refused(why));
        };
        let is_older = at.as_ref().is_some_and(|at| at.marker.number < newest.marker.number);
        let then = at.as_ref().and_then(|at| state.volumes_at(at.end));
        let permitted = at.unwrap_or(newest);
        // A volume may have come or grown with a marker that came until the stop: what is served must not have it then.
        if is_older && !state.tells_of(permitted.end) {
            return Err(NotTaken::Refused(format!(
                "group '{name}' was not failed over: a volume has come, gone or grown just now, behind marker {}. It is the copy as before: try again",
                permitted.marker.number
            )));
        }
        let dropped_writes = state.durable_end().seq.0.saturating_sub(permitted.marker.boundary_seq);
        let dropped_bytes = secondary.bytes_beyond(permitted.end);
        self.discard_unfinished(group);
        self.discard_uncut(secondary);
        // What cannot be read keeps nothing aside, and ends no image.
        let indexed = self.index_until(&group.keeper, &permitted, secondary).map_err(NotTaken::Uncut)?;
        let kept = is_older.then(|| self.keep_newer(group, &permitted)).transpose().map_err(NotTaken::Uncut)?;
        Ok(Ready { permitted, then, indexed, kept, dropped_writes, dropped_bytes })
    }

    /// A copy that is stopped runs again, when it is certain that it is one.
    fn not_taken(&self, group: &Group, why: NotTaken) -> ErrorBody {
        let name = group.keeper.name();
        match why {
            NotTaken::Refused(why) => {
                self.run_as_copy(group);
                refused(why)
            }
            NotTaken::Uncut(reason) => {
                self.run_as_copy(group);
                failed(format!("group '{name}' was not failed over: {reason}. It is the copy as before"))
            }
            NotTaken::Uncertain(reason) => {
                // Opened again, the journal says itself how far it goes.
                self.run_as_copy(group);
                if let Engine::Secondary(copy) = &*group.engine.read() {
                    self.discard_uncut(copy);
                }
                failed(format!("group '{name}' was not failed over: {reason}. It is the copy still: try again"))
            }
            NotTaken::Unended(reason) => {
                // The copy stands still: whatever was recorded until now decides what comes of it.
                let reason = format!(
                    "the failover did not end: {reason}. When that is mended, `tidemark failover {name}` goes on with it, and so does a restart of \
                     the service"
                );
                self.change_engine(group, Engine::Failed(Failure { unended: true, ..reason.clone().into() }));
                failed(format!("group '{name}': {reason}"))
            }
        }
    }

    /// A failover that did not end is gone on with from what was recorded of it, as by the next start of the service. Under `changing`.
    fn go_on_with_unended(&self, group: &Group) -> Result<(), ErrorBody> {
        let name = group.keeper.name();
        // Nobody knows whether the catalogue has what it said it could not take: it has what is gone by here before anything runs by it.
        let recorded = tokio::task::block_in_place(|| group.keeper.update_with(Batch::new(), |_| ()));
        recorded.map_err(|error| failed(format!("group '{name}': the failover did not end: {error}. Try again")))?;
        let engine = match tokio::task::block_in_place(|| self.start_engine(&group.keeper)) {
            Engine::Failed(failure) => Engine::Failed(Failure { unended: true, ..failure }),
            engine => engine,
        };
        if let Engine::Secondary(copy) = &engine {
            self.discard_uncut(copy);
        }
        let is_primary = matches!(engine, Engine::Primary(_));
        self.change_engine(group, engine);
        if is_primary {
            tracing::warn!(group = %name, "a failover that had not ended has: this appliance is primary now");
            return Err(refused(format!(
                "group '{name}' is primary here now: the failover before had come as far as that"
            )));
        }
        Ok(())
    }

    /// What lies behind an older marker is kept aside, to be a lost tail (invariant 8). Before the journal is cut: whatever stops this, the copy
    /// is as it was.
    fn keep_newer(&self, group: &Group, permitted: &Permitted) -> Result<PathBuf, String> {
        let id = group.keeper.id();
        let name = tail_name(group.keeper.generation().0, permitted.marker.number);
        let before = self.lost_folder(id).join(&name);
        if before.exists() {
            return Err(format!(
                "{} is what a failover to that marker had kept that was broken off, and the journal does not have all of it again. `tidemark lost \
                 export` saves what is needed of it; `tidemark lost discard {} {name}`, and try again",
                before.display(),
                group.keeper.name()
            ));
        }
        let kept = self.keep_segments(id, &name, permitted.end.segment, true).and_then(|folder| {
            self.note_volumes(group, &folder)?;
            Ok(folder)
        });
        if kept.is_err() {
            // Nothing of it is lost.
            let _ = self.remove_unfinished(&self.lost_folder(id).join(&name));
        }
        kept
    }

    /// Images of moments behind an older marker end. What they lose they do not get back.
    fn end_newer(&self, keeper: &GroupKeeper, permitted: &Permitted) -> Result<(), String> {
        let eras = self.eras(keeper.id()).map_err(|error| error.message)?;
        let why = format!("a failover went back to marker {}, which is older", permitted.marker.number);
        eras.end_after(permitted.end, &why).map_err(|error| format!("end the images of later moments: {error}"))
    }

    /// The stopped copy becomes a primary: its new generation, and what serves it. `then`: as large as its volumes are to be, where a moment
    /// was asked for. `indexed`: where in the journal lies what they lack of it. `kept`: what lies behind that.
    fn take_over(
        &self,
        group: &Group,
        permitted: &Permitted,
        then: Option<&[VolumeSpec]>,
        secondary: &Secondary,
        indexed: Indexed,
        kept: Option<&Path>,
    ) -> Result<(u64, Arc<Primary>), NotTaken> {
        let keeper = &group.keeper;
        let (parted, writer) = self.cut_off(keeper, permitted, then, secondary, kept)?;
        let volumes = secondary.volumes();
        self.discard_strays(&keeper.name(), &volumes);
        let recorded = takeover::record_role(permitted, parted, volumes, self.now_ns(), keeper);
        let generation = recorded.map_err(|error| NotTaken::Unended(error.to_string()))?;
        let taken = Taken {
            writer,
            markers: secondary.markers_of(permitted),
            volumes: then
                .map(<[VolumeSpec]>::to_vec)
                .or_else(|| secondary.state().permission().volumes().map(|volumes| volumes.to_vec())),
            indexed,
        };
        Ok((generation, self.start_primary(keeper, Some(taken)).map_err(NotTaken::Unended)?))
    }

    /// Where in the journal lies what the volumes lack of a marker. Before anything is changed: a primary whose journal cannot be read there
    /// does not start, and nothing older could be served any more.
    fn index_until(
        &self,
        keeper: &GroupKeeper,
        permitted: &Permitted,
        secondary: &Secondary,
    ) -> Result<Indexed, String> {
        // Volumes that have passed it hold just that.
        let applied = secondary.state().applied_position().position.min(permitted.end);
        let found = secondary.take_index(permitted);
        // What was applied behind the recorded place is not to be found in volumes that may have dropped it.
        let from = if secondary.files().are_in_doubt() {
            let recorded = keeper.catalog().applied(keeper.id()).map_err(|error| error.to_string())?;
            AppliedPosition::of(recorded).position.min(applied)
        } else {
            applied
        };
        let goes_on = (from..=permitted.end).contains(&found.up_to());
        let mut indexed = if goes_on { found } else { Indexed::from(from) };
        let path = self.journal_folder(keeper.id()).with_extension("index");
        let spill = Spill::new(Arc::clone(&self.disk), path, INDEX_RANGES_MAX);
        let Err(error) = indexed.go_on(secondary.journal(), permitted.end, &spill) else { return Ok(indexed) };
        let readable = indexed.up_to();
        let older = secondary.state().markers.newest_that(|end, _| (applied..=readable).contains(&end));
        let instead = older.map_or_else(String::new, |(_, older)| {
            let (name, number, time) = (keeper.name(), older.number, info(&older).time);
            format!(
                ". Marker {number} of {time:.3} lies before that: `tidemark failover {name} --at {number}` serves it"
            )
        });
        Err(format!("its journal cannot be read up to marker {}: {error}{instead}", permitted.marker.number))
    }

    /// Its journal ends behind the marker from here on, and what is kept of it is a lost tail. Not before: as long as nothing is cut, all of
    /// it is where it was.
    fn cut_off(
        &self,
        keeper: &GroupKeeper,
        permitted: &Permitted,
        then: Option<&[VolumeSpec]>,
        secondary: &Secondary,
        kept: Option<&Path>,
    ) -> Result<(PartedRecord, Writer), NotTaken> {
        let uncut = |reason: String| {
            if let Some(kept) = kept {
                let _ = self.remove_unfinished(kept);
            }
            NotTaken::Uncut(reason)
        };
        if let Some(then) = then {
            // Before the cut: killed here, the copy grows them again by its journal, from where it stands. Behind it, nothing would tell how
            // large they were.
            takeover::stand_at(permitted, keeper).map_err(|error| uncut(error.to_string()))?;
            let why = "a volume is as large as it was at the marker that is taken over";
            self.shrink_to(then, secondary.files(), why).map_err(uncut)?;
        }
        if let Some(kept) = kept {
            let finished = self.finish_tail(kept);
            finished.map_err(|error| uncut(format!("keep {}: {error}", kept.display())))?;
            // Last: what else fails before the cut costs no image.
            self.end_newer(keeper, permitted).map_err(uncut)?;
        }
        takeover::cut_behind(permitted, secondary.journal(), keeper).map_err(|error| match error {
            TakeOverError::Catalog(error) => uncut(error.to_string()),
            TakeOverError::Journal(error) => NotTaken::Uncertain(error.advised()),
        })
    }

    /// Stops everything that runs, in order: hosts are gone already.
    pub(crate) async fn stop_groups(self: &Arc<Self>) {
        let groups: Vec<_> = self.groups.read().values().cloned().collect();
        let mut stopping = Vec::new();
        for group in groups {
            let engine = group.engine.read().clone();
            let group = group.keeper.name();
            stopping.push(tokio::spawn(async move {
                match engine {
                    Engine::Primary(primary) => {
                        primary.refuse_hosts();
                        // A stop is no disaster: who fails over after it has everything.
                        if !matches!(tokio::time::timeout(LAST_MARKER, primary.hand_over_rest()).await, Ok(Ok(()))) {
                            tracing::warn!(group, "stopped before the other side had a marker of the last writes");
                        }
                        let _ = tokio::task::spawn_blocking(move || primary.stop()).await;
                    }
                    Engine::Secondary(secondary) => secondary.stop_at_once().await,
                    Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => {}
                }
            }));
        }
        for stopped in stopping {
            let _ = stopped.await;
        }
        // Of a ring that could not be drained, the folder stays.
        let _ = std::fs::remove_dir(self.ring_folder());
    }
}

/// The copy that is to be failed over.
fn copy_here(group: &Group) -> Result<Arc<Secondary>, ErrorBody> {
    let name = group.keeper.name();
    let why = match group.engine.read().clone() {
        Engine::Secondary(secondary) => return Ok(secondary),
        Engine::Primary(_) => format!("group '{name}' is primary here already"),
        Engine::Fenced { by } => {
            let told = || {
                format!(
                    "generation {by} runs on another appliance, which `tidemark status` names. `tidemark rejoin {name}` makes this side its copy"
                )
            };
            let why = group.unanswered(by).unwrap_or_else(told);
            format!(
                "group '{name}' is fenced here: {why}, `tidemark rejoin {name} --as-primary` goes on with what this side has"
            )
        }
        Engine::Changing { what, .. } => return Err(changing(&name, &what)),
        Engine::Failed(reason) => format!("group '{name}' does not run: {reason}"),
    };
    Err(refused(why))
}

/// How large the volumes were at a marker is known; or they are so now, at the newest there is.
fn check_sizes(secondary: &Secondary, name: &str, at: &Permitted) -> Result<(), ErrorBody> {
    let then = secondary.state().volumes_at(at.end);
    let number = at.marker.number;
    if then.is_some() || secondary.permitted().is_none_or(|newest| newest.marker.number <= number) {
        return Ok(());
    }
    let known = secondary
        .state()
        .oldest_with_sizes()
        .map_or_else(String::new, |oldest| format!("name marker {} or a newer one, or ", oldest.number));
    Err(refused(format!(
        "group '{name}': how large its volumes were at marker {number} is not known here any more, and they may have grown since. Nothing was \
         changed: {known}`tidemark clone create NAME --of {name} --at {number}` first, which shows what they held then and stays when a newer \
         marker is taken over"
    )))
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tidemark_common::api::types::CloneCreate;
    use tidemark_common::catalog::RoleRecord;
    use tidemark_common::journal::Position;
    use tidemark_common::record::{HEADER_BYTES, MarkerRecord};
    use tidemark_common::storage::Open;
    use tidemark_common::storage::disk::SystemDisk;
    use tidemark_common::storage::filter::{self, Filter};

    use super::*;
    use crate::roles::give_up::tests::add_copy_with_history;
    use crate::service::tests::{
        Faults, add_copy, add_primary, appliance, appliance_on, copy_of, volume_in_doubt, with_copy,
    };

    /// Recorded as primary, it would not start, and no older marker could be served.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_whose_journal_cannot_be_read_up_to_the_marker_stays_a_copy_and_names_an_older_one() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, group, places) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
        let segment = format!("{:016x}.segment", places[1].segment);
        let path = appliance.journal_folder(group.keeper.id()).join(segment);
        let file = appliance.disk.open(&path, Open::Existing).unwrap();
        // In what tells where it writes.
        let (mut byte, place) = ([0], places[1].offset + HEADER_BYTES as u64);
        file.read_exact_at(&mut byte, place).unwrap();
        file.write_all_at(&[byte[0] ^ 1], place).unwrap();
        let request = Failover { force: true, marker: None, time: None };
        let told = appliance.fail_over("g", &request).await.unwrap_err();
        assert!(told.message.contains("`tidemark failover g --at 1`"), "{told:?}");
        assert_eq!(group.keeper.get().role, RoleRecord::Secondary);
        copy_of(&group).stop().await;
    }

    /// Gives nothing out while it is set.
    #[derive(Default)]
    struct Unreadable(AtomicBool);

    impl Filter for Unreadable {
        fn before_read(&self, _: usize) -> io::Result<()> {
            if self.0.load(Ordering::Acquire) { Err(io::Error::other("it cannot be read")) } else { Ok(()) }
        }
    }

    /// They were gone, for a failover that was none.
    #[tokio::test(flavor = "multi_thread")]
    async fn images_of_later_moments_stay_when_the_journal_of_an_older_one_cannot_be_read() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let unreadable = Arc::new(Unreadable::default());
        let disk = filter::disk(Arc::new(SystemDisk), &unreadable);
        let appliance = appliance_on(directory.path(), &faults, disk);
        let places = add_copy_with_history(&appliance);
        appliance.start_groups().await.unwrap();
        let group = appliance.group("g").unwrap();
        let request =
            CloneCreate { name: "later".into(), of: "g".into(), marker: Some(3), time: None, space_bytes: None };
        appliance.create_clone(request).await.unwrap();
        unreadable.0.store(true, Ordering::Release);
        let request = Failover { force: true, marker: Some(2), time: None };
        let told = appliance.fail_over("g", &request).await.unwrap_err();
        unreadable.0.store(false, Ordering::Release);
        assert!(told.message.contains("cannot be read up to marker 2"), "{told:?}");
        assert_eq!(group.keeper.get().role, RoleRecord::Secondary);
        let later = appliance.image("later").unwrap();
        assert_eq!(later.broken(), None);
        // It is one of a later moment.
        appliance.eras(group.keeper.id()).unwrap().end_after(places[0], "as in a test").unwrap();
        assert!(later.broken().is_some());
        appliance.stop_groups().await;
    }

    /// Hosts read what lay there before, until all of it was applied again.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failover_reads_in_the_journal_what_a_volume_may_have_dropped() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, group, _) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
        let copy = copy_of(&group);
        copy.stop_at_once().await;
        let permitted = copy.permitted().unwrap();
        // The volumes were told all of it, and no sync was recorded since.
        copy.state().applied(AppliedPosition { position: permitted.end, ..AppliedPosition::default() });
        let to_read = || appliance.index_until(&group.keeper, &permitted, &copy).unwrap().ranges();
        assert_eq!(to_read(), (0, 0));
        copy.files().insert(volume_in_doubt());
        assert_eq!(to_read(), (1, 0));
    }

    /// Of what is not cut nothing is lost, and the copy goes on.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_was_kept_by_a_failover_that_cut_nothing_goes() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let (appliance, group, ()) = with_copy(directory.path(), &faults, add_copy).await;
        let copy = copy_of(&group);
        copy.stop().await;
        let kept = appliance.lost_folder(group.keeper.id()).join(tail_name(1, 5));
        std::fs::create_dir_all(&kept).unwrap();
        appliance.begin_tail(&kept).unwrap();
        let marker = MarkerRecord { number: 5, boundary_seq: 40, time_ns: 0, freeze_ns: 0, tag: None };
        let permitted = Permitted { marker, end: Position { segment: 1, offset: 8192 } };
        faults.full.store(true, Ordering::Release);
        let taken = appliance.take_over(&group, &permitted, None, &copy, Indexed::default(), Some(&kept));
        let Err(NotTaken::Uncut(_)) = taken else { panic!("it is the copy still") };
        assert!(!kept.exists(), "nothing was lost");
        faults.full.store(false, Ordering::Release);

        // As on a full disk: there is no segment to go on in, and what is kept is the journal that the copy goes on with.
        std::fs::create_dir_all(&kept).unwrap();
        appliance.begin_tail(&kept).unwrap();
        let journal = appliance.journal_folder(group.keeper.id());
        let segment =
            appliance.disk.list(&journal).unwrap().into_iter().find(|name| name.ends_with(".segment")).unwrap();
        std::fs::hard_link(journal.join(&segment), kept.join(&segment)).unwrap();
        let taken = appliance.take_over(&group, &permitted, None, &copy, Indexed::default(), Some(&kept));
        let Err(why @ NotTaken::Uncertain(_)) = taken else { panic!("no record ends there") };
        let told = appliance.not_taken(&group, why);
        assert!(told.message.contains("try again"), "{told:?}");
        assert!(!kept.exists(), "nothing was lost");
        let engine = group.engine.read().clone();
        let Engine::Secondary(again) = engine else { panic!("it runs") };
        again.stop().await;
    }

    /// As where the write buffer of the new primary found no room: the service had to be restarted, with all its other groups.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_failover_that_did_not_end_is_gone_on_with_by_another_one() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let group = appliance.group("g").unwrap();
        let stop = || {
            let engine = group.engine.read().clone();
            let Engine::Primary(primary) = engine else { panic!("it is primary") };
            tokio::task::block_in_place(|| primary.stop());
        };
        stop();
        let told = appliance.not_taken(&group, NotTaken::Unended("there is no room".into()));
        assert!(told.message.contains("no room") && told.message.contains("tidemark failover g"), "{told:?}");
        let request = Failover { force: false, marker: None, time: None };
        faults.full.store(true, Ordering::Release);
        appliance.fail_over("g", &request).await.unwrap_err();
        assert!(matches!(&*group.engine.read(), Engine::Failed(failure) if failure.unended), "it may be tried again");
        faults.full.store(false, Ordering::Release);
        let told = appliance.fail_over("g", &request).await.unwrap_err();
        assert!(told.message.contains("primary here now"), "{told:?}");
        stop();
    }
}
