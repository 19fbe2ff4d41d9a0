//! Volumes end here: what is known of one, and the file that was made for it. A kill in the middle of that leaves neither a file that nobody
//! knows of nor a volume without its file. Owned: the names of files that are about to go.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::VolumeRecord;

use super::appliance::{Appliance, Volume, failed};

/// What ends the name of a file that is about to go.
const DELETED: &str = "deleted";

fn deleted_name(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(DELETED);
    name.into()
}

impl Appliance {
    /// A volume is known no more, and the file that was made for it is gone. That has another name first: of a kill in the middle, the next start
    /// knows what was to become of it.
    pub(crate) fn forget_volume(&self, name: &str, volume: &Volume) -> Result<(), ErrorBody> {
        let path = Path::new(&volume.backing);
        let aside = deleted_name(path);
        if volume.owned {
            self.rename_aside(path, &aside).map_err(|error| failed(format!("rename {}: {error}", volume.backing)))?;
        }
        if let Err(error) = self.catalog.delete_volume(name) {
            if volume.owned
                && let Err(error) = self.disk.rename(&aside, path)
            {
                tracing::error!(volume = name, %error, "its file has its name again with the next start");
            }
            return Err(failed(error));
        }
        self.offers.forget(name);
        self.restore_is_forgotten(name);
        self.volumes.write().remove(name);
        let removed = if volume.owned { self.disk.remove(&aside) } else { Ok(()) };
        removed.or_else(|error| match error.kind() {
            ErrorKind::NotFound => Ok(()),
            _ => Err(failed(format!("remove {}: {error}. The next start does it", aside.display()))),
        })
    }

    /// Durably: the record goes next. An earlier try may have renamed it and not known of that.
    fn rename_aside(&self, path: &Path, aside: &Path) -> io::Result<()> {
        let unless_gone = |error: io::Error| if error.kind() == ErrorKind::NotFound { Ok(()) } else { Err(error) };
        let Err(error) = self.disk.rename(path, aside) else { return Ok(()) };
        match path.parent().filter(|_| error.kind() == ErrorKind::NotFound) {
            Some(folder) => self.disk.sync_folder(folder).or_else(unless_gone),
            None => Err(error),
        }
    }

    /// Deletions that a kill has interrupted: files of volumes that are known still have their names again, all others go.
    pub(super) fn end_deletions(&self, known: &[VolumeRecord]) {
        let Ok(files) = fs::read_dir(self.volume_folder()) else { return };
        let of = |path: &Path| {
            let name = path.file_name().map(OsStr::to_owned);
            known.iter().filter(move |record| Path::new(&record.backing).file_name() == name.as_deref())
        };
        // A volume may have been made around a file of such a name.
        let is_aside = |path: &PathBuf| {
            path.extension().is_some_and(|extension| extension == DELETED) && of(path).next().is_none()
        };
        for aside in files.flatten().map(|file| file.path()).filter(is_aside) {
            let path = aside.with_extension("");
            let is_known = of(&path).any(|record| record.owned);
            let ended =
                if is_known && !path.exists() { self.disk.rename(&aside, &path) } else { self.disk.remove(&aside) };
            match ended {
                Ok(()) => tracing::warn!(file = %aside.display(), is_known, "the deletion of a volume was interrupted"),
                Err(error) => {
                    tracing::error!(file = %aside.display(), %error, "what the deletion of a volume has left stays");
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use tidemark_common::storage::disk::SystemDisk;
    use tidemark_common::storage::filter::{self, Filter};

    use super::*;
    use crate::service::tests::{Faults, add_volume, appliance, appliance_on};

    /// While it is set, names change, and cannot be made durable.
    #[derive(Default)]
    struct Unsynced(AtomicBool);

    impl Unsynced {
        fn answer(&self) -> io::Result<()> {
            if self.0.load(Ordering::Acquire) { Err(io::Error::other("the folder cannot be synced")) } else { Ok(()) }
        }
    }

    impl Filter for Unsynced {
        fn before_rename(&self, from: &Path, to: &Path) -> io::Result<()> {
            if !from.exists() {
                return Ok(());
            }
            self.answer().inspect_err(|_| fs::rename(from, to).unwrap())
        }

        fn before_sync_folder(&self, _: &Path) -> io::Result<()> {
            self.answer()
        }
    }

    /// A loss of power left its file, under its name, and no record of it.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_volume_is_known_until_its_file_has_another_name_durably() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let unsynced = Arc::new(Unsynced::default());
        let appliance = appliance_on(directory.path(), &faults, filter::disk(Arc::new(SystemDisk), &unsynced));
        add_volume(&appliance, "v").await;
        unsynced.0.store(true, Ordering::Release);
        for _ in 0..2 {
            appliance.delete_volume("v").await.unwrap_err();
            assert!(appliance.catalog.volume("v").unwrap().is_some());
        }
        unsynced.0.store(false, Ordering::Release);
        appliance.delete_volume("v").await.unwrap();
        assert!(appliance.catalog.volume("v").unwrap().is_none());
        assert_eq!(fs::read_dir(appliance.volume_folder()).unwrap().count(), 0, "nothing of it is left");
    }

    #[test]
    fn a_deletion_that_is_killed_goes_on_or_back_with_the_next_start() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let inside = runtime.enter();
        let appliance = appliance(directory.path(), &faults);
        runtime.block_on(add_volume(&appliance, "v"));
        let path = appliance.volume_folder().join("v.img");
        let (hang, before) = (faults.hang.lock(), faults.writes.load(Ordering::Acquire));
        let deletes = Arc::clone(&appliance);
        let deleted = runtime.spawn(async move { deletes.delete_volume("v").await });
        while faults.writes.load(Ordering::Acquire) == before {
            std::thread::yield_now();
        }
        let as_a_kill_leaves_it = (path.exists(), deleted_name(&path).exists());
        drop(hang);
        runtime.block_on(deleted).unwrap().unwrap();
        assert_eq!(as_a_kill_leaves_it, (false, true));
        assert!(!path.exists() && !deleted_name(&path).exists());

        // Recorded, and not yet removed.
        std::fs::write(deleted_name(&path), "v").unwrap();
        // Not recorded.
        drop(runtime.block_on(add_volume(&appliance, "w")));
        let other = appliance.volume_folder().join("w.img");
        appliance.volumes.write().clear();
        std::fs::rename(&other, deleted_name(&other)).unwrap();
        // Somebody's own.
        let own = appliance.volume_folder().join("x.deleted");
        std::fs::write(&own, vec![0; 1 << 20]).unwrap();
        let backing = own.to_string_lossy().into_owned();
        let record = VolumeRecord { name: "x".into(), size: 1 << 20, backing, owned: false, group: None };
        appliance.catalog.put_volume(&record).unwrap();
        appliance.open_volumes().unwrap();
        assert!(own.exists() && appliance.volume("x").is_ok());
        assert!(!deleted_name(&path).exists() && !deleted_name(&other).exists());
        assert!(other.exists() && appliance.volume("w").is_ok());
        drop(inside);
    }
}
