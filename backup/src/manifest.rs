//! The manifest: what a backup holds, as of when, and the digest of each member. JSON, the end of an archive.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::names::readable;
use crate::plan::Meta;

/// What this build writes, and the newest it reads.
pub const FORMAT: u32 = 1;

/// See the module.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Manifest {
    /// Version of this description.
    pub format: u32,
    /// The backup's name.
    pub name: String,
    /// The appliance that made it.
    pub appliance: String,
    /// The version of Tidemark that made it.
    pub version: String,
    /// When it was asked for, or began by its schedule.
    pub began: Timestamp,
    /// The order of the members.
    pub order: String,
    /// As of when: one moment per group.
    pub moments: Vec<Moment>,
    /// Seconds between the first and the last of these moments: what was written across groups in between may be in one of
    /// them and not in the other. 0 with one group.
    pub skew_seconds: f64,
    /// The sets asked for.
    pub sets: Vec<SetSaid>,
    /// What the archive holds, in its order.
    pub members: Vec<MemberSaid>,
}

/// The moment of one group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Moment {
    /// The group.
    pub group: String,
    /// The marker.
    pub marker: u64,
    /// Wall clock at the cut.
    pub time: Timestamp,
    /// Volumes it is the moment of, with their bytes.
    pub volumes: Vec<VolumeSaid>,
}

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeSaid {
    /// Its name.
    pub name: String,
    /// Bytes.
    pub size: u64,
}

/// A set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SetSaid {
    /// Its name.
    pub name: String,
    /// Its extents, as they were given.
    pub extents: Vec<String>,
    /// What its directories had and the archive has not, or not as it was.
    #[serde(default, skip_serializing_if = "NotKept::is_nothing")]
    pub not_kept: NotKept,
}

/// What directories have and an archive has not, or not as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct NotKept {
    /// Devices, pipes and sockets: they are left out.
    pub special_files: u64,
    /// Further names of a file: each is a file of its own.
    pub hard_links: u64,
    /// Files that share blocks with an earlier one (reflinks): each has all of its content.
    pub with_shared_blocks: u64,
    /// Files, directories and links that had extended attributes: access lists, capabilities, labels.
    pub with_attributes: u64,
    /// Directories that were in use and are of a file system without a journal: they are of no moment.
    pub unsettled: u64,
}

impl NotKept {
    /// Everything is there as it was.
    #[must_use]
    pub const fn is_nothing(&self) -> bool {
        self.special_files == 0
            && self.hard_links == 0
            && self.with_shared_blocks == 0
            && self.with_attributes == 0
            && self.unsettled == 0
    }
}

impl std::iter::Sum for NotKept {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |a, b| Self {
            special_files: a.special_files + b.special_files,
            hard_links: a.hard_links + b.hard_links,
            with_shared_blocks: a.with_shared_blocks + b.with_shared_blocks,
            with_attributes: a.with_attributes + b.with_attributes,
            unsettled: a.unsettled + b.unsettled,
        })
    }
}

impl std::fmt::Display for NotKept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let said = [
            (self.special_files, "special file left out", "special files left out"),
            (self.hard_links, "hard link stored as a copy", "hard links stored as copies"),
            (
                self.with_shared_blocks,
                "file that shared blocks with another one stored as a copy",
                "files that shared blocks with others stored as copies",
            ),
            (
                self.with_attributes,
                "file without its extended attributes (access lists, capabilities, labels)",
                "files without their extended attributes (access lists, capabilities, labels)",
            ),
            (
                self.unsettled,
                "directory in use on a file system without a journal, whose files may be mixed up",
                "directories in use on file systems without a journal, whose files may be mixed up",
            ),
        ];
        let said = said.into_iter().filter(|(count, ..)| *count > 0);
        let said = said.map(|(count, one, many)| format!("{count} {}", if count == 1 { one } else { many }));
        f.write_str(&said.collect::<Vec<_>>().join(", "))
    }
}

/// A member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberSaid {
    /// Its set.
    pub set: String,
    /// Its name in the archive, as text.
    pub name: String,
    /// In its name, `\xHH` stands for a byte ([`crate::names`]). Earlier builds wrote that for what they had not kept, and named the file so.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub escaped: bool,
    /// The volume it was read from.
    pub volume: String,
    /// What it is.
    pub kind: KindSaid,
    /// For a range: where it began in the volume.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub offset: Option<u64>,
    /// Bytes with holes.
    pub size: u64,
    /// Bytes without holes.
    pub data_bytes: u64,
    /// For what lies in a directory: owner, permissions, time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub meta: Option<Meta>,
    /// For a file: where its content lay in the volume, (offset, length).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extents: Vec<(u64, u64)>,
    /// The digest of its content.
    pub blake3: String,
}

