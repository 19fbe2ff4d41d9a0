//! Where each record lies: tables and keys.
//!
//! A key is printable text, `TABLE/NAME…`, so that an error, or a listing by RocksDB's own tools, can be read by people.
//!
//! ```text
//! appliance/self                    format of this catalogue, when it was made
//! applied/GROUP                     how far the updater is
//! backup/NAME                       a backup: what, where to, how it went
//! bitmap/GROUP/PEER                 differential bitmap of a pair
//! drill/NUMBER                      one rehearsal
//! group/NAME                        a group with its volumes and pairs
//! history/GROUP                     from where on a copy keeps its history
//! image/NAME                        a T0 copy or a clone: what it shows of its first group
//! image-part/NAME/GROUP             what it shows of another
//! local-bits/TARGET                 bitmaps of a pair on this appliance
//! local-pair/TARGET                 a pair on this appliance, by its target volume
//! marker/GROUP/NUMBER               one kept marker
//! offer/VOLUME                      a volume in no group that a copy may be made on, or that waits for its images
//! peer/NAME                         a trusted appliance
//! restore/VOLUME                    a restore onto it that has not ended
//! ring/GROUP                        where the write buffer of a running primary lies
//! schedule/GROUP                    rehearsals of a group, again and again; by the group's name
//! set/NAME                          a data set
//! verify/GROUP/PEER                 the last comparison of a pair's two sides: how far it is, what it has found
//! volume/NAME                       a volume
//! ```
//!
//! GROUP is the group's id, 32 hexadecimal digits: a group made again under an old name finds nothing of its predecessor.
//! NUMBER is 16 hexadecimal digits, so that markers lie in their order. Names hold no `/` ([`check_name`]), so no two
//! keys can be taken for each other, and a table is the range `TABLE/` to `TABLE0` (`0` follows `/`).

use std::fmt;

use super::CatalogError;
use crate::ids::{GroupId, MarkerNumber, check_name};

/// The layout of tables and records that this build writes. Raised by any change an older build would misread.
pub const CATALOG_FORMAT: u32 = 11;
/// Stored bytes of one record at most: a roaring bitmap of 64 TiB in regions needs no more.
pub const RECORD_BYTES_MAX: usize = 256 << 20;
/// Markers kept per group, at least; pruning is by blocks of `MARKERS_PRUNE_STEP`.
pub const MARKERS_KEPT: u64 = 10_000;
/// Markers with such a number prune the older ones, so that a cut does not cost a deletion each time.
pub(super) const MARKERS_PRUNE_STEP: u64 = 1_000;

/// What kind of record; the number is in its envelope and never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u16)]
pub(super) enum Table {
    Appliance = 1,
    Applied = 2,
    Bitmap = 3,
    Group = 4,
    Marker = 5,
    Peer = 6,
    Volume = 7,
    Image = 8,
    Drill = 9,
    Schedule = 10,
    Ring = 11,
    Offer = 12,
    History = 13,
    ImagePart = 14,
    Verify = 15,
    Set = 20,
    Backup = 21,
    Restore = 22,
    LocalPair = 30,
    LocalBits = 31,
}

impl Table {
    /// All of them, in the order of their keys.
    pub(super) const ALL: [Self; 20] = [
        Self::Appliance,
        Self::Applied,
        Self::Backup,
        Self::Bitmap,
        Self::Drill,
        Self::Group,
        Self::History,
        Self::ImagePart,
        Self::Image,
        Self::LocalBits,
        Self::LocalPair,
        Self::Marker,
        Self::Offer,
        Self::Peer,
        Self::Restore,
        Self::Ring,
        Self::Schedule,
        Self::Set,
        Self::Verify,
        Self::Volume,
    ];

