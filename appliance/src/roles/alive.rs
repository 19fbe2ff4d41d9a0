//! Whether a primary may live still, as far as its copy can tell.

use std::time::Duration;

use tidemark_common::api::types::ErrorBody;
use tidemark_secondary::group::CALLS_WITHIN;

use super::appliance::{Appliance, Engine, Group, refused};

/// A primary heard within this time is alive.
const ALIVE: Duration = Duration::from_secs(1);
/// Between two looks whether it has.
const LOOK: Duration = Duration::from_millis(20);

impl Appliance {
    /// Waits until the primary of a copy that has just begun to run has had the time to call: as after a change of roles or a start of the service,
    /// nothing is known of it before.
    pub(super) async fn give_time_to_call(&self, group: &Group) {
        loop {
            let Engine::Secondary(copy) = group.engine.read().clone() else { return };
            let runs = self.clock.monotonic().saturating_sub(copy.began());
            if runs >= CALLS_WITHIN || copy.state().last_heard().at.is_some() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

/// Why a primary that was heard just now is not taken over, nor one that was there just now, cannot go on, and calls again. All times are
/// monotonic.
pub(super) fn refuse_living(
    group: &str,
    heard: Option<Duration>,
    stood: Option<Duration>,
    now: Duration,
) -> Result<(), ErrorBody> {
    let lately =
        |at: Option<Duration>, within: Duration| at.map(|at| now.saturating_sub(at)).filter(|silent| *silent < within);
    match lately(heard, ALIVE).or_else(|| lately(stood, CALLS_WITHIN)) {
        Some(silent) => Err(refused(format!(
            "the primary of group '{group}' was heard {} ms ago. If it is to be taken over all the same, use --force; it will be fenced",
            silent.as_millis()
        ))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::sync::Arc;
    use std::task::Poll;

    use tidemark_common::api::types::Failover;
    use tidemark_common::link::LinkConfig;
    use tidemark_primary::ship::PAUSE_MAX;

    use super::*;
    use crate::roles::give_up::tests::add_copy_with_history;
    use crate::service::tests::{copy_of, with_copy};

    #[test]
    fn a_primary_that_was_heard_just_now_is_taken_over_by_force_only() {
        let told = |heard: Option<u64>| {
            let heard = heard.map(Duration::from_millis);
            refuse_living("g", heard, None, Duration::from_secs(100)).err().map(|told| told.message)
        };
        let heard_just_now = told(Some(99_500)).unwrap();
        assert!(heard_just_now.contains("heard 500 ms ago") && heard_just_now.contains("--force"), "{heard_just_now}");
        assert_eq!((told(Some(99_000)), told(None)), (None, None), "a site is lost");
    }

    /// Between two of its calls it was taken over, as when a failback found no room and waited for a person.
    #[test]
    fn a_primary_that_calls_again_and_again_in_vain_is_taken_over_by_force_only() {
        let now = Duration::from_secs(100);
        let told = |silent: Duration| {
            let at = Some(now.saturating_sub(silent));
            refuse_living("g", at, at, now).err().map(|told| told.message)
        };
        let called = told(PAUSE_MAX).unwrap();
        assert!(called.contains("heard 3000 ms ago") && called.contains("--force"), "{called}");
        assert_eq!(told(CALLS_WITHIN), None, "it would have called again");
    }

    /// Of a machine that has just started: who has called it in vain for minutes calls it again only after that.
    #[test]
    fn a_primary_has_the_time_to_call_that_a_call_in_vain_and_a_pause_take() {
        assert!(CALLS_WITHIN > LinkConfig::default().setup_timeout + PAUSE_MAX);
    }

    /// Just after a switchover, a return, or a restart here, a primary that served its hosts was taken over.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_has_just_begun_to_run_gives_its_primary_time_to_call() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, group, _) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
        let copy = copy_of(&group);
        let request = Failover::default();
        let mut taking = pin!(appliance.fail_over("g", &request));
        let waits = poll_fn(|context| Poll::Ready(taking.as_mut().poll(context).is_pending())).await;
        let in_time = appliance.clock.monotonic().saturating_sub(copy.began()) < CALLS_WITHIN;
        copy.state().heard(appliance.clock.monotonic() + CALLS_WITHIN);
        if waits && in_time {
            let told = taking.await.unwrap_err();
            assert!(told.message.contains("was heard"), "{told:?}");
        }
        assert!(waits || !in_time);
        appliance.stop_groups().await;
    }
}
