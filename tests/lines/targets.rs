//! Goodput and what is sent in vain, on long and lossy lines.

use tidemark_tests::virtual_path::Row;

use super::*;

/// The path of a point, and what was seen once the beginning was over.
fn point(megabits: f64, round_trip_ms: u64, loss: f64) {
    let path = Path::new(megabits, round_trip_ms, loss);
    let row = Row::of(&steady(path, &[], seconds(12)), path, SETTLED);
    println!("{megabits} Mbit/s, {round_trip_ms} ms, loss {loss}: {row}");
    assert!(row.goodput >= 0.9, "{megabits} Mbit/s, {round_trip_ms} ms, loss {loss}: {row}");
    assert!(row.sent <= 1.05, "{megabits} Mbit/s, {round_trip_ms} ms, loss {loss}: {row}");
}

#[test]
fn lines_of_200_megabits_are_filled() {
    for round_trip_ms in [50, 100] {
        for loss in [0.0001, 0.001] {
            point(200.0, round_trip_ms, loss);
        }
    }
}

#[test]
fn a_line_of_1_gigabit_and_50_ms_with_hardly_any_loss_is_filled() {
    point(1000.0, 50, 0.0001);
}

#[test]
fn a_line_of_1_gigabit_and_50_ms_with_loss_is_filled() {
    point(1000.0, 50, 0.001);
}

#[test]
fn a_line_of_1_gigabit_and_100_ms_with_hardly_any_loss_is_filled() {
    point(1000.0, 100, 0.0001);
}

#[test]
fn a_line_of_1_gigabit_and_100_ms_with_loss_is_filled() {
    point(1000.0, 100, 0.001);
}

/// The beginning is part of every connection: nine tenths of the line within three seconds, and little lost on the way.
#[test]
fn a_beginning_is_quick_and_overruns_little() {
    for (megabits, round_trip_ms) in [(20.0, 50), (200.0, 50), (200.0, 100), (1000.0, 100)] {
        let path = Path::new(megabits, round_trip_ms, 0.0);
        let run = steady(path, &[], SETTLED);
        let took = run.reaches(0, 0.9 * path.bits_per_second, Duration::ZERO);
        println!("{megabits} Mbit/s, {round_trip_ms} ms: {took:?}");
        assert!(took.is_some_and(|took| took <= seconds(3)), "{megabits} Mbit/s, {round_trip_ms} ms: {took:?}");
        let dropped = run.seen[0].last().map_or(u64::MAX, |seen| seen.dropped);
        assert!(
            dropped <= path.queue_bytes.max(1 << 20),
            "{megabits} Mbit/s, {round_trip_ms} ms: {dropped} bytes dropped"
        );
    }
}

/// The bad line of the scenarios: 100 ms each way, one in a hundred lost, three overtaken.
#[test]
fn a_bad_line_is_filled() {
    let path = Path { reorder: 0.03, ..Path::new(200.0, 200, 0.01) };
    let row = Row::of(&steady(path, &[], seconds(40)), path, seconds(8));
    println!("{row}");
    assert!(row.goodput >= 0.85, "{row}");
    // One lost, and three that come later than a quarter of a round trip.
    assert!(row.sent <= 1.09, "{row}");
}
