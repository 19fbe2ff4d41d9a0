//! What volumes a group has, and how large they are.

use tempfile::TempDir;
use tidemark_common::nbd::Export;

use super::{BLOCK, FIRST, PRIMARY_BEFORE, SECOND, Side, image, role_of, root, stop, write};
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
async fn check_volumes(appliance: &Appliance, point: usize) {
    for (volume, byte) in [("v", FIRST), ("w", SECOND)] {
        assert_eq!(image(appliance, volume).await, [byte, 0], "volume '{volume}', killed at change {point}");
        write(appliance, volume, 1, byte).await;
        assert_eq!(image(appliance, volume).await, [byte, byte], "volume '{volume}', killed at change {point}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_coming_is_killed_anywhere_is_a_member_or_none() {
    let root = root();
    let side = with_two_volumes(&root).await;
    side.points.begin();
    side.appliance.add_to_group("g", "w", false).await.unwrap();
    let points = side.points.end();
    stop(&side.appliance).await;
    let mut has_come = false;
    for point in 0..points {
        let alone = side.points.alone_at(point).await;
        assert_eq!(role_of(&alone), PRIMARY_BEFORE, "killed at change {point}");
        let is_member = alone.group_of("w").is_some();
        assert!(is_member || !has_come, "killed at change {point}, it had come and is gone");
        has_come = is_member;
        if !is_member {
            alone.add_to_group("g", "w", false).await.unwrap();
        }
        assert_eq!(alone.group_of("w").as_deref(), Some("g"), "killed at change {point}");
        check_volumes(&alone, point).await;
        stop(&alone).await;
    }
    assert!(has_come);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_leaving_is_killed_anywhere_is_a_member_or_none() {
    let root = root();
    let side = with_two_volumes(&root).await;
    side.appliance.add_to_group("g", "w", false).await.unwrap();
    side.points.begin();
    side.appliance.remove_from_group("g", "w").await.unwrap();
    let points = side.points.end();
    stop(&side.appliance).await;
    let mut has_left = false;
    for point in 0..points {
        let alone = side.points.alone_at(point).await;
        assert_eq!(role_of(&alone), PRIMARY_BEFORE, "killed at change {point}");
        let is_member = alone.group_of("w").is_some();
        assert!(!is_member || !has_left, "killed at change {point}, it had left and is a member again");
        has_left = !is_member;
        if is_member {
            alone.remove_from_group("g", "w").await.unwrap();
        }
        assert_eq!(alone.group_of("w"), None, "killed at change {point}");
        check_volumes(&alone, point).await;
        stop(&alone).await;
    }
    assert!(has_left);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_volume_whose_growing_is_killed_anywhere_has_one_size_or_the_other() {
    let root = root();
    let side = with_two_volumes(&root).await;
    side.appliance.add_to_group("g", "w", false).await.unwrap();
    let (old, new) = (1 << 20, 2 << 20);
    side.points.begin();
    side.appliance.resize_volume("w", new).await.unwrap();
    let points = side.points.end();
    stop(&side.appliance).await;
    let mut has_grown = false;
    for point in 0..points {
        let alone = side.points.alone_at(point).await;
        assert_eq!(role_of(&alone), PRIMARY_BEFORE, "killed at change {point}");
        let size = alone.volume("w").unwrap().door.info().size;
        assert!(size == new || size == old && !has_grown, "killed at change {point}, it has {size} bytes");
        has_grown = size == new;
        if !has_grown {
            alone.resize_volume("w", new).await.unwrap();
        }
        check_volumes(&alone, point).await;
        let volume = alone.volume("w").unwrap();
        let mut last = [1; BLOCK];
        volume.door.read(new - BLOCK as u64, &mut last).await.unwrap();
        assert_eq!(last, [0; BLOCK], "killed at change {point}");
        volume.door.write(new - BLOCK as u64, &[SECOND; BLOCK], true).await.unwrap();
        stop(&alone).await;
    }
    assert!(has_grown);
}
