//! Tests of what a copy's volumes are when the catalogue takes nothing for a while.

use super::*;
use crate::service::tests::{Faults, appliance};

/// Invariant 4: the next start would clear what was applied behind the recorded end.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_volume_that_grew_is_recorded_so_though_the_catalogue_was_full() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    let record = GroupRecord { role: RoleRecord::Secondary, ..GroupRecord::new("g", [7; 16]) };
    appliance.catalog.put_group(&record).unwrap();
    let volumes = Volumes::default();
    let spec = |size| [VolumeSpec { index: 1, name: "v".into(), size }];
    appliance.provide("g", &spec(1 << 20), &volumes).unwrap();
    faults.full.store(true, Ordering::Release);
    appliance.provide("g", &spec(2 << 20), &volumes).unwrap_err();
    faults.full.store(false, Ordering::Release);
    appliance.provide("g", &spec(2 << 20), &volumes).unwrap();
    assert_eq!(appliance.catalog.volume("v").unwrap().unwrap().size, 2 << 20);
    let sizes = (appliance.volume("v").unwrap().file.size(), volumes.by_name("v").unwrap().size());
    assert_eq!(sizes, (2 << 20, 2 << 20));
}
