//! Which path leads to which method of [`Control`], and the OpenAPI document of all of them.
//!
//! Requests come in, answers go out; nothing is kept. An operation once begun goes to its end, also when who asked for it
//! hangs up in between; only `wait`, which changes nothing, ends with its connection or with the service.

use std::future::Future;
use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Query, State};
use axum::http::StatusCode;
use axum::routing::get;
use axum::{Json, Router};
use tokio_util::sync::CancellationToken;
use utoipa::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::answer::{BODY_BYTES_MAX, Body, ErrorAnswer, Forced, Names, method_not_allowed, not_found};
use super::backup::routes::backup_router;
use super::control::Control;
use super::local_pair::routes::local_pair_router;
use super::types::{
    CloneCreate, Cut, DrillReport, DrillRun, DrillSchedule, ErrorBody, ErrorKind, Failover, FailoverReport,
    GroupCreate, GroupDrills, GroupSet, GroupStatus, GroupVolume, ImageStatus, LostExport, LostTail, MarkerInfo,
    PairStatus, PairTarget, PeerAdd, PeerStatus, Rejoin, RejoinReport, Status, Switchover, SwitchoverReport, T0Create,
    VerifyReport, VerifyRequest, VolumeCreate, VolumeOffer, VolumeResize, VolumeStatus, Wait,
};

/// What handlers share.
#[derive(Clone)]
pub(super) struct Api {
    pub(super) control: Arc<dyn Control>,
    pub(super) stop: CancellationToken,
}

pub(super) type Answer<T> = Result<Json<T>, ErrorAnswer>;

/// All paths, with 404 and 405 answered like every other error.
pub(super) fn router(api: Api) -> Router {
    let (router, document) = documented().split_for_parts();
    router
        .route("/v1/openapi.json", get(move || std::future::ready(Json(document))))
        .fallback(not_found)
        .method_not_allowed_fallback(method_not_allowed)
        .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
        .with_state(api)
}

/// The OpenAPI document of the control API.
#[must_use]
pub fn openapi() -> utoipa::openapi::OpenApi {
    documented().into_openapi()
}

#[derive(OpenApi)]
#[openapi(info(
    title = "Tidemark control API",
    description = "Spoken over the Unix socket `api.sock` in an appliance's directory. Every error has an `ErrorBody`."
))]
struct Document;

fn documented() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(peer_add))
        .routes(routes!(peer_remove))
        .routes(routes!(volume_create))
        .routes(routes!(volume_offer))
        .routes(routes!(volume_delete, volume_resize))
        .routes(routes!(group_create))
        .routes(routes!(group_delete, group_set))
        .routes(routes!(group_add))
        .routes(routes!(group_remove))
        .routes(routes!(pair_create))
        .routes(routes!(pair_delete))
        .routes(routes!(pair_suspend))
        .routes(routes!(pair_resume))
        .routes(routes!(pair_in_place))
        .routes(routes!(pair_release))
        .routes(routes!(markers, cut))
        .routes(routes!(wait))
        .routes(routes!(failover))
        .routes(routes!(lost))
        .routes(routes!(lost_export))
        .routes(routes!(lost_discard))
        .routes(routes!(verify))
        .routes(routes!(rejoin))
        .routes(routes!(switchover))
        .routes(routes!(t0_create))
        .routes(routes!(clone_create))
        .routes(routes!(image_delete))
        .routes(routes!(drill_run))
        .routes(routes!(drill_cancel))
        .routes(routes!(drills))
        .routes(routes!(drill))
        .routes(routes!(drill_schedule, drill_unschedule))
        .merge(backup_router())
        .merge(local_pair_router())
}

impl Api {
    /// Runs an operation to its end in a task of its own.
    ///
    /// # Cancel safety
    /// Dropping the returned future leaves the operation running.
    pub(super) async fn carry_out<T, F>(self, operation: impl FnOnce(Arc<dyn Control>) -> F) -> Result<T, ErrorAnswer>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, ErrorBody>> + Send + 'static,
    {
        match tokio::spawn(operation(self.control)).await {
            Ok(outcome) => outcome.map_err(ErrorAnswer::from),
            Err(error) => {
                tracing::error!(%error, "an operation ended without an answer");
                let message = "the operation ended without an answer, which is a defect: the service's log says where; \
                               look at `tidemark status` before asking again";
                Err(ErrorBody::new(ErrorKind::Failed, message).into())
            }
        }
    }
}

