//! One round of a comparison: region by region, at one marker after another, from where it stands. What it has found goes to its
//! record as it comes.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{CopyProgress, ErrorBody, PairStatus};
use tidemark_common::catalog::VerifyRecord;
use tidemark_common::clock::{Clock, within};
use tidemark_common::differential::{Bitmap, BitmapError};
use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender};
use tidemark_common::verify::RegionDigest;
use tidemark_common::watchdog::COMPARES_AFTER;
use tidemark_common::wire::handshake::Versions;
use tidemark_common::wire::message::{Message, Verify};
use tidemark_primary::differences::everything;
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Pair;
use tidemark_primary::verify::{Since, VerifyError, regions};

use super::super::appliance::{Appliance, failed, refused};
use super::super::rejoin::{ANSWER_TIMEOUT, answer, answered, unexpected};
use super::job::Kept;
use super::{is_up, volumes_of};

/// Regions of one question.
pub(super) const BATCH: u64 = 1024;
/// A region that hosts keep writing is compared at so many markers; then it is said to be not compared.
const PASSES: usize = 8;
/// Bytes compared at one marker when there is a rate: the copy does not stand for longer than they take.
const SLICE_BYTES: (u64, u64) = (16 << 20, 1 << 30);
/// The copy reaches a marker within this time, or the comparison goes on with the one it has.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(20);
/// It says that it has applied what it permitted within this time.
pub(super) const HELD_TIMEOUT: Duration = Duration::from_secs(130);
/// Markers that a copy did not reach before a journal ran full are tried for so long.
const FIRST_TIME: Duration = Duration::from_secs(60);
/// What hosts keep writing is compared again for so long at most: a copy that follows slowly takes its time for each marker.
const PASSES_TIME: Duration = Duration::from_secs(30);
const _: () = assert!(
    FIRST_TIME.as_secs() + PERMIT_TIMEOUT.as_secs() + HELD_TIMEOUT.as_secs() + ANSWER_TIMEOUT.as_secs()
        < COMPARES_AFTER.as_secs(),
    "a copy that does not answer is given up before its comparison is said to stand"
);
/// How far it is, is told anew after this long when it rests between two slices.
const SHOWN_AGAIN: Duration = Duration::from_millis(500);
/// Between two looks.
pub(super) const LOOK: Duration = Duration::from_millis(5);

/// Why a round ended before everything was compared.
pub(super) enum Interrupted {
    /// It is worth another try when the pair is up.
    Again(ErrorBody),
    /// A person has to change something first.
    Stands(ErrorBody),
}

impl From<ErrorBody> for Interrupted {
    fn from(error: ErrorBody) -> Self {
        Self::Again(error)
    }
}

/// A conversation with the copy.
struct Asking<'a> {
    connection: Connection,
    control: ControlSender,
    answers: ControlReceiver,
    peer: &'a str,
    clock: &'a dyn Clock,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.connection.close("compared");
    }
}

impl Asking<'_> {
    async fn hold(&mut self, request: &Verify) -> Result<u64, ErrorBody> {
        self.control.send(&Message::Verify(request.clone())).await.map_err(failed)?;
        let came = within(self.clock, HELD_TIMEOUT, self.answers.recv()).await;
        match answered(came, HELD_TIMEOUT, self.peer)? {
            Message::Held { marker } => Ok(marker),
            other => Err(unexpected(self.peer, other)),
        }
    }

    async fn digests(&mut self, part: Extent) -> Result<Vec<RegionDigest>, ErrorBody> {
        let count = u32::try_from(regions(part.length)).unwrap_or(u32::MAX);
        let ask = Message::Ask { volume: part.volume.0, offset: part.offset, regions: count };
        self.control.send(&ask).await.map_err(failed)?;
        match answer(&mut self.answers, self.peer).await? {
            Message::Digests { digests } => Ok(digests),
            other => Err(unexpected(self.peer, other)),
        }
    }
}

