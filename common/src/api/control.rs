//! What the control API asks of the appliance behind it.

use std::future::Future;
use std::pin::Pin;

use super::backup::BackupControl;
use super::local_pair::LocalPairControl;
use super::types::{
    CloneCreate, Cut, DrillReport, DrillRun, DrillSchedule, ErrorBody, ErrorKind, Failover, FailoverReport,
    GroupCreate, GroupDrills, GroupSet, GroupStatus, ImageStatus, LostExport, LostTail, MarkerInfo, PairStatus,
    PairTarget, PeerAdd, PeerStatus, Rejoin, RejoinReport, Status, Switchover, SwitchoverReport, T0Create,
    VerifyReport, VerifyRequest, VolumeCreate, VolumeOffer, VolumeStatus, Wait,
};

/// What a request resolves to.
pub type Reply<'a, T> = Pin<Box<dyn Future<Output = Result<T, ErrorBody>> + Send + 'a>>;

impl ErrorBody {
    /// An error of this kind.
    pub fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self { message: message.into(), kind }
    }
}

/// An appliance as operators command it. One method per subcommand; names are checked by the callee.
pub trait Control: Send + Sync + 'static {
    /// `status`: cheap, never waits.
    fn status(&self) -> Status;
    /// `peer add`: adding the same again is fine; another id for a known name is refused.
    fn peer_add(&self, request: PeerAdd) -> Reply<'_, PeerStatus>;
    /// `peer remove`: refused while a group names it.
    fn peer_remove(&self, name: String) -> Reply<'_, ()>;
    /// `volume create`.
    fn volume_create(&self, request: VolumeCreate) -> Reply<'_, VolumeStatus>;
    /// `volume delete`: refused while it is in a group or connected; a backing given by the operator is left alone.
    fn volume_delete(&self, name: String) -> Reply<'_, ()>;
    /// `volume offer`: refused while it is in a group or a local pair; without a group the offer is taken back.
    fn volume_offer(&self, name: String, request: VolumeOffer) -> Reply<'_, VolumeStatus>;
    /// `volume resize`.
    fn volume_resize(&self, name: String, size: u64) -> Reply<'_, VolumeStatus>;
    /// `group create`.
    fn group_create(&self, request: GroupCreate) -> Reply<'_, GroupStatus>;
    /// `group set`: on the primary; its secondaries are told.
    fn group_set(&self, group: String, request: GroupSet) -> Reply<'_, GroupStatus>;
    /// `group delete`.
    fn group_delete(&self, name: String) -> Reply<'_, ()>;
    /// `group add`: refused while a copy has no room for it, unless forced.
    fn group_add(&self, group: String, volume: String, force: bool) -> Reply<'_, GroupStatus>;
    /// `group remove`.
    fn group_remove(&self, group: String, volume: String) -> Reply<'_, GroupStatus>;
    /// `pair create`.
    fn pair_create(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus>;
    /// `pair suspend`.
    fn pair_suspend(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus>;
    /// `pair resume`.
    fn pair_resume(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus>;
    /// `pair resume --in-place`.
    fn pair_in_place(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus>;
    /// `pair release`.
    fn pair_release(&self, group: String, request: PairTarget) -> Reply<'_, PairStatus>;
    /// `pair delete`.
    fn pair_delete(&self, group: String, request: PairTarget, force: bool) -> Reply<'_, ()>;
    /// `cut`: resolves when the marker is durable in the journal.
    fn cut(&self, group: String, request: Cut) -> Reply<'_, MarkerInfo>;
    /// `markers`: newest first.
    fn markers(&self, group: String) -> Reply<'_, Vec<MarkerInfo>>;
    /// `wait`: resolves with the marker waited for.
    fn wait(&self, group: String, request: Wait) -> Reply<'_, MarkerInfo>;
    /// `failover`.
    fn failover(&self, group: String, request: Failover) -> Reply<'_, FailoverReport>;
    /// `rejoin`: on the old primary.
    fn rejoin(&self, group: String, request: Rejoin) -> Reply<'_, RejoinReport>;
    /// `switchover`: on the primary.
    fn switchover(&self, group: String, request: Switchover) -> Reply<'_, SwitchoverReport>;
    /// `lost list`.
    fn lost(&self, group: String) -> Reply<'_, Vec<LostTail>>;
    /// `lost export`.
    fn lost_export(&self, group: String, tail: String, request: LostExport) -> Reply<'_, ()>;
    /// `lost discard`.
    fn lost_discard(&self, group: String, tail: String) -> Reply<'_, ()>;
    /// `verify`: on the primary.
    fn verify(&self, group: String, request: VerifyRequest) -> Reply<'_, VerifyReport>;
    /// `t0 create`: on a primary at a new marker, on a secondary at the newest permitted one.
    fn t0_create(&self, request: T0Create) -> Reply<'_, ImageStatus>;
    /// `clone create`.
    fn clone_create(&self, request: CloneCreate) -> Reply<'_, ImageStatus>;
    /// `t0 delete`, `clone delete`: refused while a host is connected, unless forced.
    fn image_delete(&self, name: String, force: bool) -> Reply<'_, ()>;
    /// `drill run`: answers when it has ended.
    fn drill_run(&self, group: String, request: DrillRun) -> Reply<'_, DrillReport>;
    /// `drill cancel`: resolves when nothing of it is left but its record.
    fn drill_cancel(&self, group: String) -> Reply<'_, DrillReport>;
    /// `drill list`: newest first, those under way as well, without what the checks said.
    fn drills(&self) -> Reply<'_, Vec<DrillReport>>;
    /// `drill show`.
    fn drill(&self, id: u64) -> Reply<'_, DrillReport>;
    /// `drill schedule`.
    fn drill_schedule(&self, group: String, request: DrillSchedule) -> Reply<'_, GroupDrills>;
    /// `drill unschedule`.
    fn drill_unschedule(&self, group: String) -> Reply<'_, ()>;
    /// Data sets and backups.
    fn backups(&self) -> &dyn BackupControl;
    /// Pairs on this appliance.
    fn local_pairs(&self) -> &dyn LocalPairControl;
    /// The metrics page, Prometheus text format.
    fn metrics(&self) -> String;
}
