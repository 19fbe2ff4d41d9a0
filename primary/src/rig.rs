//! What the tests of this crate start a group with: its catalogue, journal and volumes in a directory, and nobody to call.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::catalog::{Catalog, GroupRecord, GroupVolume};
use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::ids::{ApplianceId, Generation, VolumeIndex};
use tidemark_common::journal::JournalOptions;
use tidemark_common::keeper::GroupKeeper;
use tidemark_common::link::Endpoint;
use tidemark_common::metrics::Metrics;
use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::storage::{Disk, Open};
use tidemark_common::volumes::{VolumeFile, Volumes};
use tokio::runtime::Handle;

use crate::drain::DrainSettings;
use crate::group::{PrimaryOptions, PrimaryParts};
use crate::ship::Links;

/// Bytes of each volume.
pub(crate) const SIZE: u64 = 1 << 20;

/// Nobody is called.
struct NoLinks;

impl Links for NoLinks {
    fn endpoint(&self) -> Arc<Endpoint> {
        unreachable!("nobody is called")
    }

    fn reach(&self, peer: &str) -> Result<(ApplianceId, String), String> {
        Err(peer.into())
    }

    fn name(&self) -> String {
        "east".into()
    }

    fn fenced(&self, _: &str, _: &str, _: Generation) {}
}

/// A group of these volumes, numbered from 1, that cuts only when it is asked to.
pub(crate) fn group_of(names: &[&str]) -> GroupRecord {
    let volumes: Vec<_> = (1..).zip(names).map(|(index, name)| GroupVolume { index, name: (*name).into() }).collect();
    GroupRecord {
        interval_ms: 3_600_000,
        next_volume_index: volumes.last().map_or(1, |last| last.index + 1),
        volumes,
        ..GroupRecord::new("g", [7; 16])
    }
}

/// What a new group is started with.
pub(crate) fn parts_in(
    directory: &Path,
    record: GroupRecord,
    journal: JournalOptions,
) -> (PrimaryParts, PrimaryOptions) {
    let clock = Arc::new(SystemClock::new());
    let catalog = Catalog::open(directory, &*clock).unwrap();
    catalog.put_group(&record).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(SystemDisk);
    let volumes = Volumes::default();
    for member in &record.volumes {
        let file = disk.open(&directory.join(&member.name), Open::New).unwrap();
        file.grow(SIZE).unwrap();
        volumes.insert(VolumeFile::new(VolumeIndex(member.index), member.name.clone(), file, SIZE));
    }
    let parts = PrimaryParts {
        taken: None,
        disk,
        clock: Arc::clone(&clock) as Arc<dyn Clock>,
        links: Arc::new(NoLinks),
        keeper: Arc::new(GroupKeeper::new(catalog, record)),
        volumes: Arc::new(volumes),
        runtime: Handle::current(),
        appliance: [1; 32],
        metrics: Metrics::new("east", "0", clock.wall()).group("g"),
        eras: None,
    };
    let options = PrimaryOptions {
        journal_folder: directory.join("journal"),
        journal,
        ring_path: directory.join("ring"),
        boot: String::new(),
        ring_bytes: 4 << 20,
        drain: DrainSettings { delay: Duration::from_millis(1), freeze_limit: Duration::from_secs(1) },
        heartbeat: Duration::from_secs(1),
        index_ranges_max: 64,
    };
    (parts, options)
}
