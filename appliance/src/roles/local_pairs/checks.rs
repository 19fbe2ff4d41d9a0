//! What is refused about pairs on this appliance, and why.

use std::sync::Arc;

use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairState};
use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::LocalPairRecord;
use tidemark_common::ids::GroupId;
use tidemark_common::local_pair::LocalPairError;

use super::Held;
use crate::roles::appliance::{Appliance, Group, Volume, failed, invalid, refused};
use crate::roles::volumes::refuse_connected;

/// The volumes of a pair that can be made.
pub(super) struct Wanted {
    pub(super) group: Arc<Group>,
    pub(super) index: u32,
    pub(super) source: Arc<Volume>,
    pub(super) target: Arc<Volume>,
}

impl Appliance {
    /// Whether a pair can be made of these.
    pub(super) fn check_local_pair(&self, request: &LocalPairCreate) -> Result<Wanted, ErrorBody> {
        let LocalPairCreate { source: source_name, target: target_name, rate } = request;
        if *rate == Some(0) {
            return Err(invalid("at a rate of 0 a copy would never end: use a larger --rate"));
        }
        let (source, target) = (self.volume(source_name)?, self.volume(target_name)?);
        if source_name == target_name {
            return Err(invalid(format!("'{source_name}' cannot be its own target: name another volume")));
        }
        if let Some(held) = self.local_pairs.of_target(target_name) {
            let other = held.pair.record().source;
            return Err(refused(format!(
                "volume '{target_name}' is the target of '{other}' already: a target has one source"
            )));
        }
        if self.local_pairs.of_target(source_name).is_some() {
            return Err(refused(format!(
                "volume '{source_name}' is a target itself: name its source, or delete that pair first"
            )));
        }
        let Some(group_name) = self.group_of(source_name) else {
            return Err(refused(format!(
                "volume '{source_name}' is in no group, and only groups have moments: `tidemark group create NAME --volume {source_name}` \
                 makes one of it"
            )));
        };
        if let Some(group) = self.group_of(target_name) {
            return Err(refused(format!(
                "volume '{target_name}' is in group '{group}': a target is written by its pair alone. Name a volume in no group"
            )));
        }
        self.refuse_imaged(target_name)?;
        self.refuse_half_restored(target_name)?;
        if target.file.size() < source.file.size() {
            return Err(refused(format!(
                "volume '{target_name}' has {} bytes and '{source_name}' has {}: `tidemark volume resize {target_name} --size {}` first",
                target.file.size(),
                source.file.size(),
                source.file.size()
            )));
        }
        refuse_connected(target_name, &target, Some("what they read would be overwritten"))?;
        let group = self.group(&group_name)?;
        let index = self.index_in(&group, source_name)?;
        Ok(Wanted { group, index, source, target })
    }

    fn index_in(&self, group: &Group, volume: &str) -> Result<u32, ErrorBody> {
        let member = group.keeper.get().volumes.into_iter().find(|member| member.name == volume);
        let coming =
            || refused(format!("volume '{volume}' is being taken into its group: ask again when that is done"));
        member.map(|member| member.index).ok_or_else(coming)
    }

    /// A source that left its group is written without anybody being told.
    pub(super) fn check_source(&self, record: &LocalPairRecord) -> Result<Arc<Group>, ErrorBody> {
        let gone = || {
            refused(format!(
                "volume '{}' is not in group '{}' any more, so nobody knows what was written to it since: `tidemark local-pair delete {}`, \
                 then create the pair again",
                record.source, record.group, record.target
            ))
        };
        let group = self.group_by_id(GroupId(record.group_id)).ok_or_else(gone)?;
        let index = self.index_in(&group, &record.source).map_err(|_| gone())?;
        if index == record.source_index { Ok(group) } else { Err(gone()) }
    }

    /// A volume of a pair stays as it is.
    pub(crate) fn refuse_in_local_pair(&self, name: &str, what: &str) -> Result<(), ErrorBody> {
        let targets: Vec<String> = match self.local_pairs.of_target(name) {
            Some(_) => vec![name.to_owned()],
            None => self.local_pairs.of_source(name).iter().map(|held| held.pair.record().target).collect(),
        };
        let Some(target) = targets.first() else { return Ok(()) };
        Err(refused(format!(
            "volume '{name}' cannot be {what} while it is in a local pair: `tidemark local-pair delete {target}` first"
        )))
    }
}

/// What an operator is told.
pub(super) fn told(held: &Held, asked: &str, error: LocalPairError) -> ErrorBody {
    let target = &held.pair.target().name;
    match error {
        LocalPairError::State { state } => refused(format!(
            "the local pair of '{target}' is in state '{state}' and cannot be {asked}: {}",
            next_step(state, target)
        )),
        LocalPairError::Lacks { bytes } => refused(format!(
            "{bytes} bytes are still to be copied to '{target}', and a source is restored from a target that has everything: wait until \
             `tidemark local-pair show {target}` says that nothing differs"
        )),
        error @ LocalPairError::Stuck { .. } => refused(error.to_string()),
        error => failed(format!("local pair '{target}': {error}")),
    }
}

fn next_step(state: &str, target: &str) -> String {
    let is = |other: LocalPairState| state == other.name();
    if is(LocalPairState::Split) {
        format!("`tidemark local-pair resync {target}` lets it follow again")
    } else if is(LocalPairState::Error) {
        format!("`tidemark local-pair show {target}` says why, `tidemark local-pair resync {target}` goes on")
    } else if is(LocalPairState::Reverse) {
        "its source is being restored, wait until it is a pair again".to_owned()
    } else {
        format!("it follows its source, `tidemark local-pair split {target}` makes it an image first")
    }
}
