//! Returning, and finding that nobody took over.

use tidemark_common::catalog::PairRecord;

use super::*;
use crate::service::tests::{Faults, add_primary, appliance};

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
    let report = appliance.serve_again(&group, "west").await.unwrap();
    assert_eq!((report.primary.as_str(), report.not_taken_over_by.as_deref()), ("alone", Some("west")));
    let record = group.keeper.get();
    assert_eq!((record.role, record.pairs[0].state), (RoleRecord::Primary, PairStateRecord::CatchingUp));
    let primary = appliance.primary("g").unwrap();
    tokio::task::block_in_place(|| primary.stop());
}
