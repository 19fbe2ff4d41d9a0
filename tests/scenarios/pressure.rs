//! A journal under pressure: folded before the pair's history is given up, or hosts slowed instead, and never an error for them.

use std::ops::Range;
use std::time::{Duration, Instant};

use tidemark_common::api::types::{PairState, VerifyReport};
use tidemark_tests::host::Connection;
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::prometheus::{figures, get};
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::{Load, Profile};

const MIB: u64 = 1 << 20;
const LIMIT: Duration = Duration::from_secs(60);
const FOLDED: &str = "intervals between markers were folded";
/// No host waits longer for a write, whatever becomes of the journal.
const DELAY_MAX: Duration = Duration::from_secs(6);

/// A host that writes a part of a volume from its begin to its end, again and again, and how long it had to wait at most.
struct Probe {
    export: Connection,
    part: Range<u64>,
    written: u64,
    longest: Duration,
}

impl Probe {
    fn of(pair: &Pair, volume: &str, part: Range<u64>) -> Self {
        Self { export: pair.east.open(volume), part, written: 0, longest: Duration::ZERO }
    }

    fn write(&mut self) {
        let at = self.part.start + self.written % (self.part.end - self.part.start);
        let data = noise(self.written + 1, MIB);
        let begun = Instant::now();
        self.export.write(at, &data).expect("no host sees an error");
        self.longest = self.longest.max(begun.elapsed());
        self.written += MIB;
    }

    fn write_some(&mut self, times: u64) {
        (0..times).for_each(|_| self.write());
    }

    fn assert_never_held_up(&self) {
        println!("the longest of {} writes took {:?}", self.written / MIB, self.longest);
        assert!(self.longest < DELAY_MAX, "a host waited {:?}", self.longest);
    }
}

#[test]
fn a_hot_region_written_many_times_over_while_the_link_is_down_stays_in_the_journal() {
    let setup = Setup::one_volume("v", 64 * MIB, 91).journals("256MiB", "256MiB");
    let pair = Pair::paired(&setup);
    write_noise(&pair.east, "v", 0, 32 * MIB, 1);
    let before = pair.settle();
    pair.relay.cut();
    let mut probe = Probe::of(&pair, "v", 4 * MIB..12 * MIB);
    // More than twice what the journal holds.
    for _ in 0..75 {
        probe.write_some(8);
        let status = pair.east.pair(GROUP);
        assert!(matches!(status.state, PairState::Paired | PairState::CatchingUp), "{status:?}");
        assert_eq!(status.differential_bytes, 0, "its history was given up");
        let newest = pair.cut();
        assert!(newest > before);
    }
    assert!(pair.east.log_text().contains(FOLDED), "{}", pair.east.log_text());
    let kept = pair.east.json::<Vec<serde_json::Value>>(&["markers", GROUP]).len();
    assert!(kept < 60, "{kept} markers are left of 75 and more");
    probe.assert_never_held_up();
    drop(probe);
    let sent = pair.relay.forward().bytes();
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
    let sent = pair.relay.forward().bytes() - sent;
    assert!(sent < 260 * MIB, "{sent} bytes were sent: the fold saves the link as well");
}

/// What is folded is applied whole or not at all: whatever moment west takes over at, its image is one that was.
#[test]
fn an_image_taken_over_after_a_fold_is_legal_at_every_moment() {
    for (round, kill_west) in [(0, false), (1, true)] {
        let mut pair = Pair::prefilled(&Setup { journals: Some(("256MiB", "256MiB")), ..Setup::seeded(92 + round) });
        pair.east.ok(&["volume", "create", "n", "--size", "32MiB"]);
        pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
        pair.wait_paired();
        let marker = pair.settle();
        let began = pair.history.tick();
        pair.relay.cut();
        let load = pair.load(0);
        wait_until("a fold", LIMIT, || {
            write_noise(&pair.east, "n", 0, 12 * MIB, round);
            check(pair.east.log_text().contains(FOLDED), || "not yet".into())
        });
        load.wait_acked(200);
        pair.relay.heal();
        let passed = |pair: &tidemark_common::api::types::PairStatus| pair.permitted_marker > marker;
        pair.east.wait_pair(GROUP, "a marker behind the fold", LIMIT, passed);
        if kill_west {
            pair.west.kill9();
            pair.west.start();
        }
        pair.east.kill9();
        drop(load.join_broken());
        let report = pair.failover();
        assert!(report.marker.number > marker, "{report:?}");
        let bounds = Bounds { holds_acked_before: Some(began), nothing_sent_after: None };
        assert_legal("the image taken over", &pair.history.writes(), &pair.image(&pair.west), bounds);
    }
}

