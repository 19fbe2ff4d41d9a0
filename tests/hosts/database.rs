//! PostgreSQL with its data and its WAL on two volumes of one group: the copy is one consistent moment of both.

use std::time::Duration;

use jiff::Timestamp;
use tidemark_common::api::types::{DrillReport, DrillResult};
use tidemark_tests::database::{Volumes, assert_sums_agree, number};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::postgres::{self, Postgres};

const LIMIT: Duration = Duration::from_secs(60);

/// Commits heartbeats; when each commit was answered.
pub fn heartbeats(database: &Postgres, from: u32, count: u32) -> Vec<(u32, Timestamp)> {
    let beat = |number| {
        database.sql(&format!("insert into heartbeat values ({number})")).done();
        (number, Timestamp::now())
    };
    (from..from + count).map(beat).collect()
}

#[test]
fn postgresql_with_data_and_wal_on_two_volumes_starts_from_the_copies() {
    let volumes = vec![("data", "512MiB".to_owned()), ("wal", "256MiB".to_owned())];
    let mut pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 131, journals: None, on_full: "fold" });
    let mounted = Volumes::mount(&pair.cluster, &pair.east, true);
    postgres::init(&mounted.data(), &mounted.wal());
    let database = Postgres::start(&mounted.data(), &pair.cluster.join("es"));
    database.sql("create table heartbeat (number int primary key, at timestamptz default clock_timestamp())").done();
    database.client(LIMIT, "pgbench", &["-i", "-q", "-s", "2", "postgres"]).done();
    let mut bench = database.bench(120);
    let mut beats = heartbeats(&database, 0, 20);
    pair.settle();
    // While pgbench is at work: would the copy start?
    let check = "\"$TIDEMARK\" drill check postgresql --data data --path pg --wal wal --wal-path pg";
    let drill: DrillReport = pair.west.json(&["drill", "run", GROUP, "--check", check]);
    assert_eq!(drill.result, DrillResult::Passed, "{drill:?}");
    beats.extend(heartbeats(&database, 20, 20));
    pair.east.kill9();
    let _ = bench.kill();
    let _ = bench.wait();
    drop(database);
    drop(mounted);

    let report = pair.failover();
    let mounted = Volumes::mount(&pair.cluster, &pair.west, false);
    let database = Postgres::start(&mounted.data(), &pair.cluster.join("ws"));
    database.client(LIMIT, "pg_amcheck", &["--all", "--install-missing", "--heapallindexed"]).done();
    let newest = number(&database, "select coalesce(max(number), -1) from heartbeat");
    let expected = beats.iter().filter(|(_, answered)| *answered < report.marker.time).map(|(number, _)| *number).max();
    let expected = i64::from(expected.expect("heartbeats before the marker"));
    assert!(newest >= expected, "heartbeat {expected} was committed before the marker; the newest is {newest}");
    assert_eq!(number(&database, "select count(*) from heartbeat"), newest + 1, "none is missing in between");
    assert_sums_agree(&database);
    assert!(number(&database, "select count(*) from pgbench_history") > 0, "pgbench was at work");
    let _ = heartbeats(&database, 1_000, 3);
}
