//! A database on two volumes, `data` and `wal`, each with a file system of its own.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::appliance::Appliance;
use crate::cluster::Cluster;
use crate::disk::{Disk, Mounted};
use crate::postgres::Postgres;

/// Both file systems of one side.
#[derive(Debug)]
pub struct Volumes {
    data: Mounted,
    wal: Mounted,
}

impl Volumes {
    /// Attaches and mounts both; fresh ones get a file system first.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn mount(cluster: &Cluster, side: &Appliance, fresh: bool) -> Self {
        Self::mount_as(cluster, side, ["data", "wal"], fresh)
    }

    /// The same, where the volumes, or exports of images, have other names.
    ///
    /// # Panics
    /// When that fails.
    #[must_use]
    pub fn mount_as(cluster: &Cluster, side: &Appliance, [data, wal]: [&str; 2], fresh: bool) -> Self {
        std::fs::set_permissions(cluster.path(), PermissionsExt::from_mode(0o755)).expect("let postgres in");
        let mount = |volume: &str, path: &str| {
            let disk = Disk::attach(&side.uri(volume), &cluster.join(&format!("{}-{volume}-f", side.name())));
            if fresh {
                disk.make_ext4();
            }
            // One path wherever it is mounted: the WAL directory is a symbolic link in the data directory.
            disk.mount(&cluster.join(path))
        };
        Self { data: mount(data, "data"), wal: mount(wal, "wal") }
    }

    /// PostgreSQL's data directory.
    #[must_use]
    pub fn data(&self) -> PathBuf {
        self.data.join("pg")
    }

    /// PostgreSQL's WAL directory.
    #[must_use]
    pub fn wal(&self) -> PathBuf {
        self.wal.join("pg")
    }
}

/// What a query answers.
///
/// # Panics
/// When it is no number.
#[must_use]
pub fn number(database: &Postgres, query: &str) -> i64 {
    database.sql(query).done().trim().parse().expect("a number")
}

/// Each of pgbench's transactions adds one amount to four tables.
///
/// # Panics
/// When a transaction is there in part.
pub fn assert_sums_agree(database: &Postgres) {
    let sums = "select count(distinct total) from (select sum(abalance) as total from pgbench_accounts union all \
                select sum(bbalance) from pgbench_branches union all select sum(tbalance) from pgbench_tellers union all \
                select coalesce(sum(delta), 0) from pgbench_history) as sums";
    assert_eq!(number(database, sums), 1, "pgbench's four sums agree");
}
