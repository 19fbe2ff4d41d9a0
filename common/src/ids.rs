//! Newtypes for everything that has a number or a name, so that one cannot be taken for another.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::limits::TAG_BYTES_MAX;

macro_rules! number {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The number that follows; saturates, which no running system reaches.
            #[must_use]
            pub const fn next(self) -> Self {
                Self(self.0.saturating_add(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number! {
    /// Sequence number of one captured write: dense, from 1, per group. 0 is "before the first write".
    Seq
}
number! {
    /// Number of a marker: dense, from 1, per group, across role changes. 0 is "no marker yet".
    MarkerNumber
}
number! {
    /// Counts role changes of a group, from 1: the fence against two primaries.
    Generation
}

/// Index of a volume inside its group's journal. Given out once per group, never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VolumeIndex(pub u32);

impl fmt::Display for VolumeIndex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Identity of a consistency group, the same on both sides. Random, made with the group.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct GroupId(pub [u8; 16]);

/// Identity of an appliance: SHA-256 of its certificate in DER form.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApplianceId(pub [u8; 32]);

macro_rules! hex_text {
    ($name:ident, $bytes:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl FromStr for $name {
            type Err = IdError;

            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; $bytes];
                hex::decode_to_slice(text.trim(), &mut bytes)
                    .map_err(|_| IdError::NotHex { text: text.into(), digits: $bytes * 2 })?;
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
hex_text!(GroupId, 16);
hex_text!(ApplianceId, 32);

impl ApplianceId {
    /// Its first 16 digits, for names of files and folders: enough to tell apart the appliances that share a place.
    #[must_use]
    pub fn short(&self) -> String {
        self.to_string().chars().take(16).collect()
    }
}

/// Why a name or an id given by a user is not one.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IdError {
    /// Not the hexadecimal text it should be.
    #[error("'{text}' is not an id: {digits} hexadecimal digits are expected, as `tidemark id DIR` prints them")]
    NotHex {
        /// What was given.
        text: String,
        /// How many digits are expected.
        digits: usize,
    },
    /// A name with characters or a length that are not allowed.
    #[error(
        "'{text}' cannot be a name: use 1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit"
    )]
    BadName {
        /// What was given.
        text: String,
    },
    /// A marker's tag with a length that is not allowed.
    #[error("the tag has {bytes} bytes: a tag has at most {max}", max = TAG_BYTES_MAX)]
    LongTag {
        /// Of what was given.
        bytes: usize,
    },
    /// A marker's tag that would not stay on its line.
    #[error("the tag holds a control character (a line's end, or an escape): a tag is one line of plain text")]
    ControlInTag,
}

/// Checks the tag of a marker: one line of at most [`TAG_BYTES_MAX`] bytes. It is in the journal, on the copy's side too, and in
/// lists that people and scripts read.
///
/// # Errors
/// [`IdError::LongTag`], [`IdError::ControlInTag`].
pub fn check_tag(text: &str) -> Result<(), IdError> {
    if text.len() > TAG_BYTES_MAX {
        return Err(IdError::LongTag { bytes: text.len() });
    }
    if text.contains(char::is_control) {
        return Err(IdError::ControlInTag);
    }
    Ok(())
}

/// Checks a name for volumes, groups, peers and images: 1 to 64 of letters, digits, `.`, `_`, `-`, beginning with a
/// letter or digit. Names are file names and export names, so nothing else gets in.
///
/// # Errors
/// [`IdError::BadName`] with the text given.
pub fn check_name(text: &str) -> Result<(), IdError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let begins = text.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if begins && text.len() <= 64 && text.chars().all(plain) {
        Ok(())
    } else {
        Err(IdError::BadName { text: text.into() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_file_names() {
        for good in ["a", "pg-data", "0", "a.b_c"] {
            assert_eq!(check_name(good), Ok(()), "{good}");
        }
        for bad in ["", "..", ".a", "a/b", "a b", "-x", "ä", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tags_are_short_and_on_one_line() {
        assert_eq!(check_tag("before the upgrade"), Ok(()));
        assert_eq!(check_tag(&"x".repeat(TAG_BYTES_MAX)), Ok(()));
        for bad in ["a\nb", "a\r", "\u{1b}[2J", "\u{9b}2J", "\0", "\u{7f}", "a\tb"] {
            assert_eq!(check_tag(bad), Err(IdError::ControlInTag), "{bad:?}");
        }
        assert_eq!(check_tag(&"ä".repeat(TAG_BYTES_MAX / 2 + 1)), Err(IdError::LongTag { bytes: TAG_BYTES_MAX + 2 }));
    }

    #[test]
    fn ids_read_what_they_print() {
        let id = ApplianceId([7; 32]);
        assert_eq!(id.to_string().parse(), Ok(id));
        assert_eq!(id.short(), "0707070707070707");
        assert!("zz".parse::<GroupId>().is_err());
    }
}