#[test]
fn a_primary_killed_between_folds_has_lost_nothing_and_the_copy_follows() {
    let mut pair = Pair::prefilled(&Setup { journals: Some(("256MiB", "256MiB")), ..Setup::seeded(95) });
    pair.east.ok(&["volume", "create", "n", "--size", "32MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
    pair.settle();
    pair.wait_paired();
    pair.relay.cut();
    let load = pair.load(0);
    let mut round = 0;
    wait_until("a fold", LIMIT, || {
        round += 1;
        write_noise(&pair.east, "n", 0, 12 * MIB, round);
        check(pair.east.log_text().contains(FOLDED), || "not yet".into())
    });
    pair.east.kill9();
    drop(load.join_broken());
    pair.east.start();
    let verdict = assert_legal(
        "the primary after its death",
        &pair.history.writes(),
        &pair.image(&pair.east),
        Bounds::EVERYTHING_ACKED,
    );
    pair.history.settle(&verdict);
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
}

#[test]
fn a_group_that_throttles_slows_its_hosts_to_the_link_and_keeps_the_pairs_history() {
    let setup = Setup::one_volume("v", 96 * MIB, 96).journals("64MiB", "512MiB").throttled();
    let pair = Pair::paired(&setup);
    pair.relay.set(Weather { bytes_per_second: Some(10_000_000), ..Weather::default() });
    let mut export = pair.east.open("v");
    let (mut longest, mut held, mut round) = (Duration::ZERO, false, 0);
    wait_until("hosts to be held back", LIMIT, || {
        for piece in 0..16 {
            let begin = Instant::now();
            export.write_all(piece * 4 * MIB / 16, &noise(round, MIB / 4)).expect("no host sees an error");
            longest = longest.max(begin.elapsed());
            round += 1;
        }
        let status = pair.east.pair(GROUP);
        assert!(matches!(status.state, PairState::Paired | PairState::CatchingUp), "{status:?}");
        assert_eq!(status.differential_bytes, 0);
        held |= pair.east.group(GROUP).journal.throttle_ms > 0.0;
        // Twice what the journal holds went through.
        check(held && round > 512, || format!("{round} writes, held back: {held}"))
    });
    assert!(longest < DELAY_MAX, "a host waited {longest:?}");
    drop(export);
    // Without a link there is nothing to slow them to: they do not stop for it.
    pair.relay.set(Weather { black_hole: true, ..Weather::default() });
    let mut probe = Probe::of(&pair, "v", 0..96 * MIB);
    wait_until("the fall back", LIMIT, || {
        probe.write();
        let status = pair.east.pair(GROUP);
        check(status.state == PairState::Differential, || format!("{status:?}"))
    });
    wait_until("hosts to be held back no more", LIMIT, || {
        probe.write();
        let journal = pair.east.group(GROUP).journal;
        check(journal.throttle_ms == 0.0, || format!("{journal:?}"))
    });
    probe.assert_never_held_up();
    drop(probe);
    pair.relay.set(Weather::default());
    pair.assert_same();
}

/// How often the pair came into a state, in the metrics.
fn entered(pair: &Pair, state: PairState) -> u64 {
    let page = get(&pair.east.status().addresses.metrics, "/metrics");
    let label = format!("state=\"{}\"", state.name());
    let line =
        page.lines().find(|line| line.starts_with("tidemark_pair_state_changes_total{") && line.contains(&label));
    line.and_then(|line| line.rsplit(' ').next()?.parse().ok()).unwrap_or(0)
}

/// The journal is given up, the copy follows by itself as soon as its link takes it, and nobody waits for either: hosts keep a few regions hot
/// all the time, and one writes anywhere.
fn resync_under_hosts_that_never_stop(seed: u64, weather: Weather) {
    let pair = Pair::prefilled(&Setup { journals: Some(("64MiB", "512MiB")), ..Setup::seeded(seed) });
    pair.east.ok(&["volume", "create", "n", "--size", "96MiB"]);
    pair.east.ok(&["group", "add", GROUP, "--volume", "n"]);
    pair.wait_paired();
    pair.settle();
    let before = pair.backing(&pair.west);
    let mut probe = Probe::of(&pair, "n", 0..96 * MIB);
    let changes = [PairState::Differential, PairState::Resync].map(|state| (state, entered(&pair, state)));
    let fell_back = || entered(&pair, PairState::Differential) > changes[0].1;
    pair.relay.set(weather);
    if weather.black_hole {
        pair.east.wait_pair(GROUP, "the loss of the link", LIMIT, |pair| !pair.connected);
    }
    let pause = Duration::from_millis(10);
    let load = Load::start(&pair.history, &pair.target(&pair.east), &Profile { pause, ..pair.profile(0) });
    wait_until("the fall back", LIMIT, || {
        // Ahead of a link that takes a little, however slow the looks are.
        probe.write_some(4);
        check(fell_back(), || format!("{:?}", pair.east.pair(GROUP)))
    });
    // All of its bitmap, and the frames since, are too much for the journal as it is now.
    probe.write_some(96);
    if weather.black_hole {
        let fallen = pair.east.pair(GROUP);
        assert!(fallen.differential_bytes > 0 && fallen.reason.is_some(), "{fallen:?}");
        assert!(pair.backing(&pair.west) == before, "the old image stays");
    }
    pair.relay.set(Weather::default());
    wait_until("the copy, with hosts at work", LIMIT, || {
        probe.write();
        assert!(!load.ended_early(), "a host met an error");
        let status = pair.east.pair(GROUP);
        check(status.state == PairState::Paired && status.differential_bytes == 0, || format!("{status:?}"))
    });
    load.wait_acked(50);
    load.stop();
    probe.assert_never_held_up();
    drop(probe);
    for (state, before) in changes {
        assert!(entered(&pair, state) > before, "{} is counted", state.name());
        assert!(pair.east.log_text().contains(state.name()), "{} is logged", state.name());
    }
    assert_legal("the primary", &pair.history.writes(), &pair.image(&pair.east), Bounds::EVERYTHING_ACKED);
    pair.wait_paired();
    pair.assert_copy_equals();
    let compared: VerifyReport = pair.east.json(&["verify", GROUP, "--to", "west"]);
    assert_eq!((compared.different_bytes, compared.complete), (0, true), "{compared:?}");
}

/// From the lost link to the complete copy.
#[test]
fn a_resync_converges_under_hosts_that_never_stop() {
    resync_under_hosts_that_never_stop(103, Weather { black_hole: true, ..Weather::default() });
}

/// From a link that takes far less than hosts write, for long, over a first resync on it, to the complete copy.
#[test]
fn a_slow_link_holds_no_host_up_though_its_journal_is_given_up() {
    resync_under_hosts_that_never_stop(105, Weather { bytes_per_second: Some(4_000_000), ..Weather::default() });
}

/// How long the journal of a primary lasts is in `status` and in the metrics while it fills, and no longer.
#[test]
fn a_primary_forecasts_when_its_journal_is_full() {
    const PER_SECOND: u64 = 6 * MIB;
    let pair = Pair::paired(&Setup::one_volume("v", 192 * MIB, 104).journals("256MiB", "256MiB"));
    let metric = || figures(&pair.east.status().addresses.metrics, "tidemark_journal_full_in_seconds")[0];
    assert!(metric().is_infinite() && pair.east.group(GROUP).journal.full_in_seconds.is_none(), "it does not fill");
    pair.relay.cut();
    let (mut host, begun, mut written) = (pair.east.open("v"), Instant::now(), 0);
    wait_until("a forecast that comes true", LIMIT, || {
        while written < PER_SECOND * begun.elapsed().as_secs() && written < 144 * MIB {
            host.write_all(written, &noise(written + 1, MIB)).expect("write");
            written += MIB;
        }
        let (journal, metric) = (pair.east.group(GROUP).journal, metric());
        let due = ((journal.capacity_bytes - journal.bytes) / PER_SECOND) as f64;
        let near = |seconds: f64| (due / 2.0..due * 2.0).contains(&seconds);
        check(journal.full_in_seconds.is_some_and(near) && near(metric), || format!("{journal:?} {metric}, not {due}"))
    });
    let told = pair.east.ok(&["status"]);
    assert!(told.contains("full in"), "{told}");
    pair.relay.heal();
    pair.wait_paired();
    wait_until("the forecast to be over", LIMIT, || {
        check(metric().is_infinite() && pair.east.group(GROUP).journal.full_in_seconds.is_none(), || {
            format!("{:?}", pair.east.group(GROUP).journal)
        })
    });
    drop(host);
    pair.assert_same();
}
