//! The pair that goes through an ordeal: which side has which role, which load runs, what the oracle may ask for.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::api::types::{
    DrillReport, DrillResult, LostTail, PairState, PairStatus, VerifyDifference, VerifyReport,
};
use tidemark_common::limits::REGION_BYTES;
use tidemark_tests::appliance::{Appliance, files_under};
use tidemark_tests::cluster::{Cluster, flip_bit};
use tidemark_tests::history::{History, Tick};
use tidemark_tests::impairment::{Relay, Weather};
use tidemark_tests::noise::{noise, write_noise};
use tidemark_tests::oracle::{Bounds, assert_legal};
use tidemark_tests::pair::{GROUP, Pair, Setup};
use tidemark_tests::wait::{check, measure_for, wait_until};
use tidemark_tests::workload::{Load, prefill};

use super::blow::Blow;
use super::figures::Figures;
use super::guest::Guest;

/// Until the copy follows again, whatever befell it.
const LIMIT: Duration = Duration::from_secs(60);
/// A history is judged from its first write on: a long one is closed, and another begun.
const WRITES_MAX: usize = 60_000;
const DISK_BYTES: u64 = 2 << 30;
const MIB: u64 = 1 << 20;
/// A volume of the group that no host of the load writes. More of it is written than one fold takes, again and again, so that no fold helps; and
/// it finds room in a copy's journal beside the image.
const WIDE: &str = "wide";
const WIDE_BYTES: u64 = 96 * MIB;
/// Written of it at once.
const STEP: u64 = 8 * MIB;
/// In the middle of a segment of the journal.
const IN_SEGMENT: u64 = 4 * MIB;
/// A comparison under load.
const COMPARISON: Duration = Duration::from_secs(240);

/// Which appliance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    East,
    West,
}

impl Side {
    fn other(self) -> Self {
        match self {
            Self::East => Self::West,
            Self::West => Self::East,
        }
    }
}

/// See the module.
pub struct Course {
    guest: Option<Guest>,
    load: Option<Load>,
    loads: u64,
    primary: Side,
    random: StdRng,
    figures: Figures,
    /// How long things last that have a length: short ones in `make test`.
    patience: Duration,
    /// Where the group's journal lies, on east and on west.
    journals: [PathBuf; 2],
    pair: Pair,
}

/// Where the journal of a side's only group lies.
fn journal_of(side: &Appliance) -> PathBuf {
    let segments = side.files(|name| name.ends_with(".segment"));
    segments.first().and_then(|segment| segment.parent()).expect("a journal").into()
}

impl Course {
    /// A pair at its beginning, each side with a disk of its own.
    pub fn new(seed: u64) -> Self {
        let cluster = Cluster::new().with_disk("east", DISK_BYTES).with_disk("west", DISK_BYTES);
        let pair = Pair::unpaired_in(cluster, &Setup::seeded(seed).journals("256MiB", "256MiB"));
        pair.prefill();
        pair.create();
        pair.wait_paired();
        pair.east.ok(&["volume", "create", WIDE, "--size", &WIDE_BYTES.to_string()]);
        pair.east.ok(&["group", "add", GROUP, "--volume", WIDE]);
        pair.wait_paired();
        pair.settle();
        Self {
            journals: [&pair.east, &pair.west].map(journal_of),
            guest: None,
            load: None,
            loads: 0,
            primary: Side::East,
            random: StdRng::seed_from_u64(seed),
            figures: Figures::new(seed),
            patience: Duration::from_secs(3),
            pair,
        }
    }

    /// With a database on top, and patience for a minute.
    pub fn with_guest(seed: u64) -> Self {
        let mut course = Self::new(seed);
        course.patience = Duration::from_secs(60);
        course.guest = Some(Guest::new(&course.pair));
        course
    }

    /// One of these befalls the pair.
    pub fn round(&mut self, of: &[Blow]) {
        let blow = of[self.random.random_range(0..of.len())];
        self.suffer(blow);
    }

    /// This one does.
    pub fn suffer(&mut self, blow: Blow) {
        self.figures.count(blow);
        self.wait_acked(150);
        if let Some(guest) = &mut self.guest {
            guest.beat();
        }
        self.strike(blow);
        self.wait_acked(100);
        self.wait_paired();
        if self.figures.rounds().is_multiple_of(4) {
            self.compare();
        }
        if self.pair.history.acked_count() > WRITES_MAX {
            self.begin_history();
        }
    }

