//! Data sets: made, listed, deleted, and found by those who back them up.

use std::collections::BTreeSet;

use tidemark_backup::archive::{MANIFEST, MANIFEST_CHECK};
use tidemark_backup::sets::resolve::DataSet;
use tidemark_backup::sets::{Part, SetExtent, parse};
use tidemark_common::api::backup::types::{SetCreate, SetInfo};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::SetRecord;
use tidemark_common::config::format_size;
use tidemark_common::ids::check_name;

use crate::roles::appliance::{Appliance, failed, invalid, not_found, refused};

impl Appliance {
    /// `set create`.
    pub(super) fn create_set(&self, request: &SetCreate) -> Result<SetInfo, ErrorBody> {
        check_name(&request.name).map_err(|error| invalid(error.to_string()))?;
        if [MANIFEST, MANIFEST_CHECK].contains(&request.name.as_str()) {
            return Err(invalid(format!("'{}' is the name of a backup's manifest: choose another name", request.name)));
        }
        if self.catalog.set(&request.name).map_err(failed)?.is_some() {
            return Err(refused(format!(
                "there is a set '{}' already: `tidemark set delete {}` first, or another name",
                request.name, request.name
            )));
        }
        let extents = parse(&request.extents).map_err(invalid)?;
        for extent in &extents {
            lies_within(extent, self.volume(&extent.volume)?.file.size())?;
        }
        let record =
            SetRecord { name: request.name.clone(), extents: extents.iter().map(ToString::to_string).collect() };
        self.catalog.put_set(&record).map_err(failed)?;
        Ok(self.set_info(record))
    }

    /// `set list`.
    pub(super) fn list_sets(&self) -> Result<Vec<SetInfo>, ErrorBody> {
        let records = self.catalog.sets().map_err(failed)?;
        Ok(records.into_iter().map(|record| self.set_info(record)).collect())
    }

    /// `set delete`.
    pub(super) fn delete_set(&self, name: &str) -> Result<(), ErrorBody> {
        check_name(name).map_err(|error| invalid(error.to_string()))?;
        self.find_set(name)?;
        self.catalog.delete_set(name).map_err(failed)
    }

    pub(super) fn find_set(&self, name: &str) -> Result<SetRecord, ErrorBody> {
        check_name(name).map_err(|error| invalid(error.to_string()))?;
        let found = self.catalog.set(name).map_err(failed)?;
        found.ok_or_else(|| not_found(format!("there is no set '{name}': `tidemark set list` lists the sets")))
    }

    fn set_info(&self, record: SetRecord) -> SetInfo {
        let extents = parse(&record.extents).unwrap_or_default();
        let volumes: BTreeSet<String> = extents.into_iter().map(|extent| extent.volume).collect();
        let missing_volumes = volumes.into_iter().filter(|volume| self.volume(volume).is_err()).collect();
        SetInfo { name: record.name, extents: record.extents, missing_volumes }
    }
}

/// Volumes do not shrink: a range that a volume does not have now is a slip, and each backup of the set would fail.
fn lies_within(extent: &SetExtent, size: u64) -> Result<(), ErrorBody> {
    match extent.part {
        Part::Range { offset, length } if offset.saturating_add(length) > size => {
            Err(refused(format!("'{extent}' ends beyond volume '{}', which has {}", extent.volume, in_bytes(size))))
        }
        _ => Ok(()),
    }
}

/// With the bytes beside it, for who counts an offset.
fn in_bytes(size: u64) -> String {
    let short = format_size(size);
    if short == size.to_string() { format!("{size} bytes") } else { format!("{short} ({size} bytes)") }
}

/// The sets of a backup with their extents read.
pub(super) fn read(sets: &[SetRecord]) -> Result<Vec<DataSet>, String> {
    let read = |set: &SetRecord| {
        let extents = parse(&set.extents).map_err(|why| format!("set '{}': {why}", set.name))?;
        Ok(DataSet { name: set.name.clone(), extents })
    };
    sets.iter().map(read).collect()
}

/// The volumes sets name.
pub(super) fn volumes(sets: &[DataSet]) -> BTreeSet<String> {
    sets.iter().flat_map(|set| &set.extents).map(|extent| extent.volume.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_beyond_its_volume_is_refused_with_the_volumes_size() {
        let within = |text: &str, size| lies_within(&text.parse().unwrap(), size).map_err(|error| error.message);
        assert_eq!(within("a:1MiB+1MiB", 2 << 20), Ok(()));
        assert_eq!(
            within("a:1MiB+1048577", 2 << 20),
            Err("'a:1048576+1048577' ends beyond volume 'a', which has 2MiB (2097152 bytes)".into())
        );
        assert_eq!(within("a:0+1024", 513), Err("'a:0+1024' ends beyond volume 'a', which has 513 bytes".into()));
        for whole in ["a", "a:p9", "a:/etc"] {
            assert_eq!(within(whole, 512), Ok(()), "{whole}");
        }
    }
}
