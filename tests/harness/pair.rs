//! Two appliances, `east` (primary) and `west`, with one group of volumes between them.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{FailoverReport, PairState};

use crate::appliance::Appliance;
use crate::cluster::Cluster;
use crate::history::History;
use crate::host::Connection;
use crate::image::{self, Image};
use crate::impairment::Relay;
use crate::wait::wait_until;
use crate::workload::{Load, Profile, Target, prefill};

/// The one group's name.
pub const GROUP: &str = "g";
/// Until two small volumes are copied, or a side has caught up.
pub const COPY_LIMIT: Duration = Duration::from_secs(30);

/// A failover is refused while the primary was heard within the last second.
const SILENCE_LIMIT: Duration = Duration::from_secs(10);

/// How a pair is set up.
#[derive(Debug, Clone)]
pub struct Setup {
    /// Names and sizes of the group's volumes.
    pub volumes: Vec<(&'static str, String)>,
    /// The interval between cuts.
    pub interval: &'static str,
    /// Seed of loads and link.
    pub seed: u64,
    /// Bytes of the journals of east and west, in segments of 8 MiB; `None`: as `init` sets them.
    pub journals: Option<(&'static str, &'static str)>,
    /// What the group does when its journal fills.
    pub on_full: &'static str,
}

impl Setup {
    /// Three volumes just large enough for a seeded load, cut four times a second.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        let size = Profile::seeded(seed).volume_bytes().to_string();
        let volumes = ["a", "b", "c"].map(|name| (name, size.clone())).to_vec();
        Self { volumes, interval: "250ms", seed, journals: None, on_full: "fold" }
    }

    /// One volume, with marks and intervals of its test's own.
    #[must_use]
    pub fn one_volume(name: &'static str, bytes: u64, seed: u64) -> Self {
        Self { volumes: vec![(name, bytes.to_string())], interval: "250ms", seed, journals: None, on_full: "fold" }
    }

    /// The same with small journals on east and west.
    #[must_use]
    pub fn journals(self, east: &'static str, west: &'static str) -> Self {
        Self { journals: Some((east, west)), ..self }
    }

    /// The same, but hosts are slowed when the journal fills.
    #[must_use]
    pub fn throttled(self) -> Self {
        Self { on_full: "throttle", ..self }
    }

    /// The same with volumes that are so much larger than what hosts write.
    ///
    /// # Panics
    /// When a size is no number of bytes.
    #[must_use]
    pub fn with_room(self, bytes: u64) -> Self {
        let larger = |size: String| (size.parse::<u64>().expect("a number of bytes") + bytes).to_string();
        Self { volumes: self.volumes.into_iter().map(|(name, size)| (name, larger(size))).collect(), ..self }
    }

    /// The same with another interval.
    #[must_use]
    pub fn interval(self, interval: &'static str) -> Self {
        Self { interval, ..self }
    }
}

/// See the module. A relay lies on either way: on that of who calls, which is the primary.
#[derive(Debug)]
pub struct Pair {
    /// The primary.
    pub east: Appliance,
    /// The secondary.
    pub west: Appliance,
    /// The link from east to west: the pair's as long as east is primary.
    pub relay: Relay,
    /// The link from west to east: the pair's when west is primary.
    pub way_back: Relay,
    /// What the hosts wrote.
    pub history: Arc<History>,
    setup: Setup,
    /// Their place; last, because it goes last.
    pub cluster: Cluster,
}

impl Pair {
    /// Both run and trust each other, east has the group, nothing is copied yet.
    #[must_use]
    pub fn unpaired(setup: &Setup) -> Self {
        Self::unpaired_in(Cluster::new(), setup)
    }

    /// The same at a place that was prepared.
    #[must_use]
    pub fn unpaired_in(cluster: Cluster, setup: &Setup) -> Self {
        let running = |name, journal| {
            let mut appliance = cluster.appliance(name);
            if let Some(bytes) = journal {
                appliance.configure("groups", "segment_bytes", "8MiB");
                appliance.configure("groups", "journal_bytes", bytes);
            }
            appliance.start();
            appliance
        };
        let (east, west) =
            (running("east", setup.journals.map(|both| both.0)), running("west", setup.journals.map(|both| both.1)));
        let relay = Relay::start(west.replication(), setup.seed);
        east.trust(&west, Some(&relay.address()));
        let way_back = Relay::start(east.replication(), setup.seed ^ 0x6261_636b);
        west.trust(&east, Some(&way_back.address()));
        let mut words = vec!["group", "create", GROUP, "--interval", setup.interval, "--on-full", setup.on_full];
        for (name, size) in &setup.volumes {
            east.ok(&["volume", "create", name, "--size", size]);
            words.extend(["--volume", name]);
        }
        east.ok(&words);
        Self { east, west, relay, way_back, history: Arc::new(History::new()), setup: setup.clone(), cluster }
    }

    /// And the (empty) copy is made.
    #[must_use]
    pub fn paired(setup: &Setup) -> Self {
        let pair = Self::unpaired(setup);
        pair.create();
        pair.wait_paired();
        pair
    }

    /// And every block a load may write holds data from before the copy was made.
    #[must_use]
    pub fn prefilled(setup: &Setup) -> Self {
        let pair = Self::unpaired(setup);
        pair.prefill();
        pair.create();
        pair.wait_paired();
        pair
    }

