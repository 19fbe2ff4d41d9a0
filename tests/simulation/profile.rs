//! What kind of run a seed is: how large and slow things are, and what befalls how often.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use tidemark_common::history::History;

use crate::device::Pace;
use crate::site::Settings;
use crate::world::Side;

/// Something that befalls a site or the line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Calamity {
    Kill(Side),
    /// The process dies in the middle of a step, after so many changes of its disk.
    Doom(Side, u64),
    PowerLoss(Side, u64),
    LineLost,
    Partition(Duration),
    FailedSync(Side),
    /// A sync of a folder fails, after so many more.
    FailedFolder(Side, u64),
    /// A write stops in the middle.
    FailedWrite(Side),
    /// A part of the journal or of a volume cannot be read for so many steps.
    Unreadable(Side, u64),
    /// The disk has room for so many bytes more, for so many steps.
    FullDisk(Side, u64, u64),
    ClockJump(Side, i64),
    Suspend,
    /// The primary's process is lost, or its power, and its copy is taken over for good.
    Failover(Option<u64>),
    /// Bits of the copy's journal flip.
    Damage,
}

impl Calamity {
    /// What befalls every kind of world.
    pub(crate) const ANYWHERE: [&'static str; 11] = [
        "kills",
        "deaths at work",
        "power losses",
        "lost lines",
        "partitions",
        "failed syncs",
        "failed writes",
        "refusals to read",
        "full disks",
        "clock jumps",
        "suspensions",
    ];

    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Kill(_) => "kills",
            Self::Doom(..) => "deaths at work",
            Self::PowerLoss(..) => "power losses",
            Self::LineLost => "lost lines",
            Self::Partition(_) => "partitions",
            Self::FailedSync(_) => "failed syncs",
            Self::FailedFolder(..) => "failed folders",
            Self::FailedWrite(_) => "failed writes",
            Self::Unreadable(..) => "refusals to read",
            Self::FullDisk(..) => "full disks",
            Self::ClockJump(..) => "clock jumps",
            Self::Suspend => "suspensions",
            Self::Failover(_) => "disasters",
            Self::Damage => "flipped bits",
        }
    }
}

/// Which of the rates is that of partitions.
const PARTITIONS: usize = 4;

#[derive(Debug, Clone)]
pub(crate) struct Profile {
    pub(crate) settings: Settings,
    pub(crate) hosts: u64,
    /// Steps before peace.
    pub(crate) steps: u64,
    /// A step takes less than this.
    pub(crate) step_ns: u64,
    /// Hosts, drain, updater, conversation; receiving, taking in, applying, acknowledging; cuts; looks.
    pub(crate) weights: [u32; 10],
    /// How late anything on the line may be.
    pub(crate) delay: Duration,
    /// A side that died stays down for fewer steps than this.
    pub(crate) down_steps: u64,
    pub(crate) prefilled: bool,
    /// Bytes of a turn of a copy.
    pub(crate) turn: usize,
    /// Bytes of frames of a stretch that is folded on its way.
    pub(crate) stretch_bytes: u64,
    /// Of a million steps, how many something befalls: kills, dooms, losses of power, of the line, partitions, failed syncs,
    /// full disks, clock jumps, the operator.
    pub(crate) rates: [u32; 9],
    /// At this step the line is cut for so long.
    pub(crate) partition: Option<(u64, Duration)>,
    /// Of a million steps, after how many bits of the copy's journal flip.
    pub(crate) damage: u32,
    /// Now and then that is a write which its disk has lost, or done elsewhere.
    pub(crate) lies: bool,
    /// Of a million steps, at how many the copy is taken over.
    pub(crate) failovers: u32,
    /// The disks of either side.
    pub(crate) paces: [Pace; 2],
    /// Of a million steps, how many a write fails at in the middle, and how many after which something cannot be read.
    pub(crate) device_rates: [u32; 2],
    /// Of a million steps, after how many a folder cannot be synced once.
    pub(crate) folder_rate: u32,
    /// A process that dies in the middle of a step, or of its start, dies because power is lost there.
    pub(crate) power_lost: bool,
    /// The first who dies so is killed, and power is lost with the next.
    pub(crate) power_lost_next: bool,
    /// Sides die in their starts, too: half of the time because power is lost there.
    pub(crate) relapses: bool,
    /// After each start of the copy, every marker of its history is looked at.
    pub(crate) looks_at_history: bool,
}

