//! Positions that stand for real: for how long is in `status` and in the metrics, and it is over when they move.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use tidemark_common::watchdog::Moving;
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::noise;
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::prometheus::{figures, get};
use tidemark_tests::small_disk::SmallDisk;
use tidemark_tests::wait::{check, wait_until};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(90);
/// Longer than a busy machine makes anything stand.
const STANDS: f64 = 6.0;

/// Seconds for which a position has stood, in `status` and in the metrics.
fn stood(side: &Appliance, moving: Moving) -> (f64, f64) {
    let standing = side.group(GROUP).standing.into_iter().find(|standing| standing.position == moving);
    let page = get(&side.status().addresses.metrics, "/metrics");
    let label = format!("position=\"{}\"", moving.name());
    let line = page.lines().find(|line| line.starts_with("tidemark_standing_seconds{") && line.contains(&label));
    let metric = line.and_then(|line| line.rsplit(' ').next()?.parse().ok());
    (standing.map_or(0.0, |standing| standing.seconds), metric.unwrap_or(0.0))
}

fn assert_stands_until(side: &Appliance, moving: Moving, others: &[Moving], mend: impl FnOnce()) {
    wait_until(&format!("{} to stand", moving.name()), LIMIT, || {
        let (status, metric) = stood(side, moving);
        check(status >= STANDS && metric >= STANDS, || format!("{status} {metric}: {:?}", side.group(GROUP)))
    });
    for other in others {
        assert!(stood(side, *other).0 < STANDS, "{} does not stand", other.name());
    }
    mend();
    wait_until(&format!("{} to move", moving.name()), LIMIT, || {
        let now = stood(side, moving);
        check(now == (0.0, 0.0), || format!("{now:?}: {:?}", side.group(GROUP)))
    });
}

/// A primary whose disk under one of its folders is small, and full now. Whoever goes last comes first.
fn with_full(folder: &str, bytes: u64) -> (Cluster, SmallDisk, PathBuf, Appliance) {
    let cluster = Cluster::new();
    let mut east = cluster.appliance("east");
    east.configure("groups", "segment_bytes", "8MiB");
    east.configure("groups", "journal_bytes", "256MiB");
    let small = SmallDisk::mount(&east.directory().join(folder), bytes);
    east.start();
    east.ok(&["volume", "create", "v", "--size", "96MiB"]);
    east.ok(&["group", "create", GROUP, "--volume", "v", "--interval", "250ms"]);
    let ballast = small.fill();
    (cluster, small, ballast, east)
}

fn give_space(small: &SmallDisk, ballast: &PathBuf) {
    std::fs::remove_file(ballast).expect("make space");
    small.resize(384 * MIB);
}

#[test]
fn a_journal_that_takes_nothing_stands() {
    let (_cluster, small, ballast, east) = with_full("groups", 24 * MIB);
    let mut host = east.open("v");
    // As far as it goes: a host is told of the full disk.
    let _ = host.write_all(0, &noise(1, 48 * MIB));
    assert_stands_until(&east, Moving::Journal, &[Moving::WriteBack], || give_space(&small, &ballast));
    host.write_all(0, &noise(2, 48 * MIB)).expect("hosts go on");
    assert!(east.open("v").read(0, 4096).expect("read") == noise(2, 4096));
}

#[test]
fn volumes_of_a_primary_that_take_nothing_stand() {
    let (_cluster, small, ballast, east) = with_full("volumes", 16 * MIB);
    east.open("v").write_all(0, &noise(1, 48 * MIB)).expect("hosts do not notice");
    assert_stands_until(&east, Moving::WriteBack, &[Moving::Journal], || give_space(&small, &ballast));
    assert!(east.open("v").read_all().expect("read")[..48 << 20] == noise(1, 48 * MIB)[..]);
}

#[test]
fn volumes_of_a_copy_that_take_nothing_stand() {
    let mut pair = Pair::unpaired(&Setup::one_volume("v", 96 * MIB, 281).journals("256MiB", "256MiB"));
    pair.west.stop();
    let small = SmallDisk::mount(&pair.west.directory().join("volumes"), 16 * MIB);
    pair.west.start();
    pair.create();
    pair.wait_paired();
    let ballast = small.fill();
    pair.east.open("v").write_all(0, &noise(1, 48 * MIB)).expect("hosts do not notice");
    assert_stands_until(&pair.west, Moving::Apply, &[], || give_space(&small, &ballast));
    assert!(stood(&pair.east, Moving::Journal).0 < STANDS && stood(&pair.east, Moving::WriteBack).0 < STANDS);
    pair.assert_same();
}