    /// Stamps every block of the volumes.
    ///
    /// # Panics
    /// When a write fails.
    pub fn prefill(&self) {
        let blocks = self.profile(0).writers * self.profile(0).stripe_blocks;
        prefill(&self.history, &self.target(&self.east), blocks).expect("prefill the volumes");
    }

    /// `pair create`.
    pub fn create(&self) {
        self.east.ok(&["pair", "create", GROUP, "--to", "west"]);
    }

    /// Waits until the copy follows, on both sides' word.
    pub fn wait_paired(&self) {
        for side in [&self.east, &self.west] {
            side.wait_pair(GROUP, "the pair to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
        }
    }

    /// With the hosts at rest: the pair becomes paired, and every volume of the group holds the same on both sides.
    pub fn assert_same(&self) {
        self.wait_paired();
        self.assert_copy_equals();
    }

    /// Waits until west has applied everything there is now: the marker cut for that.
    pub fn settle(&self) -> u64 {
        let marker = self.cut();
        self.wait_for(marker, "applied");
        marker
    }

    /// `cut`: the marker's number.
    ///
    /// # Panics
    /// When it does not print a number alone.
    #[must_use]
    pub fn cut(&self) -> u64 {
        let printed = self.east.ok(&["cut", GROUP]);
        printed.trim().parse().unwrap_or_else(|_| panic!("`tidemark cut` prints a number alone, not {printed:?}"))
    }

    /// `wait` for a marker on west.
    pub fn wait_for(&self, marker: u64, what: &str) {
        let marker = marker.to_string();
        self.east.ok(&["wait", GROUP, "--to", "west", "--marker", &marker, "--for", what, "--timeout", "30s"]);
    }

    /// `failover` on west, as soon as it has not heard the primary for long enough.
    ///
    /// # Panics
    /// When it is refused for another reason, or for too long.
    #[must_use]
    pub fn failover(&self) -> FailoverReport {
        let answer = wait_until("the failover", SILENCE_LIMIT, || {
            let outcome = self.west.cli(&["failover", GROUP, "--json"]);
            assert!(matches!(outcome.code, 0 | 1), "failover ended with {}: {}", outcome.code, outcome.stderr);
            if outcome.code == 0 { Ok(outcome.stdout) } else { Err(outcome.stderr) }
        });
        serde_json::from_str(&answer).unwrap_or_else(|error| panic!("the failover's report: {error}: {answer}"))
    }

    /// With the hosts at rest: west's copy volumes hold, byte for byte, what east serves.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_copy_equals(&self) {
        self.assert_copied(&self.east, &self.west);
    }

    /// With the hosts at rest: one side's copy volumes hold, byte for byte, what the other one serves.
    ///
    /// # Panics
    /// When they do not.
    pub fn assert_copied(&self, primary: &Appliance, copy: &Appliance) {
        let marker = primary.ok(&["cut", GROUP]);
        let marker = marker.trim();
        primary.ok(&["wait", GROUP, "--to", copy.name(), "--marker", marker, "--for", "applied", "--timeout", "30s"]);
        for ((name, mut export), copied) in self.volumes().iter().zip(self.open(primary)).zip(self.backing(copy)) {
            let original = export.read_all().expect("read the original");
            if let Err(difference) = image::compare(&original, &copied) {
                panic!("volume {name} and its copy on {} at marker {marker}: {difference}", copy.name());
            }
        }
    }

    /// The load's profile for the n-th load over this pair.
    #[must_use]
    pub fn profile(&self, load: u64) -> Profile {
        Profile::seeded(self.setup.seed.wrapping_mul(101).wrapping_add(load))
    }

    /// Starts the n-th load on east.
    #[must_use]
    pub fn load(&self, load: u64) -> Load {
        self.load_on(&self.east, load)
    }

    /// Starts the n-th load on one side.
    #[must_use]
    pub fn load_on(&self, side: &Appliance, load: u64) -> Load {
        Load::start(&self.history, &self.target(side), &self.profile(load))
    }

    /// The group's volumes, in its order.
    #[must_use]
    pub fn volumes(&self) -> Vec<String> {
        self.setup.volumes.iter().map(|(name, _)| (*name).to_owned()).collect()
    }

    /// The group's volumes as one side serves them.
    #[must_use]
    pub fn target(&self, side: &Appliance) -> Target {
        Target { address: side.nbd(), exports: self.volumes() }
    }

    /// Attaches to all volumes of the group on one side.
    ///
    /// # Panics
    /// When one is not served.
    #[must_use]
    pub fn open(&self, side: &Appliance) -> Vec<Connection> {
        self.volumes().iter().map(|volume| side.open(volume)).collect()
    }

    /// What one side serves.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    pub fn image(&self, side: &Appliance) -> Image {
        image::read(&mut self.open(side)).expect("read the image")
    }

    /// What lies behind a side's volumes: the backing files' bytes.
    ///
    /// # Panics
    /// When a volume is missing there.
    #[must_use]
    pub fn backing(&self, side: &Appliance) -> Vec<Vec<u8>> {
        let status = side.status().volumes;
        let path = |name: &String| {
            let found = status.iter().find(|volume| volume.name == *name);
            &found.unwrap_or_else(|| panic!("{} has no volume {name}", side.name())).backing
        };
        self.volumes().iter().map(|name| std::fs::read(path(name)).expect("read a backing file")).collect()
    }
}