    pub(super) const fn kind(self) -> u16 {
        self as u16
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Appliance => "appliance",
            Self::Applied => "applied",
            Self::Bitmap => "bitmap",
            Self::Drill => "drill",
            Self::Group => "group",
            Self::History => "history",
            Self::Image => "image",
            Self::ImagePart => "image-part",
            Self::Marker => "marker",
            Self::Peer => "peer",
            Self::Ring => "ring",
            Self::Offer => "offer",
            Self::Schedule => "schedule",
            Self::Volume => "volume",
            Self::Set => "set",
            Self::Verify => "verify",
            Self::Backup => "backup",
            Self::Restore => "restore",
            Self::LocalPair => "local-pair",
            Self::LocalBits => "local-bits",
        }
    }

    /// The keys of this table.
    pub(super) fn range(self) -> KeyRange {
        KeyRange::below(self.name())
    }

    /// What an operator can do when a record of this table is lost.
    pub(super) const fn remedy(self) -> &'static str {
        match self {
            Self::Appliance | Self::Group => {
                "restore the catalogue from a backup; without one, set up a new directory and take over the volumes' \
                 backing files with `tidemark volume create --backing`"
            }
            Self::Applied | Self::History => "restore the catalogue from a backup, or repair this copy by a new pair",
            Self::Bitmap => "delete the pair and create it again, so that everything is compared",
            Self::Drill => "restore the catalogue from a backup; only the record of a past rehearsal is lost",
            Self::Image | Self::ImagePart => "delete the image and make it again: the volumes are not touched",
            Self::LocalPair | Self::LocalBits => {
                "restore the catalogue from a backup, or delete the local pair and create it again: the source is not touched"
            }
            Self::Offer => "restore the catalogue from a backup; the volume itself is not touched",
            Self::Ring => {
                "restore the catalogue from a backup; the write buffer itself is under ring_directory and is not touched"
            }
            Self::Schedule => "schedule the drills of this group again",
            Self::Marker => "restore the catalogue from a backup; the markers in the journal are not touched",
            Self::Peer => {
                "restore the catalogue from a backup; without one, set up a new directory and its peers again"
            }
            Self::Set => {
                "restore the catalogue from a backup, or make the set again; volumes and backups are not touched"
            }
            Self::Backup => {
                "restore the catalogue from a backup; the backup itself is where it was written and is not touched"
            }
            Self::Restore => {
                "restore the catalogue from a backup; what it says is which volume is half restored: restore that again"
            }
            Self::Verify => {
                "delete the pair and create it again, or restore the catalogue from a backup; only a comparison is lost"
            }
            Self::Volume => {
                "restore the catalogue from a backup; the volume's data is in its backing file and is not touched"
            }
        }
    }
}

/// The key of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Key {
    table: Table,
    text: String,
}

impl Key {
    pub(super) fn appliance() -> Self {
        Self { table: Table::Appliance, text: "appliance/self".into() }
    }

