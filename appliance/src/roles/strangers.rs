//! Who called of late with an id that nobody trusts here: a peer that was added with a wrong id, a machine made anew, or a stranger.
//!
//! In: refusals at the door. Out: for status, who that was and what a person may do. Owns no more than a few callers: of strangers there
//! may be any number. Nothing proves that a caller holds the key of the id it shows, so a person compares it before it is trusted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use jiff::Timestamp;
use parking_lot::Mutex;
use tidemark_common::api::types::StrangerStatus;
use tidemark_common::catalog::PeerRecord;
use tidemark_common::config::HostPort;
use tidemark_common::ids::ApplianceId;

use super::appliance::Appliance;

/// A pair calls again within seconds: who has not called for so long does not call any more.
const LATELY: Duration = Duration::from_secs(60);
/// Callers remembered.
const KNOWN_MAX: usize = 16;

/// Callers of late.
#[derive(Debug, Default)]
pub(crate) struct Strangers(Mutex<BTreeMap<(IpAddr, ApplianceId), Calls>>);

#[derive(Debug, Clone, Copy)]
struct Calls {
    count: u64,
    /// Monotonic.
    last: Duration,
    last_wall: Timestamp,
}

impl Strangers {
    /// One has called, and was refused.
    pub(crate) fn called(&self, from: IpAddr, id: ApplianceId, now: Duration, wall: Timestamp) {
        let mut known = self.0.lock();
        known.retain(|_, calls| now.saturating_sub(calls.last) < LATELY);
        let caller = (from.to_canonical(), id);
        if known.len() >= KNOWN_MAX && !known.contains_key(&caller) {
            let longest_ago = known.iter().min_by_key(|(_, calls)| calls.last).map(|(caller, _)| *caller);
            if let Some(caller) = longest_ago {
                known.remove(&caller);
            }
        }
        let calls = known.entry(caller).or_insert(Calls { count: 0, last: now, last_wall: wall });
        *calls = Calls { count: calls.count.saturating_add(1), last: now, last_wall: wall };
    }

    fn lately(&self, now: Duration) -> Vec<((IpAddr, ApplianceId), Calls)> {
        let known = self.0.lock();
        let lately = known.iter().filter(|(_, calls)| now.saturating_sub(calls.last) < LATELY);
        lately.map(|(caller, calls)| (*caller, *calls)).collect()
    }
}

impl Appliance {
    /// For status.
    pub(crate) fn strangers_now(&self) -> Vec<StrangerStatus> {
        let lately = self.strangers.lately(self.clock.monotonic());
        let peers: Vec<PeerRecord> = self.peers.read().values().cloned().collect();
        // One may have been added since.
        let strangers = lately.into_iter().filter(|((_, id), _)| peers.iter().all(|peer| peer.id != id.0));
        let strangers: Vec<_> = strangers.collect();
        // Who answers with the id that is known here is not the one who called.
        let answering = if strangers.is_empty() { BTreeSet::new() } else { self.peers_that_answer() };
        let advice = |from: IpAddr, id: ApplianceId| match id == self.identity.id() {
            true => self.advice_to_itself(&peers),
            false => advice(from, id, &peers, &answering),
        };
        let status = |((from, id), calls): ((IpAddr, ApplianceId), Calls)| StrangerStatus {
            id: id.to_string(),
            from: from.to_string(),
            calls: calls.count,
            last: calls.last_wall,
            advice: advice(from, id),
        };
        strangers.into_iter().map(status).collect()
    }

    /// The peers with whom a pair has a connection now.
    fn peers_that_answer(&self) -> BTreeSet<String> {
        let groups: Vec<String> = self.groups.read().keys().cloned().collect();
        let groups = groups.iter().filter_map(|group| self.group_status(group).ok());
        groups.flat_map(|group| group.pairs).filter(|pair| pair.connected).map(|pair| pair.peer).collect()
    }

    /// Where the address of a peer is this appliance's own.
    fn advice_to_itself(&self, peers: &[PeerRecord]) -> String {
        let leads_here = |peer: &&PeerRecord| peer.address.as_deref().is_some_and(|address| self.listens_at(address));
        let (name, id) = match peers.iter().find(leads_here) {
            Some(peer) => (peer.name.as_str(), hex::encode(peer.id)),
            None => ("NAME", "ID".into()),
        };
        let whose =
            if name == "NAME" { "a peer (`tidemark peer list` has them)".to_owned() } else { format!("peer '{name}'") };
        format!(
            "This appliance called itself: the address of {whose} is its own. `tidemark peer add {name} --id {id} --addr HOST:PORT` with \
             the address where that one listens"
        )
    }
}

