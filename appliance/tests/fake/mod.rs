//! An appliance that exists only behind its control API: it remembers what it was asked and answers as it was told.

#![allow(dead_code, reason = "each test uses its part")]
#![allow(clippy::unwrap_used, reason = "a test fails where it stands")]

pub(crate) mod samples;

use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;
use tidemark_common::api::backup::types::{
    BackupCreate, BackupInfo, BackupProgress, BackupState, RestoreReport, RestoreRequest, RestoreStatus, SetCreate,
    SetInfo, WhileDifferential,
};
use tidemark_common::api::backup::{ArchiveStream, BackupControl};
use tidemark_common::api::client::Client;
use tidemark_common::api::control::{Control, Reply};
use tidemark_common::api::local_pair::LocalPairControl;
use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairSplit, LocalPairState, LocalPairStatus};
use tidemark_common::api::server::{ControlListener, serve_control};
use tidemark_common::api::types::{
    CloneCreate, Cut, DrillReport, DrillRun, DrillSchedule, ErrorBody, ErrorKind, Failover, FailoverReport,
    GroupCreate, GroupDrills, GroupSet, GroupStatus, ImageKind, ImageStatus, LostExport, LostRange, LostTail,
    LostVolume, MarkerInfo, PairStatus, PairTarget, PeerAdd, PeerStatus, Rejoin, RejoinReport, Status, Switchover,
    SwitchoverReport, T0Create, VerifyDifference, VerifyReport, VerifyRequest, VolumeCreate, VolumeOffer, VolumeStatus,
    Wait,
};
use tidemark_common::config::ControlAccess;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The appliance.
#[derive(Default)]
pub(crate) struct Fake {
    state: Mutex<State>,
    /// Something was asked.
    pub(crate) asked: Notify,
    /// An operation went to its end.
    pub(crate) ended: Notify,
}

#[derive(Default)]
struct State {
    status: Option<Status>,
    refusal: Option<ErrorBody>,
    calls: Vec<String>,
    held: Option<Arc<Notify>>,
}

impl Fake {
    /// One that shows this status.
    pub(crate) fn showing(status: Status) -> Arc<Self> {
        let fake = Self::default();
        fake.show(status);
        Arc::new(fake)
    }

    /// Shows this status from now on.
    pub(crate) fn show(&self, status: Status) {
        self.state.lock().status = Some(status);
    }

    /// Answers every operation with this from now on.
    pub(crate) fn refuse(&self, refusal: ErrorBody) {
        self.state.lock().refusal = Some(refusal);
    }

    /// Answers no operation until the returned handle is notified.
    pub(crate) fn hold(&self) -> Arc<Notify> {
        let held = Arc::new(Notify::new());
        self.state.lock().held = Some(Arc::clone(&held));
        held
    }

    /// What was asked since the last look.
    pub(crate) fn calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().calls)
    }

    fn reply<'a, T: Send + 'a>(
        &'a self,
        call: String,
        answer: impl FnOnce(&Status) -> Option<T> + Send + 'a,
    ) -> Reply<'a, T> {
        Box::pin(self.answered(call, answer))
    }

    async fn answered<T>(&self, call: String, answer: impl FnOnce(&Status) -> Option<T>) -> Result<T, ErrorBody> {
        let held = {
            let mut state = self.state.lock();
            state.calls.push(call);
            state.held.clone()
        };
        self.asked.notify_one();
        if let Some(held) = held {
            held.notified().await;
        }
        let state = self.state.lock();
        self.ended.notify_one();
        match (&state.refusal, &state.status) {
            (Some(refusal), _) => Err(refusal.clone()),
            (None, Some(status)) => answer(status).ok_or_else(nothing),
            (None, None) => Err(nothing()),
        }
    }
}

fn nothing() -> ErrorBody {
    ErrorBody::new(ErrorKind::NotFound, "the sample has nothing of that name; `tidemark status` shows what it has")
}

fn marker(number: u64, tag: Option<String>) -> MarkerInfo {
    MarkerInfo { number, boundary_seq: number * 25, time: samples::now(), tag }
}

fn volume(status: &Status, name: &str) -> Option<VolumeStatus> {
    status.volumes.iter().find(|volume| volume.name == name).cloned()
}

fn group(status: &Status, name: &str) -> Option<GroupStatus> {
    status.groups.iter().find(|group| group.name == name).cloned()
}

fn pair(status: &Status, name: &str, peer: &str) -> Option<PairStatus> {
    group(status, name)?.pairs.into_iter().find(|pair| pair.peer == peer)
}

