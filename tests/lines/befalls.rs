//! What befalls a line: other rates, other ways, nothing at all, others on it.

use tidemark_tests::virtual_path::Row;

use super::*;

const MEGABIT: f64 = 1e6;

/// From 200 to 20 Mbit/s and back.
#[test]
fn another_rate_is_found_soon() {
    let fast = Path::new(200.0, 100, 0.0001);
    let slow = Path { bits_per_second: 20.0 * MEGABIT, ..fast };
    let run = steady(fast, &[(seconds(6), slow), (seconds(16), fast)], seconds(26));
    let (low, high) = (run.goodput(0, seconds(9), seconds(16)), run.goodput(0, seconds(22), seconds(26)));
    println!("slow {:.1}, fast again {:.1} Mbit/s", low / MEGABIT, high / MEGABIT);
    assert!(low >= 0.9 * slow.bits_per_second, "{low}");
    assert!(high >= 0.9 * fast.bits_per_second, "{high}");
    let sent = run.sent_for_delivered(seconds(9), seconds(16));
    assert!(sent <= 1.1, "sent in vain on the slow line: {sent}");
    let again = run.reaches(0, 0.9 * fast.bits_per_second, seconds(16));
    assert!(again.is_some_and(|took| took <= seconds(5)), "{again:?}");
}

/// A queue of 50 KB, less than a connection begins with: a look at the path does not fill it.
#[test]
fn a_slow_line_is_not_overrun() {
    let path = Path { queue_bytes: 50_000, ..Path::new(8.0, 1, 0.0) };
    let row = Row::of(&steady(path, &[], seconds(30)), path, seconds(8));
    println!("{row}");
    assert!(row.goodput >= 0.9, "{row}");
    assert!(row.sent <= 1.05, "{row}");
}

/// From what two processes on one machine have, or a good long line, to a line of the kind that is rented: it is used, frames arrive
/// one after the other, and questions on the control stream are answered as if nobody sent anything.
#[test]
fn a_line_that_becomes_hundreds_of_times_slower_is_used_and_answers() {
    for (fast, round_trip_ms, slow, queue_ms) in [
        (4000.0, 1, 16.0, 200),
        (4000.0, 1, 8.0, 50),
        (4000.0, 1, 4.0, 200),
        (1000.0, 50, 16.0, 200),
        (1000.0, 50, 1.0, 200),
    ] {
        let line = format!("{fast} to {slow} Mbit/s, {round_trip_ms} ms");
        let before = Path::new(fast, round_trip_ms, 0.0);
        let bits_per_second = slow * MEGABIT;
        let after = Path { bits_per_second, queue_bytes: (bits_per_second / 8e3) as u64 * queue_ms, ..before };
        let (fell, settled, ends) = (seconds(1), seconds(6), seconds(26));
        let run = steady(before, &[(fell, after)], ends);
        let (used, sent) = (run.goodput(0, settled, ends), run.sent_for_delivered(settled, ends));
        let (silent, stood) = (run.silent(0, fell, ends), run.stood(0, settled, ends));
        println!("{line}: {:.2} Mbit/s, sent {sent:.3}, silent {silent:.1?}, stood {stood:.1?}", used / MEGABIT);
        assert!(used >= 0.9 * bits_per_second, "{line}: {used}");
        assert!(sent <= 1.05, "{line}: {sent}");
        // What `status` of a primary calls no answer.
        assert!(silent <= seconds(2), "{line}: {silent:?}");
        // What was handed over at full rate on a long line arrives side by side: it is as much as that line needed.
        if round_trip_ms == 1 {
            let frame = Duration::from_secs_f64(FRAME_RAW_BYTES_MAX as f64 * 8.0 / bits_per_second);
            assert!(stood <= frame.mul_f64(1.2), "{line}: {stood:?}, a frame takes {frame:?}");
        }
    }
}