impl Appliance {
    /// Everything from where it stands, at one marker, or, with a rate, one slice after another: the copy stands only while a
    /// slice is compared.
    pub(super) async fn compare_all(
        &self,
        primary: &Arc<Primary>,
        pair: &Arc<Pair>,
        found: &mut Found,
        kept: &mut Kept<'_>,
    ) -> Result<(), Interrupted> {
        let all = everything(&volumes_of(kept.record()));
        let begin = self.clock.monotonic();
        let rate = kept.record().rate.filter(|rate| *rate > 0);
        let shown = Shown::begin(pair, begin, (kept.done_bytes(found), kept.total_bytes()), rate);
        let slice_bytes = rate.map_or(u64::MAX, |rate| rate.clamp(SLICE_BYTES.0, SLICE_BYTES.1));
        let mut at = found.cursor;
        // What hosts were writing when it was broken off has another chance.
        let mut again = std::mem::take(&mut found.left);
        loop {
            let slice = next_slice(&all, &mut at, slice_bytes);
            if slice.is_none() && again.is_empty() {
                return Ok(());
            }
            found.busy = slice.unwrap_or_default();
            found.busy.merge(&std::mem::take(&mut again));
            let mut step = |found: &Found, todo: &Bitmap, at: (VolumeIndex, u64)| {
                let now = self.clock.monotonic();
                shown.progress(kept.done_bytes(found), now);
                if kept.is_due(found, now) { kept.keep(found, &found.pending(todo, at), now) } else { Ok(()) }
            };
            self.compare(primary, pair, found, PASSES, &mut step).await?;
            let left = std::mem::take(&mut found.busy);
            found.left.merge(&left);
            kept.keep(found, &found.left, self.clock.monotonic())?;
            if let Some(rate) = rate {
                let compared = kept.done_bytes(found).saturating_sub(shown.begun_at);
                let due = begin + Duration::from_millis(compared.saturating_mul(1000) / rate);
                loop {
                    let now = self.clock.monotonic();
                    shown.progress(kept.done_bytes(found), now);
                    let left = due.saturating_sub(now);
                    if left.is_zero() {
                        break;
                    }
                    tokio::time::sleep(left.min(SHOWN_AGAIN)).await;
                }
            }
        }
    }

    /// What of some regions differs at one marker, the newest. What hosts write meanwhile is not judged by it, and left out.
    pub(super) async fn compare_at_one_marker(
        &self,
        primary: &Arc<Primary>,
        pair: &Arc<Pair>,
        regions: &Bitmap,
    ) -> Result<Bitmap, Interrupted> {
        let mut found = Found { busy: regions.clone(), ..Found::default() };
        self.compare(primary, pair, &mut found, 1, &mut |_, _, _| Ok(())).await?;
        Ok(found.different)
    }

    async fn ask<'a>(&'a self, peer: &'a str) -> Result<Asking<'a>, ErrorBody> {
        let (connection, control, answers) = self.call(peer).await?;
        Ok(Asking { connection, control, answers, peer, clock: &*self.clock })
    }