fn report(group: GroupStatus) -> FailoverReport {
    FailoverReport {
        group: group.name,
        generation: group.generation + 1,
        marker: marker(41, None),
        good_as_of: samples::now(),
        age_seconds: 1.2,
        dropped_writes: 12,
        dropped_bytes: 48 << 10,
        missing_writes_known: 1054,
        took_ms: 12.3,
        exports: group.volumes,
        kept: None,
        went_back: false,
    }
}

fn set_of(status: &Status, name: &str) -> Option<SetInfo> {
    let volume = volume(status, "a")?.name;
    Some(SetInfo { name: name.into(), extents: vec![volume], missing_volumes: Vec::new() })
}

fn backup_of(status: &Status, name: &str) -> Option<BackupInfo> {
    let set = set_of(status, "s")?;
    Some(BackupInfo {
        name: name.into(),
        state: BackupState::Done,
        reason: None,
        sets: vec![SetCreate { name: set.name, extents: set.extents }],
        order: "given".into(),
        to: "/backups/b.tar".into(),
        place: None,
        at: None,
        rate: None,
        when_idle: false,
        while_differential: WhileDifferential::Merge,
        asked: samples::now(),
        began: Some(samples::now()),
        ended: Some(samples::now()),
        moments: Vec::new(),
        progress: BackupProgress { done_bytes: 1 << 20, total_bytes: 1 << 20, ..BackupProgress::default() },
    })
}

impl BackupControl for Fake {
    fn set_create(&self, request: SetCreate) -> Reply<'_, SetInfo> {
        self.reply(format!("set_create {request:?}"), move |status| set_of(status, &request.name))
    }

    fn sets(&self) -> Reply<'_, Vec<SetInfo>> {
        self.reply("sets".into(), |status| Some(vec![set_of(status, "s")?]))
    }

    fn set_delete(&self, name: String) -> Reply<'_, ()> {
        self.reply(format!("set_delete {name}"), |_| Some(()))
    }

    fn backup_create(&self, request: BackupCreate) -> Reply<'_, BackupInfo> {
        self.reply(format!("backup_create {request:?}"), move |status| backup_of(status, &request.name))
    }

    fn backups(&self) -> Reply<'_, Vec<BackupInfo>> {
        self.reply("backups".into(), |status| Some(vec![backup_of(status, "b")?]))
    }

    fn backup(&self, name: String) -> Reply<'_, BackupInfo> {
        self.reply(format!("backup {name}"), move |status| backup_of(status, &name))
    }

    fn backup_cancel(&self, name: String) -> Reply<'_, BackupInfo> {
        self.reply(format!("backup_cancel {name}"), move |status| backup_of(status, &name))
    }

    fn backup_delete(&self, name: String) -> Reply<'_, ()> {
        self.reply(format!("backup_delete {name}"), |_| Some(()))
    }

    fn backup_stream(&self, name: String) -> Reply<'_, ArchiveStream> {
        self.reply(format!("backup_stream {name}"), |_| {
            let (sender, stream) = tokio::sync::mpsc::channel(4);
            sender.try_send(Ok(b"an ".to_vec())).ok()?;
            sender.try_send(Ok(b"archive".to_vec())).ok()?;
            Some(stream)
        })
    }

    fn restore(&self, request: RestoreRequest) -> Reply<'_, RestoreReport> {
        self.reply(format!("restore {request:?}"), |_| {
            let warnings = vec!["a copy may not follow".into()];
            Some(RestoreReport { members: 1, data_bytes: 512, volumes: vec!["c".into()], warnings })
        })
    }

    fn restore_cancel(&self, request: RestoreRequest) -> Reply<'_, RestoreStatus> {
        self.reply(format!("restore_cancel {request:?}"), |_| Some(samples::restore()))
    }

    fn restore_give_up(&self, name: String) -> Reply<'_, VolumeStatus> {
        self.reply(format!("restore_give_up {name:?}"), move |status| volume(status, &name))
    }
}

fn local_pair_of(status: &Status, target: &str) -> Option<LocalPairStatus> {
    let source = volume(status, "a")?;
    Some(LocalPairStatus {
        source: source.name,
        group: source.group.unwrap_or_default(),
        target: target.into(),
        state: LocalPairState::Split,
        reason: None,
        since: samples::now(),
        size: source.size,
        differential_bytes: 65536,
        source_changed_bytes: 131_072,
        target_changed_bytes: 0,
        marker: Some(41),
        marker_time: Some(samples::now()),
        rate: 1 << 20,
        export: Some(format!("nbd://localhost/{target}")),
        connections: 1,
        saved_bytes: 4096,
    })
}

