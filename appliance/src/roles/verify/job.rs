//! A comparison as a job: round after round until everything was compared, whatever happens to the link and either side. Nobody
//! has to wait for it; who does and goes away breaks it off.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::api::types::{ErrorBody, ErrorKind, PairState, VerifyReport, VerifyRequest};
use tidemark_common::catalog::{VerifyRecord, VerifyStateRecord};
use tidemark_common::differential::Bitmap;
use tidemark_common::ids::VolumeIndex;
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Pair;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::super::appliance::{Appliance, failed, refused};
use super::compare::{DOWN_TIME, Found, Interrupted, LOOK_DOWN, down_for_good};
use super::{EVERYTHING, Of, bitmap, done_bytes, down, is_up, shown};

/// Between two records of how far it is.
const KEEP: Duration = Duration::from_secs(1);
/// Rounds in a row that end without a step although the pair is up.
const TRIES: u32 = 3;

/// What becomes of a comparison that is broken off.
#[derive(Debug, Clone)]
pub(super) enum Broken {
    /// It goes on when it is asked to.
    Stands(String),
    /// It is forgotten.
    Forget(String),
}

type Ended = Result<VerifyReport, ErrorBody>;

/// A comparison that runs.
pub(super) struct Job {
    group: String,
    of: Of,
    broken: Mutex<Option<Broken>>,
    breaks: CancellationToken,
    /// Commands that wait for its report.
    waiting: AtomicUsize,
    ended: watch::Sender<Option<Ended>>,
}

impl Job {
    pub(super) fn new(group: &str, of: Of) -> Self {
        Self {
            group: group.into(),
            of,
            broken: Mutex::default(),
            breaks: CancellationToken::new(),
            waiting: AtomicUsize::new(0),
            ended: watch::Sender::new(None),
        }
    }

    /// Whether somebody waits for its report.
    pub(super) fn is_attended(&self) -> bool {
        self.waiting.load(Ordering::Acquire) > 0
    }

    /// Somebody is about to wait for it: [`Appliance::attend`] follows.
    pub(super) fn attended(&self) {
        self.waiting.fetch_add(1, Ordering::AcqRel);
    }

    /// The first word counts.
    fn break_off(&self, how: Broken) {
        self.broken.lock().get_or_insert(how);
        self.breaks.cancel();
    }

    /// Breaks it off and waits until it is.
    pub(super) async fn end(&self, how: Broken) {
        self.break_off(how);
        // The sender is part of this job: it cannot be gone.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }
}

/// A command waits for a report, for as long as it lives.
struct Waits<'a> {
    job: &'a Job,
    stop: &'a CancellationToken,
    /// The command has its answer, whatever that is.
    is_answered: bool,
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        let last = self.job.waiting.fetch_sub(1, Ordering::AcqRel) == 1;
        if last && !self.is_answered && !self.stop.is_cancelled() {
            self.job.break_off(Broken::Stands("the command that waited for it was broken off".into()));
        }
    }
}

/// A defect of ours ends a comparison as anything else does. Whoever waits for its end would wait for ever: the deletion of its pair, and who
/// looks after all of them.
struct Unended<'a> {
    appliance: &'a Appliance,
    job: &'a Job,
}

impl Drop for Unended<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let why = "the comparison ended by a defect of Tidemark, and the log has its message";
            self.appliance.compared(self.job, Err(failed(format!("{why}: {}", goes_on(self.job)))));
        }
    }
}

impl Appliance {
    /// The report, or as much of it as there is now when nobody waits for it.
    pub(super) async fn attend_unless_in_background(&self, job: &Job, pair: &Pair, request: &VerifyRequest) -> Ended {
        if request.background { self.report(&job.group, &job.of) } else { self.attend(job, pair, request).await }
    }