/// The volumes take nothing, so the journal keeps all: when it is full hosts wait, and that is told before.
#[test]
fn a_journal_that_fills_because_volumes_take_nothing_is_forecast() {
    const PER_SECOND: u64 = 6 * MIB;
    let (_cluster, small, ballast, east) = with_full("volumes", 16 * MIB);
    let metric = || figures(&east.status().addresses.metrics, "tidemark_journal_full_in_seconds")[0];
    let (mut host, begun, mut written) = (east.open("v"), Instant::now(), 0);
    wait_until("a forecast that comes true", LIMIT, || {
        while written < PER_SECOND * begun.elapsed().as_secs() && written < 192 * MIB {
            host.write_all(written % (96 * MIB), &noise(written + 1, MIB)).expect("hosts do not notice");
            written += MIB;
        }
        let (journal, metric) = (east.group(GROUP).journal, metric());
        let due = ((journal.capacity_bytes - journal.bytes) / PER_SECOND) as f64;
        let near = |seconds: f64| (due / 2.0..due * 2.0).contains(&seconds);
        check(journal.full_in_seconds.is_some_and(near) && near(metric), || format!("{journal:?} {metric}, not {due}"))
    });
    give_space(&small, &ballast);
    wait_until("the forecast to be over", LIMIT, || {
        let (journal, metric) = (east.group(GROUP).journal, metric());
        check(metric.is_infinite() && journal.full_in_seconds.is_none(), || format!("{journal:?} {metric}"))
    });
}

/// Hosts write twice what the line takes: all of it moves, and the end is no nearer. A pair that only ships would be called well.
#[test]
fn a_pair_that_gets_no_nearer_stands_though_it_ships() {
    gets_no_nearer(282, 8_000_000, 16);
}

/// The same on a line so slow that seconds of frames wait for it, right after it was as fast as this machine: what is said to the other
/// side passes them, and they come there one after the other.
#[test]
fn a_line_that_has_become_slow_is_used_and_the_other_side_answers() {
    gets_no_nearer(283, 2_000_000, 4);
}

fn gets_no_nearer(seed: u64, bytes_per_second: u64, mebibytes_per_second: u64) {
    let pair = Pair::paired(&Setup::one_volume("v", 64 * MIB, seed).journals("512MiB", "512MiB"));
    pair.relay.set(Weather { bytes_per_second: Some(bytes_per_second), ..Weather::default() });
    let (mut host, begun, mut written) = (pair.east.open("v"), Instant::now(), 0);
    let (passed, mut looks, mut unanswered) = (pair.relay.forward().bytes(), 0, 0);
    wait_until("the pair to be seen getting no nearer", LIMIT, || {
        while written < 16 + mebibytes_per_second * begun.elapsed().as_secs() {
            host.write_all(written % 64 * MIB, &noise(2 * written + 1, MIB)).expect("hosts do not notice");
            written += 1;
        }
        looks += 1;
        unanswered += u32::from(!pair.east.group(GROUP).pairs[0].connected);
        let ((status, metric), ships) = (stood(&pair.east, Moving::Converge), stood(&pair.east, Moving::Ship).0);
        let stands = status >= 2.0 * STANDS && metric >= 2.0 * STANDS && ships < STANDS;
        check(stands, || format!("{status} {metric} {ships}: {:?}", pair.east.group(GROUP)))
    });
    let used = (pair.relay.forward().bytes() - passed) as f64 / begun.elapsed().as_secs_f64();
    assert!(used >= 0.85 * bytes_per_second as f64, "{used} of {bytes_per_second} bytes per second");
    // A busy machine may be silent for once.
    assert!(unanswered <= looks / 10, "{unanswered} of {looks} times 'has not answered'");
    for other in [Moving::Journal, Moving::WriteBack] {
        assert!(stood(&pair.east, other).0 < STANDS, "{} does not stand", other.name());
    }
    // Hosts go home.
    pair.relay.set(Weather::default());
    wait_until("the pair to get there", LIMIT, || {
        let now = stood(&pair.east, Moving::Converge);
        check(now == (0.0, 0.0), || format!("{now:?}: {:?}", pair.east.group(GROUP)))
    });
    drop(host);
    pair.assert_same();
}
