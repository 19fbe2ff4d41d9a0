//! PostgreSQL on top: a group of its own, `db`, always from east to west, with pgbench at work. It dies with east, and must
//! then start from what east serves, with every commit that was answered.

use std::process::Child;
use std::time::Duration;

use tidemark_common::api::types::{DrillReport, DrillResult, PairState};
use tidemark_tests::database::{Volumes, assert_sums_agree, number};
use tidemark_tests::pair::{COPY_LIMIT, Pair};
use tidemark_tests::postgres::{self, Postgres};

const DATABASE: &str = "db";
const LIMIT: Duration = Duration::from_secs(60);
/// pgbench is ended by hand.
const BENCH_SECONDS: u32 = 100_000;

/// See the module.
#[derive(Debug, Default)]
pub struct Guest {
    running: Option<Running>,
    /// Commits that were answered.
    answered: u64,
}

#[derive(Debug)]
struct Running {
    bench: Child,
    database: Postgres,
    /// Unmounted after the database has gone.
    _volumes: Volumes,
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.bench.kill();
        let _ = self.bench.wait();
    }
}

impl Guest {
    /// Makes the group, its copy and the database.
    pub fn new(pair: &Pair) -> Self {
        for (volume, size) in [("data", "512MiB"), ("wal", "256MiB")] {
            pair.east.ok(&["volume", "create", volume, "--size", size]);
        }
        pair.east.ok(&["group", "create", DATABASE, "--interval", "500ms", "--volume", "data", "--volume", "wal"]);
        pair.east.ok(&["pair", "create", DATABASE, "--to", "west"]);
        let volumes = Volumes::mount(&pair.cluster, &pair.east, true);
        postgres::init(&volumes.data(), &volumes.wal());
        let mut guest = Self::default();
        guest.start(pair, volumes, |database| {
            database.sql("create table heartbeat (number bigint primary key)").done();
            database.client(LIMIT, "pgbench", &["-i", "-q", "-s", "2", "postgres"]).done();
        });
        guest
    }

    fn start(&mut self, pair: &Pair, volumes: Volumes, first: impl FnOnce(&Postgres)) {
        let database = Postgres::start(&volumes.data(), &pair.cluster.join("es"));
        first(&database);
        let bench = database.bench(BENCH_SECONDS);
        self.running = Some(Running { bench, database, _volumes: volumes });
    }

    /// Some commits more.
    pub fn beat(&mut self) {
        let running = self.running.as_ref().expect("the database runs");
        for _ in 0..5 {
            running.database.sql(&format!("insert into heartbeat values ({})", self.answered)).done();
            self.answered += 1;
        }
    }

    /// East is gone, or about to be of no use.
    pub fn crash(&mut self) {
        self.running = None;
    }

    /// East is back: the commits found again.
    pub fn recover(&mut self, pair: &Pair) -> u64 {
        let (answered, mut found) = (self.answered, 0);
        self.start(pair, Volumes::mount(&pair.cluster, &pair.east, false), |database| {
            found = u64::try_from(number(database, "select count(*) from heartbeat")).expect("a count");
            assert_sums_agree(database);
        });
        assert!(found >= answered, "{answered} commits were answered before the crash, {found} are there after it");
        self.answered = found;
        found
    }

    /// Would the copy start, with the database at work?
    pub fn drill(&self, pair: &Pair) {
        pair.west.wait_pair(DATABASE, "the database's pair", COPY_LIMIT, |pair| pair.state == PairState::Paired);
        let check = "\"$TIDEMARK\" drill check postgresql --data data --path pg --wal wal --wal-path pg";
        let drill: DrillReport = pair.west.json(&["drill", "run", DATABASE, "--check", check]);
        assert_eq!(drill.result, DrillResult::Passed, "{drill:?}");
    }
}