    /// What has been so far, in a line.
    pub fn tell(&self) {
        let writes = self.figures().writes;
        println!("round {}: {writes} writes, primary {:?}", self.figures.rounds(), self.primary);
    }

    /// How many have begun.
    pub fn rounds(&self) -> u64 {
        self.figures.rounds()
    }

    /// Everything is compared once more.
    pub fn close(&mut self) {
        self.compare();
    }

    /// What it has been through so far.
    pub fn figures(&self) -> Figures {
        let mut figures = self.figures.clone();
        figures.writes += self.pair.history.acked_count();
        figures
    }

    fn strike(&mut self, blow: Blow) {
        let (primary, copy) = (self.primary, self.primary.other());
        match blow {
            Blow::KillPrimary => self.kill(&[primary]),
            Blow::KillCopy => self.kill(&[copy]),
            Blow::KillBoth => self.kill(&[primary, copy]),
            Blow::RestartCopy => self.restart(copy),
            Blow::BadLink => self.bad_link(),
            Blow::BlackHole => self.black_hole(),
            Blow::Flapping => self.flapping(),
            Blow::HangPrimary => self.hang(primary),
            Blow::HangCopy => self.hang(copy),
            Blow::FullPrimary => self.full_disk(primary),
            Blow::FullCopy => self.full_disk(copy),
            Blow::ClockOfPrimary => self.clock(primary),
            Blow::ClockOfCopy => self.clock(copy),
            Blow::Overflow => self.overflow(),
            Blow::Damage => self.damage(),
            Blow::Plant => self.plant(),
            Blow::Switchover => self.switch_over(),
            Blow::ForcedFailover => self.fail_over(true),
            Blow::Failover => self.fail_over(false),
            Blow::Verify => self.verify(),
            Blow::Drill => self.drill(),
        }
    }

    fn side(&self, side: Side) -> &Appliance {
        match side {
            Side::East => &self.pair.east,
            Side::West => &self.pair.west,
        }
    }

    fn side_mut(&mut self, side: Side) -> &mut Appliance {
        match side {
            Side::East => &mut self.pair.east,
            Side::West => &mut self.pair.west,
        }
    }

    fn primary(&self) -> &Appliance {
        self.side(self.primary)
    }

    fn copy(&self) -> &Appliance {
        self.side(self.primary.other())
    }

    /// Starts hosts when none run.
    fn wait_acked(&mut self, more: usize) {
        if self.load.is_none() {
            self.load = Some(self.pair.load_on(self.primary(), self.loads));
            self.loads += 1;
        }
        self.load.as_ref().expect("hosts run").wait_acked(more);
    }

    /// Hosts that may meet no error come to rest.
    fn rest(&mut self) {
        if let Some(load) = self.load.take() {
            load.stop();
        }
    }

    /// Hosts whose appliance was killed, or told them to go.
    fn break_off(&mut self) {
        if let Some(load) = self.load.take() {
            drop(load.end());
        }
    }

    fn wait_paired(&self) {
        for side in [&self.pair.east, &self.pair.west] {
            side.wait_pair(GROUP, "the pair to be paired", LIMIT, |pair| pair.state == PairState::Paired);
        }
    }

    /// The oracle's word on what the primary serves, which is from here on what has happened.
    fn judge(&mut self, what: &str, bounds: Bounds) {
        let what = format!("{what} in round {} of {}", self.figures.rounds(), self.figures.seed());
        let image = self.pair.image(self.primary());
        let verdict = assert_legal(&what, &self.pair.history.writes(), &image, bounds);
        self.pair.history.settle(&verdict);
        self.figures.judged += 1;
    }

    /// With the hosts at rest: the primary serves what it answered, and the copy is the same.
    fn compare(&mut self) {
        self.rest();
        self.judge("at rest", Bounds::EVERYTHING_ACKED);
        let marker = self.reach();
        let originals = self.pair.open(self.primary()).into_iter().map(|mut export| export.read_all().expect("read"));
        for ((name, original), copied) in self.pair.volumes().iter().zip(originals).zip(self.pair.backing(self.copy()))
        {
            assert!(original == copied, "volume {name} and its copy on {} differ at {marker}", self.copy().name());
            self.figures.compared_bytes += original.len() as u64;
        }
        self.figures.marker = marker;
    }

