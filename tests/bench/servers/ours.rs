//! Our live pair: encrypted, compressed, journaled on both sides, applied.

use std::path::Path;
use std::time::Duration;

use tidemark_common::api::types::PairState;
use tidemark_tests::appliance::{Appliance, Options};
use tidemark_tests::prometheus::figures;

/// The volume's name, in the group of the same name.
const VOLUME: &str = "v";
const COPY_LIMIT: Duration = Duration::from_secs(300);

/// Two appliances with a group between them, joined directly.
#[derive(Debug)]
pub(crate) struct Ours {
    /// The primary.
    pub(crate) east: Appliance,
    /// The secondary.
    pub(crate) west: Appliance,
}

/// How the group is made.
#[derive(Debug, Clone)]
pub(crate) struct Group<'a> {
    /// Bytes of its volume.
    pub(crate) bytes: u64,
    /// Between cuts.
    pub(crate) interval: &'a str,
    /// A file for the volume; a new one without.
    pub(crate) backing: Option<&'a Path>,
    /// Another binary than the one built with this.
    pub(crate) binary: Option<&'a str>,
    /// What journals may hold, where the default is too little.
    pub(crate) journal: Option<&'a str>,
}

impl Ours {
    /// Both run and trust each other; nothing is copied yet.
    pub(crate) fn unpaired(folder: &Path, group: &Group<'_>) -> Self {
        let side = |name: &str| {
            let options = Options { binary: group.binary.map(str::to_owned), ..Options::default() };
            let mut side = Appliance::init(&folder.join(name), name, &options);
            if let Some(bytes) = group.journal {
                side.configure("groups", "journal_bytes", bytes);
            }
            side.start();
            side
        };
        std::fs::create_dir_all(folder).expect("make a folder");
        let (east, west) = (side("east"), side("west"));
        east.trust(&west, Some(west.replication()));
        west.trust(&east, Some(east.replication()));
        let size = group.bytes.to_string();
        let mut words = vec!["volume", "create", VOLUME, "--size", &size];
        let path = group.backing.map(|path| path.display().to_string());
        words.extend(path.iter().flat_map(|path| ["--backing", path]));
        east.ok(&words);
        east.ok(&["group", "create", VOLUME, "--interval", group.interval, "--volume", VOLUME]);
        Self { east, west }
    }

    /// And the copy is made.
    pub(crate) fn paired(folder: &Path, group: &Group<'_>) -> Self {
        let ours = Self::unpaired(folder, group);
        ours.copy();
        ours
    }

    /// Pairs, and waits until both sides say so.
    pub(crate) fn copy(&self) {
        self.east.ok(&["pair", "create", VOLUME, "--to", "west"]);
        self.wait_paired();
    }

    /// Waits until both sides say that the copy follows.
    pub(crate) fn wait_paired(&self) {
        for side in [&self.east, &self.west] {
            side.wait_pair(VOLUME, "the copy", COPY_LIMIT, |pair| pair.state == PairState::Paired);
        }
    }

    /// Where hosts attach.
    pub(crate) fn uri(&self) -> String {
        self.east.uri(VOLUME)
    }

    /// The group's name.
    pub(crate) const fn group(&self) -> &'static str {
        VOLUME
    }

    /// Waits until the copy holds everything written so far and the kernel has written it, so that nothing of it burdens who
    /// is measured next.
    pub(crate) fn settle(&self) {
        self.apply();
        self.write_back();
    }

    /// Waits until the kernel has written the volumes.
    pub(crate) fn write_back(&self) {
        for side in [&self.east, &self.west] {
            let volumes = side.status().volumes;
            volumes.iter().for_each(|volume| super::write_back(Path::new(&volume.backing)));
        }
    }

    /// Waits until the copy holds everything written so far.
    pub(crate) fn apply(&self) {
        let marker = self.east.ok(&["cut", VOLUME]);
        self.wait_for(marker.trim(), "applied");
    }

    /// Waits until west has a marker.
    pub(crate) fn wait_for(&self, marker: &str, what: &str) {
        self.east.ok(&["wait", VOLUME, "--to", "west", "--marker", marker, "--for", what, "--timeout", "300s"]);
    }

    /// The sum of a counter of one side over its series.
    pub(crate) fn counter(side: &Appliance, name: &str) -> f64 {
        figures(&side.status().addresses.metrics, name).iter().sum()
    }
}
