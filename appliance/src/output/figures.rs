//! Numbers as people read them: three digits and a unit.
//!
//! For reading only; what must be exact is written by `tidemark_common::config`.

use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use tidemark_common::api::types::{PairState, Role};
use tidemark_common::config::format_duration;
use tidemark_common::history::History;

const BINARY_UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/// Bytes, in units of 1024.
pub(crate) fn bytes(bytes: u64) -> String {
    if bytes < 1024 {
        return format!("{bytes} B");
    }
    scaled(approximate(bytes))
}

/// What copies are to keep of older markers.
pub(crate) fn history(asked: &History) -> String {
    let time = (asked.milliseconds > 0).then(|| format_duration(Duration::from_millis(asked.milliseconds)));
    let size = (asked.bytes > 0).then(|| bytes(asked.bytes));
    time.into_iter().chain(size).collect::<Vec<_>>().join(", ")
}

/// Bytes per second.
pub(crate) fn rate(bytes_per_second: f64) -> String {
    let rate = if bytes_per_second.is_finite() { bytes_per_second.max(0.0) } else { 0.0 };
    if rate < 1024.0 { format!("{rate:.0} B/s") } else { format!("{}/s", scaled(rate)) }
}

fn scaled(mut value: f64) -> String {
    let mut unit = "B";
    for next in BINARY_UNITS {
        // 1023.95 would be shown as 1024.0 in the smaller unit.
        if value < 1023.95 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    let digits = if value < 99.95 { 1 } else { 0 };
    let number = format!("{value:.digits$}");
    format!("{} {unit}", number.strip_suffix(".0").unwrap_or(&number))
}

/// A part of a whole, between 0 and 1. Something of nothing is all of it.
pub(crate) fn share(part: u64, whole: u64) -> f64 {
    match (part, whole) {
        (0, _) => 0.0,
        (_, 0) => 1.0,
        _ => (approximate(part) / approximate(whole)).min(1.0),
    }
}

/// A share in whole percent; 100 % only when nothing is missing, 0 % only when nothing is there.
pub(crate) fn percent(share: f64) -> String {
    let percent = match share * 100.0 {
        some if some > 0.0 && some < 1.0 => return "<1 %".into(),
        most if most < 100.0 => most.floor(),
        _ => 100.0,
    };
    format!("{percent:.0} %")
}

/// A number of seconds.
pub(crate) fn seconds(seconds: f64) -> String {
    let seconds = if seconds.is_finite() { seconds.max(0.0) } else { return "?".into() };
    if seconds < 9.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round();
    let parts = |large: f64, small: f64| ((whole / large).floor(), ((whole % large) / small).floor());
    match whole {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3600.0 => two(parts(60.0, 1.0), "min", "s"),
        s if s < 86_400.0 => two(parts(3600.0, 60.0), "h", "min"),
        _ => two(parts(86_400.0, 3600.0), "d", "h"),
    }
}

fn two((large, small): (f64, f64), large_unit: &str, small_unit: &str) -> String {
    if small > 0.0 {
        format!("{large:.0} {large_unit} {small:.0} {small_unit}")
    } else {
        format!("{large:.0} {large_unit}")
    }
}

/// A number of microseconds.
pub(crate) fn microseconds(us: f64) -> String {
    match us {
        us if !us.is_finite() => "?".into(),
        us if us < 9.95 => format!("{us:.1} µs"),
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 9_950.0 => format!("{:.1} ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.0} ms", us / 1e3),
        us => seconds(us / 1e6),
    }
}

/// How long ago something was. Clocks of two machines differ: what lies ahead is just now.
pub(crate) fn age(then: Timestamp, now: Timestamp) -> String {
    seconds(now.duration_since(then).as_secs_f64())
}

/// A moment, to the second, UTC.
pub(crate) fn time(moment: Timestamp) -> String {
    moment.to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

/// A pair's state in words.
pub(crate) const fn state(state: PairState) -> &'static str {
    match state {
        PairState::InitialCopy => "initial copy",
        PairState::Paired => "paired",
        PairState::CatchingUp => "catching up",
        PairState::Differential => "differential",
        PairState::Resync => "resync",
        PairState::Suspended => "suspended",
        PairState::FailedOver => "failed over",
        PairState::Fenced => "fenced",
        PairState::Error => "error",
    }
}

/// What an appliance is for a group, in words.
pub(crate) const fn role(role: Role) -> &'static str {
    match role {
        Role::Primary => "primary",
        Role::Secondary => "secondary",
        Role::Fenced => "fenced",
    }
}

/// For showing: 53 bits are more than three digits need.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn approximate(number: u64) -> f64 {
    number as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_have_three_digits() {
        for (number, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (99 << 10, "99 KiB"),
            (1023 << 10, "1023 KiB"),
            ((1 << 20) - 1, "1 MiB"),
            (64 << 20, "64 MiB"),
            (10 << 30, "10 GiB"),
            (64 << 40, "64 TiB"),
            (u64::MAX, "16 EiB"),
        ] {
            assert_eq!(bytes(number), text, "{number}");
        }
        assert_eq!(rate(98.4 * 1024.0 * 1024.0), "98.4 MiB/s");
        assert_eq!(rate(12.0), "12 B/s");
        assert_eq!(rate(f64::NAN), "0 B/s");
    }

    #[test]
    fn all_and_nothing_are_said_only_of_all_and_nothing() {
        for (part, whole, text) in [
            (0, 0, "0 %"),
            (0, 10, "0 %"),
            (1, 10_000, "<1 %"),
            (1, 100, "1 %"),
            (9999, 10_000, "99 %"),
            (10, 10, "100 %"),
            (11, 10, "100 %"),
            (1, 0, "100 %"),
        ] {
            assert_eq!(percent(share(part, whole)), text, "{part}/{whole}");
        }
    }

    #[test]
    fn times_have_two_parts_at_most() {
        for (number, text) in [
            (-1.0, "0.0 s"),
            (0.42, "0.4 s"),
            (9.96, "10 s"),
            (59.4, "59 s"),
            (59.6, "1 min"),
            (185.0, "3 min 5 s"),
            (3600.0, "1 h"),
            (8040.0, "2 h 14 min"),
            (273_600.0, "3 d 4 h"),
            (f64::INFINITY, "?"),
        ] {
            assert_eq!(seconds(number), text, "{number}");
        }
        for (number, text) in [
            (0.0, "0.0 µs"),
            (12.0, "12 µs"),
            (1200.0, "1.2 ms"),
            (50_000.0, "50 ms"),
            (2.5e6, "2.5 s"),
            (f64::NAN, "?"),
        ] {
            assert_eq!(microseconds(number), text, "{number}");
        }
    }

    #[test]
    fn moments_are_in_utc() {
        let moment: Timestamp = "2026-01-01T01:00:00.9+01:00".parse().unwrap();
        assert_eq!(time(moment), "2026-01-01 00:00:00Z");
        assert_eq!(age(moment, "2026-01-01T00:00:05.4Z".parse().unwrap()), "4.5 s");
        assert_eq!(age(moment, "2025-12-31T23:59:59Z".parse().unwrap()), "0.0 s");
    }
}