    /// Compares what is busy, at so many markers at most.
    async fn compare(
        &self,
        primary: &Arc<Primary>,
        pair: &Arc<Pair>,
        found: &mut Found,
        passes: usize,
        step: &mut Step<'_>,
    ) -> Result<(), Interrupted> {
        let mut asking = None;
        let (keeper, peer) = (primary.keeper(), pair.peer());
        let request = Verify {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            group: keeper.id().0,
            generation: keeper.generation().0,
        };
        let (mut first, begin) = (true, self.clock.monotonic());
        for pass in 0..passes {
            let taken = self.clock.monotonic().saturating_sub(begin);
            if !first && taken > PASSES_TIME {
                break;
            }
            if first && taken > FIRST_TIME {
                return Err(Interrupted::Stands(refused(format!(
                    "the comparison was broken off: '{peer}' is so far behind that a journal runs full, or volumes change, before it reaches a marker. Compare when \
                     hosts write less: `tidemark verify {} --to {peer} --resume` goes on where it stands",
                    keeper.name()
                ))));
            }
            // A new marker: what was written before it can be judged by it.
            let watch = primary.watch();
            let cut = primary.cut(None).await.map_err(failed)?;
            let deadline = self.clock.monotonic() + PERMIT_TIMEOUT;
            while pair.remote().permitted_marker < cut.number && self.clock.monotonic() < deadline {
                tokio::time::sleep(LOOK).await;
            }
            // Called only now: who calls and says nothing is not waited for over there.
            let asking = match &mut asking {
                Some(asking) => asking,
                none => none.insert(self.ask(peer).await?),
            };
            found.marker = match asking.hold(&request).await {
                // What was compared stands: the rest is busy still.
                Err(error) if !first && is_up(&pair.status()) => {
                    tracing::info!(group = %keeper.name(), peer = asking.peer, error = %error.message, "what hosts keep writing is not compared");
                    break;
                }
                held => held?,
            };
            let since = tokio::task::block_in_place(|| primary.since_marker(found.marker, watch));
            let since = match since {
                // The journal ran full until the copy stood there, or volumes have changed since: the next one is newer.
                Err(error) if error.wants_another_marker() && pass + 1 < passes => continue,
                since => since.map_err(failed)?,
            };
            let (again, busy_bytes) = (!first, found.busy.bytes());
            first &= !found.pass(primary, asking, since, step).await?;
            let left_bytes = found.busy.bytes();
            // Hosts that write there all the time do so at the next marker, too, and a copy that is behind takes long to reach it.
            if left_bytes == 0 || again && left_bytes > busy_bytes / 8 * 7 {
                break;
            }
        }
        Ok(())
    }
}

/// The comparison as status shows it, for as long as a round runs.
struct Shown {
    pair: Arc<Pair>,
    begin: Duration,
    begun_at: u64,
    total_bytes: u64,
    rate: Option<u64>,
}

impl Shown {
    /// From where a round begins, of so much: it is shown, and watched, before the first answer.
    fn begin(pair: &Arc<Pair>, begin: Duration, (begun_at, total_bytes): (u64, u64), rate: Option<u64>) -> Self {
        let shown = Self { pair: Arc::clone(pair), begin, begun_at, total_bytes, rate };
        shown.progress(begun_at, begin);
        shown
    }

    fn progress(&self, done_bytes: u64, now: Duration) {
        let seconds = now.saturating_sub(self.begin).as_secs_f64();
        self.pair.verifying(Some(progress((self.begun_at, done_bytes, self.total_bytes), seconds, self.rate)));
    }
}

/// How far it is: from where this round began, up to where, of so much. A slice is compared as fast as it goes, and the rest of its time
/// nothing is: neither is the pace of the whole, which is the rate at most.
#[expect(clippy::cast_precision_loss, reason = "figures for people")]
fn progress((begun_at, done_bytes, total_bytes): (u64, u64, u64), seconds: f64, rate: Option<u64>) -> CopyProgress {
    let rate = rate.map_or(f64::INFINITY, |rate| rate as f64);
    let compared = done_bytes.saturating_sub(begun_at) as f64;
    let bytes_per_second = if seconds > 0.0 { (compared / seconds).min(rate) } else { 0.0 };
    let left = total_bytes.saturating_sub(done_bytes) as f64;
    // Not before all of it is due.
    let least = total_bytes.saturating_sub(begun_at) as f64 / rate - seconds;
    let seconds_left = (bytes_per_second > 0.0).then(|| (left / bytes_per_second).max(least));
    CopyProgress { done_bytes, total_bytes, bytes_per_second, seconds_left }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.pair.verifying(None);
    }
}

/// The next regions of a bitmap, so many bytes of them.
fn next_slice(all: &Bitmap, at: &mut (VolumeIndex, u64), bytes: u64) -> Option<Bitmap> {
    let (mut slice, mut left) = (Bitmap::default(), bytes / REGION_BYTES * REGION_BYTES);
    while left > 0
        && let Some(run) = all.next_run(at.0, at.1)
    {
        let part = Extent { length: run.length.min(left), ..run };
        slice.mark(part);
        left -= part.length;
        *at = (part.volume, part.end());
    }
    (!slice.is_empty()).then_some(slice)
}