    /// Waits for the report. Who goes away before it is there breaks the comparison off; a pair that is down, and a stop of
    /// the service, only end the waiting.
    async fn attend(&self, job: &Job, pair: &Pair, request: &VerifyRequest) -> Ended {
        let mut waits = Waits { job, stop: &self.comparisons.stop, is_answered: false };
        let group = &job.group;
        let mut ended = job.ended.subscribe();
        let patience = Duration::from_millis(request.wait_ms.unwrap_or(0));
        let answer = tokio::select! {
            biased;
            ended = ended.wait_for(Option::is_some) => {
                ended.ok().and_then(|ended| ended.clone()).unwrap_or_else(|| Err(refused("the comparison was broken off")))
            }
            () = self.comparisons.stop.cancelled() => Err(stopping(job)),
            status = down_for_good(pair, patience) => {
                let kind = if request.wait_ms.is_some() { ErrorKind::Timeout } else { ErrorKind::Refused };
                let (down, goes_on) = (down(group, &status), goes_on(job));
                Err(ErrorBody::new(kind, format!("the comparison was broken off: {down}. It goes on by itself when the pair is up: {goes_on}")))
            }
        };
        waits.is_answered = true;
        answer
    }

    /// Runs a comparison until it is over or broken off.
    pub(super) async fn run_comparison(self: Arc<Self>, job: Arc<Job>) {
        let _told = Unended { appliance: &self, job: &job };
        let ended = tokio::select! {
            biased;
            () = self.comparisons.stop.cancelled() => Err(stopping(&job)),
            () = job.breaks.cancelled() => Err(self.broken_off(&job)),
            ended = self.compare_on(&job) => ended,
        };
        self.compared(&job, ended);
    }

    /// Nothing runs of it any more.
    fn compared(&self, job: &Job, ended: Ended) {
        if let Some(known) = self.comparisons.known.lock().get_mut(&job.of) {
            known.job = None;
            if let (Err(error), false) = (&ended, self.comparisons.stop.is_cancelled()) {
                stands_unrecorded(&mut known.record, &error.message);
                known.shown = shown(&known.record);
            }
        }
        job.ended.send_replace(Some(ended));
    }

    /// What its record says then.
    fn broken_off(&self, job: &Job) -> ErrorBody {
        let (group, of) = (&job.group, &job.of);
        let how = job.broken.lock().clone();
        let kept = match &how {
            Some(Broken::Forget(_)) => self.forget_record(of),
            Some(Broken::Stands(why)) => self.stands(of, why),
            None => Ok(()),
        };
        if let Err(error) = kept {
            tracing::error!(%group, peer = %of.1, error = %error.message, "how a comparison was broken off could not be recorded");
        }
        match how {
            Some(Broken::Stands(why)) => refused(format!(
                "the comparison was broken off: {why}. `tidemark verify {group} --to {} --resume` goes on where it stands",
                of.1
            )),
            Some(Broken::Forget(why)) => refused(format!("the comparison was broken off: {why}")),
            None => refused("the comparison was broken off"),
        }
    }

    fn stands(&self, of: &Of, why: &str) -> Result<(), ErrorBody> {
        let record = self.comparisons.record(of).filter(|record| record.state == VerifyStateRecord::Runs);
        let Some(record) = record else { return Ok(()) };
        self.keep_comparison(of, VerifyRecord { state: VerifyStateRecord::Stands, reason: Some(why.into()), ..record })
    }

    /// Round after round. A round begins with what the record has: what it did not have yet is compared again.
    async fn compare_on(&self, job: &Job) -> Ended {
        let (group, of) = (&job.group, &job.of);
        let (mut tries, mut stood_at) = (0, None);
        loop {
            // Without a primary or its pair, who looks after comparisons will end this one.
            let Some((primary, pair)) = self.pair_compared(group, of) else {
                tokio::time::sleep(LOOK_DOWN).await;
                continue;
            };
            let status = pair.status();
            if !is_up(&status) || is_resynced(status.state) {
                tokio::time::sleep(LOOK_DOWN).await;
                continue;
            }
            let mut kept = self.go_on(of)?;
            let round = tokio::select! {
                done = self.round(&primary, &pair, &mut kept) => done,
                status = down_for_good(&pair, Duration::ZERO) => {
                    Err(Interrupted::Again(refused(down(group, &status))))
                }
            };
            let Err(interrupted) = round else { return self.report(group, of) };
            let error = match of_itself(interrupted, pair.status().state) {
                None => continue,
                Some(Interrupted::Stands(error)) => {
                    self.stands(of, &error.message)?;
                    return Err(error);
                }
                Some(Interrupted::Again(error)) => error,
            };
            tracing::warn!(%group, peer = %of.1, error = %error.message, "the comparison was interrupted");
            // What a conversation says of its end may be all that is known yet of a pair that is down.
            if self.stays_up(&pair).await {
                let stands_at = self.comparisons.record(of).map(|record| record.cursor);
                tries = if stands_at == stood_at { tries + 1 } else { 1 };
                stood_at = stands_at;
                if error.kind == ErrorKind::Refused || tries >= TRIES {
                    self.stands(of, &error.message)?;
                    return Err(error);
                }
            }
        }
    }

