//! ext4 on a volume: what was synced before a marker is there after the failover, and the file system is clean.

use std::path::Path;

use tidemark_tests::command::run;
use tidemark_tests::disk::Disk;
use tidemark_tests::pair::{Pair, Setup};

/// A tree that is there wherever PostgreSQL's packages are: a few thousand files and symbolic links.
const TREE: &str = "/usr/share/postgresql/15";

fn same_tree(left: &str, right: &Path) {
    run("diff", &["--recursive", "--no-dereference", left, &right.display().to_string()]).done();
}

#[test]
fn ext4_survives_the_death_of_the_primary() {
    let setup =
        Setup { volumes: vec![("fs", "192MiB".into())], interval: "250ms", seed: 121, journals: None, on_full: "fold" };
    let mut pair = Pair::paired(&setup);
    let disk = Disk::attach(&pair.east.uri("fs"), &pair.cluster.join("ef"));
    disk.make_ext4();
    let mounted = disk.mount(&pair.cluster.join("em"));
    run("cp", &["-a", TREE, &mounted.join("synced").display().to_string()]).done();
    mounted.sync();
    pair.settle();
    run("cp", &["-a", TREE, &mounted.join("unsynced").display().to_string()]).done();

    pair.east.kill9();
    drop(mounted);
    let _ = pair.failover();
    let disk = Disk::attach(&pair.west.uri("fs"), &pair.cluster.join("wf"));
    disk.check_ext4();
    let mounted = disk.mount(&pair.cluster.join("wm"));
    same_tree(TREE, &mounted.join("synced"));
    run("cp", &["-a", TREE, &mounted.join("after").display().to_string()]).done();
    mounted.sync();
    same_tree(TREE, &mounted.join("after"));
    mounted.unmount().check_ext4();
}
