//! One group's record in the catalogue: changed only through here, so that what is in memory and what is durable never
//! differ, and nothing comes back of a group that is forgotten.

use parking_lot::{Mutex, MutexGuard};

use crate::catalog::{Batch, Catalog, CatalogError, GroupRecord, PairRecord};
use crate::ids::{Generation, GroupId};
use crate::workers;

/// The keeper of one group's record.
#[derive(Debug)]
pub struct GroupKeeper {
    catalog: Catalog,
    /// Held by whoever changes the record, for as long as the catalogue takes. Whether the group is forgotten.
    changing: Mutex<bool>,
    /// As it is durable. Heartbeats, status and hosts that come in ask for it, and do not wait for a disk: it is held for moments only.
    record: Mutex<GroupRecord>,
}

impl GroupKeeper {
    /// Keeps a record that is in the catalogue already.
    #[must_use]
    pub const fn new(catalog: Catalog, record: GroupRecord) -> Self {
        Self { catalog, changing: Mutex::new(false), record: Mutex::new(record) }
    }

    /// The catalogue behind it.
    #[must_use]
    pub const fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    /// The record now; while it is being changed, as it was before.
    #[must_use]
    pub fn get(&self) -> GroupRecord {
        self.record.lock().clone()
    }

    /// The group's id.
    #[must_use]
    pub fn id(&self) -> GroupId {
        GroupId(self.record.lock().id)
    }

    /// The group's name.
    #[must_use]
    pub fn name(&self) -> String {
        self.record.lock().name.clone()
    }

    /// The generation.
    #[must_use]
    pub fn generation(&self) -> Generation {
        Generation(self.record.lock().generation)
    }

    /// Changes the record, durably, then in memory.
    ///
    /// # Errors
    /// [`CatalogError`]; the record is as it was.
    pub fn update<T>(&self, change: impl FnOnce(&mut GroupRecord) -> T) -> Result<T, CatalogError> {
        let _alone = self.alone()?;
        let before = self.get();
        let mut changed = before.clone();
        let answer = change(&mut changed);
        if changed != before {
            self.catalog.put_group(&changed)?;
            *self.record.lock() = changed;
        }
        Ok(answer)
    }

    /// Changes the record together with what else is in a batch.
    ///
    /// # Errors
    /// [`CatalogError`]; the record is as it was, and nothing of the batch is kept.
    pub fn update_with<T>(
        &self,
        mut batch: Batch,
        change: impl FnOnce(&mut GroupRecord) -> T,
    ) -> Result<T, CatalogError> {
        let _alone = self.alone()?;
        let mut changed = self.get();
        let answer = change(&mut changed);
        batch.put_group(&changed)?;
        self.catalog.commit(batch)?;
        *self.record.lock() = changed;
        Ok(answer)
    }

    /// The group is given up or deleted. `commit` takes its record out of the catalogue; a conversation or a thread that still knows of the group
    /// changes nothing from here on, and so brings nothing of it back.
    ///
    /// # Errors
    /// As `commit`; the group is what it was then.
    pub fn forget(&self, commit: impl FnOnce() -> Result<(), CatalogError>) -> Result<(), CatalogError> {
        let mut is_forgotten = self.alone()?;
        commit()?;
        *is_forgotten = true;
        Ok(())
    }

