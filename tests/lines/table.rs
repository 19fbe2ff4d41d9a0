//! The controllers beside each other.

use tidemark_tests::virtual_path::Row;

use super::*;

#[test]
#[ignore = "prints a table"]
fn table() {
    println!("| line | | steady | quinn's BBR | cubic |");
    println!("|---|---|---|---|---|");
    for (megabits, round_trip_ms, loss, reorder) in [
        (200.0, 50, 0.0001, 0.0),
        (200.0, 50, 0.001, 0.0),
        (200.0, 100, 0.0001, 0.0),
        (200.0, 100, 0.001, 0.0),
        (1000.0, 50, 0.0001, 0.0),
        (1000.0, 50, 0.001, 0.0),
        (1000.0, 100, 0.0001, 0.0),
        (1000.0, 100, 0.001, 0.0),
        (200.0, 200, 0.001, 0.0),
        (200.0, 200, 0.01, 0.03),
        (1000.0, 200, 0.001, 0.0),
    ] {
        let path = Path { reorder, ..Path::new(megabits, round_trip_ms, loss) };
        let rows = [Congestion::Steady, Congestion::Bbr, Congestion::Cubic]
            .map(|congestion| Row::of(&run(7, path, &[Sender::of(congestion)], &[], seconds(14)), path, seconds(7)));
        let overtaken = if reorder > 0.0 { format!(", {} % overtaken", reorder * 100.0) } else { String::new() };
        println!(
            "| {megabits} Mbit/s, {round_trip_ms} ms, {} % lost{overtaken} | goodput | {} |",
            loss * 100.0,
            rows.each_ref().map(|row| format!("{:.2}×{}", row.goodput, if row.ended { " †" } else { "" })).join(" | ")
        );
        println!("| | sent | {} |", rows.each_ref().map(|row| format!("{:.2}×", row.sent)).join(" | "));
    }
    println!("\n† the connection ended on the way");
}