impl LocalPairControl for Fake {
    fn local_pair_create(&self, request: LocalPairCreate) -> Reply<'_, LocalPairStatus> {
        self.reply(format!("{request:?}"), move |status| local_pair_of(status, &request.target))
    }

    fn local_pair_split(&self, request: LocalPairSplit) -> Reply<'_, Vec<LocalPairStatus>> {
        self.reply(format!("{request:?}"), move |status| {
            request.targets.iter().map(|target| local_pair_of(status, target)).collect()
        })
    }

    fn local_pair_resync(&self, target: String, force: bool) -> Reply<'_, LocalPairStatus> {
        self.reply(format!("resync {target} {force}"), move |status| local_pair_of(status, &target))
    }

    fn local_pair_reverse(&self, target: String) -> Reply<'_, LocalPairStatus> {
        self.reply(format!("reverse {target}"), move |status| local_pair_of(status, &target))
    }

    fn local_pair_delete(&self, target: String, force: bool) -> Reply<'_, ()> {
        self.reply(format!("local_pair_delete {target} {force}"), |_| Some(()))
    }

    fn local_pairs(&self) -> Reply<'_, Vec<LocalPairStatus>> {
        self.reply("local_pairs".into(), |status| Some(vec![local_pair_of(status, "t")?]))
    }

    fn local_pair(&self, volume: String) -> Reply<'_, LocalPairStatus> {
        self.reply(format!("local_pair {volume}"), move |status| local_pair_of(status, &volume))
    }
}

impl Control for Fake {
    fn status(&self) -> Status {
        self.state.lock().status.clone().unwrap_or_else(samples::empty)
    }

