//! The link between the sides: cut, lossy, idle.

use std::time::Duration;

use tidemark_common::api::types::{MarkerInfo, Moving, PairState, PairStatus};
use tidemark_common::lag::LagCause;
use tidemark_common::lease::{Lease, LeaseKind};
use tidemark_tests::impairment::Weather;
use tidemark_tests::noise::write_noise;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::figures;
use tidemark_tests::stamp::BLOCK_BYTES;
use tidemark_tests::wait::{check, measure_for, wait_until};

const LIMIT: Duration = Duration::from_secs(20);
/// More than an RPO may be with cuts every 250 ms and a link that works.
const RPO_SMALL_SECONDS: f64 = 3.0;

/// Bytes of all writes sent so far.
fn written(pair: &Pair) -> u64 {
    pair.history.writes().iter().map(|write| write.blocks * BLOCK_BYTES as u64).sum()
}

/// A region written thirty times over in each interval.
#[test]
fn a_hot_region_crosses_the_line_once_for_each_interval() {
    const BYTES: u64 = 4 << 20;
    let pair = Pair::paired(&Setup::one_volume("v", 16 << 20, 72).interval("1h"));
    pair.settle();
    let before = pair.relay.forward().bytes();
    for round in 0..3 {
        (0..30).for_each(|time| write_noise(&pair.east, "v", BYTES, BYTES, 1 + round * 100 + time));
        pair.settle();
    }
    let sent = pair.relay.forward().bytes() - before;
    // A busy machine makes several stretches of a round, which takes longer than one waits.
    assert!(sent < 30 * BYTES, "{sent} bytes were sent for {BYTES} in each of three intervals");
    let spared: f64 =
        figures(&pair.east.status().addresses.metrics, "tidemark_ship_coalesced_bytes_total").iter().sum();
    assert!(spared > 30.0 * BYTES as f64, "{spared} bytes were spared");
    pair.assert_copy_equals();
}

#[test]
fn a_link_cut_for_seconds_resumes_without_sending_everything_again() {
    let pair = Pair::prefilled(&Setup::seeded(71));
    pair.settle();
    let (sent, captured) = (pair.relay.forward().bytes(), written(&pair));
    let load = pair.load(0);
    load.wait_acked(100);
    pair.relay.cut();
    for side in [&pair.east, &pair.west] {
        side.wait_pair(GROUP, "the RPO to grow", LIMIT, |pair| {
            pair.rpo_seconds.is_some_and(|rpo| rpo > RPO_SMALL_SECONDS)
        });
    }
    pair.east.wait_pair(GROUP, "catching up", LIMIT, |pair| pair.state == PairState::CatchingUp);
    load.wait_acked(100);
    let lost = |pair: &PairStatus| !pair.connected && pair.lag_bytes > 0;
    let behind = pair.east.wait_pair(GROUP, "the loss of the link and the lag", LIMIT, lost);
    assert_eq!(behind.lag.cause, Some(LagCause::Link), "{behind:?}");

    pair.relay.heal();
    pair.wait_paired();
    for side in [&pair.east, &pair.west] {
        side.wait_pair(GROUP, "the RPO to shrink", LIMIT, |pair| {
            pair.rpo_seconds.is_some_and(|rpo| rpo < RPO_SMALL_SECONDS)
        });
    }
    load.stop();
    pair.assert_copy_equals();
    let (sent, captured) = (pair.relay.forward().bytes() - sent, written(&pair) - captured);
    assert!(sent < captured + captured / 4 + (1 << 20), "{sent} bytes sent for {captured} bytes written");
}

