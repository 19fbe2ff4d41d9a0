//! Durations as people write them: `250ms`, `1s`, `10m`.
//!
//! Text comes in from operators and scripts, a [`Duration`] goes out, and the other way round without loss down to
//! the microsecond. One whole number, one unit: a bare number is refused, because nobody can tell its unit.

use std::time::Duration;

use serde::de::Deserializer;
use serde::{Deserialize, Serializer, de};

/// Units from small to large, in microseconds.
const UNITS: [(&str, u64); 6] =
    [("us", 1), ("ms", 1_000), ("s", 1_000_000), ("m", 60_000_000), ("h", 3_600_000_000), ("d", 86_400_000_000)];

/// Why a text is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// Not digits followed by a unit.
    #[error("'{text}' is not a duration: write digits and a unit, as in 250ms, 1s or 10m")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// A fraction.
    #[error("'{text}' has a fraction: write a whole number in a smaller unit (1500ms, not 1.5s)")]
    Fraction {
        /// What was given.
        text: String,
    },
    /// No unit, or one that is not ours.
    #[error("'{text}' has no unit known here: use us, ms, s, m (minutes), h or d, as in {digits}s")]
    Unit {
        /// What was given.
        text: String,
        /// Its digits.
        digits: String,
    },
    /// More than 100 years.
    #[error("'{text}' is too long: at most 36500d")]
    TooLong {
        /// What was given.
        text: String,
    },
}

/// Longest duration, microseconds: 100 years, so that sums with wall clocks stay in range.
const MICROSECONDS_MAX: u64 = 36_500 * 86_400_000_000;

/// Reads a duration: digits, an optional space, and `us`, `ms`, `s`, `m`, `h` or `d`. `0` needs no unit.
///
/// # Errors
/// [`DurationError`] names the text and what to write instead.
pub fn parse_duration(text: &str) -> Result<Duration, DurationError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(end);
    if digits.is_empty() {
        return Err(DurationError::Malformed { text: text.into() });
    }
    if unit.starts_with(['.', ',']) {
        return Err(DurationError::Fraction { text: text.into() });
    }
    if trimmed == "0" {
        return Ok(Duration::ZERO);
    }
    let unit = unit.trim_start();
    let factor = UNITS
        .iter()
        .find(|(name, _)| *name == unit)
        .map(|(_, factor)| *factor)
        .ok_or_else(|| DurationError::Unit { text: text.into(), digits: digits.into() })?;
    let too_long = || DurationError::TooLong { text: text.into() };
    let number: u64 = digits.parse().map_err(|_| too_long())?;
    let microseconds = number.checked_mul(factor).filter(|us| *us <= MICROSECONDS_MAX).ok_or_else(too_long)?;
    Ok(Duration::from_micros(microseconds))
}

/// Writes a duration so that [`parse_duration`] reads the same: in the largest unit that divides it.
#[must_use]
pub fn format_duration(duration: Duration) -> String {
    let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
    let divides = |(_, factor): &&(&str, u64)| microseconds != 0 && microseconds.is_multiple_of(*factor);
    match UNITS.iter().rev().find(divides) {
        Some((name, factor)) => format!("{}{name}", microseconds / factor),
        None => "0s".into(),
    }
}

/// For `#[serde(with = "duration")]` on a [`Duration`].
///
/// # Errors
/// What the format reports, or a [`DurationError`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    parse_duration(&String::deserialize(deserializer)?).map_err(de::Error::custom)
}

/// For `#[serde(with = "duration")]` on a [`Duration`].
///
/// # Errors
/// What the format reports.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_duration(*duration))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn durations_have_one_unit() {
        for (text, ms) in
            [("0", 0), ("250ms", 250), ("1s", 1000), ("10m", 600_000), ("2 h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused_with_a_suggestion() {
        for (text, says) in [
            ("", "is not a duration"),
            ("s", "is not a duration"),
            ("-1s", "is not a duration"),
            ("30", "as in 30s"),
            ("5min", "m (minutes)"),
            ("1s500ms", "has no unit known here"),
            ("1.5s", "1500ms, not 1.5s"),
            ("36501d", "at most 36500d"),
            ("99999999999999999999s", "at most 36500d"),
        ] {
            let message = parse_duration(text).unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    proptest! {
        #[test]
        fn every_duration_reads_what_it_writes(us in 0..=MICROSECONDS_MAX, unit in 0_usize..6) {
            let duration = Duration::from_micros(us - us % UNITS[unit].1);
            prop_assert_eq!(parse_duration(&format_duration(duration)), Ok(duration));
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_duration(&text);
        }
    }
}