    fn pair_compared(&self, group: &str, of: &Of) -> Option<(Arc<Primary>, Arc<Pair>)> {
        let primary = self.primary(group).ok()?;
        let pair = primary.pair(&of.1)?;
        Some((primary, pair))
    }

    /// A round begins: with the first byte, or where the last one ended.
    fn go_on<'a>(&'a self, of: &'a Of) -> Result<Kept<'a>, ErrorBody> {
        let record = self.comparisons.record(of);
        let mut record = record.ok_or_else(|| refused("the comparison is over"))?;
        let is_fresh = record.markers.1 == 0;
        let is_whole = record.cursor.0 > 0 && done_bytes(&record, record.cursor) == done_bytes(&record, EVERYTHING);
        if !is_fresh && !is_whole {
            record.resumed += 1;
            record.resumed_at_bytes = done_bytes(&record, record.cursor);
            tracing::info!(peer = %of.1, bytes = record.resumed_at_bytes, "the comparison goes on");
            self.keep_comparison(of, record.clone())?;
        }
        let now = self.clock.monotonic();
        let (took_ms, different_bytes) = (record.took_ms, bitmap(&record.different)?.bytes());
        Ok(Kept { appliance: self, of, record, is_fresh, began: now, took_ms, kept: now, different_bytes })
    }

    async fn round(&self, primary: &Arc<Primary>, pair: &Arc<Pair>, kept: &mut Kept<'_>) -> Result<(), Interrupted> {
        let mut found = Found::of(&kept.record).map_err(failed)?;
        if kept.record.mends.is_none() {
            self.compare_all(primary, pair, &mut found, kept).await?;
            if !found.different.is_empty() {
                tracing::error!(
                    group = %primary.keeper().name(),
                    peer = pair.peer(),
                    marker = found.marker,
                    bytes = found.different.bytes(),
                    repair = kept.record.repair,
                    "the copy differs from its marker"
                );
            }
            if kept.record.repair && !found.different.is_empty() {
                // Before the pair is told: a kill in between costs nothing.
                kept.record.mends = Some(self.what_to_mend(primary, pair, &found, kept).await?.encode());
                kept.keep(&found, &found.left, self.clock.monotonic())?;
            }
        }
        let mends = kept.record.mends.as_deref().map(bitmap).transpose()?.unwrap_or_default();
        if !mends.is_empty() {
            pair.mend(&mends).await.map_err(failed)?;
        }
        kept.record.state = VerifyStateRecord::Ended;
        kept.keep(&found, &found.left, self.clock.monotonic())?;
        Ok(())
    }

    /// What differs at one marker. What was found at several, or before an interruption, is looked at once more.
    async fn what_to_mend(
        &self,
        primary: &Arc<Primary>,
        pair: &Arc<Pair>,
        found: &Found,
        kept: &Kept<'_>,
    ) -> Result<Bitmap, Interrupted> {
        let at_one = found.differed.is_some_and(|(first, last)| first == last);
        if at_one && kept.is_fresh {
            return Ok(found.different.clone());
        }
        self.compare_at_one_marker(primary, pair, &found.different).await
    }

    /// Whether a pair is up for longer than it takes to notice that it is not.
    async fn stays_up(&self, pair: &Pair) -> bool {
        let deadline = self.clock.monotonic() + DOWN_TIME;
        while self.clock.monotonic() < deadline {
            if !is_up(&pair.status()) {
                return false;
            }
            tokio::time::sleep(LOOK_DOWN).await;
        }
        true
    }
}

/// Until a resync is over the copy reaches no marker, however long that takes.
fn is_resynced(state: PairState) -> bool {
    state == PairState::Resync
}

