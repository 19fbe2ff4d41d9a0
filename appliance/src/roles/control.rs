//! The control API's side of the appliance.

use std::time::Duration;

use tidemark_common::api::backup::BackupControl;
use tidemark_common::api::control::{Control, Reply};
use tidemark_common::api::local_pair::LocalPairControl;
use tidemark_common::api::types::{
    CloneCreate, Cut, DrillReport, DrillRun, DrillSchedule, ErrorBody, ErrorKind, Failover, FailoverReport,
    GroupCreate, GroupDrills, GroupSet, GroupStatus, ImageStatus, LostExport, LostTail, MarkerInfo, PairState,
    PairStatus, PairTarget, PeerAdd, PeerStatus, Rejoin, RejoinReport, Status, Switchover, SwitchoverReport, T0Create,
    VerifyReport, VerifyRequest, VolumeCreate, VolumeOffer, VolumeStatus, Wait, WaitFor,
};
use tidemark_common::config::format_duration;
use tidemark_common::ids::{MarkerNumber, check_tag};
use tidemark_common::markers::{info, marker_of};
use tidemark_common::wire::message::Position;
use tidemark_primary::ship::Pair;
use tidemark_secondary::group::Secondary;

use super::appliance::{Appliance, Engine, failed, invalid, not_found, not_paired, refused};
use super::verify::down;

/// How often `wait` looks.
const LOOK: Duration = Duration::from_millis(10);

impl Appliance {
    fn pair_of(&self, group: &str, peer: &str) -> Result<std::sync::Arc<tidemark_primary::ship::Pair>, ErrorBody> {
        let pair = self.primary(group)?.pair(peer);
        pair.ok_or_else(|| not_found(not_paired(group, peer)))
    }

    /// How far each pair concerned is: the marker reached, newest known marker.
    fn reached(&self, group: &str, request: &Wait) -> Result<Vec<(String, u64)>, ErrorBody> {
        let engine = self.group(group)?.engine.read().clone();
        let of = |position| marker_of_side(request.wait_for, &position);
        match engine {
            Engine::Primary(primary) => {
                let pairs = primary.pairs();
                let wanted = pairs.iter().filter(|pair| request.to.as_deref().is_none_or(|to| to == pair.peer()));
                let reached: Vec<_> = wanted.map(|pair| (pair.peer().to_owned(), of(pair.remote()))).collect();
                if reached.is_empty() {
                    let to = request.to.as_deref().map_or(String::new(), |to| format!(" with '{to}'"));
                    return Err(refused(format!("group '{group}' is not paired{to}: there is nothing to wait for")));
                }
                Ok(reached)
            }
            Engine::Secondary(secondary) => {
                self.refuse_other_copy(group, request.to.as_deref(), &secondary)?;
                Ok(vec![("this side".into(), of(secondary.state().position()))])
            }
            Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => {
                Err(self.primary(group).err().unwrap_or_else(|| refused("the group does not run")))
            }
        }
    }

    /// A copy knows of itself alone. Its pair has the name of its primary; who waits for the copy by its own name means this side, too.
    fn refuse_other_copy(&self, group: &str, to: Option<&str>, copy: &Secondary) -> Result<(), ErrorBody> {
        let primary = self.primary_of(copy).unwrap_or_else(|| "unknown".into());
        match to.filter(|to| *to != primary && *to != self.config.name) {
            None => Ok(()),
            Some(to) => Err(refused(format!(
                "group '{group}' is secondary here, and what '{to}' has is not known here: run this on its primary, '{primary}', or leave --to out to \
                 wait for this side"
            ))),
        }
    }

