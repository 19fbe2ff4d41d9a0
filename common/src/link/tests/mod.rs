//! Two endpoints on loopback.

mod hostile;
mod network;
mod trusted;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::mpsc;

use super::*;
use crate::identity::Identity;
use crate::ids::ApplianceId;

/// A refusal as reported.
struct Refusal {
    id: Option<ApplianceId>,
    why: String,
    crowded: bool,
}

struct Peers {
    names: Mutex<BTreeMap<ApplianceId, String>>,
    refusals: mpsc::Sender<Refusal>,
}

impl Trust for Peers {
    fn peer_name(&self, id: &ApplianceId) -> Option<String> {
        self.names.lock().get(id).cloned()
    }

    fn refused(&self, _remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.refusals.try_send(Refusal { id, why: why.into(), crowded: false }).unwrap();
    }

    fn crowded(&self, _remote: SocketAddr, id: Option<ApplianceId>, why: &str) {
        self.refusals.try_send(Refusal { id, why: why.into(), crowded: true }).unwrap();
    }
}

/// One appliance as far as the link goes.
struct Appliance {
    id: ApplianceId,
    endpoint: Endpoint,
    peers: Arc<Peers>,
    refusals: mpsc::Receiver<Refusal>,
}

impl Appliance {
    fn new() -> Self {
        Self::with(LinkConfig::default(), Arc::new(UdpNetwork))
    }

    fn with(config: LinkConfig, network: Arc<dyn Network>) -> Self {
        let identity = identity();
        let (refusals, reported) = mpsc::channel(100);
        let peers = Arc::new(Peers { names: Mutex::default(), refusals });
        let endpoint = Endpoint::bind_in(network, any_port(), &identity, peers.clone(), config).unwrap();
        Self { id: identity.id(), endpoint, peers, refusals: reported }
    }

    fn trust(&self, other: &Self) {
        self.peers.names.lock().insert(other.id, "peer".into());
    }

    fn address(&self) -> String {
        self.endpoint.local_addr().unwrap().to_string()
    }

    async fn dial(&self, other: &Self) -> Result<Connection, DialError> {
        self.endpoint.dial(&other.address(), other.id).await
    }
}

fn identity() -> Identity {
    let directory = tempfile::tempdir().unwrap();
    Identity::create(directory.path()).unwrap()
}

fn any_port() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// Two appliances that trust each other.
fn pair_with(config: &LinkConfig) -> (Appliance, Appliance) {
    let [east, west] = [(); 2].map(|()| Appliance::with(config.clone(), Arc::new(UdpNetwork)));
    east.trust(&west);
    west.trust(&east);
    (east, west)
}

fn pair() -> (Appliance, Appliance) {
    pair_with(&LinkConfig::default())
}

/// The two ends of one connection, the dialer's first.
async fn connect(from: &Appliance, to: &Appliance) -> (Connection, Connection) {
    let dialed = from.dial(to).await.unwrap();
    (dialed, to.endpoint.accept().await.unwrap())
}

/// Data streams of a connection.
async fn data(primary: &Connection, secondary: &Connection, streams: usize) -> (DataSender, DataReceiver) {
    let (sender, receiver) = tokio::join!(primary.open_data(streams), secondary.accept_data(streams));
    (sender.unwrap(), receiver.unwrap())
}

/// A frame that says which it is.
fn frame(number: u64, bytes: usize) -> Bytes {
    number.to_le_bytes().into_iter().cycle().take(bytes).collect()
}

/// Numbers that look random and are the same in every run.
fn numbers(seed: u64) -> impl Iterator<Item = u64> {
    let mut state = seed;
    std::iter::from_fn(move || {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Some(mixed ^ (mixed >> 31))
    })
}

/// Nothing here takes anything like this long: a hang is a failure and not a hung test run.
async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("it should not take so long")
}
