//! Restoring onto volumes: through the host's path, so that what is restored is captured and replicated like any write.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use parking_lot::Mutex;
use tidemark_backup::restore::{Ranges, VolumeWriter, to_volumes};
use tidemark_backup::source::Source;
use tidemark_common::api::backup::types::{RestoreReport, RestoreRequest};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::nbd::{Export, IoError, ZeroMode};

use super::restoring::UnderWay;
use super::unfinished::Unfinished;
use crate::roles::appliance::{Appliance, failed, invalid, refused};
use crate::roles::door::Door;

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
        let under_way = UnderWay::begin(Arc::clone(&appliance), request.clone());
        let RestoreRequest { from, set, onto } = request;
        let restored = tokio::task::spawn_blocking(move || {
            let mut volumes = Hosted::of(appliance, path.display().to_string(), under_way);
            let restored = to_volumes(&Source::Path(path), set.as_deref(), onto.as_deref(), &mut volumes);
            let restored = restored.map_err(|why| why + &volumes.left_half())?;
            let warnings = volumes.under_way.warnings();
            let (members, data_bytes) = (restored.members, restored.data_bytes);
            Ok::<_, String>(RestoreReport { members, data_bytes, volumes: volumes.under_way.volumes(), warnings })
        });
        let restored = restored.await.map_err(failed)?;
        restored.map_err(|why| refused(format!("{from}: {why}")))
    }
}

/// The volumes as a host writes them, and nobody else: they are closed to hosts from the first look until this is dropped, and stay so when
/// it is dropped half-way.
struct Hosted {
    appliance: Arc<Appliance>,
    from: String,
    closed: Mutex<BTreeSet<String>>,
    /// What is overwritten.
    ranges: Ranges,
    /// Once it is recorded that this has begun: what was recorded before.
    begun: Option<Unfinished>,
    /// Where it says how far it is, and is told to stop. Over when the volumes are let go.
    under_way: UnderWay,
}

impl Hosted {
    fn of(appliance: Arc<Appliance>, from: String, under_way: UnderWay) -> Self {
        Self { appliance, from, closed: Mutex::default(), ranges: Ranges::new(), begun: None, under_way }
    }

    /// Whether nobody has ended it.
    fn goes_on(&self) -> Result<(), String> {
        match self.under_way.stopped() {
            None => Ok(()),
            Some(reason) if self.begun.is_none() => Err(format!("{reason}; nothing was changed")),
            Some(reason) => Err(reason),
        }
    }

    /// Two restores onto one volume would be neither.
    fn close(&self, volume: &str) -> Result<(), String> {
        let mut closed = self.closed.lock();
        if closed.contains(volume) {
            return Ok(());
        }
        let from = &self.from;
        let doing = format!("volume '{volume}' is being restored from {from}: it can be opened when that is over");
        self.appliance.backups.take(volume, doing)?;
        closed.insert(volume.to_owned());
        Ok(())
    }

    /// What hosts go through.
    fn door(&self, volume: &str) -> Result<Arc<Door>, String> {
        let found = self.appliance.volume(volume).map_err(|error| error.message)?;
        self.close(volume)?;
        if found.door.connections.load(Ordering::Relaxed) > 0 {
            return Err(format!(
                "hosts are connected to volume '{volume}', which would change under them: disconnect them first"
            ));
        }
        Ok(Arc::clone(&found.door))
    }

    /// The same, to change what it holds: that has begun is recorded, durably, before the first byte is changed.
    fn changing(&mut self, volume: &str) -> Result<Arc<Door>, String> {
        if !self.ranges.contains_key(volume) {
            return Err(format!("volume '{volume}' is not among those that are restored"));
        }
        self.goes_on()?;
        let door = self.door(volume)?;
        if self.begun.is_none() {
            let begun = self.appliance.begin_restore(&self.ranges, &self.from);
            self.begun = Some(begun.map_err(|error| format!("record that it begins: {error}"))?);
            self.under_way.writes(&self.ranges);
        }
        Ok(door)
    }

    /// What an end before the end leaves, for people.
    fn left_half(&self) -> String {
        if self.begun.is_none() {
            return String::new();
        }
        let half: Vec<_> = self.ranges.keys().map(|volume| format!("'{volume}'")).collect();
        format!(
            ". What is in {} now is neither what was there nor the backup, and stays closed to hosts: restore again, or open a volume as it \
             is with `tidemark backup restore --give-up VOLUME`",
            half.join(", ")
        )
    }
}

impl Drop for Hosted {
    fn drop(&mut self) {
        for volume in &*self.closed.lock() {
            self.appliance.backups.let_go(volume);
        }
    }
}