/// State of the appliance, its volumes, groups and pairs.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = Status)))]
async fn status(State(api): State<Api>) -> Json<Status> {
    Json(api.control.status())
}

/// Trusts an appliance.
#[utoipa::path(post, path = "/v1/peers", request_body = PeerAdd,
    responses((status = 200, body = PeerStatus), (status = "default", body = ErrorBody)))]
async fn peer_add(State(api): State<Api>, Body(request): Body<PeerAdd>) -> Answer<PeerStatus> {
    api.carry_out(async move |control| control.peer_add(request).await).await.map(Json)
}

/// Trusts an appliance no more.
#[utoipa::path(delete, path = "/v1/peers/{peer}", params(("peer" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn peer_remove(State(api): State<Api>, Names(peer): Names<String>) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.peer_remove(peer).await).await.map(|()| StatusCode::NO_CONTENT)
}

/// Makes a volume, new or around a file or device.
#[utoipa::path(post, path = "/v1/volumes", request_body = VolumeCreate,
    responses((status = 200, body = VolumeStatus), (status = "default", body = ErrorBody)))]
async fn volume_create(State(api): State<Api>, Body(request): Body<VolumeCreate>) -> Answer<VolumeStatus> {
    api.carry_out(async move |control| control.volume_create(request).await).await.map(Json)
}

/// Lets the copy of a group be made on a volume, which overwrites it.
#[utoipa::path(put, path = "/v1/volumes/{volume}/offer", params(("volume" = String, Path,)), request_body = VolumeOffer,
    responses((status = 200, body = VolumeStatus), (status = "default", body = ErrorBody)))]
async fn volume_offer(
    State(api): State<Api>,
    Names(volume): Names<String>,
    Body(request): Body<VolumeOffer>,
) -> Answer<VolumeStatus> {
    api.carry_out(async move |control| control.volume_offer(volume, request).await).await.map(Json)
}

/// Deletes a volume that is in no group and not connected.
#[utoipa::path(delete, path = "/v1/volumes/{volume}", params(("volume" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn volume_delete(State(api): State<Api>, Names(volume): Names<String>) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.volume_delete(volume).await).await.map(|()| StatusCode::NO_CONTENT)
}

/// Grows a volume.
#[utoipa::path(patch, path = "/v1/volumes/{volume}", params(("volume" = String, Path,)), request_body = VolumeResize,
    responses((status = 200, body = VolumeStatus), (status = "default", body = ErrorBody)))]
async fn volume_resize(
    State(api): State<Api>,
    Names(volume): Names<String>,
    Body(request): Body<VolumeResize>,
) -> Answer<VolumeStatus> {
    api.carry_out(async move |control| control.volume_resize(volume, request.size).await).await.map(Json)
}

/// Deletes a group that has no pair. Its volumes stay, in no group.
#[utoipa::path(delete, path = "/v1/groups/{group}", params(("group" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn group_delete(State(api): State<Api>, Names(group): Names<String>) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.group_delete(group).await).await.map(|()| StatusCode::NO_CONTENT)
}

/// Changes what a group's copies keep, and what it does when its journal is full.
#[utoipa::path(patch, path = "/v1/groups/{group}", params(("group" = String, Path,)), request_body = GroupSet,
    responses((status = 200, body = GroupStatus), (status = "default", body = ErrorBody)))]
async fn group_set(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<GroupSet>,
) -> Answer<GroupStatus> {
    api.carry_out(async move |control| control.group_set(group, request).await).await.map(Json)
}

/// Makes a consistency group of volumes.
#[utoipa::path(post, path = "/v1/groups", request_body = GroupCreate,
    responses((status = 200, body = GroupStatus), (status = "default", body = ErrorBody)))]
async fn group_create(State(api): State<Api>, Body(request): Body<GroupCreate>) -> Answer<GroupStatus> {
    api.carry_out(async move |control| control.group_create(request).await).await.map(Json)
}