impl MemberSaid {
    /// Its name as [`readable`] has it, whichever build wrote it.
    #[must_use]
    pub(crate) fn readable_name(&self) -> String {
        if self.escaped { self.name.clone() } else { readable(self.name.as_bytes()) }
    }
}

/// What a member is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum KindSaid {
    /// A range of a volume, or all of it.
    Range,
    /// A file of a directory.
    File,
    /// A directory.
    Folder,
    /// A symbolic link.
    Link,
}

/// Bytes of a manifest that is believed, at most.
pub const MANIFEST_BYTES_MAX: u64 = 1 << 30;

/// Of a manifest that nobody reads back, for people.
#[must_use]
pub fn too_large(bytes: u64, bytes_max: u64) -> String {
    format!(
        "what says what is in it takes {bytes} bytes, and may take {bytes_max}: back up fewer files at once, or their volumes whole"
    )
}

impl Manifest {
    /// Bytes of all members, without holes, as anybody may have written them.
    #[must_use]
    pub fn data_bytes(&self) -> u64 {
        self.members.iter().fold(0_u64, |bytes, member| bytes.saturating_add(member.data_bytes))
    }

    /// As text.
    ///
    /// # Errors
    /// When it cannot be written, which its types do not allow.
    pub fn encode(&self) -> serde_json::Result<String> {
        serde_json::to_string_pretty(self)
    }

    /// From text that anybody may have written.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(text: &[u8]) -> Result<Self, String> {
        let manifest: Self =
            serde_json::from_slice(text).map_err(|error| format!("the manifest is not one: {error}"))?;
        if manifest.format > FORMAT {
            return Err(format!(
                "the manifest has format {}, and this build knows {FORMAT}: use a newer one",
                manifest.format
            ));
        }
        Ok(manifest)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// One of a backup of nothing.
    pub(crate) fn of_nothing(name: &str) -> Manifest {
        Manifest {
            format: FORMAT,
            name: name.into(),
            appliance: "east".into(),
            version: "0".into(),
            began: jiff::Timestamp::UNIX_EPOCH,
            order: "given".into(),
            moments: Vec::new(),
            skew_seconds: 0.0,
            sets: Vec::new(),
            members: Vec::new(),
        }
    }

    #[test]
    fn a_manifest_may_say_any_number_of_bytes() {
        let member = format!(
            r#"{{"set":"s","name":"s/a","volume":"a","kind":"range","offset":0,"size":1,"data_bytes":{},"blake3":""}}"#,
            u64::MAX
        );
        let text = format!(
            r#"{{"format":1,"name":"b","appliance":"a","version":"0","began":"1970-01-01T00:00:00Z","order":"given","moments":[],
            "skew_seconds":0.0,"sets":[],"members":[{member},{member}]}}"#
        );
        assert_eq!(Manifest::decode(text.as_bytes()).unwrap().data_bytes(), u64::MAX);
    }

    #[test]
    fn what_is_not_kept_is_said_and_older_manifests_say_nothing_of_it() {
        let of = |special_files, hard_links, with_attributes| NotKept {
            special_files,
            hard_links,
            with_attributes,
            ..NotKept::default()
        };
        let all = [of(1, 0, 0), of(2, 1, 0)];
        assert_eq!(
            all.into_iter().sum::<NotKept>().to_string(),
            "3 special files left out, 1 hard link stored as a copy"
        );
        assert_eq!(of(0, 2, 0).to_string(), "2 hard links stored as copies");
        assert_eq!([of(0, 0, 1), of(0, 0, 1)].into_iter().sum::<NotKept>(), of(0, 0, 2));
        let without = "files without their extended attributes (access lists, capabilities, labels)";
        assert_eq!(of(0, 0, 2).to_string(), format!("2 {without}"));
        assert!(!of(0, 0, 1).is_nothing());
        let sharing = NotKept { with_shared_blocks: 2, ..NotKept::default() };
        assert_eq!(sharing.to_string(), "2 files that shared blocks with others stored as copies");
        assert!(!sharing.is_nothing() && [sharing; 2].into_iter().sum::<NotKept>().with_shared_blocks == 4);
        let unsettled = NotKept { unsettled: 1, ..NotKept::default() };
        assert!(!unsettled.is_nothing() && unsettled.to_string().starts_with("1 directory in use"));
        assert_eq!([unsettled; 2].into_iter().sum::<NotKept>().unsettled, 2);
        let earlier = r#"{"name":"s","extents":["a"]}"#;
        let said: SetSaid = serde_json::from_str(earlier).unwrap();
        assert!(said.not_kept.is_nothing());
        assert_eq!(serde_json::to_string(&said).unwrap(), earlier);
    }
}
