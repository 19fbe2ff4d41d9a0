//! What runs came to.

use std::collections::BTreeMap;

/// What a run came to.
#[derive(Debug, Default, Clone)]
pub(crate) struct Figures {
    pub(crate) steps: u64,
    pub(crate) disk_steps: u64,
    pub(crate) writes: u64,
    pub(crate) reads: u64,
    pub(crate) kills: u64,
    pub(crate) power_losses: u64,
    pub(crate) connections: u64,
    pub(crate) markers: u64,
    pub(crate) copies_judged: u64,
    pub(crate) differential: u64,
    pub(crate) resyncs: u64,
    pub(crate) full: u64,
    pub(crate) lies: u64,
    pub(crate) lies_noticed: u64,
    /// Copies begun anew over a damaged journal.
    pub(crate) renewals: u64,
    /// How often a copy gave markers of its history up.
    pub(crate) floors: u64,
    /// Operations for which a disk stood long.
    pub(crate) stalls: u64,
    /// Steps a stage stood for its disk.
    pub(crate) stood: u64,
    pub(crate) short_writes: u64,
    pub(crate) failovers: u64,
    pub(crate) returns: u64,
    /// How often an old primary was looked at as what it was before it returned.
    pub(crate) went_back: u64,
    pub(crate) lost_writes: u64,
    pub(crate) refused_reads: u64,
    /// Segments of a journal that were folded.
    pub(crate) folds: u64,
    /// What befell, by its name, and how often.
    pub(crate) befell: BTreeMap<&'static str, u64>,
    /// Over every step and its outcome.
    pub(crate) trace: u64,
}

impl Figures {
    pub(crate) fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.disk_steps += other.disk_steps;
        self.writes += other.writes;
        self.reads += other.reads;
        self.kills += other.kills;
        self.power_losses += other.power_losses;
        self.connections += other.connections;
        self.markers += other.markers;
        self.copies_judged += other.copies_judged;
        self.differential += other.differential;
        self.resyncs += other.resyncs;
        self.full += other.full;
        self.lies += other.lies;
        self.lies_noticed += other.lies_noticed;
        self.renewals += other.renewals;
        self.floors += other.floors;
        self.stalls += other.stalls;
        self.stood += other.stood;
        self.short_writes += other.short_writes;
        self.failovers += other.failovers;
        self.returns += other.returns;
        self.went_back += other.went_back;
        self.lost_writes += other.lost_writes;
        self.refused_reads += other.refused_reads;
        self.folds += other.folds;
        for (name, times) in &other.befell {
            *self.befell.entry(*name).or_default() += times;
        }
    }
}

impl std::fmt::Display for Figures {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let rows = [
            ("steps", self.steps),
            ("changes of disks", self.disk_steps),
            ("writes", self.writes),
            ("reads", self.reads),
            ("kills", self.kills),
            ("losses of power", self.power_losses),
            ("full disks", self.full),
            ("connections", self.connections),
            ("journals given up", self.differential),
            ("resyncs", self.resyncs),
            ("markers", self.markers),
            ("copies judged", self.copies_judged),
            ("lies of disks", self.lies),
            ("of them noticed", self.lies_noticed),
            ("damaged copies", self.renewals),
            ("histories cut", self.floors),
            ("stalls of disks", self.stalls),
            ("stood for a disk", self.stood),
            ("short writes", self.short_writes),
            ("copies taken over", self.failovers),
            ("returned as a copy", self.returns),
            ("went back", self.went_back),
            ("writes had alone", self.lost_writes),
            ("refused reads", self.refused_reads),
            ("segments folded", self.folds),
        ];
        rows.iter().try_for_each(|(name, figure)| writeln!(f, "{name:<18}{figure}"))?;
        self.befell.iter().try_for_each(|(name, times)| writeln!(f, "{name:<18}{times} befell"))
    }
}
