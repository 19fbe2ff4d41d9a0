//! How far back a copy can go (decision 9): what the operator asked for. It is kept in the group's record on either side, and
//! the primary tells its secondaries.

use rkyv::{Archive, Deserialize as RkyvDeserialize, Serialize as RkyvSerialize};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::config::{parse_duration, parse_size};

/// The markers a copy is to keep behind its newest one: so long, so many bytes of its journal, or both, whichever is less.
#[derive(
    Debug,
    Clone,
    Copy,
    PartialEq,
    Eq,
    Default,
    Archive,
    RkyvSerialize,
    RkyvDeserialize,
    Serialize,
    Deserialize,
    ToSchema,
)]
pub struct History {
    /// Milliseconds; 0: no bound of this kind.
    pub milliseconds: u64,
    /// Bytes of the copy's journal; 0: no bound of this kind.
    pub bytes: u64,
}

impl History {
    /// Whether none is kept.
    #[must_use]
    pub const fn is_off(&self) -> bool {
        self.milliseconds == 0 && self.bytes == 0
    }
}

/// `off`, a duration, a size, or both with a comma between them.
///
/// # Errors
/// What is wrong with it, for people.
pub fn parse_history(text: &str) -> Result<History, String> {
    let mut history = History::default();
    if text == "off" {
        return Ok(history);
    }
    for part in text.split(',') {
        let wrong = || format!("'{part}' is neither a duration (24h) nor a size (50GiB): `off` keeps none");
        let bare = part.trim();
        if bare != "0" && !bare.is_empty() && bare.bytes().all(|byte| byte.is_ascii_digit()) {
            return Err(format!("'{part}' has no unit: write a duration ({bare}h) or a size ({bare}GiB)"));
        }
        let (bound, asked) = if let Ok(duration) = parse_duration(part) {
            (&mut history.milliseconds, u64::try_from(duration.as_millis()).map_err(|_| wrong())?)
        } else {
            (&mut history.bytes, parse_size(part).map_err(|_| wrong())?)
        };
        if asked == 0 {
            return Err(format!("'{part}' keeps nothing: `off` says so, 1ms or more keeps some"));
        }
        if std::mem::replace(bound, asked) != 0 {
            return Err(format!("'{text}' names two durations or two sizes: at most one of each"));
        }
    }
    Ok(history)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_is_a_time_a_size_or_both() {
        let of = |milliseconds, bytes| Ok(History { milliseconds, bytes });
        assert_eq!(parse_history("24h"), of(86_400_000, 0));
        assert_eq!(parse_history("50GiB"), of(0, 50 << 30));
        assert_eq!(parse_history("1d,1MiB"), of(86_400_000, 1 << 20));
        assert_eq!(parse_history("off"), of(0, 0));
        assert!(parse_history("long").unwrap_err().contains("24h"));
        for number in ["24", " 24", "1d,50"] {
            assert!(parse_history(number).unwrap_err().contains("has no unit"), "{number}");
        }
        for twice in ["1h,2h", "1GiB,1h,2GiB"] {
            assert!(parse_history(twice).unwrap_err().contains("at most one of each"), "{twice}");
        }
        for nothing in ["0", "0s", "0B", "1d,0MiB", "1us"] {
            assert!(parse_history(nothing).unwrap_err().contains("`off`"), "{nothing}");
        }
    }
}