/// Another way, longer or shorter.
#[test]
fn another_delay_is_found_soon() {
    for (before, after) in [(50, 120), (120, 50)] {
        let (first, second) = (Path::new(200.0, before, 0.0001), Path::new(200.0, after, 0.0001));
        let run = steady(first, &[(seconds(6), second)], seconds(20));
        let took = run.reaches(0, 0.9 * second.bits_per_second, seconds(7));
        let (kept, sent) = (run.goodput(0, seconds(12), seconds(20)), run.sent_for_delivered(seconds(12), seconds(20)));
        println!("{before} to {after} ms: {took:?}, then {:.1} Mbit/s, sent {sent:.3}", kept / MEGABIT);
        assert!(took.is_some_and(|took| took <= seconds(4)), "{before} to {after} ms: {took:?}");
        assert!(kept >= 0.9 * second.bits_per_second, "{before} to {after} ms: {kept}");
        assert!(sent <= 1.05, "{before} to {after} ms: {sent}");
    }
}

/// Nothing comes through for two seconds.
#[test]
fn a_line_that_returns_is_filled_again() {
    let path = Path::new(200.0, 100, 0.0001);
    let dark = Path { dark: true, ..path };
    let run = steady(path, &[(seconds(6), dark), (seconds(8), path)], seconds(18));
    let took = run.reaches(0, 0.9 * path.bits_per_second, seconds(8));
    println!("{took:?}");
    assert!(took.is_some_and(|took| took <= seconds(4)), "{took:?}");
    assert_eq!(run.lost, [None]);
}

/// Little to send for a while teaches nothing wrong, neither too little nor too much.
#[test]
fn times_of_little_to_send_spoil_nothing() {
    let path = Path::new(200.0, 100, 0.0001);
    let trickle = Some((seconds(15), 100_000, Duration::from_millis(330)));
    let sender = Sender { trickle, ..Sender::of(Congestion::Steady) };
    let run = run(7, path, &[sender], &[], seconds(22));
    let took = run.reaches(0, 0.9 * path.bits_per_second, seconds(15));
    println!("{took:?}");
    assert!(took.is_some_and(|took| took <= seconds(3)), "{took:?}");
    let dropped = run.seen[0].last().map_or(u64::MAX, |seen| seen.dropped);
    assert!(dropped <= 2 * path.queue_bytes, "{dropped} bytes dropped");
}

/// Several pairs share a line: each has its part soon after the last has come, and together they fill it.
#[test]
fn several_share_a_line() {
    let path = Path::new(200.0, 100, 0.0001);
    let senders: Vec<Sender> =
        (0..4).map(|number| Sender { begins: seconds(3 * number), ..Sender::of(Congestion::Steady) }).collect();
    let run = run(7, path, &senders, &[], seconds(50));
    let (from, to) = (seconds(35), seconds(50));
    let rates: Vec<f64> = (0..4).map(|sender| run.goodput(sender, from, to) / MEGABIT).collect();
    let sum: f64 = rates.iter().sum();
    // Jain, Chiu, Hawe: 1 is equal shares, 1/4 is all for one.
    let fairness = sum * sum / (4.0 * rates.iter().map(|rate| rate * rate).sum::<f64>());
    let sent = run.sent_for_delivered(from, to);
    println!("{rates:.1?} Mbit/s, fairness {fairness:.3}, sent {sent:.3}");
    assert!(sum >= 0.9 * 200.0, "{rates:?}");
    assert!(fairness >= 0.9, "{rates:?}: {fairness}");
    assert!(sent <= 1.05, "{sent}");
}

/// A router that holds 2 ms, a quarter of the slack: what it cannot hold is not sent again and again.
#[test]
fn a_short_queue_is_respected() {
    let path = Path { queue_bytes: 50_000, ..Path::new(200.0, 100, 0.0001) };
    let run = steady(path, &[], seconds(20));
    let (goodput, sent) = (run.goodput(0, seconds(6), seconds(20)), run.sent_for_delivered(seconds(6), seconds(20)));
    println!("{:.1} Mbit/s, sent {sent:.3}", goodput / MEGABIT);
    assert!(goodput >= 0.8 * path.bits_per_second, "{goodput}");
    assert!(sent <= 1.1, "{sent}");
}

/// A seed is a run, to the bit.
#[test]
fn the_same_seed_is_the_same_run() {
    let path = Path { reorder: 0.01, ..Path::new(50.0, 60, 0.01) };
    let [once, again] = [(); 2].map(|()| steady(path, &[], seconds(3)));
    assert_eq!(once.seen, again.seen);
}
