//! What the disk of a site does beside losing power: it takes its time, and now and then stands for long; it writes less than it was
//! asked to; it does not give out what lies on it. Seeded apart from everything else that a run decides.
//!
//! Time is charged to the stage that made the disk work: the stage stands for so long, and others go on. What a step has done counts
//! from the end of that step on, as for a stage that waited for its disk before; so what a standing stage has given
//! to the disk is its next step, and a death finds that not done, or half done ([`World::die_at_work`](crate::world::World)).

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How fast a disk is, and how often it writes less than it is asked to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Pace {
    /// An operation of each kind takes up to this.
    pub(crate) read_ns: u64,
    pub(crate) write_ns: u64,
    pub(crate) sync_ns: u64,
    /// Of a million operations, how many find the disk standing, for up to so long.
    pub(crate) stalls: u32,
    pub(crate) stall_ns: u64,
    /// Of a million writes, how many are done in two parts.
    pub(crate) short_writes: u32,
}

impl Pace {
    /// One of the kinds of disks there are; `chance` is this disk's own.
    pub(crate) fn of(chance: &mut StdRng) -> Self {
        let micro = 1_000;
        let (read, write, sync) = match chance.random_range(0..4) {
            0 => (0, 0, 0),
            1 => (30, 20, 300),
            2 => (200, 60, 2_000),
            _ => (3_000, 500, 12_000),
        };
        let stalls = [0, 300, 2_000][chance.random_range(0..3)];
        let stall_ns = 1_000 * micro * chance.random_range(20..800);
        let short_writes = [0, 20_000, 200_000][chance.random_range(0..3)];
        Self { read_ns: read * micro, write_ns: write * micro, sync_ns: sync * micro, stalls, stall_ns, short_writes }
    }
}

#[derive(Debug)]
pub(crate) struct Device {
    state: Mutex<State>,
}

/// A file, whatever its name.
pub(crate) type FileId = u64;

#[derive(Debug)]
struct State {
    pace: Pace,
    random: StdRng,
    /// Since somebody asked last.
    taken_ns: u64,
    stalls: u64,
    short_writes: u64,
    /// The next write stops in the middle, for good.
    fails_writing: bool,
    /// Files by their names of now.
    files: BTreeMap<PathBuf, FileId>,
    next_file: FileId,
    /// What cannot be read, until a step of the run.
    unreadable: Vec<(FileId, Range<u64>, u64)>,
    refused_reads: u64,
    /// Segments of a fold that took their names.
    folded: u64,
}

impl State {
    fn file(&mut self, path: &Path) -> FileId {
        if let Some(file) = self.files.get(path) {
            return *file;
        }
        self.next_file += 1;
        self.files.insert(path.to_owned(), self.next_file);
        self.next_file
    }

    fn take(&mut self, up_to_ns: u64) {
        if up_to_ns > 0 {
            self.taken_ns += self.random.random_range(0..up_to_ns);
        }
        let Pace { stalls, stall_ns, .. } = self.pace;
        if stalls > 0 && self.random.random_ratio(stalls, 1_000_000) {
            self.stalls += 1;
            self.taken_ns += self.random.random_range(0..stall_ns);
        }
    }
}

/// How a write is done.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Writing {
    Whole,
    /// So many bytes, then the rest.
    Parts(usize),
    /// So many bytes, and then no more.
    Fails(usize),
}

impl Device {
    pub(crate) fn new(pace: Pace, seed: u64) -> Self {
        let state = State {
            pace,
            random: StdRng::seed_from_u64(seed),
            taken_ns: 0,
            stalls: 0,
            short_writes: 0,
            fails_writing: false,
            files: BTreeMap::new(),
            next_file: 0,
            unreadable: Vec::new(),
            refused_reads: 0,
            folded: 0,
        };
        Self { state: Mutex::new(state) }
    }

    /// One that does what it is asked to, at once.
    pub(crate) fn well() -> Self {
        Self::new(Pace::default(), 0)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics here")
    }

    /// It is repaired: nothing fails any more, and it is fast.
    pub(crate) fn repair(&self) {
        let mut state = self.state();
        state.pace = Pace::default();
        state.fails_writing = false;
        state.unreadable.clear();
    }

    /// Virtual time it took since this was asked last.
    pub(crate) fn taken_ns(&self) -> u64 {
        std::mem::take(&mut self.state().taken_ns)
    }

    /// How often it stood, wrote in parts, and refused to read, so far.
    pub(crate) fn figures(&self) -> [u64; 3] {
        let state = self.state();
        [state.stalls, state.short_writes, state.refused_reads]
    }

    /// How many segments were folded on it so far.
    pub(crate) fn folded(&self) -> u64 {
        self.state().folded
    }

    pub(crate) fn syncs(&self) {
        let mut state = self.state();
        let up_to = state.pace.sync_ns;
        state.take(up_to);
    }

    pub(crate) fn writes(&self, bytes: usize) -> Writing {
        let mut state = self.state();
        let up_to = state.pace.write_ns;
        state.take(up_to);
        let short = state.pace.short_writes;
        let is_short = state.fails_writing || short > 0 && state.random.random_ratio(short, 1_000_000);
        if bytes < 2 || !is_short {
            return Writing::Whole;
        }
        state.short_writes += 1;
        let part = state.random.random_range(1..bytes);
        if std::mem::take(&mut state.fails_writing) { Writing::Fails(part) } else { Writing::Parts(part) }
    }

    /// Whether this can be had without waiting for the disk.
    pub(crate) fn has_cached(&self) -> bool {
        let mut state = self.state();
        state.pace.read_ns == 0 || state.random.random_bool(0.7)
    }

    /// # Errors
    /// When it cannot be read.
    pub(crate) fn reads(&self, file: FileId, offset: u64, bytes: usize) -> io::Result<()> {
        let mut state = self.state();
        let up_to = state.pace.read_ns;
        state.take(up_to);
        let end = offset + bytes as u64;
        let hits =
            |(broken, range, _): &(FileId, Range<u64>, u64)| *broken == file && range.start < end && offset < range.end;
        if state.unreadable.iter().any(hits) {
            state.refused_reads += 1;
            // EIO.
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(())
    }

    /// The next write stops in the middle.
    pub(crate) fn fail_next_write(&self) {
        self.state().fails_writing = true;
    }

    /// A part of a file cannot be read until a step of the run, whatever is written there.
    pub(crate) fn refuse(&self, path: &Path, range: Range<u64>, until: u64) {
        let mut state = self.state();
        let file = state.file(path);
        state.unreadable.push((file, range, until));
    }

    pub(crate) fn file(&self, path: &Path) -> FileId {
        self.state().file(path)
    }

    pub(crate) fn renamed(&self, from: &Path, to: &Path) {
        let mut state = self.state();
        let file = state.file(from);
        state.folded += u64::from(from.extension().is_some_and(|kind| kind == "fold"));
        state.files.remove(from);
        state.files.insert(to.to_owned(), file);
    }

    pub(crate) fn removed(&self, path: &Path) {
        self.state().files.remove(path);
    }

    /// Everything can be read again.
    pub(crate) fn read_well(&self) {
        self.state().unreadable.clear();
    }

    /// What was to last until this step is over.
    pub(crate) fn outlive(&self, step: u64) {
        self.state().unreadable.retain(|(_, _, until)| *until > step);
    }

    pub(crate) fn refuses_reads(&self) -> bool {
        !self.state().unreadable.is_empty()
    }
}
