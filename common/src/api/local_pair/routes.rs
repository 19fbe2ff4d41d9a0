//! Which path leads to which method of [`super::LocalPairControl`].

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::types::{LocalPairCreate, LocalPairSplit, LocalPairStatus};
use crate::api::answer::{Body, ErrorAnswer, Forced, Names};
use crate::api::routes::{Answer, Api};
use crate::api::types::ErrorBody;

/// All paths of pairs on one appliance.
pub(in crate::api) fn local_pair_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(local_pairs, local_pair_create))
        .routes(routes!(local_pair, local_pair_delete))
        .routes(routes!(local_pair_split))
        .routes(routes!(local_pair_resync))
        .routes(routes!(local_pair_reverse))
}

/// Pairs on this appliance, by target.
#[utoipa::path(get, path = "/v1/local-pairs",
    responses((status = 200, body = Vec<LocalPairStatus>), (status = "default", body = ErrorBody)))]
async fn local_pairs(State(api): State<Api>) -> Answer<Vec<LocalPairStatus>> {
    Ok(Json(api.control.local_pairs().local_pairs().await?))
}

/// Makes a pair: what the target holds is overwritten.
#[utoipa::path(post, path = "/v1/local-pairs", request_body = LocalPairCreate,
    responses((status = 200, body = LocalPairStatus), (status = "default", body = ErrorBody)))]
async fn local_pair_create(State(api): State<Api>, Body(request): Body<LocalPairCreate>) -> Answer<LocalPairStatus> {
    api.carry_out(async move |control| control.local_pairs().local_pair_create(request).await).await.map(Json)
}

/// One pair by its target; a volume in no pair is simplex.
#[utoipa::path(get, path = "/v1/local-pairs/{target}", params(("target" = String, Path,)),
    responses((status = 200, body = LocalPairStatus), (status = "default", body = ErrorBody)))]
async fn local_pair(State(api): State<Api>, Names(volume): Names<String>) -> Answer<LocalPairStatus> {
    Ok(Json(api.control.local_pairs().local_pair(volume).await?))
}

/// Ends a pair; both volumes stay.
#[utoipa::path(delete, path = "/v1/local-pairs/{target}", params(("target" = String, Path,), Forced),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn local_pair_delete(
    State(api): State<Api>,
    Names(target): Names<String>,
    Query(how): Query<Forced>,
) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.local_pairs().local_pair_delete(target, how.force).await)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

/// Splits pairs of one group at one marker: their targets present the image at once.
#[utoipa::path(post, path = "/v1/local-splits", request_body = LocalPairSplit,
    responses((status = 200, body = Vec<LocalPairStatus>), (status = "default", body = ErrorBody)))]
async fn local_pair_split(State(api): State<Api>, Body(request): Body<LocalPairSplit>) -> Answer<Vec<LocalPairStatus>> {
    api.carry_out(async move |control| control.local_pairs().local_pair_split(request).await).await.map(Json)
}

/// Lets the target follow again: what differs is copied to it.
#[utoipa::path(post, path = "/v1/local-pairs/{target}/resync", params(("target" = String, Path,), Forced),
    responses((status = 200, body = LocalPairStatus), (status = "default", body = ErrorBody)))]
async fn local_pair_resync(
    State(api): State<Api>,
    Names(target): Names<String>,
    Query(how): Query<Forced>,
) -> Answer<LocalPairStatus> {
    api.carry_out(async move |control| control.local_pairs().local_pair_resync(target, how.force).await).await.map(Json)
}

/// Restores the source from the target: what differs is written to it as a host would.
#[utoipa::path(post, path = "/v1/local-pairs/{target}/reverse", params(("target" = String, Path,)),
    responses((status = 200, body = LocalPairStatus), (status = "default", body = ErrorBody)))]
async fn local_pair_reverse(State(api): State<Api>, Names(target): Names<String>) -> Answer<LocalPairStatus> {
    api.carry_out(async move |control| control.local_pairs().local_pair_reverse(target).await).await.map(Json)
}
