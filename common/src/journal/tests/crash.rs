//! Any history, any crash, many rounds: what comes back is what was appended, at least up to the last sync.

use proptest::prelude::*;

use super::*;

#[derive(Debug, Clone, Copy)]
enum Step {
    Writes {
        count: u64,
        bytes: usize,
    },
    Marker,
    Role,
    CopyBegin {
        ahead: u64,
    },
    Regions {
        bytes: usize,
    },
    CopyEnd,
    Sync,
    Trim {
        percent: usize,
    },
    /// The process is killed and started again.
    Kill,
    /// The journal's newest frames are cut off, as failover does.
    Cut {
        percent: usize,
    },
}

#[derive(Debug, Clone)]
struct Round {
    steps: Vec<Step>,
    /// Power goes in the middle after so many effects, or at the end.
    power_off_after: Option<u64>,
    seed: u64,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => (1_u64..50, 0_usize..6000).prop_map(|(count, bytes)| Step::Writes { count, bytes }),
        3 => Just(Step::Marker),
        1 => Just(Step::Role),
        1 => (0_u64..100).prop_map(|ahead| Step::CopyBegin { ahead }),
        2 => (1_usize..4000).prop_map(|bytes| Step::Regions { bytes }),
        1 => Just(Step::CopyEnd),
        5 => Just(Step::Sync),
        1 => (0_usize..=100).prop_map(|percent| Step::Trim { percent }),
        1 => Just(Step::Kill),
        1 => (0_usize..=100).prop_map(|percent| Step::Cut { percent }),
    ]
}

fn round() -> impl Strategy<Value = Round> {
    let power = prop_oneof![Just(None), (0_u64..60).prop_map(Some)];
    (proptest::collection::vec(step(), 0..25), power, any::<u64>()).prop_map(|(steps, power_off_after, seed)| Round {
        steps,
        power_off_after,
        seed,
    })
}

/// What the journal must hold.
#[derive(Debug, Default)]
struct Model {
    frames: Vec<Held>,
    /// So many of them are durable.
    synced: usize,
    /// So many of them may be trimmed.
    trimmed: usize,
    /// The frame whose append failed: it may be there or not.
    attempted: Option<Vec<u8>>,
    /// A cut that failed: it may have happened or not.
    attempted_cut: Option<usize>,
}

impl Model {
    fn append(&mut self, writer: &mut Writer, frame: Vec<u8>) -> Result<(), JournalError> {
        match writer.append(&frame) {
            Ok(position) => self.frames.push(Held { position, bytes: frame.into() }),
            Err(error) => {
                self.attempted = Some(frame);
                return Err(error);
            }
        }
        Ok(())
    }

    fn sync(&mut self, writer: &mut Writer) -> Result<(), JournalError> {
        writer.sync()?;
        self.synced = self.frames.len();
        assert!(self.frames.ends_with(&held(writer.journal())), "readers see the durable frames");
        Ok(())
    }

    fn trim(&mut self, writer: &Writer, percent: usize) -> Result<(), JournalError> {
        let Some(frame) = self.frames.get(self.synced * percent / 101) else { return Ok(()) };
        let before = frame.position;
        let first = self.frames.iter().position(|frame| frame.position.segment == before.segment);
        self.trimmed = self.trimmed.max(first.unwrap_or(0));
        writer.journal().trim(before).map(drop)
    }

    /// Where the record of a frame begins, of those that are surely held.
    fn cut_place(&self, percent: usize) -> Option<(usize, Position)> {
        let index = self.trimmed + (self.synced - self.trimmed) * percent / 101;
        let frame = self.frames.get(index).filter(|_| index < self.synced)?;
        Some((index, Position { offset: frame.position.offset - 32, ..frame.position }))
    }

