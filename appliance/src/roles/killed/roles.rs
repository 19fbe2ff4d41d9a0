//! Changes of roles, between two appliances that are paired and really part.

use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tidemark_common::api::types::{Failover, GroupCreate, PeerAdd, Rejoin};
use tidemark_common::catalog::RoleRecord;
use tidemark_common::history::History;
use tidemark_primary::ship::Links;
use tidemark_secondary::group::Secondary;

use super::{FIRST, PRIMARY_BEFORE, Points, Role, SECOND, Side, image, role_of, root, run_alone, stop, write};
use crate::roles::appliance::{Appliance, Engine};
use crate::service::tests::{add_volume, group_of, run_groups};

/// What takes longer does not come.
const LIMIT: Duration = Duration::from_secs(60);
/// No marker is cut that was not asked for.
const DAY_MS: u64 = 86_400_000;
const HISTORY: History = History { milliseconds: DAY_MS, bytes: 0 };

const FAILOVER: Failover = Failover { force: true, marker: None, time: None };
const REJOIN: Rejoin = Rejoin { as_primary: false, force: false };
const AS_PRIMARY: Rejoin = Rejoin { as_primary: true, force: true };

const COPY: Role = (RoleRecord::Secondary, 1);
const TOOK_OVER: Role = (RoleRecord::Primary, 2);
const FENCED: Role = (RoleRecord::Fenced { by_generation: 2 }, 1);
const RETURNED: Role = (RoleRecord::Secondary, 2);
const PRIMARY_AGAIN: Role = (RoleRecord::Primary, 3);

async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let waited = async {
        while !is_so() {
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, waited).await.is_ok(), "{what} does not come");
}

/// The copy of group 'g', once there is one.
fn copy(appliance: &Appliance) -> Option<Arc<Secondary>> {
    let group = appliance.group("g").ok()?;
    let engine = group.engine.read().clone();
    if let Engine::Secondary(copy) = engine { Some(copy) } else { None }
}

fn permitted(appliance: &Appliance) -> u64 {
    copy(appliance).and_then(|copy| copy.permitted()).map_or(0, |permitted| permitted.marker.number)
}

async fn cut(appliance: &Appliance) -> u64 {
    appliance.primary("g").unwrap().cut(None).await.unwrap().number
}

/// One side trusts the other from here on, by this name.
async fn introduce(side: &Side, other: &Side, name: &str, address: Option<String>) {
    let id = other.appliance.identity.id().to_string();
    side.appliance.add_peer(PeerAdd { name: name.into(), id, address }).await.unwrap();
}

/// 'east' is primary for group 'g', and 'west' has the copy. Its newest marker, whose number is answered, has the first write; the second one has come
/// there, too, and is in none.
async fn pair(root: &TempDir, history: History) -> (Side, Side, u64) {
    let (east, west) = (Side::new(root, "east").await, Side::new(root, "west").await);
    let address = west.appliance.endpoint().local_addr().unwrap().to_string();
    introduce(&east, &west, "west", Some(address)).await;
    // It does not call: whatever comes of 'east' is looked at alone.
    introduce(&west, &east, "east", None).await;
    add_volume(&east.appliance, "v").await;
    let group = GroupCreate { interval_ms: DAY_MS, history, ..group_of("g", &["v"]) };
    east.appliance.create_group(group).await.unwrap();
    assert_eq!(role_of(&east.appliance), PRIMARY_BEFORE);
    east.appliance.create_pair("g", "west").await.unwrap();
    let copied = async {
        // A copy ends at a marker.
        while permitted(&west.appliance) == 0 {
            let _ = east.appliance.primary("g").unwrap().cut(None).await;
            tokio::task::yield_now().await;
        }
    };
    assert!(tokio::time::timeout(LIMIT, copied).await.is_ok(), "the first copy does not end");
    let id = west.appliance.group("g").unwrap().keeper.id();
    until("the history", || history.is_off() || west.appliance.catalog.history(id).unwrap().is_some()).await;

    write(&east.appliance, "v", 0, FIRST).await;
    let marker = cut(&east.appliance).await;
    until("the marker", || permitted(&west.appliance) == marker).await;
    let received = copy(&west.appliance).unwrap();
    let before = received.state().durable_end().seq.0;
    write(&east.appliance, "v", 1, SECOND).await;
    until("the second write", || received.state().durable_end().seq.0 > before).await;
    (east, west, marker)
}

/// 'west' has taken over, without the second write, and 'east' is fenced.
async fn parted(root: &TempDir) -> (Side, Side) {
    let (east, west, _) = pair(root, History::default()).await;
    west.appliance.fail_over("g", &FAILOVER).await.unwrap();
    let group = east.appliance.group("g").unwrap();
    until("the fence", || matches!(&*group.engine.read(), Engine::Fenced { .. })).await;
    // It has ended.
    drop(east.appliance.changing.lock().await);
    assert_eq!(role_of(&east.appliance), FENCED);
    (east, west)
}

/// The one tail that is kept has the second write.
fn check_tail(appliance: &Appliance) {
    let tails = appliance.lost("g").unwrap();
    let [tail] = tails.as_slice() else { panic!("{} tails are kept", tails.len()) };
    assert_eq!((tail.writes, tail.problem.as_deref()), (1, None));
}

