//! What the log has of a problem that comes and goes.

use tracing::field::{Field, Visit};
use tracing::span::{Attributes, Id, Record};
use tracing::{Event, Metadata, Subscriber};

use super::*;

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

/// A clock that is set by hand.
#[derive(Default)]
struct Hand(Mutex<Duration>);

impl Clock for Hand {
    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::UNIX_EPOCH
    }

    fn monotonic(&self) -> Duration {
        *self.0.lock()
    }
}

#[test]
fn a_problem_that_comes_and_goes_is_logged_once_with_its_end_and_again_after_a_minute() {
    let (clock, log) = (Arc::new(Hand::default()), Log::default());
    let told = ["the copy has no room for what comes", "the copy takes what comes again"];
    let lines = Arc::clone(&log.0);
    let points = Points::new(Vec::new(), None, None);
    let state = CopyState::new(
        "g".into(),
        Arc::clone(&clock) as Arc<dyn Clock>,
        Permission::default(),
        DurableEnd::default(),
        AppliedPosition::default(),
        points,
    );
    let stands = |at: Duration| {
        *clock.0.lock() = at;
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