/// Told after each question: what was found, and what is compared at this marker, and from where on.
type Step<'a> = dyn FnMut(&Found, &Bitmap, (VolumeIndex, u64)) -> Result<(), ErrorBody> + Send + 'a;

/// What a comparison has found so far.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// The marker compared at.
    pub(super) marker: u64,
    /// The first and the last of them; 0: none yet.
    pub(super) markers: (u64, u64),
    /// The first and the last at which something differed.
    pub(super) differed: Option<(u64, u64)>,
    /// Everything before this was looked at.
    pub(super) cursor: (VolumeIndex, u64),
    pub(super) different: Bitmap,
    /// To be compared at the next marker.
    busy: Bitmap,
    /// Hosts wrote there all the time: to be said, or compared when the comparison goes on.
    pub(super) left: Bitmap,
}

impl Found {
    /// As its record has it.
    ///
    /// # Errors
    /// [`BitmapError`].
    pub(super) fn of(record: &VerifyRecord) -> Result<Self, BitmapError> {
        Ok(Self {
            marker: record.markers.1,
            markers: record.markers,
            differed: record.differed,
            cursor: (VolumeIndex(record.cursor.0), record.cursor.1),
            different: Bitmap::decode(&record.different)?,
            busy: Bitmap::default(),
            left: Bitmap::decode(&record.left)?,
        })
    }

    /// What before the cursor is not compared, while what is to be done at this marker is done up to a place.
    fn pending(&self, todo: &Bitmap, mut at: (VolumeIndex, u64)) -> Bitmap {
        let mut pending = self.left.clone();
        pending.merge(&self.busy);
        while let Some(run) = todo.next_run(at.0, at.1).filter(|run| (run.volume, run.offset) < self.cursor) {
            let end = if run.volume == self.cursor.0 { run.end().min(self.cursor.1) } else { run.end() };
            pending.mark(Extent { length: end - run.offset, ..run });
            at = (run.volume, end);
        }
        pending
    }

    /// Compares everything that is busy, at the marker held. `false`: the journal ran full; what is left is still busy.
    async fn pass(
        &mut self,
        primary: &Arc<Primary>,
        asking: &mut Asking<'_>,
        mut since: Since,
        step: &mut Step<'_>,
    ) -> Result<bool, ErrorBody> {
        let todo = std::mem::take(&mut self.busy);
        let mut at = (VolumeIndex(0), 0);
        while let Some(run) = todo.next_run(at.0, at.1) {
            let part = Extent { length: run.length.min(BATCH * REGION_BYTES), ..run };
            at = (part.volume, part.end());
            let there = asking.digests(part).await?;
            let count = usize::try_from(regions(part.length)).unwrap_or(0);
            let here = tokio::task::block_in_place(|| {
                let here = primary.digests(part.volume, part.offset, count)?;
                primary.catch_up(&mut since)?;
                Ok::<_, VerifyError>(here)
            });
            let here = match here {
                Err(error) if error.wants_another_marker() => {
                    self.leave(&todo, part);
                    return Ok(false);
                }
                here => here.map_err(failed)?,
            };
            self.judge(part, &here, &there, |region| since.has(region.volume, region.offset));
            step(self, &todo, at)?;
        }
        Ok(true)
    }

    /// A part was looked at on both sides at the marker held; what was written since is not judged by it.
    fn judge(
        &mut self,
        part: Extent,
        here: &[RegionDigest],
        there: &[RegionDigest],
        is_written: impl Fn(Extent) -> bool,
    ) {
        for (number, here) in (0..).zip(here) {
            let region = Extent { offset: part.offset + number * REGION_BYTES, length: REGION_BYTES, ..part };
            let same = usize::try_from(number).ok().and_then(|number| there.get(number)) == Some(here);
            if same {
                continue;
            }
            if is_written(region) {
                self.busy.mark(region);
            } else {
                self.different.mark(region);
                self.differed = Some((self.differed.map_or(self.marker, |(first, _)| first), self.marker));
            }
        }
        self.markers = (if self.markers.0 == 0 { self.marker } else { self.markers.0 }, self.marker);
        self.cursor = self.cursor.max((part.volume, part.end()));
    }