/// It serves both writes, and nothing is called lost.
async fn check_whole(appliance: &Appliance) {
    assert_eq!(image(appliance, "v").await, [FIRST, SECOND]);
    assert!(appliance.lost("g").unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_that_is_killed_anywhere_is_none_or_all_of_one() {
    let root = root();
    let (east, west, _) = pair(&root, History::default()).await;
    let fail_over = async |west: &Appliance| {
        west.fail_over("g", &FAILOVER).await.unwrap();
    };
    west.act(&fail_over).await;
    stop(&east.appliance).await;
    let judge = async |west: &Appliance| {
        assert_eq!(image(west, "v").await, [FIRST, 0]);
        assert!(west.lost("g").unwrap().is_empty());
    };
    west.points.sweep(run_alone, role_of, [COPY, TOOK_OVER], fail_over, judge).await;
}

/// What lies behind the marker is kept, once.
#[tokio::test(flavor = "multi_thread")]
async fn a_failover_to_an_older_marker_that_is_killed_anywhere_keeps_the_rest_once() {
    let root = root();
    let (east, west, marker) = pair(&root, HISTORY).await;
    let newest = cut(&east.appliance).await;
    until("the newest marker", || permitted(&west.appliance) == newest).await;
    let older = Failover { marker: Some(marker), ..FAILOVER };
    let fail_over = async |west: &Appliance| {
        west.fail_over("g", &older).await.unwrap();
    };
    west.act(&fail_over).await;
    stop(&east.appliance).await;
    let judge = async |west: &Appliance| {
        assert_eq!(image(west, "v").await, [FIRST, 0]);
        check_tail(west);
    };
    west.points.sweep(run_alone, role_of, [COPY, TOOK_OVER], fail_over, judge).await;
}

/// What only it had is kept, once, and as long as the copy is not complete it can go back to that.
#[tokio::test(flavor = "multi_thread")]
async fn a_return_that_is_killed_anywhere_is_none_or_all_of_one() {
    let root = root();
    let (east, west) = parted(&root).await;
    let rejoin = async |east: &Appliance| {
        assert!(east.lost("g").unwrap().is_empty(), "all of it is in the journal");
        east.rejoin("g", &REJOIN).await.unwrap();
    };
    east.act(&rejoin).await;
    let judge = async |east: &Appliance| {
        check_tail(east);
        // Who took over is lost, and does not hear of it.
        east.endpoint().close("it is lost");
        assert!(east.fail_over("g", &FAILOVER).await.unwrap().went_back);
        assert_eq!(role_of(east), PRIMARY_AGAIN);
        assert_eq!(image(east, "v").await, [FIRST, SECOND]);
    };
    east.points.sweep(run_groups, role_of, [FENCED, RETURNED], rejoin, judge).await;
    assert_eq!((role_of(&west.appliance), image(&west.appliance, "v").await), (TOOK_OVER, [FIRST, 0]));
    stop(&west.appliance).await;
}

/// The tail is kept or is the journal again, and never both or neither.
#[tokio::test(flavor = "multi_thread")]
async fn going_back_that_is_killed_anywhere_comes_to_what_it_was() {
    let root = root();
    let (east, west) = parted(&root).await;
    east.appliance.rejoin("g", &REJOIN).await.unwrap();
    stop(&west.appliance).await;
    let go_back = async |east: &Appliance| {
        check_tail(east);
        assert!(east.fail_over("g", &FAILOVER).await.unwrap().went_back);
    };
    east.act(&go_back).await;
    east.points.sweep(run_alone, role_of, [RETURNED, PRIMARY_AGAIN], go_back, check_whole).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn taking_a_group_back_that_is_killed_anywhere_is_none_or_all_of_it() {
    let root = root();
    let (east, west) = parted(&root).await;
    let take_back = async |east: &Appliance| {
        east.rejoin("g", &Rejoin { as_primary: true, force: false }).await.unwrap();
    };
    east.act(take_back).await;
    stop(&west.appliance).await;
    // Who took over is not heard any more.
    let by_force = async |east: &Appliance| {
        east.rejoin("g", &AS_PRIMARY).await.unwrap();
    };
    east.points.sweep(run_alone, role_of, [FENCED, PRIMARY_AGAIN], by_force, check_whole).await;
}

/// Killed in the middle of a return, a side has all it had in its journal, however much of what it had kept is gone.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_return_that_was_broken_off_had_kept_goes_and_is_never_called_lost() {
    let root = root();
    let (east, west) = parted(&root).await;
    let rejoin = async |east: &Appliance| {
        east.rejoin("g", &REJOIN).await.unwrap();
    };
    east.act(rejoin).await;
    stop(&west.appliance).await;
    // The last one before it was the copy.
    let mut last = 0;
    for point in 0..east.points.number() {
        let east = east.points.killed_at(point).await;
        run_alone(&east).await;
        let is_fenced = role_of(&east) == FENCED;
        stop(&east).await;
        if !is_fenced {
            break;
        }
        last = point;
    }
    east.points.restore(last);
    let again = Side::opened(Points::of(east.points.live.clone(), "again")).await;
    run_alone(&again.appliance).await;
    let kept = again.appliance.lost_folder(again.appliance.group("g").unwrap().keeper.id());
    assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 1, "what the return had kept");
    let take_back = async |east: &Appliance| {
        assert!(east.lost("g").unwrap().is_empty(), "all of it is in the journal");
        east.rejoin("g", &AS_PRIMARY).await.unwrap();
    };
    again.act(&take_back).await;
    let judge = async |east: &Appliance| {
        check_whole(east).await;
        assert_eq!(std::fs::read_dir(&kept).unwrap().count(), 0);
    };
    again.points.sweep(run_alone, role_of, [FENCED, PRIMARY_AGAIN], take_back, judge).await;
}
