//! An old primary goes on as primary with what it has, because an operator says so (decision 15, invariant 8).
//!
//! ```text
//! fenced, generation 1                                 took over, generation 2
//!   ── Return ───────────────────────────────────────────▶ (has it taken over, and where did the histories part?)
//!   ◀──────────────────────── Parted: the last marker both have ──
//!   drains and applies what it captured
//!   durably: primary, generation 3
//!   ── Hello, generation 3 ──────────────────────────────▶ is fenced, as by anybody who took over
//!                                                          `tidemark rejoin` there: its tail is kept, it is the copy
//! ```
//!
//! Nothing of the other side is changed or merged by it. Until it meets this side it goes on serving.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tidemark_common::api::types::{ErrorBody, PairState, RejoinReport};
use tidemark_common::catalog::{PairStateRecord, PartedRecord, RoleRecord};
use tidemark_common::ids::Seq;
use tidemark_common::journal;
use tidemark_common::wire::message::{Message, Refusal, Refused};
use tidemark_secondary::returned::stand_until_returned;

use super::appliance::{Appliance, Engine, Failure, Group, failed, refused};

/// What an old primary knows of a peer when it asks whether that has taken over.
enum Other {
    /// It has, with this generation. Where the histories parted, when it still knows.
    TookOver { generation: u64, parted: Option<PartedRecord> },
    /// It says that it has not.
    Copy,
    /// It did not say. What it knows of generations counts all the same.
    Silent { why: String, generation: Option<u64> },
}

impl Other {
    fn of(answer: Result<Message, ErrorBody>, generation: u64) -> Self {
        match answer {
            Ok(Message::Parted(parted)) if parted.generation > generation => Self::TookOver {
                generation: parted.generation,
                parted: Some(PartedRecord {
                    marker: parted.marker,
                    seq: parted.seq,
                    chain: parted.chain,
                    segment: 0,
                    offset: 0,
                }),
            },
            // One that does not run, or is fenced itself.
            Ok(Message::Refused(said)) if matches!(said.refusal, Refusal::Fenced | Refusal::Unready) => {
                Self::Silent { why: said.message, generation: Some(said.generation) }
            }
            // Primary without a pair with this side.
            Ok(Message::Refused(said)) if said.generation > generation => {
                Self::TookOver { generation: said.generation, parted: None }
            }
            // A copy says whose it is; what does not run, or is another's copy, says nothing of that.
            Ok(Message::Refused(Refused { refusal: Refusal::Conflict, generation, .. })) if generation != 0 => {
                Self::Copy
            }
            Ok(Message::Refused(said)) => Self::silent(said.message),
            Ok(_) => Self::silent("it answered with something else than what was asked".into()),
            Err(error) => Self::silent(error.message),
        }
    }

    const fn silent(why: String) -> Self {
        Self::Silent { why, generation: None }
    }

    const fn generation(&self) -> Option<u64> {
        match self {
            Self::TookOver { generation, .. } => Some(*generation),
            Self::Silent { generation, .. } => *generation,
            Self::Copy => None,
        }
    }

    /// Where the histories parted. A place that nobody has, when that is not known: everything is copied then.
    fn parted(&self) -> PartedRecord {
        let nowhere = PartedRecord { marker: 0, seq: 0, chain: [0; 16], segment: 0, offset: 0 };
        match self {
            Self::TookOver { parted, .. } => parted.unwrap_or(nowhere),
            Self::Copy | Self::Silent { .. } => nowhere,
        }
    }
}

impl Appliance {
    /// `rejoin --as-primary`, under `changing`.
    pub(crate) async fn take_back(&self, name: &str, force: bool) -> Result<RejoinReport, ErrorBody> {
        let group = self.group(name)?;
        let by = Self::fenced_by(&group)?;
        let mut others = BTreeMap::new();
        for pair in group.keeper.get().pairs {
            let said = Other::of(self.ask_who_took_over(&group, &pair.peer).await, group.keeper.generation().0);
            others.insert(pair.peer, said);
        }
        check_chosen(name, &others, force)?;
        tokio::task::block_in_place(|| self.settle_captured(&group)).map_err(failed)?;
        let what = "it is made primary again".to_owned();
        let _change = self.begin_change(&group, what, PairState::FailedOver);
        let recorded = tokio::task::block_in_place(|| {
            self.discard_unfinished(&group);
            self.record_as_primary(&group, by.0, &others)
        });
        let generation = match recorded {
            Ok(generation) => generation,
            Err(reason) => {
                self.change_engine(&group, Engine::Fenced { by });
                return Err(failed(format!("group '{name}': {reason}. It is fenced as before")));
            }
        };
        tracing::warn!(
            group = name,
            generation,
            "primary again, as the operator chose: who had taken over is fenced when it is met"
        );
        self.start_serving(&group)?;
        let parted = others.values().map(Other::parted).max_by_key(|parted| parted.marker);
        let marker = parted.map_or(0, |parted| parted.marker);
        Ok(RejoinReport {
            group: name.into(),
            primary: self.config.name.clone(),
            generation,
            marker,
            whole: marker == 0,
            lost_writes: 0,
            lost_bytes: 0,
            kept: None,
            not_taken_over_by: None,
        })
    }