impl Profile {
    pub(crate) fn of(seed: u64) -> Self {
        let random = &mut StdRng::seed_from_u64(seed ^ 0x7069_6465);
        let mut weight = |usual: u32| if random.random_ratio(1, 5) { usual.div_ceil(8) } else { usual };
        let weights =
            [weight(24), weight(14), weight(8), weight(24), weight(20), weight(14), weight(8), weight(8), 1, 1];
        let mut rate = |usual: u32| match random.random_range(0..4) {
            0 => 0,
            1 => usual / 3,
            2 => usual,
            _ => usual * 3,
        };
        let rates = [rate(600), rate(900), rate(900), rate(900), rate(200), rate(150), rate(200), rate(300), rate(200)];
        // A generator of its own: the other choices of a seed stay what they were before there were stretches.
        let stretch_bytes = 1 << StdRng::seed_from_u64(seed ^ 0x7374_7265).random_range(9..17);
        Self {
            stretch_bytes,
            settings: Settings {
                volumes: 3,
                blocks: 48,
                segment_bytes: 160 << 10,
                near_segments: random.random_range(5..12),
                far_segments: 24,
                ring_bytes: 128 << 10,
                delay: Duration::from_micros(random.random_range(0..4_000)),
                interval: Duration::from_millis(random.random_range(10..120)),
                history: History::default(),
            },
            hosts: random.random_range(1..=4),
            steps: random.random_range(1_500..4_000),
            step_ns: 400_000,
            weights,
            delay: Duration::from_micros(random.random_range(0..20_000)),
            down_steps: random.random_range(1..300),
            prefilled: random.random_bool(0.7),
            turn: 48 << 10,
            rates,
            partition: None,
            damage: 0,
            lies: false,
            failovers: 0,
            paces: [Pace::default(); 2],
            device_rates: [0; 2],
            folder_rate: 0,
            power_lost: false,
            power_lost_next: false,
            relapses: false,
            looks_at_history: false,
        }
    }

    /// The same over disks that take their time, write in parts, and do not give out everything. Chosen by a generator of its own: what
    /// else befalls is what it is over quick disks, as long as time does not change it.
    pub(crate) fn over_slow_disks(self, seed: u64) -> Self {
        let chance = &mut StdRng::seed_from_u64(seed ^ 0x736c_6f77);
        let paces = [Pace::of(chance), Pace::of(chance)];
        let device_rates = [[0, 100, 400][chance.random_range(0..3)], [0, 300, 1_500][chance.random_range(0..3)]];
        // A copy that stands for its disk has a journal that fills.
        let far_segments = self.settings.far_segments - chance.random_range(0..18);
        Self { settings: Settings { far_segments, ..self.settings }, paces, device_rates, ..self }
    }

    /// The same with a copy that can go back.
    pub(crate) fn with_history(seed: u64) -> Self {
        let profile = Self::of(seed);
        let history = History { milliseconds: 200 + seed % 7 * 400, bytes: 0 };
        // Of its journal, a part is kept for the history.
        Self { settings: Settings { history, far_segments: 36, ..profile.settings }, ..profile }
    }

    /// The same with a copy whose journal is damaged again and again. The kept seeds are odd, and stay what they were.
    pub(crate) fn with_damage(seed: u64) -> Self {
        Self {
            damage: 4_000,
            lies: seed.is_multiple_of(4),
            ..if seed.is_multiple_of(3) { Self::of(seed) } else { Self::with_history(seed) }
        }
    }

    /// The same, and roles change. The sides have the same room, because each is either.
    pub(crate) fn with_role_changes(seed: u64) -> Self {
        let profile = if seed.is_multiple_of(2) { Self::of(seed) } else { Self::of(seed).over_slow_disks(seed) };
        // Little data, so that a copy is soon one that can be taken over again.
        let settings = Settings { volumes: 2, blocks: 24, near_segments: 12, far_segments: 12, ..profile.settings };
        Self { settings, failovers: 6_000, steps: profile.steps + 3_000, ..profile }
    }

    /// The same with hosts that write more than the line takes, which is cut for long: what waits in the journal is folded and given up, again
    /// and again. Little data, written over and over, so that folding helps where there is room for it. Who has died may die in its start,
    /// and in a quarter of the runs roles change.
    pub(crate) fn under_pressure(seed: u64) -> Self {
        let profile = if seed.is_multiple_of(2) { Self::of(seed) } else { Self::of(seed).over_slow_disks(seed) };
        let changes_roles = seed % 4 == 3;
        let near_segments = if changes_roles { 16 } else { [4, 8, 14][usize::try_from(seed / 2 % 3).unwrap()] };
        // Beside the image there is room for a copy that begins anew again and again: else a person is asked, and there is none.
        let far_segments = if changes_roles { near_segments } else { 48 };
        let interval = Duration::from_millis(10 + seed % 20);
        let settings = Settings { volumes: 2, blocks: 24, near_segments, far_segments, interval, ..profile.settings };
        let mut rates = profile.rates;
        rates[PARTITIONS] = 400;
        Self {
            settings,
            rates,
            failovers: if changes_roles { 4_000 } else { 0 },
            relapses: true,
            folder_rate: 500,
            steps: profile.steps + 4_000,
            weights: [60, 20, 14, 24, 20, 14, 8, 8, 2, 1],
            ..profile
        }
    }

