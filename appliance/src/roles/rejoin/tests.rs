//! Returning, and finding that nobody took over.

use std::future::poll_fn;
use std::net::UdpSocket;
use std::pin::pin;
use std::task::Poll;

use tidemark_common::api::types::Role;
use tidemark_common::catalog::{PairRecord, PeerRecord};
use tidemark_common::storage::disk::SystemDisk;

use super::*;
use crate::service::tests::{Faults, add_primary, appliance, opened};

/// It had, and its machine was put back to before that. The pair stayed fenced: nothing was sent, and a restart turned hosts out again.
#[tokio::test(flavor = "multi_thread")]
async fn who_finds_that_nobody_took_over_any_more_has_a_pair_again_and_is_primary_after_a_restart() {
    let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
    let appliance = appliance(directory.path(), &faults);
    add_primary(&appliance, "g", "v").await;
    let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
    tokio::task::block_in_place(|| primary.stop());
    let fenced = PairRecord { state: PairStateRecord::Fenced, ..PairRecord::new("west", 0) };
    let recorded = group.keeper.update(|record| {
        record.pairs.push(fenced);
        record.fence(2, 0);
    });
    recorded.unwrap();
    appliance.record_not_replaced(&group).unwrap();
    let report = appliance.serve_again(&group, "west").unwrap();
    assert_eq!((report.primary.as_str(), report.not_taken_over_by.as_deref()), ("alone", Some("west")));
    let record = group.keeper.get();
    assert_eq!((record.role, record.pairs[0].state), (RoleRecord::Primary, PairStateRecord::CatchingUp));
    let primary = appliance.primary("g").unwrap();
    tokio::task::block_in_place(|| primary.stop());
}

/// Status called it an error that needs a person, and so did an alert, for as long as a long tail was being kept.
#[tokio::test(flavor = "multi_thread")]
async fn a_side_that_is_returning_has_not_failed_and_needs_nobody() {
    let directory = tempfile::tempdir().unwrap();
    let appliance = opened(directory.path(), "east", Arc::new(SystemDisk)).await;
    add_primary(&appliance, "g", "v").await;
    let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
    tokio::task::block_in_place(|| primary.stop());
    let fenced = PairRecord { state: PairStateRecord::Fenced, ..PairRecord::new("west", 0) };
    let recorded = group.keeper.update(|record| {
        record.pairs.push(fenced);
        record.fence(2, 0);
    });
    recorded.unwrap();
    appliance.change_engine(&group, Engine::Fenced { by: Generation(2) });
    assert!(appliance.group_status("g").unwrap().problem.is_some());
    // Nobody answers there.
    let silent = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = Some(silent.local_addr().unwrap().to_string());
    let west = PeerRecord { name: "west".into(), id: [1; 32], address };
    appliance.peers.write().insert("west".into(), west);
    let request = Rejoin { as_primary: false, force: false };
    let mut returning = pin!(appliance.rejoin("g", &request));
    let waits = poll_fn(|context| Poll::Ready(returning.as_mut().poll(context).is_pending())).await;
    assert!(waits, "for an answer");
    let status = appliance.group_status("g").unwrap();
    assert_eq!((status.role, status.problem), (Role::Fenced, None));
    let pair = &status.pairs[0];
    assert_eq!((pair.state, pair.stands), (PairState::FailedOver, false));
    assert_eq!(pair.reason.as_deref(), Some("it is returning to 'west' as the copy"));
    let Err(told) = appliance.served("v") else { panic!("it is no primary") };
    assert!(told.contains("is returning to 'west'"), "{told}");
}
