//! What volumes a group has, and how large they are.

use tempfile::TempDir;
use tidemark_common::nbd::Export;

use super::{BLOCK, FIRST, PRIMARY_BEFORE, Role, SECOND, Side, image, role_of, root, run_alone, write};
use crate::roles::appliance::Appliance;
use crate::service::tests::{add_primary, add_volume};

/// 'v' is in group 'g', and 'w' in none; both are written.
async fn with_two_volumes(root: &TempDir) -> Side {
    let side = Side::new(root, "alone").await;
    add_primary(&side.appliance, "g", "v").await;
    add_volume(&side.appliance, "w").await;
    write(&side.appliance, "v", 0, FIRST).await;
    write(&side.appliance, "w", 0, SECOND).await;
    side
}

/// Hosts read what they wrote, and write on.
async fn check_volumes(appliance: &Appliance) {
    for (volume, byte) in [("v", FIRST), ("w", SECOND)] {
        assert_eq!(image(appliance, volume).await, [byte, 0], "volume '{volume}'");
        write(appliance, volume, 1, byte).await;
        assert_eq!(image(appliance, volume).await, [byte, byte], "volume '{volume}'");
    }
}

/// What the side is for 'g', and the group that has 'w'.
fn group_of_w(appliance: &Appliance) -> (Role, Option<String>) {
    (role_of(appliance), appliance.group_of("w"))
}

async fn join(appliance: &Appliance) {
    appliance.add_to_group("g", "w", false).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_coming_is_killed_anywhere_is_a_member_or_none() {
    let root = root();
    let side = with_two_volumes(&root).await;
    side.act(join).await;
    let groups = [(PRIMARY_BEFORE, None), (PRIMARY_BEFORE, Some("g".to_owned()))];
    side.points.sweep(run_alone, group_of_w, groups, join, check_volumes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_leaving_is_killed_anywhere_is_a_member_or_none() {
    let root = root();
    let side = with_two_volumes(&root).await;
    join(&side.appliance).await;
    let leave = async |side: &Appliance| {
        side.remove_from_group("g", "w").await.unwrap();
    };
    side.act(&leave).await;
    let groups = [(PRIMARY_BEFORE, Some("g".to_owned())), (PRIMARY_BEFORE, None)];
    side.points.sweep(run_alone, group_of_w, groups, leave, check_volumes).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_growing_is_killed_anywhere_has_one_size_or_the_other() {
    let root = root();
    let side = with_two_volumes(&root).await;
    join(&side.appliance).await;
    let (old, new) = (1 << 20, 2 << 20);
    let grow = async |side: &Appliance| {
        side.resize_volume("w", new).await.unwrap();
    };
    side.act(&grow).await;
    let size = |side: &Appliance| (role_of(side), side.volume("w").unwrap().door.info().size);
    let judge = async |side: &Appliance| {
        check_volumes(side).await;
        let volume = side.volume("w").unwrap();
        let mut last = [1; BLOCK];
        volume.door.read(new - BLOCK as u64, &mut last).await.unwrap();
        assert_eq!(last, [0; BLOCK]);
        volume.door.write(new - BLOCK as u64, &[SECOND; BLOCK], true).await.unwrap();
    };
    side.points.sweep(run_alone, size, [(PRIMARY_BEFORE, old), (PRIMARY_BEFORE, new)], grow, judge).await;
}