#[test]
fn a_pair_that_is_behind_says_where_it_waits_for_what_and_for_how_long() {
    let pair = Pair::paired(&Setup::one_volume("v", 256 << 20, 77));
    pair.settle();
    assert_eq!(pair.east.pair(GROUP).lag.cause, None);
    pair.relay.set(Weather { bytes_per_second: Some(8_000_000), ..Weather::default() });
    write_noise(&pair.east, "v", 0, 128 << 20, 1);
    let told = |pair: &PairStatus| pair.connected && pair.lag.cause.is_some() && pair.lag.seconds_left.is_some();
    let behind = pair.east.wait_pair(GROUP, "a cause, and an end of it", LIMIT, told);
    let lag = behind.lag;
    assert!(matches!(lag.cause, Some(LagCause::Link | LagCause::HostBurst)), "{behind:?}");
    assert_eq!(behind.lag_bytes, lag.buffer_bytes + lag.unsent_bytes + lag.under_way_bytes, "{behind:?}");
    assert!(lag.unsent_bytes > 0 && lag.delivered_bytes_per_second < 9e6, "{behind:?}");
    let shown = pair.east.ok(&["status"]);
    assert!(shown.contains("behind") || pair.east.pair(GROUP).state == PairState::Paired, "{shown}");
    pair.wait_paired();
    pair.settle();
    let after = pair.east.pair(GROUP).lag;
    assert_eq!((after.cause, after.buffer_bytes + after.unsent_bytes + after.under_way_bytes), (None, 0), "{after:?}");
}

/// Whatever keeps something of the past is listed with what it takes, and with the command that ends it, which does.
#[test]
fn what_is_kept_of_the_past_is_listed_and_a_pair_that_is_behind_can_be_told_to_do_without() {
    let pair = Pair::paired(&Setup::one_volume("v", 64 << 20, 78));
    pair.settle();
    let refused = pair.east.refuses(&["pair", "release", GROUP, "--to", "west"]);
    assert!(refused.contains("'west' follows"), "{refused}");
    assert!(pair.east.json::<Vec<Lease>>(&["leases"]).is_empty());

    pair.relay.cut();
    pair.east.ok(&["t0", "create", "then", "--of", GROUP]);
    write_noise(&pair.east, "v", 0, 16 << 20, 1);
    pair.east.wait_pair(GROUP, "the lag", LIMIT, |pair| pair.held.is_some_and(|held| held.bytes > 15 << 20));
    let leases: Vec<Lease> = pair.east.json(&["leases", GROUP]);
    let by = |kind| leases.iter().find(|lease| lease.kind == kind).unwrap_or_else(|| panic!("{leases:?}"));
    let (behind, image) = (by(LeaseKind::Pair), by(LeaseKind::T0));
    assert!(behind.bytes.is_some_and(|bytes| bytes > 15 << 20) && behind.age_seconds.is_some(), "{behind:?}");
    assert_eq!((image.owner.as_str(), leases.len()), ("then", 2), "{leases:?}");
    let shown = pair.east.ok(&["leases"]);
    assert!(shown.contains(&behind.ends_with) && shown.contains(&image.ends_with), "{shown}");
    assert!(pair.east.refuses(&["leases", "other"]).contains("no group 'other'"));

    for lease in [behind, image] {
        let words: Vec<_> = lease.ends_with.split(' ').skip(1).collect();
        pair.east.ok(&words);
    }
    let told = |pair: &PairStatus| pair.state == PairState::Differential && pair.differential_bytes >= 16 << 20;
    pair.east.wait_pair(GROUP, "the bitmap to have it", LIMIT, told);
    let left: Vec<Lease> = pair.east.json(&["leases"]);
    assert!(left.iter().all(|lease| lease.bytes.is_some_and(|bytes| bytes < 1 << 20)), "{left:?}");
    pair.relay.heal();
    pair.wait_paired();
    pair.assert_copy_equals();
}

/// Nobody asks the copy meanwhile.
#[test]
fn a_copy_that_lagged_for_a_while_is_not_said_to_have_followed_since_before() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 76));
    pair.settle();
    let before = pair.west.wait_pair(GROUP, "to follow", LIMIT, |pair| pair.state == PairState::Paired).since;
    pair.relay.cut();
    write_noise(&pair.east, "v", 0, 1 << 20, 1);
    // It lags from about four seconds on.
    pair.east.wait_pair(GROUP, "the lag", LIMIT, |pair| pair.rpo_seconds.is_some_and(|rpo| rpo > 8.0));
    pair.relay.heal();
    pair.east.wait_pair(GROUP, "to follow again", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    let after = pair.west.wait_pair(GROUP, "to follow again", LIMIT, |pair| pair.state == PairState::Paired).since;
    assert!(after > before, "since {after}, as before the link was cut");
}

