//! Data sets and backups of this appliance.
//!
//! `sets` (what may be backed up), `moment` (images of the groups concerned), `jobs` (from the request to the end), `targets_of_pairs`
//! (images of targets), `targets` (opening where it goes), `restore` (back onto volumes), `restoring` (how far that is),
//! `unfinished` (restores that did not end).

mod jobs;
mod moment;
mod restore;
mod restoring;
mod sets;
mod targets;
mod targets_of_pairs;
mod unfinished;

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_backup::files::LIST_BYTES_MAX;
use tidemark_backup::files::room::Room;
use tidemark_common::api::backup::types::{
    BackupCreate, BackupInfo, BackupState, RestoreReport, RestoreRequest, RestoreStatus, SetCreate, SetInfo,
};
use tidemark_common::api::backup::{ArchiveStream, BackupControl};
use tidemark_common::api::control::Reply;
use tidemark_common::api::types::VolumeStatus;
use tokio::sync::Semaphore;

use super::appliance::Appliance;
use jobs::{Job, Unrecorded};
use restoring::Restores;
use unfinished::Unfinished;

/// Copyings at once: each takes [`tidemark_backup::copy::COPY_BYTES`] of memory; the others wait with their images made.
const COPYINGS_MAX: usize = 8;

/// The backups under way, and the one owner of the memory they copy with. What their images save is owned by the side store.
pub(crate) struct Backups {
    jobs: Mutex<BTreeMap<String, Arc<Job>>>,
    /// How those that are over ended, by name, as the catalogue has it.
    ended: Mutex<BTreeMap<String, BackupState>>,
    /// How some of them ended, by name: the catalogue has not taken that yet.
    unrecorded: Mutex<Unrecorded>,
    /// The folder of its own in which each lies, by name; `None`: its target is no folder. Kept, for who asks waits for no target.
    places: Mutex<BTreeMap<String, Option<String>>>,
    /// Creating, cancelling and deleting, one at a time.
    changing: tokio::sync::Mutex<()>,
    copyings: Arc<Semaphore>,
    /// The memory for lists of the files of directories.
    lists: Arc<Room>,
    /// Restores onto volumes under way.
    restores: Mutex<Restores>,
    /// Volumes that are restored now, and what is done, for people: closed to hosts until that is over.
    restoring: Mutex<BTreeMap<String, String>>,
    /// Those that are restored only half, as the catalogue has them: closed to hosts until they are whole.
    unfinished: Mutex<Unfinished>,
}

impl Default for Backups {
    fn default() -> Self {
        Self {
            jobs: Mutex::default(),
            ended: Mutex::default(),
            unrecorded: Mutex::default(),
            places: Mutex::default(),
            changing: tokio::sync::Mutex::default(),
            copyings: Arc::new(Semaphore::new(COPYINGS_MAX)),
            lists: Arc::new(Room::of(LIST_BYTES_MAX)),
            restores: Mutex::default(),
            restoring: Mutex::default(),
            unfinished: Mutex::default(),
        }
    }
}

impl Backups {
    /// How many there are in each state. Who is told waits for nothing.
    pub(crate) fn by_state(&self) -> BTreeMap<String, u64> {
        let jobs = self.jobs.lock();
        let ended = self.ended.lock();
        let over = ended.iter().filter(|(name, _)| !jobs.contains_key(*name)).map(|(_, state)| *state);
        let mut counts = BTreeMap::new();
        for state in jobs.values().map(|job| job.state()).chain(over) {
            *counts.entry(state.name().to_owned()).or_default() += 1;
        }
        counts
    }
}

impl BackupControl for Appliance {
    fn set_create(&self, request: SetCreate) -> Reply<'_, SetInfo> {
        Box::pin(async move { tokio::task::block_in_place(|| self.create_set(&request)) })
    }

    fn sets(&self) -> Reply<'_, Vec<SetInfo>> {
        Box::pin(async move { tokio::task::block_in_place(|| self.list_sets()) })
    }

    fn set_delete(&self, name: String) -> Reply<'_, ()> {
        Box::pin(async move { tokio::task::block_in_place(|| self.delete_set(&name)) })
    }

    fn backup_create(&self, request: BackupCreate) -> Reply<'_, BackupInfo> {
        Box::pin(self.create_backup(request))
    }

    fn backups(&self) -> Reply<'_, Vec<BackupInfo>> {
        Box::pin(async move { tokio::task::block_in_place(|| self.list_backups()) })
    }

    fn backup(&self, name: String) -> Reply<'_, BackupInfo> {
        Box::pin(async move { tokio::task::block_in_place(|| self.show_backup(&name)) })
    }

    fn backup_cancel(&self, name: String) -> Reply<'_, BackupInfo> {
        Box::pin(async move { self.cancel_backup(&name).await })
    }

    fn backup_delete(&self, name: String) -> Reply<'_, ()> {
        Box::pin(async move { self.delete_backup(&name).await })
    }

    fn backup_stream(&self, name: String) -> Reply<'_, ArchiveStream> {
        Box::pin(std::future::ready(self.stream_backup(&name)))
    }

    fn restore(&self, request: RestoreRequest) -> Reply<'_, RestoreReport> {
        Box::pin(self.restore_backup(request))
    }

    fn restore_cancel(&self, request: RestoreRequest) -> Reply<'_, RestoreStatus> {
        Box::pin(self.cancel_restore(request))
    }

    fn restore_give_up(&self, volume: String) -> Reply<'_, VolumeStatus> {
        Box::pin(async move { tokio::task::block_in_place(|| self.give_up_restore(&volume)) })
    }
}