/// What a person may do about a caller.
fn advice(from: IpAddr, id: ApplianceId, peers: &[PeerRecord], answering: &BTreeSet<String>) -> String {
    let lives_there = |peer: &&PeerRecord| {
        let address = peer.address.as_ref().and_then(|address| address.parse::<HostPort>().ok());
        address.and_then(|address| address.host.parse::<IpAddr>().ok()).is_some_and(|ip| ip.to_canonical() == from)
    };
    let compare = "When `tidemark id` over there prints this id";
    match peers.iter().filter(|peer| !answering.contains(&peer.name)).find(lives_there) {
        Some(peer) => {
            let (name, address) = (&peer.name, peer.address.as_deref().unwrap_or_default());
            format!(
                "Peer '{name}' is known at that address, with the id {}. {compare}: `tidemark peer remove {name}`, then `tidemark peer add \
                 {name} --id {id} --addr {address}`; or, when it is another appliance: `tidemark peer add NAME --id {id}`",
                hex::encode(peer.id)
            )
        }
        None => format!("{compare}, and it is to be a peer: `tidemark peer add NAME --id {id}`"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::service::tests::{Faults, appliance};

    const HERE: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 0, 2));

    #[test]
    fn callers_are_counted_forgotten_and_never_many() {
        let strangers = Strangers::default();
        let id = |number: u8| ApplianceId([number; 32]);
        let at = |seconds| Duration::from_secs(seconds);
        let call = |number, seconds| strangers.called(HERE, id(number), at(seconds), Timestamp::UNIX_EPOCH);
        call(1, 0);
        call(1, 3);
        let counts = |seconds| -> Vec<_> {
            strangers.lately(at(seconds)).into_iter().map(|((_, id), calls)| (id, calls.count)).collect()
        };
        assert_eq!(counts(3), [(id(1), 2)]);
        assert_eq!(counts(62), [(id(1), 2)]);
        assert!(counts(63).is_empty());
        for number in 2..=100 {
            call(number, 10);
        }
        call(101, 11);
        let known = counts(11);
        assert_eq!(known.len(), KNOWN_MAX);
        assert!(known.iter().any(|(known, _)| *known == id(101)) && known.iter().all(|(known, _)| *known != id(1)));
    }

    #[test]
    fn a_peer_known_with_another_id_is_named() {
        let peer = |name: &str, address: Option<&str>| PeerRecord {
            name: name.into(),
            id: [9; 32],
            address: address.map(Into::into),
        };
        let peers = [peer("north", None), peer("west", Some("west.example:7411")), peer("east", Some("10.0.0.2:7411"))];
        let told = advice(HERE, ApplianceId([7; 32]), &peers, &BTreeSet::new());
        let add = format!("`tidemark peer add east --id {} --addr 10.0.0.2:7411`", "07".repeat(32));
        assert!(told.contains("`tidemark peer remove east`") && told.contains(&add), "{told}");
        assert!(told.contains("another appliance: `tidemark peer add NAME --id 0707"), "{told}");
        let told = advice(HERE, ApplianceId([7; 32]), &peers[..2], &BTreeSet::new());
        assert!(told.contains("`tidemark peer add NAME --id 0707"), "{told}");
        // Several live at one address, behind NAT or on one machine: who answers there was to be removed for another one that called.
        let told = advice(HERE, ApplianceId([7; 32]), &peers, &BTreeSet::from(["east".into()]));
        assert!(!told.contains("peer remove") && told.contains("`tidemark peer add NAME --id 0707"), "{told}");
    }

    /// It was advised to trust its own id, which is refused.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_called_itself_is_told_whose_address_is_wrong() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        // Kept from before its own address was changed to this one.
        let west = PeerRecord { name: "west".into(), id: [9; 32], address: Some("127.0.0.1:7411".into()) };
        appliance.peers.write().insert("west".into(), west);
        let (own, now) = (appliance.identity.id(), appliance.clock.monotonic());
        appliance.strangers.called(HERE, own, now, Timestamp::UNIX_EPOCH);
        let told = appliance.strangers_now().remove(0).advice;
        assert!(told.contains("called itself") && told.contains("`tidemark peer add west --id 0909"), "{told}");
        assert!(!told.contains(&own.to_string()), "{told}");
    }
}
