//! The part of the control API that is about data sets and backups: its types, what it asks of the appliance, its paths, and
//! the asking end.

mod client;
pub(super) mod routes;
pub mod types;

use tokio::sync::mpsc::Receiver;

use self::types::{BackupCreate, BackupInfo, RestoreReport, RestoreRequest, RestoreStatus, SetCreate, SetInfo};
use super::control::Reply;
use super::types::VolumeStatus;

/// An archive on its way: pieces, or why it ends early.
pub type ArchiveStream = Receiver<std::io::Result<Vec<u8>>>;

/// Data sets and backups as operators command them.
pub trait BackupControl: Send + Sync + 'static {
    /// `set create`.
    fn set_create(&self, request: SetCreate) -> Reply<'_, SetInfo>;
    /// `set list`: by name.
    fn sets(&self) -> Reply<'_, Vec<SetInfo>>;
    /// `set delete`: backups made of it stay as they are.
    fn set_delete(&self, name: String) -> Reply<'_, ()>;
    /// `backup create`: resolves when its images are there, or when it is scheduled.
    fn backup_create(&self, request: BackupCreate) -> Reply<'_, BackupInfo>;
    /// `backup list`: by name.
    fn backups(&self) -> Reply<'_, Vec<BackupInfo>>;
    /// `backup show`.
    fn backup(&self, name: String) -> Reply<'_, BackupInfo>;
    /// `backup cancel`: resolves when nothing of it is left but its record.
    fn backup_cancel(&self, name: String) -> Reply<'_, BackupInfo>;
    /// `backup delete`: the record; an archive that was written stays.
    fn backup_delete(&self, name: String) -> Reply<'_, ()>;
    /// The archive of a backup to `-`, which begins now.
    fn backup_stream(&self, name: String) -> Reply<'_, ArchiveStream>;
    /// `backup restore` onto volumes.
    fn restore(&self, request: RestoreRequest) -> Reply<'_, RestoreReport>;
    /// `backup restore --cancel`, of the restore that was asked for with this: resolves when it has ended.
    fn restore_cancel(&self, request: RestoreRequest) -> Reply<'_, RestoreStatus>;
    /// `backup restore --give-up`: a volume that is half restored is opened to hosts as it is.
    fn restore_give_up(&self, volume: String) -> Reply<'_, VolumeStatus>;
}
