//! Invariant 7: nothing is shipped that could be lost. A peer that only listens, on a real connection.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_common::catalog::{CopyRecord, PairRecord};
use tidemark_common::identity::Identity;
use tidemark_common::ids::{ApplianceId, Generation};
use tidemark_common::limits::{CHUNK_BYTES, DATA_STREAMS};
use tidemark_common::link::{Connection, Endpoint, LinkConfig, Trust};
use tidemark_common::record::{FrameKind, FrameView};
use tidemark_common::wire::message::{Message, PROTOCOL_VERSION, Position, Welcome};
use tidemark_primary::ship::Links;
use tidemark_tests::wait::{check, wait_until};

use crate::machine::{Engine, JOURNAL, Machine, NEVER, SOON, Settings, VOLUMES};
use crate::staged::Call;

const PEER: &str = "far";

struct Anybody;

impl Trust for Anybody {
    fn peer_name(&self, _: &ApplianceId) -> Option<String> {
        Some("somebody".into())
    }

    fn refused(&self, _: SocketAddr, _: Option<ApplianceId>, _: &str) {}
}

/// The way to one peer.
struct Line {
    endpoint: Arc<Endpoint>,
    peer: (ApplianceId, String),
}

impl Links for Line {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }

    fn reach(&self, _: &str) -> Result<(ApplianceId, String), String> {
        Ok(self.peer.clone())
    }

    fn name(&self) -> String {
        "near".into()
    }

    fn fenced(&self, _: &str, _: &str, _: Generation) {}
}

/// What the peer was sent.
#[derive(Default)]
struct Received {
    /// The data streams of a connection.
    streams: bool,
    heartbeats: usize,
    /// The data of each frame of regions.
    regions: Vec<Vec<u8>>,
}

fn endpoint() -> (ApplianceId, Endpoint) {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::create(folder.path()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::bind(any, &identity, Arc::new(Anybody), LinkConfig::default()).unwrap();
    (identity.id(), endpoint)
}

/// A peer that welcomes whoever calls and takes what it is sent, and the line to it.
fn listening_peer(machine: &Machine) -> (Arc<dyn Links>, Arc<Mutex<Received>>) {
    let _inside = machine.runtime.enter();
    let ((_, near), (id, far)) = (endpoint(), endpoint());
    let address = far.local_addr().unwrap().to_string();
    let received = Arc::new(Mutex::new(Received::default()));
    machine.runtime.spawn({
        let received = Arc::clone(&received);
        async move {
            while let Some(connection) = far.accept().await {
                listen(&connection, &received).await;
            }
        }
    });
    (Arc::new(Line { endpoint: Arc::new(near), peer: (id, address) }), received)
}

async fn listen(connection: &Connection, received: &Mutex<Received>) {
    let (control, mut messages) = connection.accept_control().await.unwrap();
    messages.recv().await.unwrap().unwrap();
    control.send(&Message::Welcome(welcome())).await.unwrap();
    let mut data = connection.accept_data(DATA_STREAMS).await.unwrap();
    received.lock().streams = true;
    loop {
        tokio::select! {
            message = messages.recv() => match message {
                Ok(Some(_)) => received.lock().heartbeats += 1,
                _ => return,
            },
            frame = data.recv() => match frame {
                Ok(Some(frame)) => take(&frame, received),
                _ => return,
            },
        }
    }
}

fn take(frame: &[u8], received: &Mutex<Received>) {
    let view = FrameView::verified(frame).unwrap();
    if view.header.kind == FrameKind::Regions {
        let mut raw = Vec::new();
        view.unpack(&mut raw).unwrap();
        received.lock().regions.push(raw);
    }
}

/// From one that has nothing of the group yet.
fn welcome() -> Welcome {
    Welcome {
        version: PROTOCOL_VERSION,
        appliance: PEER.into(),
        has_history: false,
        generation: 0,
        position: Position::default(),
        chain: [0; 16],
        journal_free_bytes: 1 << 40,
        journal_capacity_bytes: 1 << 40,
    }
}

/// A pair whose first copy has not begun.
fn pair() -> PairRecord {
    PairRecord { copy: Some(CopyRecord::first(1 << 20)), ..PairRecord::new(PEER, 0) }
}

fn wait_applied(engine: &Engine) {
    wait_until("the volumes to have it", SOON, || {
        let (applied, captured) = (engine.applied(), engine.captured());
        check(applied == captured, || format!("{applied} of {captured}"))
    });
}

/// A region that is read while a host writes to it holds what only the buffer has. If power is lost now, this side never
/// wrote it; so it must not leave before the journal has it, however long that takes.
#[test]
fn a_region_waits_until_what_it_may_hold_is_durable() {
    let new = [0x77; CHUNK_BYTES];
    let settings = Settings { volumes: 1, delay: NEVER, heartbeat: SOON / 1000, ..Settings::keeping() };
    let mut machine = Machine::new(settings);
    let (line, received) = listening_peer(&machine);
    machine.links = line;
    let engine = machine.start();
    // Something to read in the first region, so that the copy can be held there.
    machine.write(&engine, 0, 0, &[0x11; CHUNK_BYTES]).unwrap();
    machine.flush(&engine).unwrap();
    wait_applied(&engine);

    engine.disk.hold(Call::Other, VOLUMES);
    machine.add_pair(&engine, &pair());
    engine.disk.wait_held();
    machine.write(&engine, 0, 2 * CHUNK_BYTES as u64, &new).unwrap();
    let seq = engine.captured();
    // From here on nothing becomes durable, and the copy goes on reading.
    engine.disk.hold(Call::Sync, JOURNAL);
    wait_until("the copy to wait for the journal, or to go on without it", SOON, || {
        let shipped = !received.lock().regions.is_empty();
        check(shipped || engine.disk.is_held(), || "neither".into())
    });
    // The pair is alive and sends whatever it has to send.
    let before = received.lock().heartbeats;
    wait_until("some heartbeats", SOON, || {
        let more = received.lock().heartbeats - before;
        check(more >= 10, || format!("{more}"))
    });
    assert!(engine.primary.status().positions.journaled_seq < seq, "nothing is durable while no sync ends");
    assert_eq!(received.lock().regions.len(), 0, "a region left with what could be lost");

    engine.disk.release();
    wait_until("the region", SOON, || check(!received.lock().regions.is_empty(), || "not yet".into()));
    assert!(engine.primary.status().positions.journaled_seq >= seq);
    let regions = received.lock().regions.concat();
    assert!(regions.ends_with(&new), "the region holds what was written meanwhile");
}

/// Otherwise the copy never begins: a cut takes longer than the other side waits for its streams, and is asked for again over the next
/// connection.
#[test]
fn a_copy_whose_first_cut_waits_for_a_slow_disk_begins_over_the_same_connection() {
    let mut machine = Machine::new(Settings { volumes: 1, ..Settings::keeping() });
    let (line, received) = listening_peer(&machine);
    machine.links = line;
    let engine = machine.start();
    engine.disk.hold(Call::Sync, JOURNAL);
    machine.add_pair(&engine, &pair());
    wait_until("the streams", SOON, || check(received.lock().streams, || "not yet".into()));
    engine.disk.wait_held();
    assert!(received.lock().regions.is_empty(), "before its cut is durable");
    engine.disk.release();
    wait_until("the regions", SOON, || check(!received.lock().regions.is_empty(), || "not yet".into()));
}
