//! Two sides that are primary: said on each of them, and on the old primary of both (invariant 8).
//!
//! With several copies of a group, an operator may take over on more than one. These know nothing of each other; the old
//! primary knows them all, and asks each whether it has taken over. Nothing is decided here: a person chooses.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::ErrorBody;
use tidemark_common::ids::GroupId;
use tidemark_common::wire::handshake::Versions;
use tidemark_common::wire::message::{Message, Return};

use super::appliance::{Appliance, Engine, Group, failed};
use super::rejoin::answer;

/// Between two rounds of questions.
const ROUND: Duration = Duration::from_secs(10);
/// Another primary that has not called for so long is not one any more.
const RIVAL_HEARD: Duration = Duration::from_secs(15);

/// Another primary of a group, which has called.
#[derive(Debug, Clone)]
pub(crate) struct Rival {
    peer: String,
    generation: u64,
    /// Monotonic.
    heard: Duration,
}

impl Appliance {
    /// Another appliance says that it is primary for a group that is primary here.
    pub(crate) fn met_rival(&self, group: &Group, peer: &str, generation: u64) {
        let rival = Rival { peer: peer.to_owned(), generation, heard: self.clock.monotonic() };
        let known = group.rival.lock().replace(rival);
        if known.is_none_or(|known| known.peer != peer) {
            tracing::error!(group = %group.keeper.name(), peer, generation, "another appliance is primary for this group, too");
        }
    }

    /// What a person must choose, on a side that is primary.
    pub(crate) fn rivalry(&self, group: &Group) -> Option<String> {
        let rival = group.rival.lock().clone()?;
        if self.clock.monotonic().saturating_sub(rival.heard) > RIVAL_HEARD {
            return None;
        }
        let (here, there) = (&self.config.name, &rival.peer);
        Some(format!(
            "'{there}' is primary for this group, too, with generation {} ('{here}' has {}): neither side was changed, and what is written \
             to one does not come to the other. {}",
            rival.generation,
            group.keeper.generation(),
            self.either_of_two(group, there)
        ))
    }

    /// The commands that choose between this side and another that is primary, too.
    pub(super) fn either_of_two(&self, group: &Group, there: &str) -> String {
        let (record, here) = (group.keeper.get(), &self.config.name);
        let name = &record.name;
        let pairs = record.pairs.iter().map(|pair| format!("`tidemark pair delete {name} --to {}`", pair.peer));
        let gives_way: Vec<String> = pairs.chain([format!("`tidemark group delete {name}`")]).collect();
        format!(
            "Choose one. To go on with '{here}': on '{there}' `tidemark pair delete {name} --to PEER` for each of its pairs and `tidemark group \
             delete {name}`. To go on with '{there}': on '{here}' {}. Either keeps the volumes where it is given; to make that side a copy, \
             `tidemark volume offer VOLUME --group {name}` there for each of them, which lets them be overwritten, and `tidemark pair create \
             {name} --to PEER` on the side chosen where it has no such pair",
            gives_way.join(" and ")
        )
    }

    /// The peers of a fenced group that have taken over, with their generations; those that do not answer are not among them.
    pub(crate) async fn takers(&self, group: &Group) -> Vec<(String, u64)> {
        let mut takers = Vec::new();
        for pair in group.keeper.get().pairs {
            if let Some(generation) = self.has_taken_over(group, &pair.peer).await {
                takers.push((pair.peer, generation));
            }
        }
        takers
    }

    async fn has_taken_over(&self, group: &Group, peer: &str) -> Option<u64> {
        match self.ask_who_took_over(group, peer).await.ok()? {
            Message::Parted(parted) if parted.generation > group.keeper.generation().0 => Some(parted.generation),
            _ => None,
        }
    }

    /// The question with which a return begins, and no more: that changes nothing over there.
    pub(crate) async fn ask_who_took_over(&self, group: &Group, peer: &str) -> Result<Message, ErrorBody> {
        let (GroupId(id), generation) = (group.keeper.id(), group.keeper.generation().0);
        let (connection, control, mut answers) = self.call(peer).await?;
        let (version_min, version_max) = (Versions::OURS.min, Versions::OURS.max);
        let question = Message::Return(Return { version_min, version_max, group: id, generation });
        let said = match control.send(&question).await {
            Ok(()) => answer(&mut answers, peer).await,
            Err(error) => Err(failed(error)),
        };
        connection.close("it only asked who has taken over");
        said
    }

    /// A fenced primary that had several copies asks all of them, again and again, for as long as it is fenced. One asks, however often it
    /// was fenced, or tried to return.
    pub(crate) fn look_for_takers(&self, name: &str) {
        let (Some(appliance), Ok(group)) = (self.this.upgrade(), self.group(name)) else { return };
        if group.looks_for_takers.swap(true, Ordering::AcqRel) {
            return;
        }
        let name = name.to_owned();
        self.runtime.spawn(async move {
            while appliance.is_fenced_by_one_of_several(&name, &group) {
                let takers = appliance.takers(&group).await;
                if takers.len() > 1 && group.takers.lock().len() < 2 {
                    tracing::error!(group = %name, ?takers, "more than one copy was taken over");
                }
                *group.takers.lock() = takers;
                tokio::time::sleep(ROUND).await;
            }
            group.looks_for_takers.store(false, Ordering::Release);
            // Fenced in between: who came then found somebody asking.
            if appliance.is_fenced_by_one_of_several(&name, &group) {
                appliance.look_for_takers(&name);
            }
        });
    }

    /// Whether it is still there, fenced, and had several copies.
    fn is_fenced_by_one_of_several(&self, name: &str, group: &Arc<Group>) -> bool {
        self.group(name).is_ok_and(|known| Arc::ptr_eq(&known, group))
            && matches!(&*group.engine.read(), Engine::Fenced { .. })
            && group.keeper.get().pairs.len() > 1
    }

    /// What a person must choose, on the old primary of several.
    pub(crate) fn several_takers(group: &Group) -> Option<String> {
        told(&group.keeper.name(), &group.takers.lock())
    }
}

/// For people; nothing when there is nothing to choose.
pub(crate) fn told(group: &str, takers: &[(String, u64)]) -> Option<String> {
    if takers.len() < 2 {
        return None;
    }
    let all: Vec<_> = takers.iter().map(|(peer, generation)| format!("'{peer}' (generation {generation})")).collect();
    Some(format!(
        "several have taken over: {}. What hosts write to one does not come to the others. Choose one; on each of the others `tidemark \
         pair delete {group} --to PEER` for its pairs and `tidemark group delete {group}`, which keeps its volumes there. Then `tidemark \
         rejoin {group}` here makes this side the copy of the one chosen. Or none of them: `tidemark rejoin {group} --as-primary` here goes \
         on with what this side has, and fences all of them",
        all.join(", ")
    ))
}
