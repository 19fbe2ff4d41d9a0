//! Volumes of several groups at one moment: one freeze over all of them, under a load that depends across them.

use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::backup::types::BackupInfo;
use tidemark_common::api::local_pair::types::{LocalPairState, LocalPairStatus};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::history::History;
use tidemark_tests::image::Image;
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::wait::{check, wait_until};
use tidemark_tests::workload::{Load, Profile, Target, prefill};

const LIMIT: Duration = Duration::from_secs(60);
const SOURCES: [&str; 3] = ["a", "b", "c"];
const TARGETS: [&str; 3] = ["ta", "tb", "tc"];

/// One appliance whose three volumes are in three groups, and the history of its hosts.
struct Place {
    side: Appliance,
    history: Arc<History>,
    profile: Profile,
    cluster: Cluster,
}

fn place(seed: u64) -> Place {
    let cluster = Cluster::new();
    let side = cluster.running("alone");
    let profile = Profile::seeded(seed);
    let size = profile.volume_bytes().to_string();
    for name in SOURCES {
        side.ok(&["volume", "create", name, "--size", &size]);
        side.ok(&["group", "create", &format!("g{name}"), "--volume", name, "--interval", "250ms"]);
    }
    let history = Arc::new(History::new());
    let target = Target { address: side.nbd(), exports: SOURCES.map(str::to_owned).to_vec() };
    prefill(&history, &target, profile.writers * profile.stripe_blocks).expect("prefill the volumes");
    Place { side, history, profile, cluster }
}

impl Place {
    fn load(&self) -> Load {
        let target = Target { address: self.side.nbd(), exports: SOURCES.map(str::to_owned).to_vec() };
        Load::start(&self.history, &target, &self.profile)
    }
}

/// What tar takes out of an archive of set `all`.
fn taken_out(archive: &Path) -> Vec<Vec<u8>> {
    let out = archive.with_extension("out");
    std::fs::create_dir_all(&out).expect("a folder");
    let done = Command::new("tar").arg("-xf").arg(archive).arg("-C").arg(&out).status().expect("run tar");
    assert!(done.success());
    SOURCES.iter().map(|name| std::fs::read(out.join("all").join(name)).expect("a volume")).collect()
}

#[test]
fn backups_of_several_groups_are_of_one_moment() {
    let place = place(921);
    place.side.ok(&["set", "create", "all", "a", "b", "c"]);
    let load = place.load();
    for round in 0..8 {
        load.wait_acked(60);
        let (name, to) = (format!("b{round}"), place.cluster.join(&format!("b{round}.tar")));
        let began = place.history.tick();
        place.side.ok(&["backup", "create", &name, "--set", "all", "--to", &to.display().to_string()]);
        let bounds = Bounds::cut(began, place.history.tick());
        place.side.ok(&["backup", "wait", &name]);
        let backup: BackupInfo = place.side.json(&["backup", "show", &name]);
        assert_eq!(backup.moments.len(), 3, "{backup:?}");
        assert_legal(&name, &place.history.writes(), &Image::from_bytes(&taken_out(&to)), bounds);
        assert!(backup.moments.iter().all(|moment| moment.time == backup.moments[0].time), "one freeze: {backup:?}");
    }
    load.stop();
}

#[test]
fn a_split_of_sources_in_several_groups_is_one_moment() {
    let place = place(922);
    let size = place.profile.volume_bytes().to_string();
    for (source, target) in SOURCES.iter().zip(TARGETS) {
        place.side.ok(&["volume", "create", target, "--size", &size]);
        place.side.ok(&["local-pair", "create", source, "--target", target]);
    }
    let load = place.load();
    for round in 0..5 {
        for target in TARGETS {
            wait_until("the pairs to follow", LIMIT, || {
                let shown: LocalPairStatus = place.side.json(&["local-pair", "show", target]);
                check(shown.state == LocalPairState::Pair, || format!("{shown:?}"))
            });
        }
        load.wait_acked(60);
        let began = place.history.tick();
        place.side.ok(&["local-pair", "split", "ta", "tb", "tc"]);
        let bounds = Bounds::cut(began, place.history.tick());
        load.wait_acked(30);
        let images: Vec<_> = TARGETS.iter().map(|name| place.side.open(name).read_all().expect("read")).collect();
        assert_legal(&format!("split {round}"), &place.history.writes(), &Image::from_bytes(&images), bounds);
        for target in TARGETS {
            place.side.ok(&["local-pair", "resync", target, "--force"]);
        }
    }
    load.stop();
}