/// Adds a volume to a group, which may be running and paired; one that a copy has no room for only by force.
#[utoipa::path(post, path = "/v1/groups/{group}/volumes", params(("group" = String, Path,), Forced),
    request_body = GroupVolume, responses((status = 200, body = GroupStatus), (status = "default", body = ErrorBody)))]
async fn group_add(
    State(api): State<Api>,
    Names(group): Names<String>,
    Query(how): Query<Forced>,
    Body(request): Body<GroupVolume>,
) -> Answer<GroupStatus> {
    api.carry_out(async move |control| control.group_add(group, request.volume, how.force).await).await.map(Json)
}

/// Takes a volume out of a group.
#[utoipa::path(delete, path = "/v1/groups/{group}/volumes/{volume}", params(("group" = String, Path,), ("volume" = String, Path,)),
    responses((status = 200, body = GroupStatus), (status = "default", body = ErrorBody)))]
async fn group_remove(State(api): State<Api>, Names((group, volume)): Names<(String, String)>) -> Answer<GroupStatus> {
    api.carry_out(async move |control| control.group_remove(group, volume).await).await.map(Json)
}

/// Pairs a group with a peer: starts the initial copy.
#[utoipa::path(post, path = "/v1/groups/{group}/pairs", params(("group" = String, Path,)), request_body = PairTarget,
    responses((status = 200, body = PairStatus), (status = "default", body = ErrorBody)))]
async fn pair_create(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<PairTarget>,
) -> Answer<PairStatus> {
    api.carry_out(async move |control| control.pair_create(group, request).await).await.map(Json)
}

/// Ends a pair; the copy stays as it is.
#[utoipa::path(delete, path = "/v1/groups/{group}/pairs/{peer}",
    params(("group" = String, Path,), ("peer" = String, Path,), Forced),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn pair_delete(
    State(api): State<Api>,
    Names((group, to)): Names<(String, String)>,
    Query(how): Query<Forced>,
) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.pair_delete(group, PairTarget { to }, how.force).await)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

/// Stops sending to a peer until resumed.
#[utoipa::path(post, path = "/v1/groups/{group}/pairs/{peer}/suspend",
    params(("group" = String, Path,), ("peer" = String, Path,)),
    responses((status = 200, body = PairStatus), (status = "default", body = ErrorBody)))]
async fn pair_suspend(State(api): State<Api>, Names((group, to)): Names<(String, String)>) -> Answer<PairStatus> {
    api.carry_out(async move |control| control.pair_suspend(group, PairTarget { to }).await).await.map(Json)
}

/// Keeps the journal no longer for a pair that is behind: what it lacks is copied.
#[utoipa::path(post, path = "/v1/groups/{group}/pairs/{peer}/release",
    params(("group" = String, Path,), ("peer" = String, Path,)),
    responses((status = 200, body = PairStatus), (status = "default", body = ErrorBody)))]
async fn pair_release(State(api): State<Api>, Names((group, to)): Names<(String, String)>) -> Answer<PairStatus> {
    api.carry_out(async move |control| control.pair_release(group, PairTarget { to }).await).await.map(Json)
}

/// Goes on with a suspended pair.
#[utoipa::path(post, path = "/v1/groups/{group}/pairs/{peer}/resume",
    params(("group" = String, Path,), ("peer" = String, Path,)),
    responses((status = 200, body = PairStatus), (status = "default", body = ErrorBody)))]
async fn pair_resume(State(api): State<Api>, Names((group, to)): Names<(String, String)>) -> Answer<PairStatus> {
    api.carry_out(async move |control| control.pair_resume(group, PairTarget { to }).await).await.map(Json)
}

/// Goes on with a pair whose copy finds no room beside the image over there: that image is given up.
#[utoipa::path(post, path = "/v1/groups/{group}/pairs/{peer}/in-place",
    params(("group" = String, Path,), ("peer" = String, Path,)),
    responses((status = 200, body = PairStatus), (status = "default", body = ErrorBody)))]
async fn pair_in_place(State(api): State<Api>, Names((group, to)): Names<(String, String)>) -> Answer<PairStatus> {
    api.carry_out(async move |control| control.pair_in_place(group, PairTarget { to }).await).await.map(Json)
}

/// The markers held, newest first.
#[utoipa::path(get, path = "/v1/groups/{group}/markers", params(("group" = String, Path,)),
    responses((status = 200, body = Vec<MarkerInfo>), (status = "default", body = ErrorBody)))]