/// Why a round ended; `None` when that was a resync, which is waited for.
fn of_itself(interrupted: Interrupted, state: PairState) -> Option<Interrupted> {
    (!is_resynced(state)).then_some(interrupted)
}

/// Nothing runs any more, and its record says so but for a catalogue that could not be written: it is told all the same. After a start it
/// goes on by itself then, where the catalogue has it.
fn stands_unrecorded(record: &mut VerifyRecord, why: &str) {
    if record.state == VerifyStateRecord::Runs {
        record.state = VerifyStateRecord::Stands;
        record.reason = Some(why.to_owned());
    }
}

fn goes_on(job: &Job) -> String {
    format!("`tidemark verify {} --to {} --resume` waits for its report", job.group, job.of.1)
}

fn stopping(job: &Job) -> ErrorBody {
    let goes_on = goes_on(job);
    refused(format!(
        "the comparison was broken off: the service stops. It goes on by itself when that is started: {goes_on}"
    ))
}

/// The record of a round.
pub(super) struct Kept<'a> {
    appliance: &'a Appliance,
    of: &'a Of,
    record: VerifyRecord,
    /// It begins with this round.
    is_fresh: bool,
    began: Duration,
    /// Of the rounds before.
    took_ms: u64,
    /// When it was kept last, and with how much that differs.
    kept: Duration,
    different_bytes: u64,
}

impl Kept<'_> {
    pub(super) const fn record(&self) -> &VerifyRecord {
        &self.record
    }

    pub(super) fn done_bytes(&self, found: &Found) -> u64 {
        done_bytes(&self.record, (found.cursor.0.0, found.cursor.1))
    }

    pub(super) fn total_bytes(&self) -> u64 {
        done_bytes(&self.record, EVERYTHING)
    }

    /// Whether it is to be kept now: from time to time, and when something was found.
    pub(super) fn is_due(&self, found: &Found, now: Duration) -> bool {
        now.saturating_sub(self.kept) >= KEEP || found.different.bytes() != self.different_bytes
    }

    /// Keeps what was found, and what before the cursor is still to be compared.
    ///
    /// # Errors
    /// When it could not be recorded.
    pub(super) fn keep(&mut self, found: &Found, left: &Bitmap, now: Duration) -> Result<(), ErrorBody> {
        let (VolumeIndex(volume), offset) = found.cursor;
        let took = u64::try_from(now.saturating_sub(self.began).as_millis()).unwrap_or(u64::MAX);
        self.record.cursor = (volume, offset);
        self.record.left = left.encode();
        self.record.different = found.different.encode();
        self.record.markers = found.markers;
        self.record.differed = found.differed;
        self.record.took_ms = self.took_ms.saturating_add(took);
        self.kept = now;
        self.different_bytes = found.different.bytes();
        self.appliance.keep_comparison(self.of, self.record.clone())
    }
}

#[cfg(test)]
mod tests {
    use std::panic::{AssertUnwindSafe, catch_unwind};

    use tidemark_common::api::types::{ComparisonState, VerifyAction};
    use tidemark_common::catalog::{GroupRecord, PairRecord, PairStateRecord};
    use tidemark_common::ids::GroupId;

    use super::super::Known;
    use super::*;
    use crate::service::tests::appliance;

    fn record(state: VerifyStateRecord) -> VerifyRecord {
        VerifyRecord {
            state,
            reason: None,
            began_ns: 0,
            generation: 1,
            volumes: vec![(1, 1 << 20)],
            repair: false,
            rate: None,
            cursor: (0, 0),
            left: Vec::new(),
            different: Vec::new(),
            markers: (0, 0),
            differed: None,
            mends: None,
            resumed: 0,
            resumed_at_bytes: 0,
            took_ms: 0,
        }
    }

    /// After a long loss of the link it may last for hours, and the comparison goes on by itself behind it.
    #[test]
    fn a_resync_is_no_reason_for_a_comparison_to_stand() {
        let behind = || Interrupted::Stands(refused("the copy is far behind"));
        assert!(of_itself(behind(), PairState::Resync).is_none());
        for state in [PairState::Paired, PairState::CatchingUp] {
            assert!(matches!(of_itself(behind(), state), Some(Interrupted::Stands(_))), "{state}");
        }
    }

