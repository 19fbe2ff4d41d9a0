//! A planned change of roles: nothing is lost, and hosts wait for a moment instead of meeting an error until it is certain.
//!
//! ```text
//! primary                                                   copy
//!   doors held, everything captured, a last marker
//!   waits until the copy permits it
//!   durably fenced: it will not serve again unless the copy says that it did not take over
//!   ── TakeOver: that marker ──────────────────────────────────▶ is it the newest permitted here? failover
//!   ◀────────────────────────────────────── Agreed | Refused ──
//!   returns as the copy (rejoin) | serves again
//! ```
//!
//! When the answer is lost, the old primary stays fenced: `rejoin` asks again, and either returns as the copy or, when the
//! other side is still the copy, serves again. The other side says that only when no take-over is under way there, and refuses
//! from then on whatever was asked before (`denied`).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tidemark_common::api::types::{ErrorBody, ErrorKind, Failover, PairState, Switchover, SwitchoverReport};
use tidemark_common::catalog::RoleRecord;
use tidemark_common::ids::Generation;
use tidemark_common::link::Connection;
use tidemark_common::wire::handshake::{Versions, agree};
use tidemark_common::wire::message::{Message, Refusal, Refused, TakeOver};
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Pair;

use super::appliance::{Appliance, Engine, Group, Volume, failed, not_paired, refuse, refused};
use super::rejoin::{ANSWER_TIMEOUT, answer, unexpected};

/// Between two looks at the copy.
const LOOK: Duration = Duration::from_millis(5);
/// The copy's side begins to take over within this time, or says for certain that it does not: while its primary listens still, which stays fenced when
/// it hears nothing.
const BEGINS_WITHIN: Duration = Duration::from_secs(15);
const _: () = assert!(BEGINS_WITHIN.as_secs() < ANSWER_TIMEOUT.as_secs());

impl Appliance {
    /// `switchover`.
    pub(crate) async fn switch_over(&self, name: &str, request: &Switchover) -> Result<SwitchoverReport, ErrorBody> {
        let _alone = self.changing.lock().await;
        let begin = self.clock.monotonic();
        let group = self.group(name)?;
        let primary = self.primary(name)?;
        let members = group.keeper.get().volumes;
        // The other side would serve it and not know.
        members.iter().try_for_each(|member| self.refuse_half_restored(&member.name))?;
        let pair = ready_pair(&primary, name, &request.to)?;
        let volumes: Vec<Arc<Volume>> =
            members.iter().map(|member| self.volume(&member.name)).collect::<Result<_, _>>()?;
        let mut held = Vec::new();
        for volume in &volumes {
            held.push(volume.hold_hosts().await?);
        }
        let held_at = self.clock.monotonic();
        let marker = primary.cut(Some("switchover".into())).await.map_err(failed)?;
        let at_most = Duration::from_millis(request.timeout_ms);
        self.wait_permitted(&pair, marker.number, (held_at, at_most)).await?;
        let generation = self.hand_over(&group, &primary, &request.to, marker.number).await?;
        // Certain now: hosts are told that it is not served here.
        drop(held);
        let hosts_waited = self.clock.monotonic().saturating_sub(held_at);
        tokio::task::block_in_place(|| primary.stop());
        let returned = self.return_to_new_primary(name).await;
        if let Err(error) = &returned {
            tracing::warn!(group = name, error = %error.message, "switched over; `tidemark rejoin` makes this side the copy");
        }
        Ok(SwitchoverReport {
            group: name.into(),
            primary: request.to.clone(),
            generation,
            marker: marker.number,
            hosts_waited_ms: hosts_waited.as_secs_f64() * 1000.0,
            took_ms: self.clock.monotonic().saturating_sub(begin).as_secs_f64() * 1000.0,
            problem: returned.err().map(|error| error.message),
        })
    }

