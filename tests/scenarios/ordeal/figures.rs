//! What an ordeal has been through, in figures.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::blow::Blow;

/// Counted on the way. There is no figure for violations: the first one ends the ordeal.
#[derive(Debug)]
pub struct Figures {
    seed: u64,
    begun: Instant,
    /// Writes that hosts saw answered, in histories that are closed.
    pub writes: usize,
    /// Images the oracle judged.
    pub judged: u64,
    /// Bytes of copies compared with what is served.
    pub compared_bytes: u64,
    /// The newest marker.
    pub marker: u64,
    /// Commits of the database that were found again after a crash.
    pub commits: u64,
    /// Longest time from the command to the answer of a failover.
    pub failover: Duration,
    blows: BTreeMap<Blow, u64>,
}

impl Figures {
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            begun: Instant::now(),
            writes: 0,
            judged: 0,
            compared_bytes: 0,
            marker: 0,
            commits: 0,
            failover: Duration::ZERO,
            blows: BTreeMap::new(),
        }
    }

    pub fn count(&mut self, blow: Blow) {
        *self.blows.entry(blow).or_default() += 1;
    }

    pub fn seed(&self) -> u64 {
        self.seed
    }

    pub fn rounds(&self) -> u64 {
        self.blows.values().sum()
    }
}

impl fmt::Display for Figures {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = self.compared_bytes >> 20;
        writeln!(out, "seed {}: {} rounds in {} s", self.seed, self.rounds(), self.begun.elapsed().as_secs())?;
        writeln!(out, "  {} writes answered, {} markers, {} images judged", self.writes, self.marker, self.judged)?;
        writeln!(out, "  {mib} MiB of copies compared, longest failover {} ms", self.failover.as_millis())?;
        if self.commits > 0 {
            writeln!(out, "  {} commits of the database found again after crashes", self.commits)?;
        }
        for (blow, times) in &self.blows {
            writeln!(out, "  {times:>5}  {blow:?}")?;
        }
        write!(out, "  violations: 0")
    }
}