    /// One step: from here on it is primary, and its generation is above all that were met.
    fn record_as_primary(&self, group: &Group, by: u64, others: &BTreeMap<String, Other>) -> Result<u64, String> {
        let end = self.end_of_journal(group)?;
        // Who was asked to take over, and did not answer, has the next one perhaps.
        let asked = group.keeper.generation().next().0;
        let highest = others.values().filter_map(Other::generation).max().unwrap_or(0).max(by).max(asked);
        let now_ns = self.now_ns();
        let recorded = group.keeper.update(|record| {
            record.role = RoleRecord::Primary;
            record.generation = highest.saturating_add(1);
            record.generation_start_seq = end.next().0;
            record.primary = None;
            for pair in &mut record.pairs {
                let other = others.get(&pair.peer);
                if matches!(other, Some(Other::Copy)) && pair.state != PairStateRecord::Fenced {
                    continue;
                }
                let parted = other.map_or(Other::Copy.parted(), Other::parted);
                stand_until_returned(&record.name, pair, parted, now_ns);
            }
            record.generation
        });
        recorded.map_err(|error| error.to_string())
    }

    /// The last write of a group that does not run.
    fn end_of_journal(&self, group: &Group) -> Result<Seq, String> {
        let (id, options) = (group.keeper.id(), self.journal_options());
        let folder = self.journal_folder(id);
        let opened = journal::open(Arc::clone(&self.disk), &folder, id, options, None, &mut |_, _, _| {});
        Ok(opened.map_err(|error| error.to_string())?.writer.tip().seq)
    }

    /// What was recorded as primary runs, and hosts are let in.
    pub(crate) fn start_serving(&self, group: &Group) -> Result<(), ErrorBody> {
        group.met.store(0, Ordering::Release);
        group.takers.lock().clear();
        let started = self.run_as_primary(group);
        started
            .map_err(|why| failed(format!("group '{}' is primary again and does not run: {why}", group.keeper.name())))
    }

    /// A primary that is stopped, or was none, runs, and what hosts open leads to it; or why it does not. Then it is gone on with as a failover
    /// that did not end.
    pub(crate) fn run_as_primary(&self, group: &Group) -> Result<(), String> {
        let name = group.keeper.name();
        let started = tokio::task::block_in_place(|| self.start_primary(&group.keeper, None));
        let started = started.map_err(|why| {
            format!(
                "{why}. When that is mended, `tidemark failover {name}` starts it, and so does a restart of the service"
            )
        });
        let failure = started.as_ref().err().cloned();
        let unended = |reason: String| Engine::Failed(Failure { unended: true, ..reason.into() });
        self.change_engine(group, started.map_or_else(unended, Engine::Primary));
        failure.map_or(Ok(()), Err)
    }
}

/// Whether there is something to choose, and whoever could go on serving has been asked or is known to be off.
fn check_chosen(name: &str, others: &BTreeMap<String, Other>, force: bool) -> Result<(), ErrorBody> {
    for (peer, other) in others {
        if let (Other::Silent { why, .. }, false) = (other, force) {
            return Err(refused(format!(
                "group '{name}': '{peer}' does not say where the histories parted ({why}), and as long as it does not meet this side it may \
                 go on serving its hosts. Bring it within reach; or make sure that it serves nobody, and use --force: then \
                 everything is copied to it when it returns"
            )));
        }
    }
    if others.values().all(|other| matches!(other, Other::Copy)) {
        return Err(refused(format!(
            "group '{name}': nobody took over. `tidemark rejoin {name}` makes this side primary as before"
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tidemark_common::api::types::Failover;

    use super::*;
    use crate::service::tests::{Faults, add_primary, appliance};

    /// Invariant 8: who was asked to take over may have done so with the next generation, and does not answer.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_side_that_is_primary_again_is_above_who_was_asked_to_take_over() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        tokio::task::block_in_place(|| primary.stop());
        group.keeper.update(|record| record.fence(1, 0)).unwrap();
        let silent = BTreeMap::from([("west".to_owned(), Other::silent("it is off".into()))]);
        assert_eq!(appliance.record_as_primary(&group, 1, &silent), Ok(3));
    }

    /// The service had to be restarted, with all its other groups.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_side_that_is_primary_again_and_did_not_start_is_started_by_a_failover() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        tokio::task::block_in_place(|| primary.stop());
        // Its ring's folder has no place to be.
        let rings = appliance.ring_folder();
        std::fs::remove_dir_all(&rings).unwrap();
        std::fs::write(&rings, "in the way").unwrap();
        let told = appliance.start_serving(&group).unwrap_err();
        assert!(told.message.contains("`tidemark failover g`"), "{told:?}");
        std::fs::remove_file(&rings).unwrap();
        let told = appliance.fail_over("g", &Failover::default()).await.unwrap_err();
        assert!(told.message.contains("primary here now"), "{told:?}");
        assert!(appliance.primary("g").is_ok());
        appliance.stop_groups().await;
    }
}