    /// A marker over everything so far, applied on the copy's side.
    fn reach(&self) -> u64 {
        let (primary, to) = (self.primary(), self.copy().name());
        let marker = primary.ok(&["cut", GROUP]);
        let words = ["wait", GROUP, "--to", to, "--marker", marker.trim(), "--for", "applied", "--timeout", "60s"];
        primary.ok(&words);
        marker.trim().parse().expect("a marker's number")
    }

    /// Everything is written anew, so that the past need not be judged any more.
    fn begin_history(&mut self) {
        self.compare();
        self.figures.writes += self.pair.history.acked_count();
        self.pair.history = Arc::new(History::new());
        let profile = self.pair.profile(0);
        let target = self.pair.target(self.primary());
        prefill(&self.pair.history, &target, profile.writers * profile.stripe_blocks).expect("write everything anew");
        self.reach();
    }

    fn down(&mut self, side: Side) {
        self.side_mut(side).kill9();
        self.guest_crashes(side);
    }

    fn up(&mut self, side: Side) {
        self.side_mut(side).start();
        if side == Side::East {
            self.guest_recovers();
        }
    }

    fn guest_crashes(&mut self, side: Side) {
        if let Some(guest) = self.guest.as_mut().filter(|_| side == Side::East) {
            guest.crash();
        }
    }

    fn guest_recovers(&mut self) {
        if let Some(guest) = &mut self.guest {
            self.figures.commits += guest.recover(&self.pair);
        }
    }

    fn kill(&mut self, sides: &[Side]) {
        let before = self.copy().pair(GROUP).permitted_marker;
        sides.iter().for_each(|side| self.down(*side));
        if sides.contains(&self.primary) {
            self.break_off();
        } else {
            self.wait_acked(100);
        }
        sides.iter().for_each(|side| self.up(*side));
        let after = self.copy().pair(GROUP).permitted_marker;
        assert!(after >= before, "invariant 5: {after} is permitted, {before} was");
        if sides.contains(&self.primary) {
            self.judge("after a kill", Bounds::EVERYTHING_ACKED);
        }
    }

    fn restart(&mut self, side: Side) {
        self.guest_crashes(side);
        self.side_mut(side).restart();
        if side == Side::East {
            self.guest_recovers();
        }
    }

    /// The way on which the primary calls its copy.
    fn way(&self) -> &Relay {
        match self.primary {
            Side::East => &self.pair.relay,
            Side::West => &self.pair.way_back,
        }
    }

    /// On both ways, whichever the pair uses.
    fn weather(&self, weather: Weather) {
        self.pair.relay.set(weather);
        self.pair.way_back.set(weather);
    }

    /// What befell the link, befell the pair: datagrams of the way it uses were lost.
    fn assert_lossy(&self, blow: Blow, lost_before: u64) {
        let lost = self.way().lost() - lost_before;
        assert!(lost > 0, "{blow:?} with {:?} as primary lost nothing of what the pair says", self.primary);
    }

    fn bad_link(&mut self) {
        let delay = Duration::from_millis(100);
        let lost = self.way().lost();
        self.weather(Weather { delay, loss: 0.01, reorder: 0.03, ..Weather::default() });
        self.wait_acked(300);
        self.reach();
        // Few datagrams are enough for so little: until one was lost, more is said.
        wait_until("a lost datagram", LIMIT, || {
            self.reach();
            check(self.way().lost() > lost, || "none yet".into())
        });
        self.assert_lossy(Blow::BadLink, lost);
        self.weather(Weather::default());
    }

    fn black_hole(&mut self) {
        let lost = self.way().lost();
        self.weather(Weather { black_hole: true, ..Weather::default() });
        self.wait_acked(300);
        let silent = |pair: &PairStatus| pair.state == PairState::CatchingUp && !pair.connected;
        self.primary().wait_pair(GROUP, "the silence to be noticed", LIMIT, silent);
        self.assert_lossy(Blow::BlackHole, lost);
        self.weather(Weather::default());
    }

