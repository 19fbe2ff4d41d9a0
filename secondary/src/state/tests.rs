//! What the log has of a problem that comes and goes, and what is forgotten.

use tidemark_common::clock::HandClock;
use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;
use crate::permission::tests::{at, marker};

/// The messages that are logged while it is set.
#[derive(Default)]
struct Log(Arc<Mutex<Vec<String>>>);

impl Visit for Log {
    fn record_debug(&mut self, field: &Field, value: &dyn std::fmt::Debug) {
        if field.name() == "message" {
            self.0.lock().push(format!("{value:?}"));
        }
    }
}

impl Subscriber for Log {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn new_span(&self, _: &Attributes<'_>) -> Id {
        Id::from_u64(1)
    }

    fn record(&self, _: &Id, _: &Record<'_>) {}

    fn record_follows_from(&self, _: &Id, _: &Id) {}

    fn event(&self, event: &Event<'_>) {
        event.record(&mut Self(Arc::clone(&self.0)));
    }

    fn enter(&self, _: &Id) {}

    fn exit(&self, _: &Id) {}
}

fn state(clock: &Arc<HandClock>) -> CopyState {
    let clock = Arc::clone(clock) as Arc<dyn Clock>;
    let (durable, applied, points) =
        (DurableEnd::default(), AppliedPosition::default(), Points::new(Vec::new(), None, None));
    CopyState::new("g".into(), clock, Permission::default(), durable, applied, points)
}

/// A journal that is full for volumes that take nothing is no reason to enlarge it.
#[test]
fn what_keeps_a_copy_from_being_applied_is_told_beside_what_that_has_filled() {
    let state = state(&Arc::default());
    state.no_room(true, "the journal is full".into());
    assert_eq!(state.problem().as_deref(), Some("the journal is full"));
    state.set_problem(Concern::Updater, Some("the disk of volume 'a' is full".into()));
    assert_eq!(state.problem().as_deref(), Some("the disk of volume 'a' is full. the journal is full"));
    state.set_problem(Concern::Intake, None);
    assert_eq!(state.problem().as_deref(), Some("the disk of volume 'a' is full"));
}

/// Who gives a copy up keeps its volumes as they are: they must not be left in the middle of anything.
#[test]
fn only_who_goes_on_from_the_journal_leaves_the_volumes_in_the_middle() {
    let state = state(&Arc::default());
    let left = state.left();
    state.stop();
    assert!(state.is_stopping() && !left.load(Ordering::Acquire));
    state.stop_at_once();
    assert!(left.load(Ordering::Acquire));
}

/// They were kept for as long as the service ran, and copied with every look at the permission.
#[test]
fn copies_that_the_volumes_have_passed_are_forgotten() {
    let state = state(&Arc::default());
    let begin = ControlRecord::CopyBegin {
        copy: 1,
        start_seq: 0,
        start_marker: 0,
        chain: [0; 16],
        direct: true,
        total_bytes: 0,
        volumes: Vec::new(),
    };
    let end = ControlRecord::CopyEnd { copy: 1, marker: 1 };
    state.durable(&[(begin, at(100)), (marker(1), at(200)), (end, at(300))], &DurableEnd::default());
    let open_inside = || state.permission().copy_at(at(150)).map(|copy| copy.number);
    let applied = |offset| state.applied(AppliedPosition { position: at(offset), ..AppliedPosition::default() });
    applied(200);
    assert_eq!(open_inside(), Some(1), "who starts from there again has to know of it");
    applied(300);
    assert_eq!(open_inside(), None);
}

#[test]
fn a_problem_that_comes_and_goes_is_logged_once_with_its_end_and_again_after_a_minute() {
    let (clock, log) = (Arc::new(HandClock::default()), Log::default());
    let told = ["the copy has no room for what comes", "the copy takes what comes again"];
    let lines = Arc::clone(&log.0);
    let state = state(&clock);
    let stands = |at: Duration| {
        clock.set(at);
        state.set_problem(Concern::Intake, Some("the journal is full".into()))
    };
    tracing::subscriber::with_default(log, || {
        for times in 0..100 {
            assert!(stands(Duration::from_millis(200 * times)), "the status shows it each time");
            assert!(!stands(Duration::from_millis(200 * times + 100)));
            assert!(!state.set_problem(Concern::Intake, None));
        }
        assert_eq!(*lines.lock(), told);
        stands(Duration::from_secs(30));
        assert_eq!(lines.lock().len(), 2);
        stands(Duration::from_secs(61));
        state.set_problem(Concern::Intake, None);
    });
    assert_eq!(lines.lock()[2..], told);
}