async fn markers(State(api): State<Api>, Names(group): Names<String>) -> Answer<Vec<MarkerInfo>> {
    Ok(Json(api.control.markers(group).await?))
}

/// Makes a marker now; answers when it is durable.
#[utoipa::path(post, path = "/v1/groups/{group}/markers", params(("group" = String, Path,)), request_body = Cut,
    responses((status = 200, body = MarkerInfo), (status = "default", body = ErrorBody)))]
async fn cut(State(api): State<Api>, Names(group): Names<String>, Body(request): Body<Cut>) -> Answer<MarkerInfo> {
    api.carry_out(async move |control| control.cut(group, request).await).await.map(Json)
}

/// Answers when a secondary has a marker, or with a timeout.
#[utoipa::path(post, path = "/v1/groups/{group}/wait", params(("group" = String, Path,)), request_body = Wait,
    responses((status = 200, body = MarkerInfo), (status = "default", body = ErrorBody)))]
async fn wait(State(api): State<Api>, Names(group): Names<String>, Body(request): Body<Wait>) -> Answer<MarkerInfo> {
    let stopping = || ErrorBody::new(ErrorKind::Failed, "the service is stopping: wait again when it is back");
    tokio::select! {
        outcome = api.control.wait(group, request) => Ok(Json(outcome?)),
        () = api.stop.cancelled() => Err(stopping().into()),
    }
}

/// Takes over on the secondary.
#[utoipa::path(post, path = "/v1/groups/{group}/failover", params(("group" = String, Path,)), request_body = Failover,
    responses((status = 200, body = FailoverReport), (status = "default", body = ErrorBody)))]
async fn failover(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<Failover>,
) -> Answer<FailoverReport> {
    api.carry_out(async move |control| control.failover(group, request).await).await.map(Json)
}

/// Returns, on an old primary, as the copy of who took over; or goes on as primary with what it has.
#[utoipa::path(post, path = "/v1/groups/{group}/rejoin", params(("group" = String, Path,)), request_body = Rejoin,
    responses((status = 200, body = RejoinReport), (status = "default", body = ErrorBody)))]
async fn rejoin(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<Rejoin>,
) -> Answer<RejoinReport> {
    api.carry_out(async move |control| control.rejoin(group, request).await).await.map(Json)
}

/// Changes the roles of both sides, planned, with nothing lost.
#[utoipa::path(post, path = "/v1/groups/{group}/switchover", params(("group" = String, Path,)),
    request_body = Switchover, responses((status = 200, body = SwitchoverReport), (status = "default", body = ErrorBody)))]
async fn switchover(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<Switchover>,
) -> Answer<SwitchoverReport> {
    api.carry_out(async move |control| control.switchover(group, request).await).await.map(Json)
}

/// What an old primary had written and never shipped.
#[utoipa::path(get, path = "/v1/groups/{group}/lost", params(("group" = String, Path,)),
    responses((status = 200, body = Vec<LostTail>), (status = "default", body = ErrorBody)))]
async fn lost(State(api): State<Api>, Names(group): Names<String>) -> Answer<Vec<LostTail>> {
    Ok(Json(api.control.lost(group).await?))
}

/// Writes what a lost tail holds of a volume into a file.
#[utoipa::path(post, path = "/v1/groups/{group}/lost/{tail}/export",
    params(("group" = String, Path,), ("tail" = String, Path,)), request_body = LostExport,
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn lost_export(
    State(api): State<Api>,
    Names((group, tail)): Names<(String, String)>,
    Body(request): Body<LostExport>,
) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.lost_export(group, tail, request).await)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

/// Discards a lost tail, for good.
#[utoipa::path(delete, path = "/v1/groups/{group}/lost/{tail}",
    params(("group" = String, Path,), ("tail" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn lost_discard(
    State(api): State<Api>,
    Names((group, tail)): Names<(String, String)>,
) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.lost_discard(group, tail).await).await.map(|()| StatusCode::NO_CONTENT)
}

/// Makes a read-only image of a group, or of volumes of one, at a marker.
#[utoipa::path(post, path = "/v1/t0", request_body = T0Create,
    responses((status = 200, body = ImageStatus), (status = "default", body = ErrorBody)))]
