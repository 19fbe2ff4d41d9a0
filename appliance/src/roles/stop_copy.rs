//! A copy is stopped for what an operator wants: a failover, or giving it up. In comes a copy that runs; out goes one that is stopped, or, when its
//! disk does not answer, why nothing was done. That one follows again later.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::ErrorBody;
use tidemark_secondary::group::Secondary;

use super::appliance::{Appliance, Engine, Group, failed};

/// What a copy had begun to write is written within this time: all that operators change, failovers of other groups too, waits meanwhile.
pub(super) const STOPS_WITHIN: Duration = Duration::from_secs(30);

impl Appliance {
    /// Stops a copy, and does not wait without end for what it had begun to write. One that has not stopped in time follows again once it has, unless
    /// somebody has made something else of it by then.
    pub(super) async fn stop_copy(
        &self,
        group: &Arc<Group>,
        secondary: &Arc<Secondary>,
        what: &str,
        within: Duration,
    ) -> Result<(), ErrorBody> {
        // For the people there: until its next call is answered, its primary knows nothing else of it.
        secondary.part(&format!("group '{}' is being {what} on '{}'", group.keeper.name(), self.config.name));
        if secondary.stop_within(within).await {
            return Ok(());
        }
        if let Some(appliance) = self.this.upgrade() {
            let (group, secondary) = (Arc::clone(group), Arc::clone(secondary));
            self.runtime.spawn(async move { appliance.run_again_once_stopped(&group, &secondary).await });
        }
        Err(failed(format!(
            "group '{}' was not {what}: its volumes, or its journal, are being written, and that has not come to its end within {within:.0?}. See to \
             the disks behind them, and try again; other groups can be changed meanwhile. It is the copy still",
            group.keeper.name()
        )))
    }

    /// Whoever tried again meanwhile may have given the copy up: nothing of it comes back.
    async fn run_again_once_stopped(&self, group: &Arc<Group>, secondary: &Arc<Secondary>) {
        secondary.stop().await;
        let _alone = self.changing.lock().await;
        let is_known = self.group(&group.keeper.name()).is_ok_and(|now| Arc::ptr_eq(&now, group));
        let is_it = matches!(&*group.engine.read(), Engine::Secondary(now) if Arc::ptr_eq(now, secondary));
        if is_known && is_it {
            self.run_as_copy(group);
        }
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::link::LinkError;
    use tidemark_common::wire::handshake::Versions;
    use tidemark_common::wire::message::Message;

    use super::*;
    use crate::roles::dirty::tests::endpoint;
    use crate::roles::give_up::tests::add_copy_with_history;
    use crate::service::tests::{copy_of, hello, with_copy};

    /// It read there as a service that stops.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_is_given_up_tells_its_primary_so() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, group, _) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
        let copy = copy_of(&group);
        let ((_, near), (id, far)) = (endpoint(), endpoint());
        let address = far.local_addr().unwrap().to_string();
        let (dialed, accepted) = tokio::join!(near.dial(&address, id), far.accept());
        let (primary, connection) = (dialed.unwrap(), accepted.unwrap());
        let (control, mut answers) = primary.open_control().await.unwrap();
        control.send(&Message::Hello(hello())).await.unwrap();
        let (answering, mut incoming) = connection.accept_control().await.unwrap();
        incoming.recv().await.unwrap();
        let serving = tokio::spawn(async move {
            copy.serve(connection, answering, incoming, &hello(), Versions::OURS.max).await.unwrap_err()
        });
        assert!(matches!(answers.recv().await, Ok(Some(Message::Welcome(_)))));
        appliance.delete_pair("g", "east", true).await.unwrap();
        let LinkError::PeerClosed { reason, .. } = primary.closed().await else { panic!("it was closed on purpose") };
        assert_eq!(reason, "group 'g' is being given up on 'alone'");
        serving.await.unwrap();
    }

    /// It had a journal again, and an updater over volumes that others may write by then.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_stops_late_follows_again_unless_it_was_given_up_meanwhile() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, group, _) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
        // It was to be failed over, and its disk has answered only now.
        let late = copy_of(&group);
        late.stop_at_once().await;
        appliance.run_again_once_stopped(&group, &late).await;
        assert!(!copy_of(&group).state().is_stopping());
        // Tried again, it is given up, and whoever waited since the first try comes behind that.
        let late = copy_of(&group);
        appliance.delete_pair("g", "east", true).await.unwrap();
        appliance.run_again_once_stopped(&group, &late).await;
        assert!(Arc::ptr_eq(&copy_of(&group), &late), "nobody has started it");
        assert!(!appliance.journal_folder(group.keeper.id()).exists());
    }
}
