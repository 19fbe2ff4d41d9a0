//! A copy goes on with the primary that calls: with its generation, and its interval between cuts (invariant 8).

use tidemark_common::catalog::{CatalogError, RoleRecord};
use tidemark_common::keeper::GroupKeeper;

/// Whether the copy has this primary from now on. A failover may have come in between: the record as it is now decides.
///
/// A primary that calls again changes nothing, and waits for nobody who does, nor for a disk that does not answer.
pub(super) fn adopt(
    keeper: &GroupKeeper,
    primary: [u8; 32],
    generation: u64,
    interval_ms: u64,
) -> Result<bool, CatalogError> {
    let known = keeper.get();
    let is_known = known.role == RoleRecord::Secondary && known.generation == generation;
    if is_known && known.primary == Some(primary) && known.interval_ms == interval_ms {
        return Ok(true);
    }
    keeper.update(|record| {
        let secondary = record.role == RoleRecord::Secondary && record.generation <= generation;
        if secondary {
            record.generation = generation;
            record.primary = Some(primary);
            record.interval_ms = interval_ms;
        }
        secondary
    })
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering;
    use std::sync::{Arc, mpsc};
    use std::time::Duration;

    use tidemark_common::catalog::GroupRecord;

    use super::*;
    use crate::service::tests::{Faults, appliance};

    const PRIMARY: [u8; 32] = [1; 32];
    const INTERVAL_MS: u64 = 1000;

    fn copy() -> GroupRecord {
        GroupRecord {
            role: RoleRecord::Secondary,
            generation: 1,
            interval_ms: INTERVAL_MS,
            primary: Some(PRIMARY),
            ..GroupRecord::new("g", [7; 16])
        }
    }

    #[test]
    fn a_primary_that_calls_again_waits_for_no_disk_and_one_that_changes_something_holds_up_nobody() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let inside = runtime.enter();
        let appliance = appliance(directory.path(), &faults);
        appliance.catalog.put_group(&copy()).unwrap();
        let keeper = Arc::new(GroupKeeper::new(appliance.catalog.clone(), copy()));
        let (hang, before) = (faults.hang.lock(), faults.writes.load(Ordering::Acquire));
        let adopts = Arc::clone(&keeper);
        let adopting = runtime.spawn(async move { adopt(&adopts, PRIMARY, 2, INTERVAL_MS) });
        while faults.writes.load(Ordering::Acquire) == before {
            std::thread::yield_now();
        }
        let (tell, told) = mpsc::sync_channel(2);
        let (again, tells) = (Arc::clone(&keeper), tell.clone());
        let calling = std::thread::spawn(move || {
            let _ = tells.send(adopt(&again, PRIMARY, 1, INTERVAL_MS).is_ok_and(|adopted| adopted));
        });
        runtime.spawn(async move { tell.send(true) });
        let answers = [(); 2].map(|()| told.recv_timeout(Duration::from_secs(20)));
        drop(hang);
        assert_eq!(answers, [Ok(true), Ok(true)], "neither waits for the disk");
        calling.join().unwrap();
        assert!(runtime.block_on(adopting).unwrap().unwrap());
        assert_eq!(keeper.get().generation, 2);
        assert!(!adopt(&keeper, PRIMARY, 1, INTERVAL_MS).unwrap(), "a lower generation");
        drop(inside);
    }
}
