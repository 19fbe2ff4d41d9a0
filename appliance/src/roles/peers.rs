//! Whom this appliance trusts: adding peers, and taking the trust back.
//!
//! Groups name a peer by its name here, and a copy its primary by its id. So a peer that a group names stays, with the id it has, until
//! that group no longer does; after that its name is free for another appliance, or for the same machine made anew.

use std::net::{IpAddr, Ipv4Addr};

use tidemark_common::api::types::{ErrorBody, PeerAdd, PeerStatus};
use tidemark_common::catalog::{GroupRecord, PeerRecord, RoleRecord};
use tidemark_common::config::HostPort;
use tidemark_common::ids::{ApplianceId, check_name};

use super::appliance::{Appliance, failed, invalid, not_found, refused};

impl Appliance {
    /// `peer add`.
    pub(crate) async fn add_peer(&self, request: PeerAdd) -> Result<PeerStatus, ErrorBody> {
        let _alone = self.changing.lock().await;
        check_name(&request.name).map_err(|error| invalid(error.to_string()))?;
        let id: ApplianceId =
            request.id.parse().map_err(|error: tidemark_common::ids::IdError| invalid(error.to_string()))?;
        if id == self.identity.id() {
            return Err(refused(
                "this is the id of this appliance itself: give the other one's, as `tidemark id DIR` prints it there",
            ));
        }
        request.address.as_deref().map_or(Ok(()), check_reachable)?;
        if let Some(address) = request.address.as_deref().filter(|address| self.listens_at(address)) {
            return Err(refused(format!(
                "this appliance itself listens at {address}: give the address of the other one, as `tidemark status` says it there"
            )));
        }
        let known = self.peers.read().get(&request.name).cloned();
        if known.is_none() && request.name == self.config.name {
            return Err(refused(format!(
                "this appliance itself is called '{0}': give the other one another name here, which need not be the one it has over there",
                request.name
            )));
        }
        if let Some(known) = known.as_ref().filter(|known| known.id != id.0) {
            return Err(refused(format!(
                "peer '{0}' is known with the id {1}. When that appliance was made anew: `tidemark peer remove {0}`, then add it \
                 again. Another appliance needs another name",
                request.name,
                hex::encode(known.id)
            )));
        }
        if let Some(other) = self.peer_by_id(&id.0).filter(|other| *other != request.name) {
            return Err(refused(format!(
                "the appliance with that id is known as peer '{other}' already: to give it another name, `tidemark peer remove {other}` first"
            )));
        }
        let address = request.address.clone().or_else(|| known.and_then(|known| known.address));
        let record = PeerRecord { name: request.name.clone(), id: id.0, address: address.clone() };
        self.catalog.put_peer(&record).map_err(failed)?;
        self.peers.write().insert(request.name.clone(), record);
        Ok(PeerStatus { name: request.name, id: id.to_string(), address })
    }

    /// Whether an address is certainly the one where this appliance itself waits for peers.
    pub(crate) fn listens_at(&self, address: &str) -> bool {
        let Ok(address) = address.parse::<HostPort>() else { return false };
        let bound = self.addresses.get().and_then(|bound| bound.replication.parse::<HostPort>().ok());
        is_at(&self.config.replication.address, &address) || bound.is_some_and(|bound| is_at(&bound, &address))
    }

    /// `peer remove`: from here on it is refused at the door like any stranger.
    pub(crate) async fn remove_peer(&self, name: &str) -> Result<(), ErrorBody> {
        // A peer's new group is made under the same lock: it comes before, and is seen here, or finds itself a stranger.
        let _alone = self.changing.lock().await;
        let Some(peer) = self.peers.read().get(name).cloned() else {
            return Err(not_found(format!("there is no peer '{name}': `tidemark peer list` names those there are")));
        };
        let groups: Vec<GroupRecord> = self.groups.read().values().map(|group| group.keeper.get()).collect();
        let naming = groups.iter().filter(|group| names(group, &peer)).map(|group| ends_it(group, name));
        let naming: Vec<_> = naming.collect();
        if !naming.is_empty() {
            return Err(refused(format!("peer '{name}' is in use: {}", naming.join("; "))));
        }
        self.catalog.delete_peer(name).map_err(failed)?;
        self.peers.write().remove(name);
        Ok(())
    }
}

