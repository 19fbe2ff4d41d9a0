//! Restoring onto volumes: through the host's path, so that what is restored is captured and replicated like any write.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tidemark_backup::restore::{VolumeWriter, to_volumes};
use tidemark_backup::source::Source;
use tidemark_common::api::backup::types::{RestoreReport, RestoreRequest};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::nbd::{Export, IoError, ZeroMode};

use crate::roles::appliance::{Appliance, failed, invalid, refused};

/// Bytes of zeroes in one request.
const ZERO_BYTES: u64 = 1 << 30;

impl Appliance {
    /// `backup restore` onto volumes.
    pub(super) async fn restore_backup(&self, request: RestoreRequest) -> Result<RestoreReport, ErrorBody> {
        let path = PathBuf::from(&request.from);
        if !path.is_absolute() {
            return Err(invalid(format!("'{}' is not an absolute path", request.from)));
        }
        let appliance = self.this.upgrade().ok_or_else(|| failed("the service is stopping"))?;
        let restored = tokio::task::spawn_blocking(move || {
            let mut volumes = Hosted::of(appliance, path.display().to_string());
            let restored =
                to_volumes(&Source::Path(path), request.set.as_deref(), request.onto.as_deref(), &mut volumes);
            restored.map_err(|why| why + &volumes.left_half())
        });
        let restored = restored.await.map_err(failed)?;
        let restored = restored.map_err(|why| refused(format!("{}: {why}", request.from)))?;
        Ok(RestoreReport { members: restored.members, data_bytes: restored.data_bytes })
    }
}

/// The volumes as a host writes them, and nobody else: they are closed to hosts from the first look until this is dropped.
struct Hosted {
    appliance: Arc<Appliance>,
    from: String,
    /// Written and not yet flushed.
    written: BTreeSet<String>,
    closed: Mutex<BTreeSet<String>>,
    /// Those of which something was written, in this restore.
    begun: BTreeSet<String>,
}

impl Hosted {
    fn of(appliance: Arc<Appliance>, from: String) -> Self {
        Self { appliance, from, written: BTreeSet::new(), closed: Mutex::default(), begun: BTreeSet::new() }
    }

    /// Two restores onto one volume would be neither.
    fn close(&self, volume: &str) -> Result<(), String> {
        let mut closed = self.closed.lock();
        if closed.contains(volume) {
            return Ok(());
        }
        let mut all = self.appliance.backups.restoring.lock();
        if let Some(other) = all.get(volume) {
            return Err(format!("volume '{volume}' is being restored from {other} already"));
        }
        all.insert(volume.to_owned(), self.from.clone());
        closed.insert(volume.to_owned());
        self.appliance.opened_by_a_host(volume)
    }

    fn door(&mut self, volume: &str) -> Result<Arc<crate::roles::door::Door>, String> {
        let found = self.appliance.volume(volume).map_err(|error| error.message)?;
        self.close(volume)?;
        if found.door.connections.load(Ordering::Relaxed) > 0 {
            return Err(format!(
                "hosts are connected to volume '{volume}', and would not expect it to change: disconnect them first"
            ));
        }
        self.begun.insert(volume.to_owned());
        self.written.insert(volume.to_owned());
        Ok(Arc::clone(&found.door))
    }

    /// What an end before the end leaves, for people.
    fn left_half(&self) -> String {
        let half: Vec<_> = self.begun.iter().map(|volume| format!("'{volume}'")).collect();
        if half.is_empty() {
            return String::new();
        }
        format!(". What is in {} now is neither what was there nor the backup: restore again", half.join(", "))
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        let closed = self.closed.lock();
        self.appliance.backups.restoring.lock().retain(|volume, _| !closed.contains(volume));
    }
}

fn at(volume: &str, offset: u64, error: IoError) -> String {
    format!("write volume '{volume}' at {offset}: {error}")
}

impl VolumeWriter for Hosted {
    fn size(&self, volume: &str) -> Option<u64> {
        let found = self.appliance.volume(volume).ok()?;
        // Another restore, or a host, is said when the first byte is written.
        let _ = self.close(volume);
        let bounds = found.door.bounds();
        (!bounds.read_only).then_some(bounds.size)
    }

    fn write(&mut self, volume: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let door = self.door(volume)?;
        let written = self.appliance.runtime.block_on(door.write(offset, bytes, false));
        written.map_err(|error| at(volume, offset, error))
    }

    fn zero(&mut self, volume: &str, offset: u64, length: u64) -> Result<(), String> {
        let door = self.door(volume)?;
        let mut done = 0;
        while done < length {
            let some = (length - done).min(ZERO_BYTES);
            let zeroed = self.appliance.runtime.block_on(door.write_zeroes(offset + done, some, ZeroMode::default()));
            zeroed.map_err(|error| at(volume, offset + done, error))?;
            done += some;
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), String> {
        for volume in std::mem::take(&mut self.written) {
            let door = self.door(&volume)?;
            let flushed = self.appliance.runtime.block_on(door.flush());
            flushed.map_err(|error| format!("flush volume '{volume}': {error}"))?;
        }
        Ok(())
    }
}