    fn peer_add(&self, request: PeerAdd) -> Reply<'_, PeerStatus> {
        self.reply(format!("{request:?}"), move |_| {
            Some(PeerStatus { name: request.name, id: request.id, address: request.address })
        })
    }

    fn peer_remove(&self, name: String) -> Reply<'_, ()> {
        self.reply(format!("peer_remove {name:?}"), move |_| Some(()))
    }

    fn volume_create(&self, request: VolumeCreate) -> Reply<'_, VolumeStatus> {
        self.reply(format!("{request:?}"), move |_| {
            let backing = request.backing.unwrap_or_else(|| "/srv/east/volumes/new".into());
            Some(VolumeStatus {
                name: request.name,
                size: request.size,
                group: None,
                backing,
                connections: 0,
                offered_to: None,
                problem: None,
            })
        })
    }

    fn volume_delete(&self, name: String) -> Reply<'_, ()> {
        self.reply(format!("volume_delete {name:?}"), move |status| volume(status, &name).map(drop))
    }

    fn volume_offer(&self, name: String, request: VolumeOffer) -> Reply<'_, VolumeStatus> {
        self.reply(format!("volume_offer {name:?} {request:?}"), move |status| {
            Some(VolumeStatus { offered_to: request.group, ..volume(status, &name)? })
        })
    }

    fn volume_resize(&self, name: String, size: u64) -> Reply<'_, VolumeStatus> {
        self.reply(format!("volume_resize {name:?} {size}"), move |status| {
            Some(VolumeStatus { size, ..volume(status, &name)? })
        })
    }

    fn group_create(&self, request: GroupCreate) -> Reply<'_, GroupStatus> {
        self.reply(format!("{request:?}"), move |status| {
            let sample = status.groups.first()?.clone();
            Some(GroupStatus { name: request.name, volumes: request.volumes, pairs: Vec::new(), ..sample })
        })
    }

    fn group_add(&self, name: String, volume: String, force: bool) -> Reply<'_, GroupStatus> {
        self.reply(format!("group_add {name:?} {volume:?} {force}"), move |status| {
            let mut group = group(status, &name)?;
            group.volumes.push(volume);
            Some(group)
        })
    }

    fn group_set(&self, name: String, request: GroupSet) -> Reply<'_, GroupStatus> {
        self.reply(format!("group_set {name:?} {request:?}"), move |status| group(status, &name))
    }

    fn group_delete(&self, name: String) -> Reply<'_, ()> {
        self.reply(format!("group_delete {name:?}"), |_| Some(()))
    }

    fn group_remove(&self, name: String, volume: String) -> Reply<'_, GroupStatus> {
        self.reply(format!("group_remove {name:?} {volume:?}"), move |status| {
            let mut group = group(status, &name)?;
            group.volumes.retain(|member| *member != volume);
            Some(group)
        })
    }

    fn pair_create(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        self.reply(format!("pair_create {group:?} {:?}", request.to), move |status| pair(status, &group, &request.to))
    }

    fn pair_suspend(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        self.reply(format!("pair_suspend {group:?} {:?}", request.to), move |status| pair(status, &group, &request.to))
    }

    fn pair_resume(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        self.reply(format!("pair_resume {group:?} {:?}", request.to), move |status| pair(status, &group, &request.to))
    }

    fn pair_release(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        self.reply(format!("pair_release {group:?} {:?}", request.to), move |status| pair(status, &group, &request.to))
    }

    fn pair_in_place(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus> {
        self.reply(format!("pair_in_place {group:?} {:?}", request.to), move |status| pair(status, &group, &request.to))
    }

    fn pair_delete(&self, group: String, request: PairTarget, force: bool) -> Reply<'_, ()> {
        self.reply(format!("pair_delete {group:?} {:?} {force}", request.to), move |status| {
            pair(status, &group, &request.to).map(drop)
        })
    }

    fn cut(&self, name: String, request: Cut) -> Reply<'_, MarkerInfo> {
        self.reply(format!("cut {name:?} {request:?}"), move |status| {
            group(status, &name).map(|group| marker(group.marker.last + 1, request.tag))
        })
    }

    fn markers(&self, name: String) -> Reply<'_, Vec<MarkerInfo>> {
        self.reply(format!("markers {name:?}"), move |status| {
            let last = group(status, &name)?.marker.last;
            let tagged = |number| (number == 40).then(|| "before the upgrade".to_owned());
            Some((last.saturating_sub(4)..=last).rev().map(|number| marker(number, tagged(number))).collect())
        })
    }

    fn wait(&self, name: String, request: Wait) -> Reply<'_, MarkerInfo> {
        let call = format!("wait {name:?} {request:?}");
        let limit = std::time::Duration::from_millis(request.timeout_ms);
        Box::pin(async move {
            let answer = async {
                let last = self.answered(call, |status| group(status, &name).map(|group| group.marker.last)).await?;
                match request.marker {
                    Some(number) if number > last => std::future::pending().await,
                    number => Ok(marker(number.unwrap_or(last), None)),
                }
            };
            tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
                let message = format!("no marker of '{name}' was applied within {limit:?}: look at `tidemark status`");
                Err(ErrorBody::new(ErrorKind::Timeout, message))
            })
        })
    }

    fn failover(&self, name: String, request: Failover) -> Reply<'_, FailoverReport> {
        self.reply(format!("failover {name:?} {request:?}"), move |status| group(status, &name).map(report))
    }

    fn lost(&self, name: String) -> Reply<'_, Vec<LostTail>> {
        self.reply(format!("lost {name:?}"), move |status| {
            group(status, &name).map(|_| {
                vec![LostTail {
                    name: "generation-1-after-marker-41".into(),
                    generation: 1,
                    after_marker: 41,
                    writes: 7,
                    folder: "/var/lib/tidemark/groups/07/lost/generation-1-after-marker-41".into(),
                    volumes: vec![LostVolume {
                        name: Some("a".into()),
                        index: 1,
                        bytes: 28_672,
                        ranges: vec![LostRange { offset: 4096, length: 28_672 }],
                    }],
                    problem: None,
                }]
            })
        })
    }

    fn lost_export(&self, name: String, tail: String, request: LostExport) -> Reply<'_, ()> {
        self.reply(format!("lost_export {name:?} {tail:?} {request:?}"), move |status| group(status, &name).map(drop))
    }

    fn lost_discard(&self, name: String, tail: String) -> Reply<'_, ()> {
        self.reply(format!("lost_discard {name:?} {tail:?}"), move |status| group(status, &name).map(drop))
    }

    fn verify(&self, name: String, request: VerifyRequest) -> Reply<'_, VerifyReport> {
        self.reply(format!("verify {name:?} {request:?}"), move |status| {
            let differs = request.repair;
            let difference = VerifyDifference { volume: "a".into(), offset: 65536, length: 131_072 };
            group(status, &name).map(|group| VerifyReport {
                group: group.name,
                peer: request.to,
                marker: 42,
                compared_bytes: 1 << 30,
                different_bytes: if differs { 131_072 } else { 0 },
                differences: if differs { vec![difference] } else { Vec::new() },
                not_compared_bytes: 0,
                repaired: differs,
                took_seconds: 1.5,
                from_marker: 42,
                repaired_bytes: if differs { 131_072 } else { 0 },
                complete: true,
                resumed: 0,
            })
        })
    }

    fn rejoin(&self, name: String, request: Rejoin) -> Reply<'_, RejoinReport> {
        self.reply(format!("rejoin {name:?} {request:?}"), move |status| {
            group(status, &name).map(|group| RejoinReport {
                group: group.name,
                primary: "west".into(),
                generation: 2,
                marker: 41,
                whole: false,
                lost_writes: 7,
                lost_bytes: 28_672,
                kept: Some("/var/lib/tidemark/groups/07/lost/generation-1-after-marker-41".into()),
                not_taken_over_by: None,
            })
        })
    }

    fn switchover(&self, name: String, request: Switchover) -> Reply<'_, SwitchoverReport> {
        self.reply(format!("switchover {name:?} {request:?}"), move |status| {
            group(status, &name).map(|group| SwitchoverReport {
                group: group.name,
                primary: request.to,
                generation: 2,
                marker: 41,
                hosts_waited_ms: 12.5,
                took_ms: 40.0,
                problem: None,
            })
        })
    }

    fn t0_create(&self, request: T0Create) -> Reply<'_, ImageStatus> {
        self.reply(format!("t0_create {request:?}"), move |_| Some(samples::image(&request.name, ImageKind::T0)))
    }

    fn clone_create(&self, request: CloneCreate) -> Reply<'_, ImageStatus> {
        self.reply(format!("clone_create {request:?}"), move |_| Some(samples::image(&request.name, ImageKind::Clone)))
    }

    fn image_delete(&self, name: String, force: bool) -> Reply<'_, ()> {
        self.reply(format!("image_delete {name:?} {force}"), |_| Some(()))
    }

    fn drill_run(&self, name: String, request: DrillRun) -> Reply<'_, DrillReport> {
        self.reply(format!("drill_run {name:?} {request:?}"), move |status| {
            group(status, &name).map(|_| samples::drill())
        })
    }

    fn drill_cancel(&self, name: String) -> Reply<'_, DrillReport> {
        self.reply(format!("drill_cancel {name:?}"), move |status| group(status, &name).map(|_| samples::drill()))
    }

    fn drills(&self) -> Reply<'_, Vec<DrillReport>> {
        self.reply("drills".into(), |_| Some(vec![samples::drill()]))
    }

    fn drill(&self, id: u64) -> Reply<'_, DrillReport> {
        self.reply(format!("drill {id}"), move |_| Some(samples::drill()).filter(|drill| drill.id == id))
    }

    fn drill_schedule(&self, name: String, request: DrillSchedule) -> Reply<'_, GroupDrills> {
        self.reply(format!("drill_schedule {name:?} {request:?}"), move |status| {
            group(status, &name).map(|_| samples::drills())
        })
    }

    fn drill_unschedule(&self, name: String) -> Reply<'_, ()> {
        self.reply(format!("drill_unschedule {name:?}"), move |status| group(status, &name).map(drop))
    }

    fn backups(&self) -> &dyn BackupControl {
        self
    }

    fn local_pairs(&self) -> &dyn LocalPairControl {
        self
    }

    fn metrics(&self) -> String {
        "# HELP tidemark_up Whether the appliance is up.\n# TYPE tidemark_up gauge\ntidemark_up 1\n".into()
    }
}

/// The fake, served over a real socket until this is dropped.
pub(crate) struct Served {
    pub(crate) fake: Arc<Fake>,
    pub(crate) directory: tempfile::TempDir,
    pub(crate) stop: CancellationToken,
    pub(crate) serving: JoinHandle<()>,
}

impl Served {
    /// Serves a fake that shows this status.
    pub(crate) fn showing(status: Status) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = ControlListener::bind(directory.path(), ControlAccess::Owner).unwrap();
        let (fake, stop) = (Fake::showing(status), CancellationToken::new());
        let serving = tokio::spawn(serve_control(listener, fake.clone(), stop.clone()));
        Self { fake, directory, stop, serving }
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(self.directory.path())
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The same appliance as of now instead of the samples' moment.
pub(crate) fn shifted(mut status: Status, now: Timestamp) -> Status {
    let by = now.duration_since(samples::now());
    for group in &mut status.groups {
        group.marker.time = group.marker.time.map(|time| time + by);
        for pair in &mut group.pairs {
            pair.since += by;
        }
    }
    status
}