#[test]
fn a_long_lossy_reordering_link_delivers_the_exact_image() {
    let pair = Pair::prefilled(&Setup::seeded(72));
    let delay = Duration::from_millis(20);
    pair.relay.set(Weather { delay, loss: 0.01, reorder: 0.03, ..Weather::default() });
    let load = pair.load(0);
    load.wait_acked(2_000);
    load.stop();
    pair.east.wait_pair(GROUP, "the lossy link to deliver", COPY_LIMIT, |pair| pair.lag_bytes == 0);
    pair.assert_copy_equals();
    assert!(pair.relay.forward().lost() > 0, "the link was lossy");
    pair.east.wait_pair(GROUP, "the delay to be seen", LIMIT, |pair| pair.round_trip_ms.is_some_and(|ms| ms >= 40.0));
}

/// Whatever is altered on the line is as good as lost: it never gets to where frames are checked, and a new connection is made all the same.
#[test]
fn bits_that_flip_on_the_line_are_noticed_and_change_nothing() {
    let pair = Pair::prefilled(&Setup::seeded(80));
    pair.relay.set(Weather { flip: 0.02, ..Weather::default() });
    let load = pair.load(0);
    load.wait_acked(1_000);
    pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west"]);
    load.wait_acked(1_000);
    load.stop();
    pair.east.wait_pair(GROUP, "the line to deliver", COPY_LIMIT, |pair| pair.lag_bytes == 0);
    let flipped = [pair.relay.forward(), pair.relay.backward()].map(|way| way.flipped());
    assert!(flipped.iter().all(|flipped| *flipped > 0), "{flipped:?} datagrams were altered");
    pair.assert_copy_equals();
    let rejected = figures(&pair.west.status().addresses.metrics, "tidemark_receive_rejected_frames_total");
    assert!(rejected.iter().all(|count| *count == 0.0), "no frame was altered: {rejected:?}");
}

#[test]
fn an_idle_group_costs_a_heartbeat_and_reports_its_rpo_truthfully() {
    const WINDOW: Duration = Duration::from_secs(4);
    let pair = Pair::paired(&Setup::seeded(73).interval("1s"));
    pair.settle();
    let traffic = || pair.relay.forward().bytes() + pair.relay.backward().bytes();
    let before = traffic();
    measure_for(WINDOW);
    let per_second = (traffic() - before) / WINDOW.as_secs();
    assert!(per_second < 4_096, "{per_second} bytes per second on an idle link");
    for side in [&pair.east, &pair.west] {
        let status = side.pair(GROUP);
        assert!(status.rpo_seconds.is_some_and(|rpo| rpo < RPO_SMALL_SECONDS), "{}: {status:?}", side.name());
        assert_eq!(status.state, PairState::Paired);
    }
}

#[test]
fn a_secondary_that_hangs_is_noticed_and_caught_up() {
    let pair = Pair::prefilled(&Setup::seeded(74));
    let load = pair.load(0);
    load.wait_acked(100);
    pair.west.freeze();
    pair.east.wait_pair(GROUP, "the silence to be noticed", LIMIT, |pair| pair.state == PairState::CatchingUp);
    load.wait_acked(200);
    pair.west.thaw();
    pair.wait_paired();
    load.stop();
    pair.assert_copy_equals();
}

/// Either side hangs for longer than a connection lives: hosts of the other one do not notice, and those of its own wait and go on.
#[test]
fn a_side_that_hangs_until_its_connection_is_lost_is_found_again() {
    let pair = Pair::prefilled(&Setup::seeded(78));
    let load = pair.load(0);
    load.wait_acked(100);
    pair.west.freeze();
    pair.east.wait_pair(GROUP, "the connection to be lost", LIMIT, |pair| !pair.connected && pair.reason.is_some());
    load.wait_acked(200);
    pair.west.thaw();
    pair.wait_paired();
    load.wait_acked(50);
    pair.east.freeze();
    pair.west.wait_pair(GROUP, "the connection to be lost", LIMIT, |pair| {
        !pair.connected && pair.rpo_seconds.is_some_and(|rpo| rpo > 7.0)
    });
    assert!(!load.ended_early(), "hosts wait");
    pair.east.thaw();
    load.wait_acked(200);
    pair.wait_paired();
    load.stop();
    let image = pair.image(&pair.east);
    assert_legal("the primary that hung", &pair.history.writes(), &image, Bounds::EVERYTHING_ACKED);
    pair.assert_copy_equals();
}