    /// What is to be compared from a part on is left to the next marker.
    fn leave(&mut self, todo: &Bitmap, part: Extent) {
        let mut at = (part.volume, part.offset);
        while let Some(run) = todo.next_run(at.0, at.1) {
            self.busy.mark(run);
            at = (run.volume, run.end());
        }
    }
}

/// Resolves when a pair has been down for so long, which is longer than a connection takes to come back.
pub(super) async fn down_for_good(pair: &Pair, patience: Duration) -> PairStatus {
    let (mut looks, allowed) = (0, patience.max(DOWN_TIME).div_duration_f64(LOOK_DOWN));
    loop {
        let status = pair.status();
        looks = if is_up(&status) { 0 } else { looks + 1 };
        if f64::from(looks) > allowed {
            return status;
        }
        tokio::time::sleep(LOOK_DOWN).await;
    }
}

/// A comparison is broken off when its pair is down for so long.
pub(super) const DOWN_TIME: Duration = Duration::from_secs(3);
/// Between two looks whether it is.
pub(super) const LOOK_DOWN: Duration = Duration::from_millis(200);

#[cfg(test)]
mod tests {
    use tidemark_common::catalog::{GroupRecord, PairRecord};
    use tidemark_common::clock::HandClock;

    use super::super::looked::tests::while_time_passes;
    use super::*;
    use crate::roles::dirty::tests::endpoint;
    use crate::service::tests::{Faults, appliance};