async fn t0_create(State(api): State<Api>, Body(request): Body<T0Create>) -> Answer<ImageStatus> {
    api.carry_out(async move |control| control.t0_create(request).await).await.map(Json)
}

/// Makes a writable image of a group at a marker.
#[utoipa::path(post, path = "/v1/clones", request_body = CloneCreate,
    responses((status = 200, body = ImageStatus), (status = "default", body = ErrorBody)))]
async fn clone_create(State(api): State<Api>, Body(request): Body<CloneCreate>) -> Answer<ImageStatus> {
    api.carry_out(async move |control| control.clone_create(request).await).await.map(Json)
}

/// How an image is deleted.
#[derive(Debug, serde::Deserialize, utoipa::IntoParams)]
struct ImageDelete {
    /// Also while hosts are connected, who then get errors.
    #[serde(default)]
    force: bool,
}

/// Deletes a T0 copy or a clone.
#[utoipa::path(delete, path = "/v1/images/{image}", params(("image" = String, Path,), ImageDelete),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn image_delete(
    State(api): State<Api>,
    Names(image): Names<String>,
    Query(how): Query<ImageDelete>,
) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.image_delete(image, how.force).await)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

/// Rehearses a failover of a group; answers when the rehearsal has ended.
#[utoipa::path(post, path = "/v1/groups/{group}/drills", params(("group" = String, Path,)), request_body = DrillRun,
    responses((status = 200, body = DrillReport), (status = "default", body = ErrorBody)))]
async fn drill_run(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<DrillRun>,
) -> Answer<DrillReport> {
    api.carry_out(async move |control| control.drill_run(group, request).await).await.map(Json)
}

/// Ends the rehearsal of a group that is under way; answers when nothing of it is left but its record.
#[utoipa::path(post, path = "/v1/groups/{group}/drills/cancel", params(("group" = String, Path,)),
    responses((status = 200, body = DrillReport), (status = "default", body = ErrorBody)))]
async fn drill_cancel(State(api): State<Api>, Names(group): Names<String>) -> Answer<DrillReport> {
    api.carry_out(async move |control| control.drill_cancel(group).await).await.map(Json)
}

/// The rehearsals so far, newest first.
#[utoipa::path(get, path = "/v1/drills",
    responses((status = 200, body = Vec<DrillReport>), (status = "default", body = ErrorBody)))]
async fn drills(State(api): State<Api>) -> Answer<Vec<DrillReport>> {
    Ok(Json(api.control.drills().await?))
}

/// One rehearsal.
#[utoipa::path(get, path = "/v1/drills/{drill}", params(("drill" = u64, Path,)),
    responses((status = 200, body = DrillReport), (status = "default", body = ErrorBody)))]
async fn drill(State(api): State<Api>, Names(drill): Names<u64>) -> Answer<DrillReport> {
    Ok(Json(api.control.drill(drill).await?))
}

/// Rehearses a group again and again.
#[utoipa::path(put, path = "/v1/groups/{group}/drill-schedule", params(("group" = String, Path,)),
    request_body = DrillSchedule, responses((status = 200, body = GroupDrills), (status = "default", body = ErrorBody)))]
async fn drill_schedule(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<DrillSchedule>,
) -> Answer<GroupDrills> {
    api.carry_out(async move |control| control.drill_schedule(group, request).await).await.map(Json)
}

/// Ends the schedule of a group's rehearsals.
#[utoipa::path(delete, path = "/v1/groups/{group}/drill-schedule", params(("group" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn drill_unschedule(State(api): State<Api>, Names(group): Names<String>) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.drill_unschedule(group).await).await.map(|()| StatusCode::NO_CONTENT)
}

/// Compares both sides at one marker. Who goes away meanwhile ends it.
#[utoipa::path(post, path = "/v1/groups/{group}/verify", params(("group" = String, Path,)),
    request_body = VerifyRequest, responses((status = 200, body = VerifyReport), (status = "default", body = ErrorBody)))]
async fn verify(
    State(api): State<Api>,
    Names(group): Names<String>,
    Body(request): Body<VerifyRequest>,
) -> Answer<VerifyReport> {
    Ok(Json(api.control.verify(group, request).await?))
}