#[test]
fn a_suspended_pair_sends_nothing_until_it_is_resumed() {
    let pair = Pair::prefilled(&Setup::seeded(75));
    pair.settle();
    pair.east.ok(&["pair", "suspend", GROUP, "--to", "west"]);
    pair.east.wait_pair(GROUP, "the suspension", LIMIT, |pair| pair.state == PairState::Suspended);
    pair.west.wait_pair(GROUP, "the copy to be told", LIMIT, |pair| {
        pair.suspended_there && pair.reason.as_ref().is_some_and(|reason| reason.contains("suspended on 'east'"))
    });
    for side in [&pair.east, &pair.west] {
        let shown = side.ok(&["status"]);
        assert!(shown.contains("suspended") && !shown.contains("link down"), "{shown}");
    }
    let before = pair.backing(&pair.west);
    let load = pair.load(0);
    load.wait_acked(300);
    load.stop();
    let marker = pair.cut();
    let late = pair.east.cli(&["wait", GROUP, "--to", "west", "--marker", &marker.to_string(), "--timeout", "500ms"]);
    assert!(matches!(late.code, 1 | 4), "a suspended pair never gets there: {late:?}");
    assert!(pair.backing(&pair.west) == before, "nothing was applied");
    pair.east.ok(&["pair", "resume", GROUP, "--to", "west"]);
    pair.wait_paired();
    assert!(!pair.west.pair(GROUP).suspended_there, "that is over");
    let again = pair.east.cli(&["pair", "resume", GROUP, "--to", "west"]);
    assert!(again.code == 0 && again.stderr.contains("(it was not suspended: nothing was changed)"), "{again:?}");
    pair.assert_copy_equals();
}

#[test]
fn a_wait_right_after_a_pair_was_made_waits_for_its_first_marker() {
    let pair = Pair::unpaired(&Setup::seeded(77).interval("3s"));
    assert_eq!(pair.east.group(GROUP).marker.last, 0, "there is none yet");
    pair.create();
    let waited: MarkerInfo = pair.east.json(&["wait", GROUP, "--to", "west"]);
    assert!(waited.number > 0, "{waited:?}");
    assert!(pair.west.group(GROUP).marker.last > 0, "and the copy has it");
}

/// What has something to do and does not move is timed, and what moves or rests is not.
#[test]
fn what_stands_is_timed_until_it_moves_again() {
    let pair = Pair::prefilled(&Setup::seeded(76));
    pair.settle();
    let standing = || pair.east.group(GROUP).standing;
    let of = |wanted| {
        let found = standing().into_iter().find(|one| one.position == wanted);
        found.map_or(f64::NAN, |one| one.seconds)
    };
    wait_until("every position to rest", LIMIT, || {
        let all = standing();
        check(all.len() == 6 && all.iter().all(|one| one.seconds == 0.0), || format!("{all:?}"))
    });
    pair.relay.cut();
    let load = pair.load(0);
    load.wait_acked(20);
    wait_until("shipping to be seen standing", LIMIT, || {
        let seconds = of(Moving::Ship);
        check(seconds > 3.0, || format!("{seconds} s"))
    });
    assert!(of(Moving::Journal) < 2.0 && of(Moving::WriteBack) < 2.0, "{:?}", standing());
    pair.relay.heal();
    wait_until("shipping to move again", LIMIT, || {
        let seconds = of(Moving::Ship);
        check(seconds < 1.0, || format!("{seconds} s"))
    });
    load.stop();
    let west = pair.west.group(GROUP).standing;
    assert!(west.iter().any(|one| one.position == Moving::Apply), "{west:?}");
}
