//! A primary says that its operator has suspended the pair: it sends nothing, and asks by that whether it was replaced (invariant 8).

use tidemark_common::link::Connection;
use tidemark_common::wire::handshake::{Versions, agree};
use tidemark_common::wire::message::{Refusal, Refused, Suspended};

use super::appliance::{Appliance, Engine, refuse};

impl Appliance {
    /// Its copy remembers why nobody calls; the generation here. Any other side refuses it as it refuses a primary that calls with data.
    pub(crate) fn hear_suspended(&self, connection: &Connection, said: &Suspended) -> Result<u64, Refused> {
        agree(Versions::OURS, Versions { min: said.version_min, max: said.version_max })?;
        let group = self.group_asked_for(&said.group)?;
        let (peer, here, name) = (connection.peer().0, &self.config.name, group.keeper.name());
        let member = self.check_member(peer, &group, said.generation);
        member.map_err(|message| refuse(Refusal::Conflict, 0, message))?;
        let engine = group.engine.read().clone();
        let record = group.keeper.get();
        let Engine::Secondary(copy) = &engine else {
            return Err(self.turned_down(&group, &engine, &peer, said.generation));
        };
        if said.generation < record.generation {
            let (generation, theirs) = (record.generation, said.generation);
            let message = format!("group '{name}' is at generation {generation} on '{here}' and at {theirs} there");
            return Err(refuse(Refusal::Fenced, generation, message));
        }
        if record.primary != Some(peer) {
            let message = format!("group '{name}' on '{here}' is the copy of another appliance");
            return Err(refuse(Refusal::Conflict, record.generation, message));
        }
        copy.hear_suspended(&said.message);
        Ok(record.generation)
    }
}
