//! Data sets: named lists of extents over volumes, as operators write them.
//!
//! ```text
//! VOLUME                    all of it
//! VOLUME:OFFSET+LENGTH      a range, in sizes as 1MiB+64KiB
//! VOLUME:pN                 a partition
//! VOLUME:/DIRECTORY         the files of a directory (ext4, XFS)
//! VOLUME:pN:/DIRECTORY      the same in a file system on a partition
//! ```
//!
//! In the name of a directory, `\xHH` stands for a byte, as in the names of members ([`crate::names`]).

pub mod partition;
pub mod resolve;

use std::fmt;

use tidemark_common::config::parse_size;
use tidemark_common::ids::check_name;

/// Extents of a set at most.
pub const EXTENTS_MAX: usize = 1024;
/// Partitions are counted from 1; GPT as Linux reads it has 128.
const PARTITION_MAX: u32 = 128;

/// What of a volume belongs to a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    Whole,
    /// A range.
    Range {
        /// Where it begins.
        offset: u64,
        /// Its bytes.
        length: u64,
    },
    /// A partition, counted from 1.
    Partition(u32),
    /// The files of a directory.
    Directory {
        /// The partition with the file system; `None`: the volume is the file system.
        partition: Option<u32>,
        /// An absolute path.
        path: String,
    },
}

/// One extent of a set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetExtent {
    /// The volume.
    pub volume: String,
    /// What of it.
    pub part: Part,
}

impl std::str::FromStr for SetExtent {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (volume, rest) = text.split_once(':').map_or((text, None), |(volume, rest)| (volume, Some(rest)));
        check_name(volume).map_err(|error| format!("'{text}': {error}"))?;
        let part = rest.map_or(Ok(Part::Whole), part).map_err(|why| format!("'{text}': {why}"))?;
        Ok(Self { volume: volume.into(), part })
    }
}

fn part(text: &str) -> Result<Part, String> {
    if text.starts_with('/') {
        return Ok(Part::Directory { partition: None, path: directory(text)? });
    }
    if let Some(number) = text.strip_prefix('p') {
        let (number, path) = number.split_once(':').map_or((number, None), |(number, path)| (number, Some(path)));
        let number = number.parse().ok().filter(|number| (1..=PARTITION_MAX).contains(number));
        let number = number.ok_or_else(|| format!("a partition is p1 to p{PARTITION_MAX}"))?;
        return match path {
            None => Ok(Part::Partition(number)),
            Some(path) => Ok(Part::Directory { partition: Some(number), path: directory(path)? }),
        };
    }
    let (offset, length) =
        text.split_once('+').ok_or("behind the ':' comes OFFSET+LENGTH, pN, /DIRECTORY or pN:/DIRECTORY")?;
    let size = |text: &str| parse_size(text).map_err(|error| error.to_string());
    let (offset, length) = (size(offset)?, size(length)?);
    if length == 0 || offset.checked_add(length).is_none() {
        return Err("the range is empty, or ends beyond all volumes".into());
    }
    Ok(Part::Range { offset, length })
}

fn directory(path: &str) -> Result<String, String> {
    let parts: Vec<&str> = path.split('/').filter(|part| !part.is_empty() && *part != ".").collect();
    if !path.starts_with('/') || parts.contains(&"..") || path.len() > 4096 {
        return Err("a directory is an absolute path without '..'".into());
    }
    Ok(format!("/{}", parts.join("/")))
}

impl fmt::Display for SetExtent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.volume)?;
        match &self.part {
            Part::Whole => Ok(()),
            Part::Range { offset, length } => write!(f, ":{offset}+{length}"),
            Part::Partition(number) => write!(f, ":p{number}"),
            Part::Directory { partition: None, path } => write!(f, ":{path}"),
            Part::Directory { partition: Some(number), path } => write!(f, ":p{number}:{path}"),
        }
    }
}

