//! A copy that does not run, and is to be given up: its journal goes with it, and may be all that has its newest marker. In comes its record; out
//! goes whether an operator has to say that more.

use std::io::ErrorKind;

use tidemark_common::api::types::ErrorBody;
use tidemark_common::catalog::GroupRecord;
use tidemark_common::ids::GroupId;
use tidemark_common::journal;

use super::appliance::{Appliance, refused};

impl Appliance {
    /// As of one that runs, for which its volumes are waited for. `reason`: why it does not.
    pub(super) fn refuse_with_journal(&self, record: &GroupRecord, reason: &str, force: bool) -> Result<(), ErrorBody> {
        // One of which there is no image loses none.
        let has_image = !record.pairs.iter().any(|pair| pair.copy.as_ref().is_some_and(|copy| copy.direct));
        if force || !has_image || !self.has_journal(GroupId(record.id)) {
            return Ok(());
        }
        Err(refused(format!(
            "group '{}' is not given up: it does not run ({reason}), and its journal, which goes with it, may alone have what its volumes lack of its \
             newest marker. Mend that and restart the service. To have the volumes as they are: --force",
            record.name
        )))
    }

    /// What nobody can look for may be there.
    fn has_journal(&self, id: GroupId) -> bool {
        match self.disk.list(&self.journal_folder(id)) {
            Ok(names) => names.iter().any(|name| journal::segment_number(name).is_some()),
            Err(error) => error.kind() != ErrorKind::NotFound,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tidemark_common::keeper::GroupKeeper;

    use super::*;
    use crate::roles::appliance::{Engine, Group};
    use crate::roles::give_up::tests::add_copy_with_history;
    use crate::service::tests::{Faults, appliance};

    /// The volumes were those of an older marker then, and nobody had been asked.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_does_not_run_is_given_up_with_its_journal_by_force_only() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_copy_with_history(&appliance);
        let record = appliance.catalog.group("g").unwrap().unwrap();
        let keeper = Arc::new(GroupKeeper::new(appliance.catalog.clone(), record.clone()));
        let group = Group::new(keeper, Engine::Failed("as in a test".into()));
        appliance.groups.write().insert("g".into(), Arc::new(group));
        let told = appliance.delete_pair("g", "east", false).await.unwrap_err();
        assert!(told.message.contains("as in a test") && told.message.contains("--force"), "{told:?}");
        assert!(appliance.has_journal(GroupId(record.id)));
        appliance.delete_pair("g", "east", true).await.unwrap();
        assert!(appliance.group("g").is_err());
        // Gone altogether, it has nothing.
        assert!(appliance.refuse_with_journal(&record, "as in a test", false).is_ok());
    }
}
