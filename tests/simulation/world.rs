//! One run: both sites, the line, the hosts, and what befalls them, one step after another in an order that the seed decides.
//! Time passes as the steps do. The oracle judges every restart, every copy taken over, and the end.
//!
//! Nothing here looks at a real clock, and there is one thread: the same seed gives the same run, step by step.

mod disaster;
mod disks;
mod look;
mod roles;
mod starts;

use std::collections::{BTreeMap, VecDeque};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use tidemark_common::api::types::{MarkerInfo, PairState};
use tidemark_common::journal::Position as JournalPosition;
use tidemark_common::wire::message::Position;
use tidemark_primary::cut::CutError;
use tidemark_tests::history::Tick;
use tidemark_tests::image::compare;

use self::disaster::Held;
use tidemark_secondary::returned::NOT_BEGUN;

use crate::device::Device;
use crate::far::Far;
use crate::fate::{Points, survives};
use crate::figures::Figures;
use crate::hosts::Hosts;
use crate::line::Line;
use crate::near::{Near, Waiting, now};
use crate::profile::{Calamity, Profile};
use crate::site::{FAR, Ground, NEAR, Site, TakenOver};

/// A run that has not come to rest after so many steps is stuck.
const REST_STEPS: u64 = 60_000;
/// Lines of the trace kept for whoever looks into a failure.
const LINES: usize = 100;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Side {
    Near,
    Far,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Act {
    Host(usize),
    Drain,
    WriteBack,
    Converse,
    Receive,
    TakeIn,
    Apply,
    Acknowledge,
    Cut,
    Look,
}

/// By the newest number given out: a moment at which it was.
pub(crate) type Moments = BTreeMap<u64, Tick>;

pub(crate) fn ground(profile: &Profile, points: Arc<Points>) -> Ground {
    Ground {
        settings: profile.settings.clone(),
        points,
        memory: Arc::new(tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").unwrap()),
        runtime: Arc::new(tokio::runtime::Builder::new_current_thread().build().unwrap()),
        now_ns: Arc::new(AtomicU64::new(1)),
    }
}

impl Act {
    const fn side(self) -> Side {
        match self {
            Self::Receive | Self::TakeIn | Self::Apply | Self::Acknowledge => Side::Far,
            _ => Side::Near,
        }
    }
}

pub(crate) struct World {
    profile: Profile,
    random: StdRng,
    now_ns: Arc<AtomicU64>,
    points: Arc<Points>,
    near_site: Site,
    far_site: Site,
    near: Option<Near>,
    far: Option<Far>,
    /// A side that is down comes up after so many steps; whether power was lost meanwhile.
    near_down: (u64, bool),
    far_down: u64,
    /// The copy does not run because its journal is damaged: it waits for its primary.
    far_waits: bool,
    /// Bits of the copy's journal may have flipped.
    flipped: bool,
    line: Line,
    pub(crate) hosts: Hosts,
    cut: Option<Waiting<Result<MarkerInfo, CutError>>>,
    /// The newest marker whose cut was answered.
    answered_marker: u64,
    moments: Moments,
    /// What the copy has told at most: durable write, permitted marker, applied marker.
    told: (u64, u64, u64),
    /// Faults of a while: after so many steps they are over.
    lean_until: u64,
    /// Calls of either side's disk that fail once, and may keep it from starting.
    failing: [u32; 2],
    /// An operator has ordered that the copy's image is given up: until one of a marker behind this is permitted.
    giving_up: Option<u64>,
    away: Option<roles::Away>,
    /// What the old primary's volumes held when it returned with writes of its own.
    was: Option<Vec<Vec<u8>>>,
    /// Who is to die in the next return, after how many changes of its disk.
    doomed: Option<(Side, u64)>,
    /// Stages that stand for their disk, and until when.
    standing: BTreeMap<Act, u64>,
    pair_was: PairState,
    /// The generation that was answered when this primary took over; its record says no less, and that it is primary.
    generation: u64,
    /// The floor of the copy's history, and the markers it held, when it died.
    held: Option<Held>,
    floor: JournalPosition,
    /// What was seen at each marker: its image never is another one.
    images: BTreeMap<u64, u64>,
    pub(crate) figures: Figures,
    /// Apart from the rest: what is only looked at changes nothing of a run.
    pub(crate) liar: StdRng,
    hasher: DefaultHasher,
    lines: VecDeque<String>,
}

impl World {
    pub(crate) fn new(seed: u64, profile: Profile, points: Arc<Points>) -> Self {
        let mut world = Self::unstarted(seed, profile, points);
        world.start_near();
        world.start_far();
        if world.profile.prefilled {
            world.prefill();
            world.near_site.device.taken_ns();
        }
        world.points.arm();
        world
    }

    /// One in which somebody may die in the very first start: how many changes of disks the starts of both sides make.
    pub(crate) fn newborn(seed: u64, profile: Profile, points: Arc<Points>) -> (Self, u64) {
        let mut world = Self::unstarted(seed, Profile { prefilled: false, ..profile }, points);
        world.points.arm();
        world.start_near();
        world.start_far();
        let steps = world.points.steps();
        (world, steps)
    }

    fn unstarted(seed: u64, profile: Profile, points: Arc<Points>) -> Self {
        let ground = ground(&profile, points);
        let hosts = Hosts::new(profile.hosts, profile.settings.volumes, profile.settings.blocks);
        let sites = [
            Site::new(NEAR, &ground, Device::new(profile.paces[0], seed)),
            Site::new(FAR, &ground, Device::new(profile.paces[1], seed ^ 1 << 63)),
        ];
        Self::of(seed, profile, &ground, sites, hosts)
    }

    fn of(seed: u64, profile: Profile, ground: &Ground, [near_site, far_site]: [Site; 2], hosts: Hosts) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            now_ns: Arc::clone(&ground.now_ns),
            points: Arc::clone(&ground.points),
            near_site,
            far_site,
            near: None,
            far: None,
            near_down: (0, false),
            far_down: 0,
            far_waits: false,
            flipped: false,
            line: Line::late(profile.delay),
            hosts,
            cut: None,
            answered_marker: 0,
            moments: Moments::new(),
            told: (0, 0, 0),
            lean_until: 0,
            failing: [0; 2],
            giving_up: None,
            away: None,
            doomed: None,
            was: None,
            standing: BTreeMap::new(),
            pair_was: PairState::InitialCopy,
            generation: 0,
            held: None,
            floor: JournalPosition::default(),
            images: BTreeMap::new(),
            figures: Figures::default(),
            liar: StdRng::seed_from_u64(!seed),
            hasher: DefaultHasher::new(),
            lines: VecDeque::new(),
            profile,
        }
    }

    /// All of it: what befalls, then peace, then the end. Panics with what is wrong.
    pub(crate) fn run(&mut self) -> Figures {
        for _ in 0..self.profile.steps {
            self.step();
            self.befall();
        }
        self.make_peace();
        self.rest();
        self.judge_end();
        self.figures.writes = self.hosts.history.acked_count() as u64;
        self.figures.reads = self.hosts.reads;
        self.figures.disk_steps = self.points.steps();
        for site in [&self.near_site, &self.far_site] {
            let [stalls, short_writes, refused_reads] = site.device.figures();
            self.figures.stalls += stalls;
            self.figures.short_writes += short_writes;
            self.figures.refused_reads += refused_reads;
            self.figures.folds += site.device.folded();
        }
        self.figures.trace = self.hasher.finish();
        self.figures.clone()
    }

    fn time(&self) -> Duration {
        Duration::from_nanos(self.now_ns.load(Ordering::SeqCst))
    }

    fn note(&mut self, what: impl Hash + std::fmt::Debug) {
        what.hash(&mut self.hasher);
        self.now_ns.load(Ordering::SeqCst).hash(&mut self.hasher);
        (self.near_site.disk.effects(), self.far_site.disk.effects()).hash(&mut self.hasher);
        if self.lines.len() >= lines_kept() {
            self.lines.pop_front();
        }
        let told = self.told;
        self.lines.push_back(format!("{:>12?} {what:?} told {told:?}", self.time()));
    }

    fn prefill(&mut self) {
        let Some(near) = &mut self.near else { return };
        let primary = Arc::clone(&near.primary);
        self.hosts.prefill(&primary, || {
            survives(|| {
                near.drain();
                near.write_back();
            })
            .expect("nobody dies before the run begins");
        });
    }

    /// Somebody does something.
    pub(crate) fn step(&mut self) {
        self.figures.steps += 1;
        let pass = self.random.random_range(0..self.profile.step_ns);
        self.now_ns.fetch_add(pass, Ordering::SeqCst);
        self.start_what_is_down();
        self.let_return();
        let act = self.choose();
        let did = self.act(act);
        if act == Act::Apply {
            self.count_floors();
        }
        if act == Act::TakeIn && did && self.was.is_some() && self.liar.random_ratio(1, 4) {
            self.look_at_before();
        }
        if act == Act::Converse || self.figures.steps.is_multiple_of(32) {
            self.count_states();
        }
        self.note((act, did));
    }

    fn count_floors(&mut self) {
        let Some(floor) = self.far.as_ref().and_then(|far| far.secondary.state().history().floor) else { return };
        self.figures.floors += u64::from(floor > self.floor);
        self.floor = floor;
    }

    fn count_states(&mut self) {
        let Some(near) = &self.near else { return };
        let state = near.pair.status().state;
        if state != self.pair_was {
            self.figures.differential += u64::from(state == PairState::Differential);
            self.figures.resyncs += u64::from(state == PairState::Resync);
            self.pair_was = state;
        }
    }

    fn choose(&mut self) -> Act {
        let weights = self.profile.weights;
        let mut at = self.random.random_range(0..weights.iter().sum::<u32>());
        let found = weights.iter().position(|weight| match at.checked_sub(*weight) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        });
        match found {
            Some(0) => Act::Host(self.random.random_range(0..self.hosts.count())),
            Some(1) => Act::Drain,
            Some(2) => Act::WriteBack,
            Some(3) => Act::Converse,
            Some(4) => Act::Receive,
            Some(5) => Act::TakeIn,
            Some(6) => Act::Apply,
            Some(7) => Act::Acknowledge,
            Some(8) => Act::Cut,
            _ => Act::Look,
        }
    }

    fn act(&mut self, act: Act) -> bool {
        if self.stands(act) {
            self.figures.stood += 1;
            return false;
        }
        match act {
            Act::Look => return self.look(),
            Act::Receive if self.far_waits => return self.answer_for_far(),
            _ => {}
        }
        if act.side() == Side::Far && self.far.as_ref().is_some_and(Far::is_damaged) {
            // It stops: whoever is connected learns of it, and nothing is served.
            self.far_stops();
            return true;
        }
        match self.work(act) {
            Some(Some(did)) => {
                self.charge(act);
                did
            }
            Some(None) => {
                let power = self.power_at_death();
                self.died(act.side(), power);
                true
            }
            None => false,
        }
    }

    /// A stage does what can be done now. `None`: its process does not run; `Some(None)`: it died in it.
    fn work(&mut self, act: Act) -> Option<Option<bool>> {
        let time = self.time();
        let (line, random) = (&mut self.line, &mut self.random);
        let done = match act {
            Act::Host(_) | Act::Drain | Act::WriteBack | Act::Converse | Act::Cut | Act::Look => {
                let near = self.near.as_mut()?;
                let (hosts, site, cut) = (&mut self.hosts, &self.near_site, &mut self.cut);
                let (moments, answered) = (&mut self.moments, &mut self.answered_marker);
                survives(|| match act {
                    Act::Host(number) => hosts.step(number, site, &near.primary, random),
                    Act::Drain => {
                        let captured = near.primary.status().positions.captured_seq;
                        moments.entry(captured).or_insert_with(|| hosts.history.tick());
                        near.drain()
                    }
                    Act::WriteBack => near.write_back(),
                    Act::Converse => near.converse(line, time, random),
                    _ => cut_now(near, cut, answered),
                })
            }
            Act::Receive | Act::TakeIn | Act::Apply | Act::Acknowledge => {
                let far = self.far.as_mut()?;
                let (told, giving_up) = (&mut self.told, &mut self.giving_up);
                survives(|| match act {
                    Act::Receive => far.receive(line, time, random),
                    Act::TakeIn => far.take_in(line, time, random),
                    Act::Apply => far.apply(),
                    _ => far.acknowledge(line, time, random).is_some_and(|position| {
                        // A full disk may keep a copy that was killed from applying again what it had applied.
                        let applied_back =
                            position.applied_marker < told.2 && far.secondary.state().problem().is_none();
                        let back = position.permitted_marker < told.1 || applied_back;
                        giving_up.take_if(|marker| position.permitted_marker > *marker);
                        assert!(!back || giving_up.is_some(), "invariant 5: told {told:?} before, now {position:?}");
                        // Whose copy is yet to begin may count in a history that is over.
                        if position.copy != NOT_BEGUN {
                            told.0 = told.0.max(position.durable_seq);
                        }
                        told.1 = position.permitted_marker;
                        told.2 = position.applied_marker;
                        true
                    }),
                })
            }
        };
        Some(done)
    }

    /// What the seed has in store.
    fn befall(&mut self) {
        if self.lean_until == self.figures.steps {
            self.near_site.disk.limit_space(None);
            self.far_site.disk.limit_space(None);
        }
        self.near_site.device.outlive(self.figures.steps);
        self.far_site.device.outlive(self.figures.steps);
        let partition = self.profile.partition.filter(|(step, _)| *step == self.figures.steps);
        let partition = partition.map(|(_, time)| Calamity::Partition(time));
        let Some(calamity) = partition.or_else(|| self.profile.calamity(&mut self.random)) else { return };
        self.note(("befalls", calamity));
        *self.figures.befell.entry(calamity.name()).or_default() += 1;
        match calamity {
            Calamity::Kill(side) => self.die_at_work(side, None),
            Calamity::Doom(side, steps) => self.fate_of(side).doom(steps),
            Calamity::PowerLoss(side, seed) => self.die_at_work(side, Some(seed)),
            Calamity::LineLost => self.line.lose(),
            Calamity::Partition(time) => {
                self.line.lose();
                self.line.cut_until = self.time() + time;
            }
            Calamity::FailedSync(side) => {
                self.site(side).disk.fail_next_sync(std::io::ErrorKind::Other);
                self.failing[side as usize] += 1;
            }
            Calamity::FailedFolder(side, passed) => {
                self.site(side).disk.fail_folder_sync_after(passed);
                self.failing[side as usize] += 1;
            }
            Calamity::FailedWrite(side) => {
                self.site(side).device.fail_next_write();
                self.failing[side as usize] += 1;
            }
            Calamity::Unreadable(side, steps) => {
                let site = if side == Side::Near { &self.near_site } else { &self.far_site };
                site.refuse_reads(&mut self.random, self.figures.steps + steps);
            }
            Calamity::FullDisk(side, bytes, steps) => {
                let disk = &self.site(side).disk;
                disk.limit_space(Some(disk.used_bytes() + bytes));
                self.lean_until = self.figures.steps + steps;
                self.figures.full += 1;
            }
            Calamity::ClockJump(side, ms) => self.site(side).clock.jump_ms.store(ms, Ordering::SeqCst),
            Calamity::Failover(power) => self.fail_over(power),
            Calamity::Suspend => self.turn_pair(),
            Calamity::Damage => {
                let liar = self.profile.lies.then_some(&mut self.liar);
                self.flipped |= self.far_site.damage_journal(&mut self.random, liar);
            }
        }
    }

    pub(crate) fn site(&self, side: Side) -> &Site {
        if side == Side::Near { &self.near_site } else { &self.far_site }
    }

    fn fate_of(&self, side: Side) -> &crate::fate::Fate {
        &self.site(side).fate
    }

    /// The operator suspends the pair, or resumes it.
    fn turn_pair(&mut self) {
        let apart = self.is_apart();
        let Some(near) = self.near.as_mut().filter(|_| !apart) else { return };
        let turned = survives(|| if near.suspended { near.pair.resume() } else { near.pair.suspend() });
        match turned {
            None => self.died(Side::Near, None),
            Some(Ok(())) => near.suspended = !near.suspended,
            Some(Err(_)) => {}
        }
    }

    /// How far the copy is; `None` while it is down.
    pub(crate) fn far_position(&self) -> Option<Position> {
        self.far.as_ref().map(|far| far.secondary.state().position())
    }

    /// The newest write in the primary's journal; more than there can be while it is down.
    pub(crate) fn journaled(&self) -> u64 {
        self.near.as_ref().map_or(u64::MAX, |near| near.primary.status().positions.journaled_seq)
    }

    pub(crate) fn moment(&self, boundary: u64) -> Tick {
        let moment = self.moments.get(&boundary);
        *moment.unwrap_or_else(|| panic!("there was no cut at write {boundary}: {:?}", self.moments.keys().last()))
    }

    /// Nothing befalls any more: everybody is up, the line holds, disks are well.
    fn make_peace(&mut self) {
        self.near_site.disk.heal();
        self.far_site.disk.heal();
        self.near_site.device.repair();
        self.far_site.device.repair();
        self.line.cut_until = Duration::ZERO;
        self.near_down.0 = 0;
        // A sync that failed is only made good by a restart.
        if self.near.is_some() {
            self.died(Side::Near, None);
        }
        if self.far.is_some() {
            self.died(Side::Far, None);
        }
        (self.profile.down_steps, self.profile.relapses) = (1, false);
        self.near_down.0 = 0;
        self.far_down = if self.is_apart() { u64::MAX } else { 0 };
    }

    /// Until all that was written is in the copy.
    pub(crate) fn rest(&mut self) {
        self.hosts.resting = true;
        let begin = self.figures.steps;
        let mut wanted = None;
        loop {
            self.step();
            let apart = self.is_apart();
            if let Some(near) = self.near.as_mut().filter(|near| !apart && (near.suspended || near.pair_is_suspended()))
            {
                near.pair.resume().expect("a suspended pair can be resumed");
                near.suspended = false;
            }
            if self.giving_up.is_none() {
                self.give_image_up(self.figures.steps - begin > REST_STEPS / 2);
            }
            if self.hosts.is_idle() && self.cut.is_none() && wanted.is_none() && self.near.is_some() {
                let before = self.answered_marker;
                self.act(Act::Cut);
                wanted = Some(before + 1);
            }
            let reached =
                wanted.is_some_and(|wanted| self.answered_marker >= wanted && self.told.2 >= self.answered_marker);
            // What is told as applied while a copy is being applied is behind its end, and no image of its own.
            if reached && self.told.1 == self.told.2 && self.is_paired() {
                return;
            }
            if wanted.is_some() && self.cut.is_none() && self.answered_marker < wanted.unwrap_or(0) {
                wanted = None;
            }
            let rested = self.figures.steps - begin;
            assert!(rested < REST_STEPS, "stuck: told {:?}, wanted {wanted:?}, {}", self.told, self.state());
        }
    }

    fn is_paired(&self) -> bool {
        let copying = self.far.as_ref().is_none_or(|far| far.secondary.state().permission().copy().is_some());
        let differs = self.near.as_ref().is_none_or(|near| near.pair.status().differential_bytes > 0);
        !copying && !differs
    }

    fn state(&self) -> String {
        let near = self.near.as_ref().map(|near| near.primary.status());
        let far = self.far.as_ref().map(|far| far.secondary.status(NEAR));
        format!("near {near:#?}, far {far:#?}")
    }

    fn judge_end(&mut self) {
        self.look_at_copy(None);
        let near = self.near.as_ref().expect("up");
        let held = self.near_site.read_all(&near.primary);
        self.figures.markers = near.primary.marker(None).map_or(0, |marker| marker.number);
        self.figures.connections = self.line.current();
        if !self.profile.settings.history.is_off() {
            // Its volumes are behind on purpose; what it serves was looked at.
            return;
        }
        for (volume, (far, near)) in self.far_site.raw_volumes().iter().zip(&held).enumerate() {
            let same = compare(near, far);
            assert_eq!(same, Ok(()), "both sides are at one marker, and volume {volume} differs");
        }
    }

    /// The newest steps, for whoever looks into a failure, when TRACE is set; with a number, so many.
    pub(crate) fn tell_trace(&self) {
        if std::env::var_os("TRACE").is_some() {
            self.lines.iter().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// How many lines of the trace are kept.
fn lines_kept() -> usize {
    std::env::var("TRACE").ok().and_then(|lines| lines.parse().ok()).unwrap_or(LINES)
}

/// Asks for a cut, or looks what became of the last one.
fn cut_now(near: &Near, cut: &mut Option<Waiting<Result<MarkerInfo, CutError>>>, answered: &mut u64) -> bool {
    let Some(asked) = cut else {
        let primary = Arc::clone(&near.primary);
        *cut = Some(Box::pin(async move { primary.cut(None).await }));
        // The first poll asks.
        return cut.as_mut().is_some_and(|asked| now(asked).is_none());
    };
    let Some(done) = now(asked) else { return false };
    *cut = None;
    if let Ok(marker) = done {
        *answered = (*answered).max(marker.number);
    }
    true
}