/// The extents of a set from their texts.
///
/// # Errors
/// The first that makes no sense, and two that overlap as far as that can be told without an image.
pub fn parse(texts: &[String]) -> Result<Vec<SetExtent>, String> {
    if texts.is_empty() || texts.len() > EXTENTS_MAX {
        return Err(format!("a set has 1 to {EXTENTS_MAX} extents"));
    }
    let extents = texts.iter().map(|text| text.parse()).collect::<Result<Vec<SetExtent>, _>>()?;
    for (number, extent) in extents.iter().enumerate() {
        for other in extents.iter().take(number).filter(|other| other.volume == extent.volume) {
            if overlap(&other.part, &extent.part) {
                return Err(format!("'{other}' and '{extent}' overlap: what is in both would be backed up twice"));
            }
        }
    }
    Ok(extents)
}

fn overlap(one: &Part, other: &Part) -> bool {
    match (one, other) {
        (Part::Whole, _) | (_, Part::Whole) => true,
        (Part::Range { offset, length }, Part::Range { offset: other, length: other_length }) => {
            *offset < other.saturating_add(*other_length) && *other < offset.saturating_add(*length)
        }
        (Part::Partition(one), Part::Partition(other)) => one == other,
        (Part::Partition(number), Part::Directory { partition, .. })
        | (Part::Directory { partition, .. }, Part::Partition(number)) => *partition == Some(*number),
        (Part::Directory { partition: p, path: a }, Part::Directory { partition: q, path: b }) => {
            p == q && (is_below(a, b) || is_below(b, a))
        }
        // Where partitions and files lie is known when there is an image.
        _ => false,
    }
}

fn is_below(path: &str, above: &str) -> bool {
    above == "/" || path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn refused(texts: &[&str]) -> String {
        parse(&texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap_err()
    }

    #[test]
    fn extents_are_read_and_written() {
        for (text, shown) in [
            ("data", "data"),
            ("data:1MiB+64KiB", "data:1048576+65536"),
            ("data:p2", "data:p2"),
            ("data:/var/lib/", "data:/var/lib"),
            ("data:p1://home/./x", "data:p1:/home/x"),
            ("data:/", "data:/"),
        ] {
            let extent: SetExtent = text.parse().unwrap();
            assert_eq!(extent.to_string(), shown);
            assert_eq!(shown.parse::<SetExtent>().unwrap(), extent);
        }
    }

    #[test]
    fn what_makes_no_sense_is_said() {
        for (texts, word) in [
            (&[][..], "1 to 1024"),
            (&["a/b"], "a/b"),
            (&["a:"], "OFFSET+LENGTH"),
            (&["a:p0"], "p1 to p128"),
            (&["a:p129"], "p1 to p128"),
            (&["a:4KiB+0"], "empty"),
            (&["a:16777216TiB+1"], "16777216TiB"),
            (&["a:/x/../y"], "'..'"),
            (&["a:p1:x"], "absolute"),
            (&["a", "b", "a:p1"], "'a' and 'a:p1' overlap"),
            (&["a:0+8KiB", "a:4KiB+8KiB"], "overlap"),
            (&["a:p1", "a:p1:/home"], "overlap"),
            (&["a:/home", "a:/home/x"], "overlap"),
            (&["a:/", "a:/home"], "overlap"),
        ] {
            let why = refused(texts);
            assert!(why.contains(word), "{texts:?}: {why}");
        }
        for fine in [&["a", "b"][..], &["a:0+4KiB", "a:4KiB+4KiB"], &["a:/home", "a:/homes"], &["a:p1:/x", "a:p2:/x"]] {
            assert!(parse(&fine.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).is_ok(), "{fine:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_an_extent_or_an_error(text in "[a-z0-9:+/p.]{0,20}|.{0,20}") {
            if let Ok(extent) = text.parse::<SetExtent>() {
                prop_assert_eq!(extent.to_string().parse::<SetExtent>().unwrap(), extent);
            }
        }
    }
}