    /// A short run in which nothing befalls but one partition, long enough for the journal to overflow.
    pub(crate) fn short() -> Self {
        let profile = Self::of(0);
        Self {
            settings: Settings {
                volumes: 2,
                blocks: 24,
                near_segments: 3,
                delay: Duration::from_millis(1),
                interval: Duration::from_millis(20),
                ..profile.settings
            },
            hosts: 2,
            steps: 1_300,
            weights: [24, 14, 8, 24, 20, 14, 8, 8, 1, 0],
            delay: Duration::from_millis(2),
            down_steps: 20,
            prefilled: true,
            partition: Some((300, Duration::from_millis(180))),
            rates: [0; 9],
            ..profile
        }
    }

    /// A short run in which nothing befalls, with a copy that can go back some markers, and gives them up again.
    pub(crate) fn short_with_history() -> Self {
        let profile = Self::short();
        let history = History { milliseconds: 60, bytes: 0 };
        let settings = Settings { near_segments: 24, far_segments: 36, history, ..profile.settings };
        Self { settings, steps: 800, partition: None, looks_at_history: true, ..profile }
    }

    /// A short run in which nothing befalls, for sides that come from elsewhere: the journals hold all of it.
    pub(crate) fn goes_on() -> Self {
        let profile = Self::short();
        let settings = Settings { near_segments: 24, ..profile.settings };
        Self { settings, steps: 300, partition: None, weights: [24, 14, 8, 24, 20, 14, 8, 8, 1, 2], ..profile }
    }

    /// A run in which nothing befalls but one long partition, under hosts that write a little data over and over: folded, the journal holds it.
    pub(crate) fn folds() -> Self {
        let profile = Self::short();
        let settings = Settings { near_segments: 10, far_segments: 48, ..profile.settings };
        Self {
            settings,
            steps: 5_500,
            weights: [60, 20, 14, 24, 20, 14, 8, 8, 1, 1],
            delay: Duration::from_millis(10),
            partition: Some((1_500, Duration::from_millis(600))),
            ..profile
        }
    }

    pub(crate) fn calamity(&self, random: &mut StdRng) -> Option<Calamity> {
        if self.damage > 0 && random.random_range(0..1_000_000) < self.damage {
            return Some(Calamity::Damage);
        }
        if self.failovers > 0 && random.random_range(0..1_000_000) < self.failovers {
            let power = random.random_bool(0.4).then(|| random.random());
            return Some(Calamity::Failover(power));
        }
        let side = |random: &mut StdRng| if random.random_bool(0.5) { Side::Near } else { Side::Far };
        let [failed_writes, unreadable] = self.device_rates;
        if failed_writes > 0 && random.random_range(0..1_000_000) < failed_writes {
            return Some(Calamity::FailedWrite(side(random)));
        }
        if unreadable > 0 && random.random_range(0..1_000_000) < unreadable {
            let side = side(random);
            return Some(Calamity::Unreadable(side, random.random_range(20..2_000)));
        }
        if self.folder_rate > 0 && random.random_range(0..1_000_000) < self.folder_rate {
            return Some(Calamity::FailedFolder(side(random), random.random_range(0..6)));
        }
        let mut at = random.random_range(0..1_000_000);
        let kind = self.rates.iter().position(|rate| match u32::checked_sub(at, *rate) {
            Some(rest) => {
                at = rest;
                false
            }
            None => true,
        })?;
        let side = side(random);
        Some(match kind {
            0 => Calamity::Kill(side),
            1 => Calamity::Doom(side, random.random_range(0..40)),
            2 => Calamity::PowerLoss(side, random.random()),
            3 => Calamity::LineLost,
            4 => Calamity::Partition(Duration::from_millis(random.random_range(1..1_500))),
            5 => Calamity::FailedSync(side),
            6 => Calamity::FullDisk(side, random.random_range(0..200_000), random.random_range(10..400)),
            7 => Calamity::ClockJump(side, random.random_range(-5_000_000..5_000_000)),
            _ => Calamity::Suspend,
        })
    }
}