    fn alone(&self) -> Result<MutexGuard<'_, bool>, CatalogError> {
        let changing = self.changing.try_lock();
        let is_forgotten = changing.unwrap_or_else(|| workers::wait(|| self.changing.lock()));
        if *is_forgotten { Err(CatalogError::Forgotten { group: self.name() }) } else { Ok(is_forgotten) }
    }

    /// One pair's record.
    #[must_use]
    pub fn pair(&self, peer: &str) -> Option<PairRecord> {
        self.record.lock().pairs.iter().find(|pair| pair.peer == peer).cloned()
    }

    /// Changes one pair's record; does nothing when there is no such pair.
    ///
    /// # Errors
    /// [`CatalogError`]; the record is as it was.
    pub fn update_pair(&self, peer: &str, change: impl FnOnce(&mut PairRecord)) -> Result<(), CatalogError> {
        self.update(|record| {
            if let Some(pair) = record.pairs.iter_mut().find(|pair| pair.peer == peer) {
                change(pair);
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use super::*;
    use crate::clock::SystemClock;
    use crate::storage::filter::{self, Filter};
    use crate::storage::memory::MemoryDisk;

    const LIMIT: Duration = Duration::from_secs(20);

    /// A disk on which a sync takes as long as somebody holds the gate.
    struct Standing {
        gate: Mutex<()>,
        begun: mpsc::SyncSender<()>,
    }

    impl Filter for Standing {
        fn before_sync(&self) -> io::Result<()> {
            let _ = self.begun.send(());
            drop(self.gate.lock());
            Ok(())
        }
    }

    #[test]
    fn nothing_is_recorded_of_a_group_that_is_forgotten() {
        let disk = MemoryDisk::new();
        let catalog = Catalog::open_simulated(&disk, "records".as_ref(), &SystemClock::new()).unwrap();
        let record = GroupRecord::new("g", [7; 16]);
        catalog.put_group(&record).unwrap();
        let keeper = GroupKeeper::new(catalog.clone(), record);
        keeper.forget(|| catalog.delete_group("no name", GroupId([7; 16]))).unwrap_err();
        keeper.update(|record| record.generation = 2).unwrap();
        keeper.forget(|| catalog.delete_group("g", GroupId([7; 16]))).unwrap();
        keeper.update(|record| record.generation = 3).unwrap_err();
        keeper.update_with(Batch::new(), |record| record.generation = 3).unwrap_err();
        assert_eq!(catalog.groups().unwrap(), []);
    }

    #[test]
    fn a_disk_that_takes_its_time_holds_up_nobody_but_who_changes_the_record() {
        let (begun, begins) = mpsc::sync_channel(1024);
        let standing = Arc::new(Standing { gate: Mutex::new(()), begun });
        let disk = filter::disk(Arc::new(MemoryDisk::new()), &standing);
        let catalog = Catalog::open_simulated(&*disk, "records".as_ref(), &SystemClock::new()).unwrap();
        let record = GroupRecord::new("g", [7; 16]);
        catalog.put_group(&record).unwrap();
        let keeper = Arc::new(GroupKeeper::new(catalog, record));
        while begins.try_recv().is_ok() {}

        let held = standing.gate.lock();
        let changes = {
            let keeper = Arc::clone(&keeper);
            std::thread::spawn(move || keeper.update(|record| record.generation = 2))
        };
        begins.recv_timeout(LIMIT).unwrap();
        let (tell, told) = mpsc::sync_channel(1);
        let asks = Arc::clone(&keeper);
        std::thread::spawn(move || tell.send(asks.generation()));
        assert_eq!(told.recv_timeout(LIMIT), Ok(Generation(1)), "as it is durable");
        drop(held);
        changes.join().unwrap().unwrap();
        assert_eq!(keeper.generation(), Generation(2));
    }

    /// With the disk of the catalogue, an appliance on a small machine answered nobody any more.
    #[test]
    fn who_changes_a_record_and_who_waits_for_them_keep_no_thread_of_a_runtime() {
        let (begun, begins) = mpsc::sync_channel(1024);
        let standing = Arc::new(Standing { gate: Mutex::new(()), begun });
        let disk = filter::disk(Arc::new(MemoryDisk::new()), &standing);
        let catalog = Catalog::open_simulated(&*disk, "records".as_ref(), &SystemClock::new()).unwrap();
        let record = GroupRecord::new("g", [7; 16]);
        catalog.put_group(&record).unwrap();
        let keeper = Arc::new(GroupKeeper::new(catalog, record));
        while begins.try_recv().is_ok() {}

        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let changes = |generation: u64| {
            let keeper = Arc::clone(&keeper);
            runtime.spawn(async move { keeper.update(|record| record.generation = generation) })
        };
        let held = standing.gate.lock();
        let one = changes(2);
        let begins_to = begins.recv_timeout(LIMIT);
        // Before what comes behind it: the runtime takes them in their order.
        let other = changes(3);
        let (tell, told) = mpsc::sync_channel(1);
        runtime.spawn(async move { tell.send(()) });
        let answered = told.recv_timeout(LIMIT);
        drop(held);
        assert_eq!((begins_to, answered), (Ok(()), Ok(())), "no thread is left");
        for changed in [one, other] {
            runtime.block_on(changed).unwrap().unwrap();
        }
        assert_eq!(keeper.generation(), Generation(3));
    }
}
