//! PostgreSQL with its data and its WAL on two volumes of one group: the copy is one consistent moment of both.

use std::fs::OpenOptions;
use std::io::Write;
use std::time::Duration;

use jiff::Timestamp;
use tidemark_common::api::types::{DrillReport, DrillResult};
use tidemark_tests::command::run;
use tidemark_tests::database::{Volumes, assert_sums_agree, number};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::postgres::{self, Postgres};
use tidemark_tests::wait::{check, wait_until};

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

/// pg_ctl lets its server go, which leaves the process group of the check. A transaction that was prepared keeps its lock also in the copy,
/// so that pg_amcheck waits for ever.
#[test]
fn postgresql_of_a_drill_that_takes_too_long_goes_with_the_drill() {
    let volumes = vec![("data", "512MiB".to_owned()), ("wal", "256MiB".to_owned())];
    let pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 132, journals: None, on_full: "fold" });
    let mounted = Volumes::mount(&pair.cluster, &pair.east, true);
    postgres::init(&mounted.data(), &mounted.wal());
    let settings = OpenOptions::new().append(true).open(mounted.data().join("postgresql.conf"));
    let mut settings = settings.expect("open the settings");
    writeln!(settings, "max_prepared_transactions = 2").expect("change the settings");
    settings.sync_all().expect("make them durable");
    let database = Postgres::start(&mounted.data(), &pair.cluster.join("es"));
    database.sql("create table held (number int)").done();
    database.sql("begin; lock table held in access exclusive mode; prepare transaction 'held'").done();
    pair.settle();
    let words = "\"$TIDEMARK\" drill check postgresql --data data --path pg --wal wal --wal-path pg";
    let folders = std::env::temp_dir().join(format!("tidemark-{}-drill-", &pair.west.id()[..16])).display().to_string();
    let servers = || {
        let found = std::fs::read_dir("/proc").expect("list processes").flatten().filter(|entry| {
            let words = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let words = String::from_utf8_lossy(&words);
            words.contains("/bin/postgres\0") && words.contains(&folders)
        });
        found.map(|entry| entry.file_name()).collect::<Vec<_>>()
    };
    let outcome = std::thread::scope(|scope| {
        let drill =
            scope.spawn(|| pair.west.cli(&["drill", "run", GROUP, "--json", "--check", words, "--timeout", "30s"]));
        wait_until("the copy's PostgreSQL to start", LIMIT, || {
            check(servers().len() == 1 || drill.is_finished(), || "none".into())
        });
        assert!(!drill.is_finished());
        drill.join().expect("the drill")
    });
    let report: DrillReport = serde_json::from_str(&outcome.stdout).expect("a report");
    assert!(report.reason.as_deref().unwrap_or_default().contains("--timeout"), "{report:?}");
    assert!(servers().is_empty(), "{:?}", servers());
    let mounts = std::fs::read_to_string("/proc/self/mounts").expect("read mounts");
    assert!(!mounts.contains(&folders), "{mounts}");
    let left = std::env::temp_dir().read_dir().expect("list").flatten().map(|entry| entry.path());
    assert_eq!(left.filter(|path| path.display().to_string().starts_with(&folders)).count(), 0);
}

/// Both sides are on one machine: what the copy's links name are the original's directories, in use.
#[test]
fn postgresql_of_a_drill_never_follows_a_link_to_the_original() {
    let volumes = vec![("data", "512MiB".to_owned()), ("wal", "256MiB".to_owned())];
    let pair = Pair::paired(&Setup { volumes, interval: "250ms", seed: 133, journals: None, on_full: "fold" });
    let mounted = Volumes::mount(&pair.cluster, &pair.east, true);
    postgres::init(&mounted.data(), &mounted.wal());
    let space = pair.cluster.join("data/space");
    std::fs::create_dir(&space).expect("make a directory");
    let space = space.display().to_string();
    run("chown", &["postgres", &space]).done();
    let database = Postgres::start(&mounted.data(), &pair.cluster.join("es"));
    database.sql(&format!("create tablespace fast location '{space}'")).done();
    database.sql("create table kept (number int) tablespace fast").done();
    database.sql("insert into kept select generate_series(1, 1000)").done();
    let oid = number(&database, "select oid from pg_tablespace where spcname = 'fast'");
    // Its link is in the file system, and not only in what PostgreSQL would replay.
    database.sql("checkpoint").done();
    run("sync", &["-f", space.as_str()]).done();
    pair.settle();
    // Of the copy this is not known, and its PostgreSQL must not find it in the original's directories.
    database.sql("insert into kept select generate_series(1001, 2000)").done();
    let drill = |words: &str| {
        let command = format!("\"$TIDEMARK\" drill check postgresql --data data --path pg {words}");
        let outcome = pair.west.cli(&["drill", "run", GROUP, "--json", "--check", &command]);
        serde_json::from_str::<DrillReport>(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"))
    };
    let wal = "--wal wal --wal-path pg";
    let refused = drill(&format!("--tablespace {oid}=data/space"));
    assert_eq!(refused.result, DrillResult::Failed, "{refused:?}");
    assert!(refused.output.contains("pg_wal leads to") && refused.output.contains("--wal"), "{refused:?}");
    let refused = drill(wal);
    assert_eq!(refused.result, DrillResult::Failed, "{refused:?}");
    assert!(refused.output.contains(&format!("--tablespace {oid}=")), "{refused:?}");
    let refused = drill(&format!("{wal} --tablespace {oid}=data/../../../data/space"));
    assert!(refused.result == DrillResult::Failed && refused.output.contains("volume 'data'"), "{refused:?}");
    for which in [oid.to_string(), space] {
        let passed = drill(&format!("{wal} --tablespace {which}=data/space"));
        assert_eq!(passed.result, DrillResult::Passed, "{passed:?}");
    }
    // An index that lacks what its table holds, as when the order of its letters has changed below it.
    for words in [
        "create function turned(int) returns int immutable language sql as 'select $1'",
        "create table bent (number int)",
        "insert into bent select generate_series(1, 100)",
        "create index bent_index on bent (turned(number))",
        "create or replace function turned(int) returns int immutable language sql as 'select -$1'",
    ] {
        database.sql(words).done();
    }
    pair.settle();
    let broken = drill(&format!("{wal} --tablespace {oid}=data/space"));
    assert!(broken.result == DrillResult::Failed && broken.output.contains("bent_index"), "{broken:?}");
    database.sql("drop table bent").done();
    // One that is in the log alone: its link is made when that is replayed, and leads to the original.
    let late = pair.cluster.join("data/late");
    std::fs::create_dir(&late).expect("make a directory");
    let late = late.display().to_string();
    run("chown", &["postgres", &late]).done();
    database.sql(&format!("create tablespace late location '{late}'")).done();
    database.sql("create table later (number int) tablespace late").done();
    pair.settle();
    let refused = drill(&format!("{wal} --tablespace {oid}=data/space"));
    assert_eq!(refused.result, DrillResult::Failed, "{refused:?}");
    // The original is as it was, also after a crash.
    drop(database);
    let database = Postgres::start(&mounted.data(), &pair.cluster.join("es"));
    assert_eq!(number(&database, "select count(*) from kept"), 2000);
    database.client(LIMIT, "pg_amcheck", &["--all", "--install-missing", "--heapallindexed"]).done();
}
