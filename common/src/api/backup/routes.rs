//! Which path leads to which method of [`super::BackupControl`].

use axum::Json;
use axum::body::{Body as HttpBody, Bytes};
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream::poll_fn;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use super::types::{BackupCreate, BackupInfo, RestoreReport, RestoreRequest, RestoreStatus, SetCreate, SetInfo};
use crate::api::answer::{Body, ErrorAnswer, Names};
use crate::api::routes::{Answer, Api};
use crate::api::types::{ErrorBody, VolumeStatus};

/// All paths of data sets and backups.
pub(in crate::api) fn backup_router() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(sets, set_create))
        .routes(routes!(set_delete))
        .routes(routes!(backups, backup_create))
        .routes(routes!(backup, backup_delete))
        .routes(routes!(backup_cancel))
        .routes(routes!(backup_stream))
        .routes(routes!(restore))
        .routes(routes!(restore_cancel))
        .routes(routes!(restore_give_up))
}

/// Data sets, by name.
#[utoipa::path(get, path = "/v1/sets", responses((status = 200, body = Vec<SetInfo>), (status = "default", body = ErrorBody)))]
async fn sets(State(api): State<Api>) -> Answer<Vec<SetInfo>> {
    Ok(Json(api.control.backups().sets().await?))
}

/// Makes a data set.
#[utoipa::path(post, path = "/v1/sets", request_body = SetCreate,
    responses((status = 200, body = SetInfo), (status = "default", body = ErrorBody)))]
async fn set_create(State(api): State<Api>, Body(request): Body<SetCreate>) -> Answer<SetInfo> {
    api.carry_out(async move |control| control.backups().set_create(request).await).await.map(Json)
}

/// Deletes a data set; backups made of it stay as they are.
#[utoipa::path(delete, path = "/v1/sets/{set}", params(("set" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn set_delete(State(api): State<Api>, Names(set): Names<String>) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.backups().set_delete(set).await).await.map(|()| StatusCode::NO_CONTENT)
}

/// Backups, by name.
#[utoipa::path(get, path = "/v1/backups",
    responses((status = 200, body = Vec<BackupInfo>), (status = "default", body = ErrorBody)))]
async fn backups(State(api): State<Api>) -> Answer<Vec<BackupInfo>> {
    Ok(Json(api.control.backups().backups().await?))
}

/// Begins a backup, or schedules it.
#[utoipa::path(post, path = "/v1/backups", request_body = BackupCreate,
    responses((status = 200, body = BackupInfo), (status = "default", body = ErrorBody)))]
async fn backup_create(State(api): State<Api>, Body(request): Body<BackupCreate>) -> Answer<BackupInfo> {
    api.carry_out(async move |control| control.backups().backup_create(request).await).await.map(Json)
}

/// One backup, and how far it is.
#[utoipa::path(get, path = "/v1/backups/{backup}", params(("backup" = String, Path,)),
    responses((status = 200, body = BackupInfo), (status = "default", body = ErrorBody)))]
async fn backup(State(api): State<Api>, Names(backup): Names<String>) -> Answer<BackupInfo> {
    Ok(Json(api.control.backups().backup(backup).await?))
}

/// Deletes the record of a backup that is over; its archive stays.
#[utoipa::path(delete, path = "/v1/backups/{backup}", params(("backup" = String, Path,)),
    responses((status = 204), (status = "default", body = ErrorBody)))]
async fn backup_delete(State(api): State<Api>, Names(backup): Names<String>) -> Result<StatusCode, ErrorAnswer> {
    api.carry_out(async move |control| control.backups().backup_delete(backup).await)
        .await
        .map(|()| StatusCode::NO_CONTENT)
}

/// Ends a backup; nothing half-valid is left.
#[utoipa::path(post, path = "/v1/backups/{backup}/cancel", params(("backup" = String, Path,)),
    responses((status = 200, body = BackupInfo), (status = "default", body = ErrorBody)))]
async fn backup_cancel(State(api): State<Api>, Names(backup): Names<String>) -> Answer<BackupInfo> {
    api.carry_out(async move |control| control.backups().backup_cancel(backup).await).await.map(Json)
}

/// The archive of a backup to `-`; who hangs up ends it.
#[utoipa::path(get, path = "/v1/backups/{backup}/stream", params(("backup" = String, Path,)),
    responses((status = 200, content_type = "application/x-tar"), (status = "default", body = ErrorBody)))]
async fn backup_stream(State(api): State<Api>, Names(backup): Names<String>) -> Result<Response, ErrorAnswer> {
    let mut stream = api.control.backups().backup_stream(backup).await?;
    let body = HttpBody::from_stream(poll_fn(move |context| {
        stream.poll_recv(context).map(|piece| piece.map(|piece| piece.map(Bytes::from)))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// Writes what a backup holds back onto volumes, as a host would.
#[utoipa::path(post, path = "/v1/restore", request_body = RestoreRequest,
    responses((status = 200, body = RestoreReport), (status = "default", body = ErrorBody)))]
async fn restore(State(api): State<Api>, Body(request): Body<RestoreRequest>) -> Answer<RestoreReport> {
    api.carry_out(async move |control| control.backups().restore(request).await).await.map(Json)
}

/// Ends the restore that was asked for with this: what it has begun to overwrite stays half restored, and closed to hosts.
#[utoipa::path(post, path = "/v1/restore/cancel", request_body = RestoreRequest,
    responses((status = 200, body = RestoreStatus), (status = "default", body = ErrorBody)))]
async fn restore_cancel(State(api): State<Api>, Body(request): Body<RestoreRequest>) -> Answer<RestoreStatus> {
    api.carry_out(async move |control| control.backups().restore_cancel(request).await).await.map(Json)
}

/// Opens a volume that is half restored to hosts, as it is.
#[utoipa::path(delete, path = "/v1/volumes/{volume}/restore", params(("volume" = String, Path,)),
    responses((status = 200, body = VolumeStatus), (status = "default", body = ErrorBody)))]
async fn restore_give_up(State(api): State<Api>, Names(volume): Names<String>) -> Answer<VolumeStatus> {
    api.carry_out(async move |control| control.backups().restore_give_up(volume).await).await.map(Json)
}