    /// Counted from when hosts began to wait.
    async fn wait_permitted(
        &self,
        pair: &Pair,
        marker: u64,
        (since, at_most): (Duration, Duration),
    ) -> Result<(), ErrorBody> {
        let deadline = since + at_most;
        while pair.remote().permitted_marker < marker {
            if self.clock.monotonic() >= deadline {
                let message = format!(
                    "'{}' had not permitted marker {marker} after {at_most:?}: nothing was changed, hosts go on",
                    pair.peer()
                );
                return Err(ErrorBody::new(ErrorKind::Timeout, message));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Asks the copy to take over; the new generation. Fenced before it is asked, so that two primaries are impossible.
    async fn hand_over(
        &self,
        group: &Group,
        primary: &Arc<Primary>,
        peer: &str,
        marker: u64,
    ) -> Result<u64, ErrorBody> {
        let generation = group.keeper.generation().0;
        let (connection, control, mut answers) = self.call(peer).await?;
        let now_ns = self.now_ns();
        // By its own generation: nobody has told of a higher one (`Group::unanswered`).
        group.keeper.update(|record| record.fence(generation, now_ns)).map_err(failed)?;
        let request = TakeOver {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            group: group.keeper.id().0,
            generation,
            marker,
        };
        let sent = control.send(&Message::TakeOver(request)).await;
        let answered = match sent {
            Ok(()) => answer(&mut answers, peer).await,
            Err(error) => Err(failed(error)),
        };
        connection.close("answered");
        self.act_upon(group, primary, peer, Answered::of(answered, peer, generation))
    }

    /// What this side is from here on; the generation of the other one, when that took over because it was asked.
    fn act_upon(&self, group: &Group, primary: &Primary, peer: &str, answered: Answered) -> Result<u64, ErrorBody> {
        let name = group.keeper.name();
        match answered.unless_met(group.met(), peer) {
            Answered::TookOver(generation) => {
                self.change_engine(group, Engine::Fenced { by: Generation(generation) });
                Ok(generation)
            }
            Answered::TookOverBefore { by, message } => {
                // First of all: whatever the catalogue takes, the other side serves.
                self.serve_no_more(group, primary, Generation(by));
                let now_ns = self.now_ns();
                if let Err(error) = group.keeper.update(|record| record.fence(by, now_ns)) {
                    tracing::error!(group = %name, %error, by, "fenced, and by which generation could not be recorded: a rejoin asks for it");
                }
                Err(refused(format!("{message}. This side is fenced: `tidemark rejoin {name}` makes it the copy")))
            }
            Answered::DidNot(message) => {
                let recorded = group.keeper.update(|record| record.role = RoleRecord::Primary);
                recorded.map_err(|error| {
                    failed(format!(
                        "{message}. This side goes on as primary, and that could not be recorded ({error}): until it is, a restart leaves it fenced, and \
                         `tidemark rejoin {name}` makes it primary again. Make room: then it is recorded by itself"
                    ))
                })?;
                Err(refused(message))
            }
            Answered::Unknown(why) => {
                let by = group.keeper.generation();
                self.serve_no_more(group, primary, by);
                Err(failed(format!(
                    "whether '{peer}' has taken over is not known ({why}): this side serves nothing. `tidemark rejoin {name}` asks it \
                     again, and makes this side its copy, or primary as before"
                )))
            }
        }
    }

    fn serve_no_more(&self, group: &Group, primary: &Primary, by: Generation) {
        self.change_engine(group, Engine::Fenced { by });
        tokio::task::block_in_place(|| primary.stop());
    }

    /// The copy's side: takes over at exactly that marker.
    pub(crate) async fn let_take_over(&self, connection: &Connection, request: &TakeOver) -> Result<u64, Refused> {
        agree(Versions::OURS, Versions { min: request.version_min, max: request.version_max })?;
        self.take_over_from(connection.peer().0, request, BEGINS_WITHIN).await
    }

    async fn take_over_from(&self, caller: [u8; 32], request: &TakeOver, within: Duration) -> Result<u64, Refused> {
        let begin = self.clock.monotonic();
        let here = &self.config.name;
        let group = self.group_asked_for(&request.group)?;
        // From the first look to the end of it nobody says that this side has not taken over.
        let Ok(_alone) = tokio::time::timeout(within, self.changing.lock()).await else {
            // What is being changed may be just this: a failover that an operator has asked for.
            let is_copy = matches!(&*group.engine.read(), Engine::Secondary(copy) if !copy.state().is_stopping());
            let refusal = if is_copy { Refusal::Conflict } else { Refusal::Unready };
            let message = format!("something else is being changed on '{here}': try again");
            return Err(refuse(refusal, group.keeper.generation().0, message));
        };
        let (name, record) = (group.keeper.name(), group.keeper.get());
        let conflict = |message| refuse(Refusal::Conflict, record.generation, message);
        let secondary = group.copy_for(caller, request.generation, here).map_err(conflict)?;
        let permitted = secondary.permitted().map_or(0, |permitted| permitted.marker.number);
        if permitted != request.marker {
            let message = format!("'{here}' stands at marker {permitted} of group '{name}', not at {}", request.marker);
            return Err(conflict(message));
        }
        if request.marker <= group.denied.load(Ordering::Acquire) {
            return Err(conflict(format!("'{here}' has said meanwhile that it is the copy of group '{name}' still")));
        }
        let request = Failover { force: true, ..Failover::default() };
        let left = within.saturating_sub(self.clock.monotonic().saturating_sub(begin));
        let taken = self.fail_over_alone(&name, &request, left).await;
        let report = taken.map_err(|error| {
            // Nobody else changes it: one that is the copy has not taken over. Of any other, what was recorded decides.
            let is_copy = matches!(&*group.engine.read(), Engine::Secondary(_));
            let refusal = if is_copy { Refusal::Conflict } else { Refusal::Unready };
            refuse(refusal, record.generation, format!("'{here}' has not taken over: {}", error.message))
        })?;
        Ok(report.generation)
    }
}

impl Group {
    /// Of a group that is fenced by this generation: what is said as long as nobody has told with which one the other side has taken over,
    /// nor whether it has. `None`: it is told.
    pub(crate) fn unanswered(&self, by: Generation) -> Option<String> {
        let record = self.keeper.get();
        if by.0 > record.generation {
            return None;
        }
        let (name, peer) = (&record.name, record.pairs.first().map_or("PEER", |pair| pair.peer.as_str()));
        Some(format!(
            "a switchover to '{peer}' did not come to its end here. Whether '{peer}' has taken over is not known, nothing is served here, and \
             perhaps nobody serves: `tidemark rejoin {name}` here asks it"
        ))
    }
}

/// What the copy's answer to "take over" says of who is primary.
#[derive(Debug, PartialEq, Eq)]
enum Answered {
    /// It took over, with this generation.
    TookOver(u64),
    /// It had taken over already, or follows who has.
    TookOverBefore { by: u64, message: String },
    /// It did not, and will not because of this.
    DidNot(String),
    /// Only what it could not bring to an end is not known.
    Unknown(String),
}

impl Answered {
    fn of(answer: Result<Message, ErrorBody>, peer: &str, generation: u64) -> Self {
        match answer {
            Ok(Message::Agreed { generation }) => Self::TookOver(generation),
            Ok(Message::Refused(Refused { generation: by, message, .. })) if by > generation => {
                Self::TookOverBefore { by, message }
            }
            Ok(Message::Refused(Refused { refusal, message, .. })) if !matches!(refusal, Refusal::Unready) => {
                Self::DidNot(message)
            }
            Ok(message) => Self::Unknown(unexpected(peer, message).message),
            Err(error) => Self::Unknown(error.message),
        }
    }

    /// The same, unless the other side has told otherwise: the pair calls it meanwhile, and a service that took over and was killed may be there
    /// again before the question is given up.
    fn unless_met(self, met: Option<Generation>, peer: &str) -> Self {
        match (self, met) {
            (Self::Unknown(why), Some(by)) => Self::TookOverBefore {
                by: by.0,
                message: format!("'{peer}' has taken over, and its answer was lost ({why})"),
            },
            (answered, _) => answered,
        }
    }
}

/// The pair to switch to: it has everything but the last moment.
fn ready_pair(primary: &Primary, name: &str, to: &str) -> Result<Arc<Pair>, ErrorBody> {
    let pair = primary.pair(to).ok_or_else(|| refused(not_paired(name, to)))?;
    if let Some(other) = primary.pairs().iter().find(|pair| pair.peer() != to) {
        return Err(refused(format!(
            "group '{name}' is also paired with '{other}', which '{to}' would know nothing of: `tidemark pair delete {name} --to {other}` first",
            other = other.peer()
        )));
    }
    let status = pair.status();
    if !status.connected || !matches!(status.state, PairState::Paired | PairState::CatchingUp) {
        let why = status.reason.map(|reason| format!(" ({reason})")).unwrap_or_default();
        let advice = match status.state {
            PairState::FailedOver | PairState::Fenced => {
                format!("'{to}' is the copy again after `tidemark rejoin {name}` there, and a copy of what differs")
            }
            PairState::InitialCopy | PairState::Differential | PairState::Resync => {
                "try again when it is paired: `tidemark status --watch` shows it".into()
            }
            PairState::Suspended => format!("`tidemark pair resume {name} --to {to}` first"),
            PairState::Error => "do what that says first".into(),
            PairState::Paired | PairState::CatchingUp => format!("start '{to}', or mend the link to it"),
        };
        return Err(refused(format!(
            "the pair with '{to}' is {}{}{why}. Nothing was changed: {advice}",
            status.state,
            if status.connected { "" } else { " and not connected" },
        )));
    }
    refuse_in_trouble(to, pair.trouble())?;
    Ok(pair)
}

/// What arrives there is safe, and yet it could not serve hosts for long: what they write does not get into its volumes.
fn refuse_in_trouble(to: &str, trouble: Option<String>) -> Result<(), ErrorBody> {
    trouble.map_or(Ok(()), |what| {
        Err(refused(format!(
            "'{to}' says: {what}. Nothing was changed: mend that on '{to}' first, as by making room there"
        )))
    })
}

#[cfg(test)]
mod tests {
    use tidemark_common::catalog::PairRecord;
    use tidemark_common::nbd::Export;

    use super::*;
    use crate::roles::give_up::tests::add_copy_with_history;
    use crate::service::tests::{Faults, add_primary, appliance, copy_of, with_copy};

    const PRIMARY: [u8; 32] = [1; 32];

    /// What the primary of a copy asks of it.
    fn take_over(group: &Group) -> TakeOver {
        group.keeper.update(|record| record.primary = Some(PRIMARY)).unwrap();
        TakeOver {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            group: group.keeper.id().0,
            generation: group.keeper.generation().0,
            marker: copy_of(group).permitted().unwrap().marker.number,
        }
    }

    /// It waited for its disk for longer than its primary for an answer: nobody served.
    #[test]
    fn a_copy_whose_disk_hangs_says_in_time_and_for_certain_that_it_does_not_take_over() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let _inside = runtime.enter();
        let running = with_copy(directory.path(), &faults, add_copy_with_history);
        let (appliance, group, _) = runtime.block_on(running);
        let request = take_over(&group);
        // A copy that stops records how far it is.
        let hang = faults.hang.lock();
        let answered = runtime.block_on(appliance.take_over_from(PRIMARY, &request, Duration::from_millis(1)));
        drop(hang);
        let refused = answered.unwrap_err();
        let in_time = refused.message.contains("has not taken over") && !refused.message.contains("within 30s");
        assert!(in_time, "{refused:?}");
        let answered = Answered::of(Ok(Message::Refused(refused)), "west", request.generation);
        assert!(matches!(answered, Answered::DidNot(_)), "{answered:?}");
        while copy_of(&group).state().is_stopping() {
            std::thread::yield_now();
        }
        runtime.block_on(appliance.stop_groups());
    }

    /// It took over when its primary had gone away from the question.
    #[tokio::test(flavor = "multi_thread")]
    async fn a_copy_that_waits_for_other_changes_takes_over_in_time_or_not_at_all() {
        let directory = tempfile::tempdir().unwrap();
        let (appliance, group, _) = with_copy(directory.path(), &Arc::default(), add_copy_with_history).await;
        let request = take_over(&group);
        let alone = appliance.changing.lock().await;
        let asked = || appliance.take_over_from(PRIMARY, &request, Duration::from_millis(1));
        assert_eq!(asked().await.unwrap_err().refusal, Refusal::Conflict);
        // Now it is just this that is changed.
        copy_of(&group).stop_at_once().await;
        assert_eq!(asked().await.unwrap_err().refusal, Refusal::Unready);
        drop(alone);
    }

    /// Invariant 8: the other side serves, whether this one can record that or not.
    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_was_replaced_serves_nothing_though_that_cannot_be_recorded() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let volume = add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        volume.door.read(0, &mut [0; 512]).await.unwrap();
        faults.full.store(true, Ordering::Release);
        let before = Answered::TookOverBefore { by: 5, message: "so it says".into() };
        appliance.act_upon(&group, &primary, "west", before).unwrap_err();
        assert!(volume.door.read(0, &mut [0; 512]).await.is_err(), "hosts belong there");
        assert!(matches!(&*group.engine.read(), Engine::Fenced { by: Generation(5) }));
        faults.full.store(false, Ordering::Release);
        appliance.record_roles();
        let recorded = appliance.catalog.group("g").unwrap().unwrap().role;
        assert_eq!(recorded, RoleRecord::Fenced { by_generation: 5 }, "as soon as there is room");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn whoever_was_not_replaced_serves_on_and_says_what_could_not_be_recorded() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        let volume = add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        group.keeper.update(|record| record.fence(2, 0)).unwrap();
        faults.full.store(true, Ordering::Release);
        let did_not = || Answered::DidNot("so it says".into());
        let error = appliance.act_upon(&group, &primary, "west", did_not()).unwrap_err();
        assert!(error.message.contains("so it says") && error.message.contains("rejoin g"), "{error:?}");
        volume.door.read(0, &mut [0; 512]).await.unwrap();
        appliance.record_roles();
        faults.full.store(false, Ordering::Release);
        let recorded = || appliance.catalog.group("g").unwrap().unwrap().role;
        assert_eq!(recorded(), RoleRecord::Fenced { by_generation: 2 });
        appliance.record_roles();
        assert_eq!(recorded(), RoleRecord::Primary, "as soon as there is room");
        let error = appliance.act_upon(&group, &primary, "west", did_not()).unwrap_err();
        assert_eq!((error.message.as_str(), group.keeper.get().role), ("so it says", RoleRecord::Primary));
        tokio::task::block_in_place(|| primary.stop());
    }

    /// Its hosts would have gone to a side whose volumes take nothing.
    #[test]
    fn a_copy_that_cannot_write_its_volumes_is_not_switched_to() {
        let told = refuse_in_trouble("west", Some("write volume 'big' at 0: no space".into())).unwrap_err();
        assert!(
            told.message.starts_with("'west' says: write volume 'big' at 0: no space. Nothing was changed"),
            "{told:?}"
        );
        assert_eq!(refuse_in_trouble("west", None), Ok(()));
    }

    /// By status, to who runs commands, and to hosts, of a group 'g' that is fenced with its volume 'v'.
    async fn all_that_is_said(appliance: &Appliance) -> [String; 4] {
        let status = appliance.group_status("g").unwrap().problem.unwrap();
        let failover = appliance.fail_over("g", &Failover::default()).await.unwrap_err().message;
        let Err(on_primary) = appliance.primary("g") else { panic!("it is fenced") };
        let Err(to_hosts) = appliance.served("v") else { panic!("it is fenced") };
        [status, failover, on_primary.message, to_hosts]
    }

    /// Until somebody tells of a higher generation, nobody is said to have one: perhaps nobody serves, and hosts were sent to a copy.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_asked_its_copy_to_take_over_in_vain_says_that_nothing_is_known() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        let asked = group.keeper.update(|record| {
            record.pairs.push(PairRecord::new("west", 0));
            record.fence(record.generation, 0);
        });
        asked.unwrap();
        appliance.act_upon(&group, &primary, "west", Answered::Unknown("it is silent".into())).unwrap_err();
        appliance.record_roles();
        let recorded = || appliance.catalog.group("g").unwrap().unwrap().role;
        assert_eq!(recorded(), RoleRecord::Fenced { by_generation: 1 }, "as a restart finds it");
        for said in all_that_is_said(&appliance).await {
            assert!(said.contains("Whether 'west' has taken over is not known") && said.contains("rejoin g"), "{said}");
            assert!(!said.contains("generation"), "{said}");
        }
        // A return that did not end has heard of it.
        group.met.store(2, Ordering::Release);
        appliance.fenced_again(&group, Generation(1));
        for said in all_that_is_said(&appliance).await {
            assert!(said.contains("generation 2 runs on") && !said.contains("not known"), "{said}");
        }
        appliance.record_roles();
        assert_eq!(recorded(), RoleRecord::Fenced { by_generation: 2 });
    }

    /// It took over, was killed and started again, and answered the next call of the pair: nobody was said to serve, and hosts waited for that.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_was_told_by_the_next_call_that_it_is_replaced_says_so() {
        let (directory, faults) = (tempfile::tempdir().unwrap(), Arc::new(Faults::default()));
        let appliance = appliance(directory.path(), &faults);
        add_primary(&appliance, "g", "v").await;
        let (group, primary) = (appliance.group("g").unwrap(), appliance.primary("g").unwrap());
        let asked = group.keeper.update(|record| {
            record.pairs.push(PairRecord::new("west", 0));
            record.fence(record.generation, 0);
        });
        asked.unwrap();
        // As its call does, while the question stands.
        group.met.store(2, Ordering::Release);
        let unknown = Answered::Unknown("it is silent".into());
        let told = appliance.act_upon(&group, &primary, "west", unknown).unwrap_err().message;
        assert!(told.contains("'west' has taken over") && told.contains("it is silent"), "{told}");
        for said in all_that_is_said(&appliance).await {
            assert!(said.contains("generation 2 runs on") && !said.contains("not known"), "{said}");
        }
        let recorded = appliance.catalog.group("g").unwrap().unwrap().role;
        assert_eq!(recorded, RoleRecord::Fenced { by_generation: 2 });
    }

    /// Invariant 8: a side that was told of a higher generation serves no more, whatever else it was told.
    #[test]
    fn whoever_hears_of_a_higher_generation_stays_fenced() {
        let refused = |refusal, generation| {
            let said = Refused { refusal, message: "so it says".into(), generation };
            Answered::of(Ok(Message::Refused(said)), "west", 4)
        };
        for refusal in [Refusal::Conflict, Refusal::Fenced, Refusal::Unready] {
            let before = Answered::TookOverBefore { by: 5, message: "so it says".into() };
            assert_eq!(refused(refusal, 5), before, "{refusal:?}");
        }
        assert_eq!(refused(Refusal::Conflict, 4), Answered::DidNot("so it says".into()));
        assert_eq!(refused(Refusal::Unready, 4), Answered::Unknown("so it says".into()));
        assert_eq!(Answered::of(Ok(Message::Agreed { generation: 5 }), "west", 4), Answered::TookOver(5));
        assert!(matches!(Answered::of(Err(failed("it went silent")), "west", 4), Answered::Unknown(_)));
    }
}
