//! Sizes as people write them: `64KiB`, `1GiB`, or plain bytes.
//!
//! Text comes in from operators and scripts, bytes go out, and the other way round without loss. Only powers of 1024
//! have names here: `KB` means 1000 to some and 1024 to others, so it is refused rather than guessed.

use serde::de::{self, Deserializer, Visitor};
use serde::ser::Serializer;

/// Units from small to large, with their bytes.
const UNITS: [(&str, u64); 6] =
    [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20), ("GiB", 1 << 30), ("TiB", 1 << 40), ("PiB", 1 << 50)];

/// Why a text is no size.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    /// Not digits followed by a unit.
    #[error("'{text}' is not a size: write digits and a unit, as in 64KiB, 512MiB or 1GiB, or plain bytes")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// A fraction.
    #[error("'{text}' has a fraction: write a whole number in a smaller unit (1536MiB, not 1.5GiB)")]
    Fraction {
        /// What was given.
        text: String,
    },
    /// A unit that is not one of ours.
    #[error("'{text}' has no unit known here: use B, KiB, MiB, GiB, TiB or PiB (powers of 1024), as in {suggestion}")]
    Unit {
        /// What was given.
        text: String,
        /// The nearest thing that would be accepted.
        suggestion: String,
    },
    /// More than 2^64 bytes.
    #[error("'{text}' is larger than any volume or journal: at most 16383PiB can be written down")]
    TooLarge {
        /// What was given.
        text: String,
    },
}

/// Reads a size: digits, an optional space, and `B`, `KiB`, `MiB`, `GiB`, `TiB` or `PiB`; digits alone are bytes.
///
/// # Errors
/// [`SizeError`] names the text and what to write instead.
pub fn parse_size(text: &str) -> Result<u64, SizeError> {
    let trimmed = text.trim();
    let end = trimmed.find(|c: char| !c.is_ascii_digit()).unwrap_or(trimmed.len());
    let (digits, unit) = trimmed.split_at(end);
    if unit.starts_with(['.', ',']) && !digits.is_empty() {
        return Err(SizeError::Fraction { text: text.into() });
    }
    if digits.is_empty() {
        return Err(SizeError::Malformed { text: text.into() });
    }
    let factor = unit_bytes(unit.trim_start()).ok_or_else(|| SizeError::Unit {
        text: text.into(),
        suggestion: format!("{digits}{}", nearest_unit(unit.trim_start())),
    })?;
    let number: u64 = digits.parse().map_err(|_| SizeError::TooLarge { text: text.into() })?;
    number.checked_mul(factor).ok_or_else(|| SizeError::TooLarge { text: text.into() })
}

/// Writes a size so that [`parse_size`] reads the same number: in the largest unit that divides it.
#[must_use]
pub fn format_size(bytes: u64) -> String {
    let divides = |(_, factor): &&(&str, u64)| bytes != 0 && bytes.is_multiple_of(*factor);
    match UNITS.iter().rev().find(divides) {
        Some(("B", _)) | None => bytes.to_string(),
        Some((name, factor)) => format!("{}{name}", bytes / factor),
    }
}

fn unit_bytes(unit: &str) -> Option<u64> {
    if unit.is_empty() {
        return Some(1);
    }
    UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor)
}

/// The unit somebody who wrote `k`, `MB` or `gib` is likely to have meant.
fn nearest_unit(unit: &str) -> &'static str {
    let first = unit.chars().next().map(|c| c.to_ascii_uppercase());
    UNITS.iter().find(|(name, _)| name.chars().next() == first).map_or("MiB", |(name, _)| name)
}

/// For `#[serde(with = "size")]` on a `u64`: a text, or a whole number of bytes.
///
/// # Errors
/// What the format reports, or a [`SizeError`].
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
    struct Size;
    impl Visitor<'_> for Size {
        type Value = u64;
        fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.write_str("a size such as \"64MiB\"")
        }
        fn visit_str<E: de::Error>(self, text: &str) -> Result<u64, E> {
            parse_size(text).map_err(E::custom)
        }
        fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<u64, E> {
            Ok(bytes)
        }
        fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<u64, E> {
            u64::try_from(bytes).map_err(|_| E::custom(format!("{bytes} is negative: a size is at least 0")))
        }
    }
    deserializer.deserialize_any(Size)
}

/// For `#[serde(with = "size")]` on a `u64`.
///
/// # Errors
/// What the format reports.
pub fn serialize<S: Serializer>(bytes: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&format_size(*bytes))
}

/// The same for an `Option<u64>`.
pub mod optional {
    use serde::{Deserialize, Deserializer, Serializer};

    /// For `#[serde(with = "size::optional")]`.
    ///
    /// # Errors
    /// As for a size that is always there.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        #[derive(Deserialize)]
        struct Size(#[serde(with = "super")] u64);
        Ok(Option::<Size>::deserialize(deserializer)?.map(|size| size.0))
    }

    /// For `#[serde(with = "size::optional")]`.
    ///
    /// # Errors
    /// What the format reports.
    pub fn serialize<S: Serializer>(bytes: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match bytes {
            Some(bytes) => super::serialize(bytes, serializer),
            None => serializer.serialize_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("512B", 512),
            ("64KiB", 64 << 10),
            (" 1 GiB ", 1 << 30),
            ("64TiB", 64 << 40),
            ("16383PiB", 16383 << 50),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn what_is_ambiguous_is_refused_with_a_suggestion() {
        for (text, says) in [
            ("", "is not a size"),
            ("GiB", "is not a size"),
            ("-1", "is not a size"),
            ("1.5GiB", "1536MiB, not 1.5GiB"),
            ("1,5GiB", "has a fraction"),
            ("64KB", "as in 64KiB"),
            ("64k", "as in 64KiB"),
            ("10gib", "as in 10GiB"),
            ("1G", "as in 1GiB"),
            ("1 x", "as in 1MiB"),
            ("1KiB5", "powers of 1024"),
            ("16384PiB", "larger than any"),
            ("99999999999999999999", "larger than any"),
        ] {
            let message = parse_size(text).unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn formatting_takes_the_largest_unit_that_divides() {
        for (bytes, text) in [(0, "0"), (1000, "1000"), (1536, "1536"), (3 << 20, "3MiB"), (1025 << 30, "1025GiB")] {
            assert_eq!(format_size(bytes), text);
        }
    }

    proptest! {
        #[test]
        fn every_size_reads_what_it_writes(bytes in any::<u64>(), shift in 0_u32..63) {
            for bytes in [bytes, (bytes >> shift) << shift.min(50)] {
                prop_assert_eq!(parse_size(&format_size(bytes)), Ok(bytes));
            }
        }

        #[test]
        fn no_text_panics(text in ".{0,40}") {
            let _ = parse_size(&text);
        }
    }
}