    /// Holds what was found against what must be there, and goes on from it.
    fn check(&mut self, found: &[Held]) -> Result<(), TestCaseError> {
        let cut = self.attempted_cut.take();
        if let (Some(frame), Some(last)) = (self.attempted.take(), found.last()) {
            let new = self.frames.iter().all(|known| known.position != last.position);
            if new && last.bytes == frame {
                self.frames.push(last.clone());
            }
        }
        let begin = match found.first() {
            Some(first) => self.frames.iter().position(|frame| frame.position == first.position),
            None => Some(cut.unwrap_or(self.synced)),
        };
        let begin = begin.ok_or_else(|| TestCaseError::fail("a frame where none was appended"))?;
        let end = begin + found.len();
        if cut == Some(end) {
            self.synced = end;
        }
        prop_assert!(
            begin <= self.trimmed || found.is_empty(),
            "{begin} frames are gone, {} were trimmed",
            self.trimmed
        );
        prop_assert!(end >= self.synced, "{end} frames are left, {} were durable", self.synced);
        prop_assert_eq!(&self.frames[begin..end], found);
        self.frames.truncate(end);
        self.synced = end;
        Ok(())
    }
}

/// Until a step fails.
fn play(disk: &MemoryDisk, model: &mut Model, steps: &[Step]) -> Result<(), JournalError> {
    let mut writer = try_open(disk, None)?.writer;
    for step in steps {
        let tip = *writer.tip();
        match *step {
            Step::Writes { count, bytes } => model.append(&mut writer, writes(&tip, count, bytes))?,
            Step::Marker => model.append(&mut writer, marker(&tip))?,
            Step::Role => model.append(&mut writer, role(&tip))?,
            Step::CopyBegin { ahead } => {
                let frame = copy_begin(&tip, tip.seq.0 + ahead, [9; 16]);
                model.append(&mut writer, frame)?;
            }
            Step::Regions { bytes } => model.append(&mut writer, regions(&tip, bytes))?,
            Step::CopyEnd => {
                let record = ControlRecord::CopyEnd { copy: 1, marker: tip.marker.0 };
                model.append(&mut writer, control(&tip, &record))?;
            }
            Step::Sync => model.sync(&mut writer)?,
            Step::Trim { percent } => model.trim(&writer, percent)?,
            Step::Kill => {
                drop(writer);
                let recovered = try_open(disk, None)?;
                assert_eq!(*recovered.writer.tip(), tip, "a kill loses nothing");
                writer = recovered.writer;
                model.sync(&mut writer)?;
            }
            Step::Cut { percent } => {
                let Some((count, place)) = model.cut_place(percent) else { continue };
                let journal = Arc::clone(writer.journal());
                drop(writer);
                model.attempted_cut = Some(count);
                // As it is opened, or while it is open.
                let opened = percent % 2 == 0;
                let cut = || super::super::cut_behind(&journal, place);
                writer = if opened { try_open(disk, Some(place))?.writer } else { cut()? };
                model.attempted_cut = None;
                model.frames.truncate(count);
                model.sync(&mut writer)?;
            }
        }
    }
    Ok(())
}

fn survive(rounds: &[Round]) -> Result<(), TestCaseError> {
    let mut disk = MemoryDisk::new();
    let mut model = Model::default();
    for round in rounds {
        if let Some(effects) = round.power_off_after {
            disk.power_off_after(effects);
        }
        match play(&disk, &mut model, &round.steps) {
            Ok(()) => {}
            Err(JournalError::Io { source, .. }) if source.to_string().contains("power") => {}
            Err(error) => return Err(TestCaseError::fail(format!("{error}"))),
        }
        disk = disk.crash(round.seed);
        let recovered =
            try_open(&disk, None).map_err(|error| TestCaseError::fail(format!("after a crash: {error}")))?;
        model.check(&held(recovered.writer.journal()))?;
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn nothing_synced_is_lost_and_nothing_else_is_found(rounds in proptest::collection::vec(round(), 1..6)) {
        survive(&rounds)?;
    }
}