    async fn wait_for(&self, group: &str, request: Wait) -> Result<MarkerInfo, ErrorBody> {
        let newest = self.group_status(group)?.marker.last;
        // A group that has none yet has its first one soon.
        let number = request.marker.unwrap_or(newest.max(1));
        let deadline = self.clock.monotonic() + Duration::from_millis(request.timeout_ms);
        loop {
            let reached = self.reached(group, &request)?;
            let behind = reached.iter().find(|(_, marker)| *marker < number || *marker == 0);
            let Some((peer, marker)) = behind else { return self.marker_info(group, number) };
            if self.clock.monotonic() >= deadline {
                let stands = self.pair_that_stands(group, peer).unwrap_or_default();
                let message = format!("{}{stands}", not_yet(&request, peer, *marker, number));
                return Err(ErrorBody::new(ErrorKind::Timeout, message));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Of a pair over which nothing comes now: what is the matter with it. On a copy there is one, that of this side.
    fn pair_that_stands(&self, group: &str, peer: &str) -> Option<String> {
        let pairs = self.group_status(group).ok()?.pairs;
        let pair = pairs.iter().find(|pair| pair.peer == peer).or_else(|| pairs.first())?;
        let follows = pair.connected && pair.state == PairState::Paired;
        (!follows).then(|| format!(". {}", down(group, pair)))
    }

    /// What is known of a marker; of one that is not known any more (long since applied, or folded), the oldest known that came later.
    fn marker_info(&self, group: &str, number: u64) -> Result<MarkerInfo, ErrorBody> {
        let found = self.group(group)?;
        let engine = found.engine.read().clone();
        let held = match &engine {
            Engine::Primary(primary) => primary.marker(Some(number)),
            Engine::Secondary(secondary) => secondary.state().markers.get(number).as_ref().map(info),
            Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => None,
        };
        if let Some(held) = held {
            return Ok(held);
        }
        if let Some(kept) = self.catalog.marker(found.keeper.id(), MarkerNumber(number)).map_err(failed)? {
            return Ok(info(&marker_of(&kept)));
        }
        let newest_first = match &engine {
            Engine::Primary(primary) => primary.markers(),
            Engine::Secondary(secondary) => secondary.state().markers.all(),
            Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => Vec::new(),
        };
        let later = newest_first.into_iter().rev().find(|marker| number > 0 && marker.number > number);
        let none =
            || not_found(format!("group '{group}' has no marker {number}: `tidemark markers {group}` lists them"));
        later.ok_or_else(none)
    }

    fn markers_of(&self, group: &str) -> Result<Vec<MarkerInfo>, ErrorBody> {
        let engine = self.group(group)?.engine.read().clone();
        match engine {
            Engine::Primary(primary) => Ok(primary.markers()),
            Engine::Secondary(secondary) => secondary.held_markers().map_err(failed),
            Engine::Fenced { .. } | Engine::Changing { .. } | Engine::Failed(_) => {
                Err(self.primary(group).err().unwrap_or_else(|| refused("the group does not run")))
            }
        }
    }
}

/// The newest marker a side has. While a copy runs, the frames that come behind it are of no use before all of it has come.
fn marker_of_side(wait_for: WaitFor, position: &Position) -> u64 {
    match wait_for {
        WaitFor::Received => position.received_marker.min(position.permitted_marker),
        WaitFor::Applied => position.applied_marker,
    }
}

/// What a side has, when the time to wait is over.
fn not_yet(request: &Wait, side: &str, marker: u64, number: u64) -> String {
    let waited = format_duration(Duration::from_millis(request.timeout_ms));
    let verb = if request.wait_for == WaitFor::Applied { "applied" } else { "received" };
    let newest = if marker == 0 { "no marker yet".into() } else { format!("marker {marker}") };
    format!("after {waited} {side} has {verb} {newest}, and not {number}")
}

/// A pair that ended with a change of roles does not go on by itself, and so cannot be held up either.
fn refuse_at_rest(group: &str, pair: &Pair) -> Result<(), ErrorBody> {
    at_rest(group, pair.peer(), pair.status().state).map_or(Ok(()), |told| Err(refused(told)))
}

fn at_rest(group: &str, peer: &str, state: PairState) -> Option<String> {
    let returns = match state {
        PairState::FailedOver => {
            format!("`tidemark rejoin {group}` on '{peer}' makes it the copy again. When it is gone for good: ")
        }
        PairState::Fenced => String::new(),
        _ => return None,
    };
    Some(format!(
        "the pair of group '{group}' with '{peer}' is {state}: nothing is shipped over it. {returns}`tidemark pair delete {group} --to \
         {peer}` ends it, and `tidemark pair create {group} --to {peer}` copies everything anew"
    ))
}

impl Control for Appliance {
    fn status(&self) -> Status {
        self.status_now()
    }

    fn peer_add(&self, request: PeerAdd) -> Reply<'_, PeerStatus> {
        Box::pin(self.add_peer(request))
    }

    fn peer_remove(&self, name: String) -> Reply<'_, ()> {
        Box::pin(async move { self.remove_peer(&name).await })
    }

    fn volume_create(&self, request: VolumeCreate) -> Reply<'_, VolumeStatus> {
        Box::pin(self.create_volume(request))
    }