    fn flapping(&mut self) {
        let lost = self.way().lost();
        for _ in 0..self.patience.as_secs().min(10) {
            self.weather(Weather { black_hole: true, ..Weather::default() });
            measure_for(Duration::from_secs(1));
            self.weather(Weather::default());
            measure_for(Duration::from_secs(1));
        }
        self.assert_lossy(Blow::Flapping, lost);
    }

    fn hang(&mut self, side: Side) {
        self.side(side).freeze();
        measure_for(self.patience);
        self.side(side).thaw();
    }

    fn full_disk(&mut self, side: Side) {
        self.guest_crashes(side);
        let name = self.side(side).name().to_owned();
        let ballast = self.pair.cluster.disk(&name).fill();
        measure_for(self.patience.min(Duration::from_secs(5)));
        std::fs::remove_file(ballast).expect("remove the ballast");
        wait_until("the full disk to be over", LIMIT, || match self.side(side).group(GROUP).problem {
            None => Ok(()),
            Some(problem) => Err(problem),
        });
        if side == self.primary {
            // Hosts may have been told that there is no space.
            self.break_off();
            self.judge("after a full disk", Bounds::EVERYTHING_ACKED);
        }
        if side == Side::East {
            self.guest_recovers();
        }
    }

    /// Hours ahead, then behind, then right again. What shows no fixed clock is started with one.
    fn clock(&mut self, side: Side) {
        self.side(side).set_clock(0);
        self.down(side);
        self.up(side);
        if side == self.primary {
            self.break_off();
            self.judge("after a kill", Bounds::EVERYTHING_ACKED);
        }
        for hours in [5, -7, 0] {
            self.side(side).set_clock(hours * 3600);
            // The library looks once a second.
            measure_for(Duration::from_millis(1_100));
            self.wait_acked(100);
            self.reach();
        }
    }

    /// Folding cannot help, so the pair's history is given up, and comes back by what differs.
    fn overflow(&mut self) {
        self.weather(Weather { black_hole: true, ..Weather::default() });
        self.primary().wait_pair(GROUP, "the silence to be noticed", LIMIT, |pair| !pair.connected);
        let (mut host, mut written) = (self.primary().open(WIDE), 0);
        let seed = self.figures.rounds() << 32;
        wait_until("the journal to be given up", LIMIT, || {
            host.write_all(written % WIDE_BYTES, &noise(seed + written, STEP)).expect("no host sees an error");
            written += STEP;
            let status = self.primary().pair(GROUP);
            check(status.state == PairState::Differential, || format!("{status:?}"))
        });
        // The copy's journal is no larger than this one: what differs is little, so that it finds room there beside what is kept here.
        let fill = u8::try_from(1 + self.figures.rounds() % 255).expect("a byte");
        let little = vec![fill; usize::try_from(STEP).expect("a piece")];
        for at in (0..WIDE_BYTES).step_by(little.len()) {
            host.write_all(at, &little).expect("no host sees an error");
        }
        drop(host);
        self.weather(Weather::default());
        self.wait_mended("the differential copy");
    }

    /// By a copy of what differs, or of everything: the pair follows, and nothing differs.
    fn wait_mended(&mut self, what: &str) {
        let mended = |pair: &PairStatus| pair.state == PairState::Paired && pair.differential_bytes == 0;
        self.primary().wait_pair(GROUP, what, LIMIT, mended);
        self.wait_paired();
        self.verify();
    }