    #[test]
    fn a_comparison_that_nothing_runs_is_not_said_to_run_though_that_could_not_be_recorded() {
        let mut runs = record(VerifyStateRecord::Runs);
        stands_unrecorded(&mut runs, "no space is left for the catalogue");
        assert_eq!(runs.state, VerifyStateRecord::Stands);
        assert_eq!(runs.reason.as_deref(), Some("no space is left for the catalogue"));
        // What it came to counts.
        for state in [VerifyStateRecord::Stands, VerifyStateRecord::Ended] {
            let mut known = record(state);
            stands_unrecorded(&mut known, "no space is left for the catalogue");
            assert_eq!(known, record(state));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn status_shows_what_is_kept_of_a_comparison() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = appliance(directory.path(), &Arc::default());
        let of: Of = (GroupId([7; 16]), "west".into());
        let runs = record(VerifyStateRecord::Runs);
        let shows = || appliance.comparisons.known.lock().get(&of).map(|known| known.shown.done_bytes);
        appliance.keep_comparison(&of, runs.clone()).unwrap();
        assert_eq!(shows(), Some(0));
        appliance.keep_comparison(&of, VerifyRecord { cursor: (1, 1 << 16), ..runs }).unwrap();
        assert_eq!(shows(), Some(1 << 16));
    }

    /// A terminal had to stay open for as long as it took, which may be days with a rate.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_in_the_background_runs_though_nobody_waits_for_it() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = appliance(directory.path(), &Arc::default());
        let pair = PairRecord { state: PairStateRecord::Paired, ..PairRecord::new("west", 0) };
        let record = GroupRecord { pairs: vec![pair], ..GroupRecord::new("g", [7; 16]) };
        appliance.catalog.put_group(&record).unwrap();
        appliance.start_groups().await.unwrap();
        let primary = appliance.primary("g").unwrap();
        let (pair, of): (_, Of) = (primary.pair("west").unwrap(), (GroupId([7; 16]), "west".into()));
        let asked = |action: VerifyAction| VerifyRequest {
            to: "west".into(),
            repair: false,
            rate_bytes_per_second: Some(1 << 20),
            wait_ms: None,
            action,
            background: !matches!(action, VerifyAction::Suspend),
        };
        let begin = asked(VerifyAction::Begin);
        // It waits for its pair, which is down.
        let job = appliance.begin_comparison(&primary, &of, &begin).await.unwrap();
        let told = appliance.attend_unless_in_background(&job, &pair, &begin).await.unwrap();
        assert!(!told.complete && !job.is_attended());
        let told = appliance.verify("g", &asked(VerifyAction::Resume)).await.unwrap();
        assert!(!told.complete && !job.is_attended());
        let again = appliance.begin_comparison(&primary, &of, &begin).await.map(drop).unwrap_err();
        assert!(again.message.contains("is being compared with 'west' already"), "{}", again.message);
        let state = || appliance.comparisons.record(&of).map(|record| record.state);
        assert_eq!(state(), Some(VerifyStateRecord::Runs));
        appliance.verify("g", &asked(VerifyAction::Suspend)).await.unwrap();
        assert_eq!(state(), Some(VerifyStateRecord::Stands));
        appliance.stop_groups().await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_comparison_that_a_panic_has_ended_is_over() {
        let directory = tempfile::tempdir().unwrap();
        let appliance = appliance(directory.path(), &Arc::default());
        let of: Of = (GroupId([7; 16]), "west".into());
        let job = Arc::new(Job::new("g", of.clone()));
        let known = Known { job: Some(Arc::clone(&job)), ..Known::of(record(VerifyStateRecord::Runs)) };
        appliance.comparisons.known.lock().insert(of.clone(), known);
        let broken = catch_unwind(AssertUnwindSafe(|| -> bool {
            let _told = Unended { appliance: &appliance, job: &job };
            panic!("as it was to")
        }));
        assert!(broken.is_err());
        let ends = job.end(Broken::Forget("its pair is deleted".into()));
        tokio::time::timeout(Duration::from_secs(20), ends).await.unwrap();
        let known = appliance.comparisons.known.lock();
        let known = known.get(&of).unwrap();
        assert!(known.job.is_none() && known.record.state == VerifyStateRecord::Stands);
        assert_eq!(known.shown.state, ComparisonState::Stands, "status says so");
    }
}