fn at(volume: &str, offset: u64, error: IoError) -> String {
    format!("write volume '{volume}' at {offset}: {error}")
}

impl VolumeWriter for Hosted {
    fn size(&self, volume: &str) -> Result<u64, String> {
        let found = self.appliance.volume(volume).map_err(|error| error.message)?;
        // Another restore, or a host, is said when the first byte is written.
        let _ = self.close(volume);
        let bounds = found.door.bounds();
        if !bounds.read_only {
            return Ok(bounds.size);
        }
        let why = self.appliance.served(volume).err();
        Err(why.unwrap_or_else(|| format!("volume '{volume}' cannot be written now: try again")))
    }

    fn verifying(&mut self, done_bytes: u64, total_bytes: Option<u64>) -> Result<(), String> {
        self.under_way.verified(done_bytes, total_bytes);
        self.goes_on()
    }

    fn begin(&mut self, ranges: &Ranges) -> Result<(), String> {
        self.ranges.clone_from(ranges);
        self.under_way.overwrites(ranges);
        // All of them, before one is changed. Only then: a restore that is refused takes no offer back.
        ranges.keys().try_for_each(|volume| self.door(volume).map(drop))?;
        ranges.keys().try_for_each(|volume| self.appliance.put_to_restore(volume))?;
        let sum = |ranges: &[(u64, u64)]| ranges.iter().fold(0_u64, |sum, (_, length)| sum.saturating_add(*length));
        let written = ranges.iter().map(|(volume, ranges)| (volume.as_str(), sum(ranges)));
        self.under_way.warns(self.appliance.copies_left_behind(written));
        Ok(())
    }

    fn write(&mut self, volume: &str, offset: u64, bytes: &[u8]) -> Result<(), String> {
        let door = self.changing(volume)?;
        let written = self.appliance.runtime.block_on(door.write(offset, bytes, false));
        written.map_err(|error| at(volume, offset, error))?;
        self.under_way.wrote(bytes.len() as u64);
        Ok(())
    }

    fn zero(&mut self, volume: &str, offset: u64, length: u64) -> Result<(), String> {
        let door = self.changing(volume)?;
        let mut done = 0;
        while done < length {
            self.goes_on()?;
            let some = (length - done).min(ZERO_BYTES);
            let zeroed = self.appliance.runtime.block_on(door.write_zeroes(offset + done, some, ZeroMode::default()));
            zeroed.map_err(|error| at(volume, offset + done, error))?;
            self.under_way.wrote(some);
            done += some;
        }
        Ok(())
    }

    fn complete(&mut self) -> Result<(), String> {
        for volume in self.ranges.keys() {
            let door = self.door(volume)?;
            let flushed = self.appliance.runtime.block_on(door.flush());
            flushed.map_err(|error| format!("flush volume '{volume}': {error}"))?;
        }
        // In this order: what is not durable is not whole.
        if let Some(before) = self.begun.take() {
            let ended = self.appliance.end_restore(&self.ranges, before.clone());
            ended.map_err(|error| {
                self.begun = Some(before);
                format!("record that it has ended: {error}")
            })?;
        }
        self.under_way.done();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::api::types::VolumeOffer;
    use tidemark_common::ids::GroupId;
    use tidemark_common::wire::message::VolumeSpec;

    use super::*;
    use crate::roles::strays::tests::add_copy;
    use crate::service::tests::{Faults, add_volume, appliance};

    const ID: GroupId = GroupId([7; 16]);

    /// The pair that it was offered to may wait for it still, and overwrote it as soon as it was restored.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_restored_becomes_no_copy_and_what_is_a_copy_is_not_restored() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy(&appliance);
        for name in ["w", "x"] {
            add_volume(&appliance, name).await;
            appliance.offer_volume(name, &VolumeOffer { group: Some("g".into()) }).await.unwrap();
        }
        let request = RestoreRequest { from: "/backup".into(), set: None, onto: None };
        let under_way = UnderWay::begin(Arc::clone(&appliance), request);
        let mut restore = Hosted::of(Arc::clone(&appliance), "/backup".into(), under_way);
        let ranges = |volume: &str| Ranges::from([(volume.to_owned(), vec![(0, 512)])]);
        assert_eq!(restore.size("w"), Ok(1 << 20));
        assert!(appliance.is_offered("w", "g", ID), "it may be refused still");
        restore.begin(&ranges("w")).unwrap();
        assert!(!appliance.is_offered("w", "g", ID));
        // In the moment before it is taken.
        let spec = VolumeSpec { index: 1, name: "x".into(), size: 1 << 20 };
        appliance.adopt("g", &spec).unwrap();
        let why = restore.begin(&ranges("x")).unwrap_err();
        assert!(why.contains("group 'g'"), "{why}");
    }
}
