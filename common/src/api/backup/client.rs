//! The asking end.

use std::io;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::Method;

use super::types::{BackupCreate, BackupInfo, RestoreReport, RestoreRequest, RestoreStatus, SetCreate, SetInfo};
use crate::api::client::{Answer, Ask, Client, ClientError};
use crate::api::types::VolumeStatus;

/// Archives of many TiB are written and read as fast as their disks allow.
const ARCHIVE_TIMEOUT: Duration = Duration::from_secs(30 * 24 * 3600);

impl Client {
    /// `set create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn set_create(&self, request: &SetCreate) -> Answer<SetInfo> {
        self.ask(Ask::new(Method::POST, &["sets"]).with(request)).await
    }

    /// `set list`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn sets(&self) -> Answer<Vec<SetInfo>> {
        self.ask(Ask::new(Method::GET, &["sets"])).await
    }

    /// `set delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn set_delete(&self, name: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["sets", name])).await
    }

    /// `backup create`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn backup_create(&self, request: &BackupCreate) -> Answer<BackupInfo> {
        self.ask(Ask::new(Method::POST, &["backups"]).with(request)).await
    }

    /// `backup list`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn backups(&self) -> Answer<Vec<BackupInfo>> {
        self.ask(Ask::new(Method::GET, &["backups"])).await
    }

    /// `backup show`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn backup(&self, name: &str) -> Answer<BackupInfo> {
        self.ask(Ask::new(Method::GET, &["backups", name])).await
    }

    /// `backup cancel`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn backup_cancel(&self, name: &str) -> Answer<BackupInfo> {
        self.ask(Ask::new(Method::POST, &["backups", name, "cancel"])).await
    }

    /// `backup delete`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn backup_delete(&self, name: &str) -> Answer<()> {
        self.tell(Ask::new(Method::DELETE, &["backups", name])).await
    }

    /// The archive of a backup to `-`, piece by piece. The inner error is that of who takes them, or of the archive breaking off.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn backup_stream(
        &self,
        name: &str,
        mut take: impl FnMut(&[u8]) -> io::Result<()>,
    ) -> Answer<io::Result<()>> {
        let ask = Ask::new(Method::GET, &["backups", name, "stream"]);
        self.converse(ask, async |response| {
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                let frame = match frame {
                    Ok(frame) => frame,
                    Err(error) => return Ok(Err(io::Error::other(format!("the archive broke off: {error}")))),
                };
                if let Some(Err(error)) = frame.data_ref().map(|piece| take(piece)) {
                    return Ok(Err(error));
                }
            }
            Ok::<_, ClientError>(Ok(()))
        })
        .await
    }

    /// `backup restore` onto volumes.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn restore(&self, request: &RestoreRequest) -> Answer<RestoreReport> {
        self.ask(Ask::new(Method::POST, &["restore"]).with(request).within(ARCHIVE_TIMEOUT)).await
    }

    /// `backup restore --cancel`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn restore_cancel(&self, request: &RestoreRequest) -> Answer<RestoreStatus> {
        self.ask(Ask::new(Method::POST, &["restore", "cancel"]).with(request)).await
    }

    /// `backup restore --give-up`.
    ///
    /// # Errors
    /// See [`Client::status`].
    pub async fn restore_give_up(&self, volume: &str) -> Answer<VolumeStatus> {
        self.ask(Ask::new(Method::DELETE, &["volumes", volume, "restore"])).await
    }
}
