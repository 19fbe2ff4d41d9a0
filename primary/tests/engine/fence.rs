//! Invariant 8: a primary that is refused by a higher generation serves no more, and by no other refusal.

use std::sync::Arc;

use parking_lot::Mutex;
use tidemark_common::api::types::PairState;
use tidemark_common::catalog::{CopyRecord, PairRecord};
use tidemark_common::ids::{ApplianceId, Generation};
use tidemark_common::link::Endpoint;
use tidemark_common::wire::handshake::HandshakeError;
use tidemark_common::wire::message::{Refusal, Refused};
use tidemark_primary::ship::{Links, ShipError};

use crate::machine::{Machine, Settings};

const PEER: &str = "far";

/// Nobody is reached; whoever is fenced is noted.
#[derive(Default)]
struct Fences(Mutex<Vec<u64>>);

impl Links for Fences {
    fn endpoint(&self) -> Arc<Endpoint> {
        unreachable!("nobody is reached")
    }

    fn reach(&self, peer: &str) -> Result<(ApplianceId, String), String> {
        Err(format!("no way to '{peer}'"))
    }

    fn name(&self) -> String {
        "near".into()
    }

    fn fenced(&self, _: &str, _: &str, generation: Generation) {
        self.0.lock().push(generation.0);
    }
}

fn refused(refusal: Refusal, generation: u64) -> Option<ShipError> {
    let refused = Refused { refusal, message: "'far' has taken over".into(), generation };
    Some(ShipError::Handshake(HandshakeError::Refused(refused)))
}

#[test]
fn a_higher_generation_fences_and_nothing_else_does() {
    let mut machine = Machine::new(Settings::default());
    let fences = Arc::new(Fences::default());
    machine.links = Arc::clone(&fences) as Arc<dyn Links>;
    let engine = machine.start();
    machine.add_pair(&engine, &PairRecord { copy: Some(CopyRecord::first(1 << 20)), ..PairRecord::new(PEER, 0) });
    let pair = engine.primary.pair(PEER).unwrap();

    for (refusal, generation) in [(Refusal::Fenced, 1), (Refusal::Fenced, 0), (Refusal::Unready, 2)] {
        pair.disconnected(refused(refusal, generation));
        assert_ne!(pair.status().state, PairState::Fenced, "{refusal:?} by generation {generation}");
    }
    assert!(fences.0.lock().is_empty());

    pair.disconnected(refused(Refusal::Fenced, 2));
    assert_eq!(pair.status().state, PairState::Fenced);
    assert_eq!(*fences.0.lock(), [2], "the appliance is told to turn hosts out");
}