    pub(super) fn volume(name: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Volume, name)
    }

    pub(super) fn set(name: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Set, name)
    }

    pub(super) fn backup(name: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Backup, name)
    }

    pub(super) fn restore(volume: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Restore, volume)
    }

    pub(super) fn peer(name: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Peer, name)
    }

    pub(super) fn group(name: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Group, name)
    }

    pub(super) fn image(name: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Image, name)
    }

    pub(super) fn image_part(name: &str, group: GroupId) -> Result<Self, CatalogError> {
        check_name(name)?;
        Ok(Self { table: Table::ImagePart, text: format!("image-part/{name}/{group}") })
    }

    pub(super) fn local_pair(target: &str) -> Result<Self, CatalogError> {
        Self::named(Table::LocalPair, target)
    }

    pub(super) fn local_bits(target: &str) -> Result<Self, CatalogError> {
        Self::named(Table::LocalBits, target)
    }

    pub(super) fn drill(number: u64) -> Self {
        Self { table: Table::Drill, text: format!("drill/{number:016x}") }
    }

    pub(super) fn schedule(group: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Schedule, group)
    }

    pub(super) fn applied(group: GroupId) -> Self {
        Self { table: Table::Applied, text: format!("applied/{group}") }
    }

    pub(super) fn offer(volume: &str) -> Result<Self, CatalogError> {
        Self::named(Table::Offer, volume)
    }

    pub(super) fn ring(group: GroupId) -> Self {
        Self { table: Table::Ring, text: format!("ring/{group}") }
    }

    pub(super) fn history(group: GroupId) -> Self {
        Self { table: Table::History, text: format!("history/{group}") }
    }

    pub(super) fn marker(group: GroupId, number: MarkerNumber) -> Self {
        Self { table: Table::Marker, text: format!("marker/{group}/{:016x}", number.0) }
    }

    pub(super) fn bitmap(group: GroupId, peer: &str) -> Result<Self, CatalogError> {
        check_name(peer)?;
        Ok(Self { table: Table::Bitmap, text: format!("bitmap/{group}/{peer}") })
    }

    pub(super) fn verify(group: GroupId, peer: &str) -> Result<Self, CatalogError> {
        check_name(peer)?;
        Ok(Self { table: Table::Verify, text: format!("verify/{group}/{peer}") })
    }

    fn named(table: Table, name: &str) -> Result<Self, CatalogError> {
        check_name(name)?;
        Ok(Self { table, text: format!("{}/{name}", table.name()) })
    }

    pub(super) const fn table(&self) -> Table {
        self.table
    }

    pub(super) const fn bytes(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Keys from `start` up to and without `end`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct KeyRange {
    pub(super) start: Vec<u8>,
    pub(super) end: Vec<u8>,
}

impl KeyRange {
    /// All keys that begin with `path/`.
    fn below(path: &str) -> Self {
        Self { start: format!("{path}/").into_bytes(), end: format!("{path}0").into_bytes() }
    }

    /// The markers of a group.
    pub(super) fn markers(group: GroupId) -> Self {
        Self::below(&format!("marker/{group}"))
    }

    /// The markers of a group older than `number`.
    pub(super) fn markers_before(group: GroupId, number: MarkerNumber) -> Self {
        Self { end: Key::marker(group, number).text.into_bytes(), ..Self::markers(group) }
    }

    /// The markers of a group newer than `number`.
    pub(super) fn markers_after(group: GroupId, number: MarkerNumber) -> Self {
        match number.0.checked_add(1) {
            Some(next) => {
                Self { start: Key::marker(group, MarkerNumber(next)).text.into_bytes(), ..Self::markers(group) }
            }
            None => Self { start: Self::markers(group).end, ..Self::markers(group) },
        }
    }

    /// What an image shows of its groups but the first.
    pub(super) fn image_parts(name: &str) -> Result<Self, CatalogError> {
        check_name(name)?;
        Ok(Self::below(&format!("image-part/{name}")))
    }

    /// The comparisons of a group's pairs.
    pub(super) fn verifies(group: GroupId) -> Self {
        Self::below(&format!("verify/{group}"))
    }

    /// The bitmaps of a group.
    pub(super) fn bitmaps(group: GroupId) -> Self {
        Self::below(&format!("bitmap/{group}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_listed_in_the_order_of_their_keys_and_do_not_overlap() {
        for pair in Table::ALL.windows(2) {
            assert!(pair[0].range().end <= pair[1].range().start, "{pair:?}");
        }
    }

    #[test]
    fn keys_lie_in_their_ranges() {
        let group = GroupId([0xff; 16]);
        let keys = [
            Key::appliance(),
            Key::applied(group),
            Key::backup("z").unwrap(),
            Key::bitmap(group, "z").unwrap(),
            Key::drill(u64::MAX),
            Key::group("z").unwrap(),
            Key::history(group),
            Key::image_part("z", group).unwrap(),
            Key::image("z").unwrap(),
            Key::local_bits("z").unwrap(),
            Key::local_pair("z").unwrap(),
            Key::marker(group, MarkerNumber(u64::MAX)),
            Key::offer("z").unwrap(),
            Key::peer("z").unwrap(),
            Key::restore("z").unwrap(),
            Key::ring(group),
            Key::schedule("z").unwrap(),
            Key::set("z").unwrap(),
            Key::verify(group, "z").unwrap(),
            Key::volume("0").unwrap(),
        ];
        for (key, table) in keys.iter().zip(Table::ALL) {
            let range = table.range();
            assert_eq!(key.table(), table);
            assert!(range.start.as_slice() < key.bytes() && key.bytes() < range.end.as_slice(), "{key}");
        }
        assert!(Key::marker(group, MarkerNumber(9)).bytes() < Key::marker(group, MarkerNumber(16)).bytes());
    }

    #[test]
    fn a_name_cannot_reach_into_another_key() {
        assert!(matches!(Key::volume("a/b"), Err(CatalogError::Name(_))));
        assert!(matches!(Key::bitmap(GroupId([1; 16]), "../x"), Err(CatalogError::Name(_))));
    }
}
