//! What an ordeal has been through, in figures.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use super::blow::Blow;

/// Counted on the way. The first violation ends the ordeal.
#[derive(Debug, Clone)]
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
    last: Option<Blow>,
    violation: Option<String>,
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
            last: None,
            violation: None,
        }
    }

    /// This is what befalls the pair now.
    pub fn count(&mut self, blow: Blow) {
        *self.blows.entry(blow).or_default() += 1;
        self.last = Some(blow);
    }

    /// What a panic said, and when.
    pub fn violated(&mut self, panic: &(dyn Any + Send)) {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("without a word");
        let blow = self.last.map_or_else(|| "before the first one".into(), |blow| format!("{blow:?}"));
        self.violation = Some(format!("in round {} ({blow}) of seed {}: {text}", self.rounds(), self.seed));
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
        match &self.violation {
            None => write!(out, "  violations: 0"),
            Some(violation) => write!(out, "  violations: 1, {violation}"),
        }
    }
}

#[test]
fn a_violation_is_told_with_its_seed_and_the_figures_so_far() {
    let mut figures = Figures::new(7);
    figures.count(Blow::KillCopy);
    figures.count(Blow::Plant);
    assert!(figures.to_string().ends_with("violations: 0"), "{figures}");
    let violation = || assert!(figures.rounds() > 2, "marker {} is gone", figures.seed());
    let panic = std::panic::catch_unwind(violation).expect_err("it panics");
    figures.violated(&*panic);
    let told = figures.to_string();
    for words in ["seed 7: 2 rounds", "1  KillCopy", "violations: 1, in round 2 (Plant) of seed 7: marker 7 is gone"] {
        assert!(told.contains(words), "{words}: {told}");
    }
}
