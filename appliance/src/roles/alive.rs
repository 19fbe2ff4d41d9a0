//! Whether a primary may live still, as far as its copy can tell. In comes when it was heard last, and since when the copy runs; out goes why it is
//! not taken over unless that is forced.

use std::time::Duration;

use tidemark_common::api::types::ErrorBody;

use super::appliance::refused;

/// A primary heard within this time is alive.
const ALIVE: Duration = Duration::from_secs(1);
/// A primary that lives has called a copy that runs for this long: it calls again every second or two.
const CALLS_WITHIN: Duration = Duration::from_secs(3);

/// All of it monotonic. A copy that has heard nothing yet, as after a change of roles or a start of the service, knows nothing of its primary.
pub(super) fn refuse_living(
    group: &str,
    heard: Option<Duration>,
    began: Duration,
    now: Duration,
) -> Result<(), ErrorBody> {
    let runs = now.saturating_sub(began);
    match heard.map(|at| now.saturating_sub(at)) {
        Some(silent) if silent < ALIVE => Err(refused(format!(
            "the primary of group '{group}' was heard {} ms ago. If it is to be taken over all the same, use --force; it will be fenced",
            silent.as_millis()
        ))),
        None if runs < CALLS_WITHIN => Err(refused(format!(
            "this side of group '{group}' runs since {:.1} s, and its primary has not had the time to call: try again in {:.1} s. If it is to be taken \
             over all the same, use --force; it will be fenced",
            runs.as_secs_f64(),
            CALLS_WITHIN.saturating_sub(runs).as_secs_f64()
        ))),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_common::api::types::Failover;

    use super::*;
    use crate::roles::give_up::tests::add_copy_with_history;
    use crate::service::tests::{Faults, appliance};

    #[test]
    fn a_primary_that_may_live_is_taken_over_by_force_only() {
        let seconds = Duration::from_secs_f64;
        let told = |heard: Option<f64>, began, now| {
            refuse_living("g", heard.map(seconds), seconds(began), seconds(now)).err().map(|told| told.message)
        };
        let heard_just_now = told(Some(99.5), 0.0, 100.0).unwrap();
        assert!(heard_just_now.contains("heard 500 ms ago") && heard_just_now.contains("--force"), "{heard_just_now}");
        assert_eq!(told(Some(99.0), 98.9, 100.0), None, "a site is lost");
        let nothing_yet = told(None, 99.5, 100.0).unwrap();
        assert!(nothing_yet.contains("in 2.5 s") && nothing_yet.contains("--force"), "{nothing_yet}");
        assert_eq!(told(None, 97.0, 100.0), None, "nobody has called");
    }

    /// Just after a switchover, a return, or a restart here, a primary that served its hosts was taken over.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_has_just_begun_to_run_does_not_take_over_unless_forced() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy_with_history(&appliance);
        let before = appliance.clock.monotonic();
        appliance.start_groups().await.unwrap();
        let taken = appliance.fail_over("g", &Failover::default()).await;
        let in_time = appliance.clock.monotonic().saturating_sub(before) < CALLS_WITHIN;
        let refused = taken.is_err_and(|told| told.message.contains("has not had the time to call"));
        assert!(refused || !in_time);
        appliance.stop_groups().await;
    }
}