    /// While the copy runs, in what it keeps unapplied for its history: found when that is to be applied.
    fn damage(&mut self) {
        let copy = self.primary.other();
        self.primary().ok(&["group", "set", GROUP, "--history", "1h"]);
        wait_until("the copy to keep a history", LIMIT, || {
            let history = self.copy().group(GROUP).history.unwrap_or_default();
            check(history.oldest_marker.is_some(), || format!("{history:?}"))
        });
        // Some segments of the copy's journal.
        write_noise(self.primary(), WIDE, 0, 4 * STEP, self.figures.rounds());
        let marker = self.primary().ok(&["cut", GROUP]);
        let words = ["wait", GROUP, "--to", self.copy().name(), "--marker", marker.trim(), "--for", "received"];
        self.primary().ok(&words);
        // From then on nothing of it is in memory.
        self.down(copy);
        let segments = files_under(&self.journals[copy as usize], |name| name.ends_with(".segment"));
        let damaged = segments.iter().rev().nth(1).expect("a full segment").clone();
        self.up(copy);
        self.wait_paired();
        let given_up = |side: &Appliance| side.log_text().matches("its image is given up").count();
        let before = given_up(self.copy());
        flip_bit(&damaged, IN_SEGMENT, 3);
        self.primary().ok(&["group", "set", GROUP, "--history", "off"]);
        wait_until("the copy to find it", LIMIT, || {
            check(given_up(self.copy()) > before, || format!("{:?}", self.copy().try_group(GROUP)))
        });
        self.wait_mended("the copy to be made again");
    }

    /// A comparison finds just that, and mends it.
    fn plant(&mut self) {
        write_noise(self.primary(), WIDE, 0, STEP, self.figures.rounds());
        self.reach();
        let (offset, bit) = (self.random.random_range(0..STEP), self.random.random_range(0..8));
        let volumes = self.copy().status().volumes;
        let planted = volumes.into_iter().find(|volume| volume.name == WIDE).expect("a copy of it");
        flip_bit(&PathBuf::from(planted.backing), offset, bit);
        let words = ["verify", GROUP, "--to", self.copy().name(), "--repair", "--wait", "60s", "--json"];
        let outcome = self.primary().cli_within(COMPARISON, &words);
        let report: VerifyReport =
            serde_json::from_str(&outcome.stdout).unwrap_or_else(|error| panic!("{error}: {outcome:?}"));
        let found = |found: &VerifyDifference| (found.volume.clone(), found.offset, found.length);
        let found: Vec<_> = report.differences.iter().map(found).collect();
        let region = (WIDE.to_owned(), offset / REGION_BYTES * REGION_BYTES, REGION_BYTES);
        assert_eq!(
            (outcome.code, found, report.repaired),
            (1, vec![region], true),
            "bit {bit} at {offset}: {report:?}"
        );
        self.wait_mended("the repair");
    }

    fn switch_over(&mut self) {
        let (from, to) = (self.primary(), self.copy());
        from.ok(&["switchover", GROUP, "--to", to.name()]);
        self.primary = self.primary.other();
        self.break_off();
        self.judge("after a switchover", Bounds::EVERYTHING_ACKED);
    }

    fn fail_over(&mut self, forced: bool) {
        // What was answered before this moment is on the other side, and permitted: no role change may lose it.
        let floor: Tick = self.pair.history.tick();
        self.reach();
        self.wait_acked(100);
        let old = self.primary;
        if !forced {
            self.down(old);
        }
        let words: &[&str] = if forced { &["failover", GROUP, "--force"] } else { &["failover", GROUP] };
        let taken = wait_until("the failover", LIMIT, || {
            let asked = Instant::now();
            let outcome = self.copy().cli(words);
            if outcome.code == 0 { Ok(asked.elapsed()) } else { Err(outcome.stderr) }
        });
        self.figures.failover = self.figures.failover.max(taken);
        self.primary = old.other();
        self.break_off();
        if !forced {
            self.up(old);
        }
        self.judge("after a failover", Bounds { holds_acked_before: Some(floor), nothing_sent_after: None });
        self.copy().wait_fenced(GROUP);
        self.copy().ok(&["rejoin", GROUP]);
        for tail in self.copy().json::<Vec<LostTail>>(&["lost", "list", GROUP]) {
            self.copy().ok(&["lost", "discard", GROUP, &tail.name]);
        }
    }

    fn verify(&mut self) {
        let report: VerifyReport = self.primary().json(&["verify", GROUP, "--to", self.copy().name()]);
        assert!(report.differences.is_empty() && report.compared_bytes > 0, "{report:?}");
        self.figures.compared_bytes += report.compared_bytes;
    }

    fn drill(&mut self) {
        let report: DrillReport = self.copy().json(&["drill", "run", GROUP]);
        assert_eq!(report.result, DrillResult::Passed, "{report:?}");
        if let Some(guest) = &self.guest {
            guest.drill(&self.pair);
        }
    }
}
