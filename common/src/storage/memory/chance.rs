//! Seeded decisions of a crash: numbers out, nothing else in.

/// SplitMix64 (Steele, Lea, Flood 2014): small, and good for any seed.
#[derive(Debug, Clone)]
pub(super) struct Chance(u64);

impl Chance {
    pub(super) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// One of so many, at least one.
    pub(super) fn below(&mut self, many: usize) -> usize {
        usize::try_from(self.next() % (many.max(1) as u64)).unwrap_or(0)
    }

    /// How one file, or the names, fare: mostly-lost and mostly-kept states are as likely as even ones, since those are
    /// what real crashes leave.
    pub(super) fn policy(&mut self) -> Policy {
        let lost_of_eight = match self.below(5) {
            0 => 0,
            1 => 8,
            2 => 1,
            3 => 7,
            _ => 4,
        };
        Policy { lost_of_eight }
    }
}

/// How much of what was not synced is lost.
#[derive(Debug, Clone, Copy)]
pub(super) struct Policy {
    lost_of_eight: usize,
}

impl Policy {
    /// Whether one thing is kept.
    pub(super) fn keeps(self, chance: &mut Chance) -> bool {
        chance.below(8) >= self.lost_of_eight
    }
}