    fn volume_delete(&self, name: String) -> Reply<'_, ()> {
        Box::pin(async move { self.delete_volume(&name).await })
    }

    fn volume_offer(&self, name: String, request: VolumeOffer) -> Reply<'_, VolumeStatus> {
        Box::pin(async move { self.offer_volume(&name, &request).await })
    }

    fn volume_resize(&self, name: String, size: u64) -> Reply<'_, VolumeStatus> {
        Box::pin(async move { self.resize_volume(&name, size).await })
    }

    fn group_create(&self, request: GroupCreate) -> Reply<'_, GroupStatus> {
        Box::pin(self.create_group(request))
    }

    fn group_add(&self, group: String, volume: String, force: bool) -> Reply<'_, GroupStatus> {
        Box::pin(async move { self.add_to_group(&group, &volume, force).await })
    }

    fn group_set(&self, group: String, request: GroupSet) -> Reply<'_, GroupStatus> {
        Box::pin(async move { self.set_group(&group, &request).await })
    }

    fn group_delete(&self, name: String) -> Reply<'_, ()> {
        Box::pin(async move { self.delete_group(&name).await })
    }

    fn group_remove(&self, group: String, volume: String) -> Reply<'_, GroupStatus> {
        Box::pin(async move { self.remove_from_group(&group, &volume).await })
    }

    fn pair_create(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        Box::pin(async move { self.create_pair(&group, &request.to).await })
    }

    fn pair_suspend(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        Box::pin(async move {
            let pair = self.pair_of(&group, &request.to)?;
            refuse_at_rest(&group, &pair)?;
            pair.suspend().map_err(failed)?;
            Ok(pair.status())
        })
    }

    fn pair_resume(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        Box::pin(async move {
            let pair = self.pair_of(&group, &request.to)?;
            refuse_at_rest(&group, &pair)?;
            if pair.goes_on() {
                // Its connection stays.
                let status = pair.status();
                let why = status.reason.map_or_else(String::new, |reason| format!(". {reason}"));
                return Ok(PairStatus {
                    reason: Some(format!("it was not suspended: nothing was changed{why}")),
                    ..status
                });
            }
            pair.resume().map_err(failed)?;
            Ok(pair.status())
        })
    }

    fn pair_in_place(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        Box::pin(async move {
            let pair = self.pair_of(&group, &request.to)?;
            refuse_at_rest(&group, &pair)?;
            pair.resume_in_place().map_err(failed)?;
            Ok(pair.status())
        })
    }

    fn pair_release(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        Box::pin(async move {
            let pair = self.pair_of(&group, &request.to)?;
            tokio::task::block_in_place(|| pair.release()).map_err(refused)?;
            Ok(pair.status())
        })
    }

    fn pair_delete(&self, group: String, request: PairTarget, force: bool) -> Reply<'_, ()> {
        Box::pin(async move { self.delete_pair(&group, &request.to, force).await })
    }

    fn cut(&self, group: String, request: Cut) -> Reply<'_, MarkerInfo> {
        Box::pin(async move {
            request.tag.as_deref().map_or(Ok(()), check_tag).map_err(|error| invalid(error.to_string()))?;
            self.primary(&group)?.cut(request.tag).await.map_err(failed)
        })
    }

    fn markers(&self, group: String) -> Reply<'_, Vec<MarkerInfo>> {
        Box::pin(async move { self.markers_of(&group) })
    }

    fn wait(&self, group: String, request: Wait) -> Reply<'_, MarkerInfo> {
        Box::pin(async move { self.wait_for(&group, request).await })
    }

    fn failover(&self, group: String, request: Failover) -> Reply<'_, FailoverReport> {
        Box::pin(async move { self.fail_over(&group, &request).await })
    }

    fn lost(&self, group: String) -> Reply<'_, Vec<LostTail>> {
        Box::pin(async move { tokio::task::block_in_place(|| Appliance::lost(self, &group)) })
    }

    fn lost_export(&self, group: String, tail: String, request: LostExport) -> Reply<'_, ()> {
        Box::pin(async move { tokio::task::block_in_place(|| self.export_lost(&group, &tail, &request)) })
    }

    fn lost_discard(&self, group: String, tail: String) -> Reply<'_, ()> {
        Box::pin(async move {
            // A failover may be about to go back to it, or a return to keep it.
            let _alone = self.changing.lock().await;
            tokio::task::block_in_place(|| self.discard_lost(&group, &tail))
        })
    }

    fn verify(&self, group: String, request: VerifyRequest) -> Reply<'_, VerifyReport> {
        Box::pin(async move { Appliance::verify(self, &group, &request).await })
    }

    fn rejoin(&self, group: String, request: Rejoin) -> Reply<'_, RejoinReport> {
        Box::pin(async move { Appliance::rejoin(self, &group, &request).await })
    }

    fn switchover(&self, group: String, request: Switchover) -> Reply<'_, SwitchoverReport> {
        Box::pin(async move { self.switch_over(&group, &request).await })
    }

    fn t0_create(&self, request: T0Create) -> Reply<'_, ImageStatus> {
        Box::pin(self.create_t0(request))
    }

    fn clone_create(&self, request: CloneCreate) -> Reply<'_, ImageStatus> {
        Box::pin(self.create_clone(request))
    }

    fn image_delete(&self, name: String, force: bool) -> Reply<'_, ()> {
        Box::pin(async move { self.delete_image(&name, force).await })
    }

    fn drill_run(&self, group: String, request: DrillRun) -> Reply<'_, DrillReport> {
        Box::pin(async move { self.run_drill(&group, request, None).await })
    }

    fn drill_cancel(&self, group: String) -> Reply<'_, DrillReport> {
        Box::pin(async move { self.cancel_drill(&group).await })
    }

    fn drills(&self) -> Reply<'_, Vec<DrillReport>> {
        Box::pin(async move { self.listed_drills() })
    }

    fn drill(&self, id: u64) -> Reply<'_, DrillReport> {
        Box::pin(async move { self.past_drill(id) })
    }

    fn drill_schedule(&self, group: String, request: DrillSchedule) -> Reply<'_, GroupDrills> {
        Box::pin(async move { self.schedule_drill(&group, &request) })
    }

    fn drill_unschedule(&self, group: String) -> Reply<'_, ()> {
        Box::pin(async move { self.unschedule_drill(&group) })
    }

    fn backups(&self) -> &dyn BackupControl {
        self
    }

    fn local_pairs(&self) -> &dyn LocalPairControl {
        self
    }

    fn metrics(&self) -> String {
        self.metrics.render(&self.status_now())
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;
    use std::sync::Arc;

    use tidemark_common::catalog::{GroupRecord, KeptMarkerRecord, PeerRecord};
    use tidemark_common::ids::GroupId;

    use super::*;
    use crate::service::tests::{Faults, appliance, copy_record, with_copy};

    /// Who waited for a marker to be over there, and lost the primary then, did not find it.
    #[test]
    fn what_comes_while_a_copy_runs_is_not_received_before_the_copy_is_complete() {
        let during =
            Position { copy: 3, received_marker: 57, permitted_marker: 40, applied_marker: 40, ..Position::default() };
        let behind = Position { copy: 0, permitted_marker: 57, ..during };
        let reached = |position| [WaitFor::Received, WaitFor::Applied].map(|what| marker_of_side(what, position));
        assert_eq!((reached(&during), reached(&behind)), ([40, 40], [57, 40]));
    }

    /// It was advised to delete the pair, which copies everything anew, where a return copies what differs.
    #[test]
    fn a_pair_that_was_failed_over_goes_on_with_a_return() {
        let told = at_rest("db", "east", PairState::FailedOver).unwrap();
        let (returns, anew) = (told.find("`tidemark rejoin db` on 'east'"), told.find("`tidemark pair delete db"));
        assert!(returns.is_some() && returns < anew, "{told}");
        assert!(!at_rest("db", "east", PairState::Fenced).unwrap().contains("rejoin"));
        assert_eq!(at_rest("db", "east", PairState::Suspended), None);
    }

    #[test]
    fn a_wait_says_what_a_side_has_in_the_words_of_people() {
        let request = |timeout_ms| Wait { to: None, marker: None, wait_for: WaitFor::Applied, timeout_ms };
        assert_eq!(not_yet(&request(1000), "east", 0, 32), "after 1s east has applied no marker yet, and not 32");
        assert_eq!(not_yet(&request(250), "east", 7, 32), "after 250ms east has applied marker 7, and not 32");
    }

    /// With a copy of group 'g' of 'east', which has not called.
    async fn copy_of_east(directory: &Path) -> Arc<Appliance> {
        let add = |appliance: &Appliance| {
            let east = PeerRecord { name: "east".into(), id: [1; 32], address: None };
            appliance.peers.write().insert("east".into(), east);
            let record = GroupRecord { primary: Some([1; 32]), ..copy_record("g", [7; 16]) };
            appliance.catalog.put_group(&record).unwrap();
        };
        with_copy(directory, &Arc::default(), add).await.0
    }

    /// Whoever waited over a pair that stands was told that there was not enough time.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_wait_over_a_pair_that_stands_says_so() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = copy_of_east(directory.path()).await;
        let request = Wait { to: None, marker: Some(32), wait_for: WaitFor::Applied, timeout_ms: 0 };
        let told = appliance.wait_for("g", request).await.unwrap_err();
        assert_eq!(told.kind, ErrorKind::Timeout);
        assert!(told.message.contains("the pair of group 'g' with 'east'"), "{}", told.message);
        assert!(told.message.contains("not connected"), "{}", told.message);
        appliance.stop_groups().await;
    }

    /// What one copy has said nothing of the other, and a script went on as if both had it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_does_not_answer_for_another_one() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = copy_of_east(directory.path()).await;
        let ask = |to: Option<&str>| {
            let to = to.map(str::to_owned);
            appliance.reached("g", &Wait { to, marker: None, wait_for: WaitFor::Applied, timeout_ms: 0 })
        };
        for side in [None, Some("east"), Some("alone")] {
            ask(side).unwrap();
        }
        let refused = ask(Some("north")).unwrap_err();
        assert!(refused.kind == ErrorKind::Refused && refused.message.contains("its primary, 'east'"), "{refused:?}");
        appliance.stop_groups().await;
    }

    /// Of many markers that were cut since, nobody knows the number, the time and the tag any more: a copy has it all the same.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_marker_that_is_passed_and_not_known_any_more_is_no_reason_to_fail() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let (id, known) = (GroupId([7; 16]), KeptMarkerRecord { number: 41, boundary_seq: 0, time_ns: 0, tag: None });
        appliance.catalog.put_group(&GroupRecord::new("g", id.0)).unwrap();
        appliance.catalog.put_markers(id, &[known]).unwrap();
        appliance.start_groups().await.unwrap();
        assert_eq!(appliance.marker_info("g", 41).unwrap().number, 41);
        assert_eq!(appliance.marker_info("g", 7).unwrap().number, 41);
        for never in [0, 99] {
            assert!(appliance.marker_info("g", never).unwrap_err().message.contains("has no marker"));
        }
        appliance.stop_groups().await;
    }
}