/// Whether a group is, or was and may be again, between this appliance and a peer.
fn names(group: &GroupRecord, peer: &PeerRecord) -> bool {
    group.primary == Some(peer.id) || group.pairs.iter().any(|pair| pair.peer == peer.name)
}

/// What a person does so that a group no longer names a peer.
fn ends_it(group: &GroupRecord, peer: &str) -> String {
    let name = &group.name;
    let delete = format!("`tidemark pair delete {name} --to {peer}`");
    match group.role {
        RoleRecord::Primary => format!("group '{name}' is paired with it; {delete} ends that"),
        RoleRecord::Secondary => format!(
            "the copy of its group '{name}' is here; {delete} gives the copy up and keeps its volumes, `tidemark failover {name}` \
             takes over first"
        ),
        RoleRecord::Fenced { .. } => {
            format!("group '{name}' is fenced here; {delete} gives it up and keeps its volumes")
        }
    }
}

/// Whether who listens at one address is certainly reached at the other, on the same machine.
fn is_at(listens: &HostPort, address: &HostPort) -> bool {
    let ip = |host: &str| match host {
        "localhost" => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
        host => host.parse::<IpAddr>().ok().map(|ip| ip.to_canonical()),
    };
    let same_host = match (ip(&listens.host), ip(&address.host)) {
        (Some(listens), Some(ip)) if listens.is_unspecified() => {
            (ip.is_unspecified() || ip.is_loopback()) && ip.is_ipv4() == listens.is_ipv4()
        }
        (Some(listens), Some(ip)) => listens == ip,
        _ => listens.host == address.host,
    };
    listens.port != 0 && listens.port == address.port && same_host
}

fn check_reachable(address: &str) -> Result<(), ErrorBody> {
    let parsed: HostPort =
        address.parse().map_err(|error: tidemark_common::config::AddressError| invalid(error.to_string()))?;
    if parsed.port == 0 {
        return Err(invalid(format!(
            "'{address}' has port 0, at which nobody can be reached: `tidemark status` on the peer shows where it listens"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_common::api::types::{Addresses, ErrorKind};

    use super::*;
    use crate::service::tests::{Faults, appliance};

    /// It called itself, was refused by itself, and status advised to trust its own id.
    #[tokio::test(flavor = "multi_thread")]
    async fn nobody_is_a_peer_of_itself_by_its_address_or_name() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let (nbd, metrics) = (Vec::new(), String::new());
        appliance.addresses.set(Addresses { nbd, replication: "0.0.0.0:7500".into(), metrics }).unwrap();
        let add = |name: &str, id: u8, address: Option<&str>| {
            let id = ApplianceId([id; 32]).to_string();
            appliance.add_peer(PeerAdd { name: name.into(), id, address: address.map(Into::into) })
        };
        // The one of its configuration, and the one where it listens in fact.
        for own in ["127.0.0.1:7411", "localhost:7411", "127.0.0.1:7500", "0.0.0.0:7500"] {
            let told = add("west", 1, Some(own)).await.unwrap_err();
            assert!(told.kind == ErrorKind::Refused && told.message.contains("itself listens"), "{own}: {told:?}");
        }
        assert!(add("alone", 1, None).await.unwrap_err().message.contains("another name"));
        for (name, id, other) in
            [("west", 1, "127.0.0.2:7411"), ("north", 2, "10.0.0.2:7500"), ("south", 3, "west:7411")]
        {
            add(name, id, Some(other)).await.unwrap();
        }
        let told = add("east", 1, None).await.unwrap_err().message;
        assert!(told.contains("peer 'west'") && told.contains("`tidemark peer remove west`"), "{told}");
    }
}
