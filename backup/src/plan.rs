//! What a backup copies, member by member, in the order asked for.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::content::Content;
use crate::image::Image;

/// Images by the name of their volume.
pub type Images = BTreeMap<String, Arc<dyn Image>>;

/// The order of members.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Order {
    /// As the sets and their extents were given; files of a directory by name.
    #[default]
    Given,
    /// By volume, then by the place of their first byte.
    Address,
    /// The fewest bytes first.
    SmallestFirst,
}

impl Order {
    /// As people write it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Given => "given",
            Self::Address => "address",
            Self::SmallestFirst => "smallest-first",
        }
    }

    /// From its name.
    #[must_use]
    pub fn named(name: &str) -> Option<Self> {
        [Self::Given, Self::Address, Self::SmallestFirst].into_iter().find(|order| order.name() == name)
    }
}

/// What a file system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Meta {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Owning group.
    pub gid: u32,
    /// Last change of its content, seconds since 1970.
    pub modified: i64,
}

/// What a member is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Kind {
    /// A range of a volume.
    Range {
        /// Where it begins.
        offset: u64,
    },
    /// A file.
    File(Meta),
    /// A directory.
    Folder(Meta),
    /// A symbolic link and where it leads.
    Link(Meta, Vec<u8>),
}

/// One member of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its set.
    pub set: String,
    /// Its name in the archive, as [`crate::names::readable`] has it.
    pub name: String,
    /// The volume it is read from.
    pub volume: String,
    /// What it is.
    pub kind: Kind,
    /// Where its bytes lie.
    pub content: Content,
}

/// Puts members into their order.
pub fn arrange(members: &mut [Member], order: Order) {
    match order {
        Order::Given => {}
        Order::Address => members.sort_by(|a, b| place(a).cmp(&place(b))),
        Order::SmallestFirst => members.sort_by_key(|member| member.content.data_bytes()),
    }
}

fn place(member: &Member) -> (&str, u64) {
    let first = match member.kind {
        Kind::Range { offset } => offset,
        _ => member.content.runs.first().map_or(0, |run| run.from),
    };
    (&member.volume, first)
}

/// Whether no byte is read twice: sets may overlap each other, and files of a directory may share blocks.
#[must_use]
pub(crate) fn reads_once(members: &[Member]) -> bool {
    let mut places: Vec<(&str, u64, u64)> = Vec::new();
    for member in members {
        places.extend(
            member
                .content
                .runs
                .iter()
                .map(|run| (member.volume.as_str(), run.from, run.from.saturating_add(run.length))),
        );
    }
    places.sort_unstable();
    places.windows(2).all(|pair| match pair {
        [(volume, _, end), (next_volume, begin, _)] => volume != next_volume || end <= begin,
        _ => true,
    })
}

/// So many bytes that no member reads are worth a word: each of these ranges takes memory of the images.
const REST_BYTES_MIN: u64 = 16 << 20;
/// Such ranges of one volume at most.
const RESTS_MAX: usize = 4096;

/// Says of the images what no member reads: what hosts overwrite there is kept for nobody.
pub(crate) fn spare_the_rest(members: &[Member], images: &Images) {
    let mut read: BTreeMap<&str, Vec<(u64, u64)>> = BTreeMap::new();
    for member in members {
        let runs = member.content.runs.iter().map(|run| (run.from, run.from.saturating_add(run.length)));
        read.entry(member.volume.as_str()).or_default().extend(runs);
    }
    for (volume, image) in images {
        let mut runs = read.remove(volume.as_str()).unwrap_or_default();
        runs.sort_unstable();
        // What lies behind the last one is a rest, too.
        runs.push((image.size(), image.size()));
        let (mut at, mut rests) = (0, 0);
        for (begin, end) in runs {
            let length = begin.saturating_sub(at);
            if length >= REST_BYTES_MIN && rests < RESTS_MAX {
                image.copied(at, length);
                rests += 1;
            }
            at = at.max(end);
        }
    }
}

/// Bytes to copy in all. Where they lie is said by file systems that anybody may have made.
#[must_use]
pub fn data_bytes(members: &[Member]) -> u64 {
    members.iter().fold(0_u64, |bytes, member| bytes.saturating_add(member.content.data_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Run;

    fn member(name: &str, volume: &str, from: u64, length: u64) -> Member {
        Member {
            set: "s".into(),
            name: name.into(),
            volume: volume.into(),
            kind: Kind::Range { offset: from },
            content: Content { size: length, runs: vec![Run { at: 0, from, length }] },
        }
    }

    #[test]
    fn members_come_in_the_order_asked_for() {
        let given = [member("1", "b", 0, 9), member("2", "a", 8, 5), member("3", "a", 4, 7)];
        let names = |order| {
            let mut members = given.to_vec();
            arrange(&mut members, order);
            members.iter().map(|member| member.name.clone()).collect::<String>()
        };
        assert_eq!(names(Order::Given), "123");
        assert_eq!(names(Order::Address), "321");
        assert_eq!(names(Order::SmallestFirst), "231");
        for order in [Order::Given, Order::Address, Order::SmallestFirst] {
            assert_eq!(Order::named(order.name()), Some(order));
        }
        assert!(!reads_once(&given));
    }

    #[test]
    fn no_number_of_bytes_is_too_large() {
        let half = || member("1", "a", 0, 1 << 63);
        assert_eq!(data_bytes(&[half(), half(), half()]), u64::MAX);
    }

    #[test]
    fn what_is_read_twice_is_seen() {
        let one = member("1", "a", 0, 8);
        assert!(reads_once(&[member("2", "a", 8, 8), one.clone(), member("3", "b", 0, 8)]));
        assert!(!reads_once(&[one, member("2", "b", 0, 1), member("3", "a", 7, 1)]));
    }
}
