//! The pair that goes through an ordeal: which side has which role, which load runs, what the oracle may ask for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::api::types::{DrillReport, DrillResult, LostTail, PairState, PairStatus, VerifyReport};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::history::{History, Tick};
use tidemark_tests::impairment::{Relay, Weather};
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
    pair: Pair,
}

impl Course {
    /// A pair at its beginning, each side with a disk of its own.
    pub fn new(seed: u64) -> Self {
        let cluster = Cluster::new().with_disk("east", DISK_BYTES).with_disk("west", DISK_BYTES);
        let pair = Pair::unpaired_in(cluster, &Setup::seeded(seed).journals("256MiB", "256MiB"));
        pair.prefill();
        pair.create();
        pair.wait_paired();
        Self {
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
        self.wait_acked(150);
        if let Some(guest) = &mut self.guest {
            guest.beat();
        }
        self.strike(blow);
        self.figures.count(blow);
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
        let writes = self.figures.writes + self.pair.history.acked_count();
        println!("round {}: {writes} writes, primary {:?}", self.figures.rounds(), self.primary);
    }

    /// Everything is compared once more: the figures.
    pub fn end(mut self) -> Figures {
        self.compare();
        self.figures.writes += self.pair.history.acked_count();
        self.figures
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
        let what = format!("{what} in round {} of {}", self.figures.rounds() + 1, self.figures.seed());
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
