//! PostgreSQL, with its data and its WAL on two volumes and pgbench at work, under backups of a moment and pairs on one appliance:
//! what comes back starts, is sound, and holds all that was committed before the moment.

use std::time::Duration;

use tidemark_common::api::backup::types::BackupState;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::database::{Volumes, assert_sums_agree, number};
use tidemark_tests::postgres::{self, Postgres};

use crate::database::heartbeats;

const LIMIT: Duration = Duration::from_secs(120);
const SIZES: [(&str, &str); 2] = [("data", "512MiB"), ("wal", "256MiB")];

/// An appliance with both volumes in one group, and the database on them with something in it.
fn database(cluster: &Cluster) -> (Appliance, Volumes, Postgres) {
    let side = cluster.running("alone");
    for (volume, size) in SIZES {
        side.ok(&["volume", "create", volume, "--size", size]);
    }
    side.ok(&["group", "create", "g", "--volume", "data", "--volume", "wal", "--interval", "250ms"]);
    let mounted = Volumes::mount(cluster, &side, true);
    postgres::init(&mounted.data(), &mounted.wal());
    let database = Postgres::start(&mounted.data(), &cluster.join("s"));
    database.sql("create table heartbeat (number int primary key, at timestamptz default clock_timestamp())").done();
    database.client(LIMIT, "pgbench", &["-i", "-q", "-s", "2", "postgres"]).done();
    (side, mounted, database)
}

/// It is sound, and has all heartbeats up to this one and none behind a missing one.
fn assert_sound(database: &Postgres, committed: u32) -> i64 {
    database.client(LIMIT, "pg_amcheck", &["--all", "--install-missing", "--heapallindexed"]).done();
    let newest = number(database, "select coalesce(max(number), -1) from heartbeat");
    assert!(
        newest >= i64::from(committed),
        "heartbeat {committed} was committed before the moment; the newest is {newest}"
    );
    assert_eq!(number(database, "select count(*) from heartbeat"), newest + 1, "none is missing in between");
    assert_sums_agree(database);
    assert!(number(database, "select count(*) from pgbench_history") > 0, "pgbench was at work");
    newest
}

/// The backup is whole.
fn wait_done(side: &Appliance, name: &str) {
    let done = side.wait_backup(name, LIMIT, |backup| backup.state.is_over());
    assert_eq!((done.state, &done.reason), (BackupState::Done, &None));
    side.ok(&["backup", "verify", name]);
}

#[test]
fn postgresql_with_data_and_wal_on_two_volumes_starts_from_a_backup() {
    let cluster = Cluster::new();
    let (side, mounted, database) = database(&cluster);
    side.ok(&["set", "create", "all", "wal", "data"]);
    let mut bench = database.bench(300);
    let before = heartbeats(&database, 0, 20);
    let to = cluster.join("b.tar").display().to_string();
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &to]);
    let after = heartbeats(&database, 20, 20);
    wait_done(&side, "b");
    let _ = bench.kill();
    let _ = bench.wait();
    drop(database);
    drop(mounted);

    side.ok(&["backup", "restore", "b", "--onto-volumes"]);
    let mounted = Volumes::mount(&cluster, &side, false);
    let database = Postgres::start(&mounted.data(), &cluster.join("s"));
    let newest = assert_sound(&database, before.last().expect("heartbeats").0);
    assert!(newest < i64::from(after.last().expect("heartbeats").0), "what came after the moment is not in it");
    let _ = heartbeats(&database, 1_000, 3);
}

#[test]
fn postgresql_with_data_and_wal_on_two_volumes_starts_from_a_split_a_backup_of_it_and_a_reverse() {
    let cluster = Cluster::new();
    let (side, mounted, database) = database(&cluster);
    for (volume, size) in SIZES {
        let target = format!("t{volume}");
        side.ok(&["volume", "create", &target, "--size", size]);
        side.ok(&["local-pair", "create", volume, "--target", &target]);
    }
    let targets = ["tdata", "twal"];
    let wait_copied =
        || targets.iter().for_each(|target| drop(side.ok(&["local-pair", "wait", target, "--timeout", "120s"])));
    wait_copied();
    side.ok(&["set", "create", "all", "twal", "tdata"]);
    let mut bench = database.bench(300);
    let before = heartbeats(&database, 0, 20);
    side.ok(&["local-pair", "split", "tdata", "twal"]);
    let to = cluster.join("b.tar").display().to_string();
    side.ok(&["backup", "create", "b", "--set", "all", "--to", &to, "--while-differential", "merge"]);
    let after = heartbeats(&database, 20, 20);
    wait_done(&side, "b");
    wait_copied();
    let _ = bench.kill();
    let _ = bench.wait();
    drop(database);
    drop(mounted);

    // From the targets, while the sources are as they were left.
    let mounted = Volumes::mount_as(&cluster, &side, targets, false);
    let database = Postgres::start(&mounted.data(), &cluster.join("s"));
    let split = assert_sound(&database, before.last().expect("heartbeats").0);
    assert!(split < i64::from(after.last().expect("heartbeats").0), "what came after the split is not in it");
    let more = u32::try_from(split + 1).expect("a number");
    let _ = heartbeats(&database, more, 5);
    drop(database);
    drop(mounted);

    // What was done on the targets goes back to the sources.
    for target in targets {
        side.ok(&["local-pair", "reverse", target]);
    }
    wait_copied();
    for target in targets {
        side.ok(&["local-pair", "delete", target]);
    }
    let mounted = Volumes::mount(&cluster, &side, false);
    let database = Postgres::start(&mounted.data(), &cluster.join("s"));
    assert_eq!(assert_sound(&database, more + 4), i64::from(more + 4));
    drop(database);
    drop(mounted);

    // The backup has the moment of the split, whatever came after.
    side.ok(&["backup", "restore", "b", "--onto-volumes"]);
    let mounted = Volumes::mount_as(&cluster, &side, targets, false);
    let database = Postgres::start(&mounted.data(), &cluster.join("s"));
    assert_eq!(assert_sound(&database, before.last().expect("heartbeats").0), split);
}