    /// A copy takes two minutes to apply what it permitted, and says so when that is not enough; one that hangs says nothing.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_is_slow_is_waited_for_and_one_that_hangs_is_given_up() {
        let clock = HandClock::default();
        let ((_, near), (id, far)) = (endpoint(), endpoint());
        let address = far.local_addr().unwrap().to_string();
        let (dialed, accepted) = tokio::join!(near.dial(&address, id), far.accept());
        let (connection, copy) = (dialed.unwrap(), accepted.unwrap());
        let (control, answers) = connection.open_control().await.unwrap();
        let mut asking = Asking { connection, control, answers, peer: "west", clock: &clock };
        let (version_min, version_max) = (Versions::OURS.min, Versions::OURS.max);
        let request = Verify { version_min, version_max, group: [7; 16], generation: 1 };
        let answers_late = async {
            let (answering, mut incoming) = copy.accept_control().await.unwrap();
            incoming.recv().await.unwrap();
            clock.set(HELD_TIMEOUT - Duration::from_nanos(1));
            answering.send(&Message::Held { marker: 7 }).await.unwrap();
            (answering, incoming)
        };
        let (held, _line) = tokio::join!(asking.hold(&request), answers_late);
        assert_eq!(held.unwrap(), 7);
        let hung = while_time_passes(&clock, HELD_TIMEOUT, asking.hold(&request)).await.unwrap_err();
        assert_eq!(hung.message, "'west' did not answer within 130s");
    }

    /// The copy is waited for, or the disk here: nobody saw that it ran, nor that it stood.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_is_shown_before_its_first_answer() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let record = GroupRecord { pairs: vec![PairRecord::new("west", 0)], ..GroupRecord::new("g", [7; 16]) };
        appliance.catalog.put_group(&record).unwrap();
        appliance.start_groups().await.unwrap();
        let pair = appliance.primary("g").unwrap().pair("west").unwrap();
        let shown = Shown::begin(&pair, Duration::ZERO, (512, 4096), None);
        let told = pair.status().verify.map(|told| (told.done_bytes, told.total_bytes, told.seconds_left));
        assert_eq!(told, Some((512, 4096, None)));
        drop(shown);
        assert_eq!(pair.status().verify, None);
        appliance.stop_groups().await;
    }

    #[test]
    fn progress_is_told_at_no_more_than_the_rate() {
        const MIB: u64 = 1 << 20;
        // The first slice took 25 ms, and what it may take is 16 s.
        let burst = progress((0, 16 * MIB, 2048 * MIB), 0.025, Some(MIB));
        assert!(burst.bytes_per_second <= 1_048_576.0, "{burst:?}");
        assert!(burst.seconds_left.is_some_and(|left| left > 2047.0 && left < 2049.0), "{burst:?}");
        let rested = progress((0, 16 * MIB, 2048 * MIB), 16.0, Some(MIB));
        assert!(rested.seconds_left.is_some_and(|left| left > 2031.0 && left < 2033.0), "{rested:?}");
        // Slower than it may be, and without a limit, it is as fast as it is.
        let slow = progress((8 * MIB, 16 * MIB, 32 * MIB), 16.0, Some(MIB));
        assert_eq!((slow.bytes_per_second, slow.seconds_left), (524_288.0, Some(32.0)));
        let free = progress((0, 16 * MIB, 32 * MIB), 0.5, None);
        assert_eq!((free.bytes_per_second, free.seconds_left), (33_554_432.0, Some(0.5)));
        assert_eq!(progress((0, 0, MIB), 0.0, None).seconds_left, None);
    }

    #[test]
    fn slices_cover_everything_once_and_none_is_larger_than_asked_for() {
        const MIB: u64 = 1 << 20;
        let all =
            everything(&[(VolumeIndex(1), 40 * MIB + 512), (VolumeIndex(2), 3 * MIB), (VolumeIndex(7), 33 * MIB)]);
        let (mut seen, mut sum, mut at) = (Bitmap::default(), 0, (VolumeIndex(0), 0));
        while let Some(slice) = next_slice(&all, &mut at, 16 * MIB) {
            assert!(slice.bytes() <= 16 * MIB);
            sum += slice.bytes();
            seen.merge(&slice);
        }
        assert_eq!((seen, sum), (all.clone(), all.bytes()));
    }

    /// Wherever it is broken off, what is recorded as compared was: the rest is behind the cursor or left.
    #[test]
    fn a_record_never_says_more_than_was_compared() {
        let region =
            |number: u64| Extent { volume: VolumeIndex(1), offset: number * REGION_BYTES, length: REGION_BYTES };
        let all = everything(&[(VolumeIndex(1), 8 * REGION_BYTES)]);
        // Before it was broken off, 1 was busy; what a host writes meanwhile is 4.
        let mut found = Found { marker: 7, cursor: (VolumeIndex(1), 3 * REGION_BYTES), ..Found::default() };
        let mut todo = all.clone();
        todo.clear_before(VolumeIndex(1), 3 * REGION_BYTES);
        todo.mark(region(1));
        let mut judged: Vec<u64> = vec![0, 2];
        for number in [1, 3, 4, 5] {
            let at = (VolumeIndex(1), region(number).offset);
            let pending = found.pending(&todo, at);
            for other in 0..8 {
                let is_open =
                    pending.is_marked(VolumeIndex(1), region(other).offset) || region(other).offset >= found.cursor.1;
                assert_eq!(is_open, !judged.contains(&other), "{other} before {number}");
            }
            let (here, there) = ([[1; 16]], [[u8::from(number != 4); 16]]);
            found.judge(region(number), &here, &there, |_| true);
            if number != 4 {
                judged.push(number);
            }
        }
        assert!(found.different.is_empty() && found.busy.is_marked(VolumeIndex(1), region(4).offset));
        assert_eq!(found.markers, (7, 7));
    }

    #[test]
    fn what_differs_is_known_with_its_markers() {
        let part = Extent { volume: VolumeIndex(2), offset: 0, length: 2 * REGION_BYTES };
        let mut found = Found::default();
        for (marker, there) in [(3, [[1; 16], [1; 16]]), (4, [[1; 16], [2; 16]]), (9, [[2; 16], [2; 16]])] {
            found.marker = marker;
            found.judge(part, &[[1; 16], [1; 16]], &there, |_| false);
        }
        assert_eq!((found.markers, found.differed), ((3, 9), Some((4, 9))));
        assert_eq!(found.different.bytes(), 2 * REGION_BYTES);
        assert_eq!(found.cursor, (VolumeIndex(2), 2 * REGION_BYTES));
    }
}
