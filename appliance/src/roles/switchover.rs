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

use tidemark_common::api::types::{ErrorBody, Failover, PairState, Switchover, SwitchoverReport};
use tidemark_common::catalog::RoleRecord;
use tidemark_common::ids::Generation;
use tidemark_common::link::Connection;
use tidemark_common::wire::handshake::{Versions, agree};
use tidemark_common::wire::message::{Message, Refusal, Refused, TakeOver};
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Pair;

use super::appliance::{Appliance, Engine, Group, Volume, failed, refused};
use super::rejoin::{answer, unexpected};

/// Hosts that are inside a volume's door come out within this time, or nothing is switched.
const DOOR_TIMEOUT: Duration = Duration::from_secs(10);
/// Between two looks at the copy.
const LOOK: Duration = Duration::from_millis(5);

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
            let guard = tokio::time::timeout(DOOR_TIMEOUT, volume.door.hold()).await;
            held.push(guard.map_err(|_| {
                refused(format!("requests to volume '{}' do not end: nothing was changed", volume.file.name))
            })?);
        }
        let held_at = self.clock.monotonic();
        let marker = primary.cut(Some("switchover".into())).await.map_err(failed)?;
        self.wait_permitted(&pair, marker.number, Duration::from_millis(request.timeout_ms)).await?;
        let generation = self.hand_over(&group, &primary, &request.to, marker.number).await?;
        // Certain now: hosts are told that it is not served here.
        for volume in &volumes {
            volume.close(format!("group '{name}' was switched over to '{}': open it there", request.to));
        }
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

    async fn wait_permitted(&self, pair: &Pair, marker: u64, at_most: Duration) -> Result<(), ErrorBody> {
        let deadline = self.clock.monotonic() + at_most;
        while pair.remote().permitted_marker < marker {
            if self.clock.monotonic() >= deadline {
                return Err(refused(format!(
                    "'{}' had not permitted marker {marker} after {at_most:?}: nothing was changed, hosts go on",
                    pair.peer()
                )));
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
        let by = Generation(generation + 1);
        group.keeper.update(|record| record.role = RoleRecord::Fenced { by_generation: by.0 }).map_err(failed)?;
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
        match answered {
            Ok(Message::Agreed { generation }) => {
                *group.engine.write() = Engine::Fenced { by: Generation(generation) };
                Ok(generation)
            }
            // It says that it did not; only what it could not bring to an end is not known.
            Ok(message @ Message::Refused(_)) if is_certain(&message) => {
                group.keeper.update(|record| record.role = RoleRecord::Primary).map_err(failed)?;
                Err(unexpected(peer, message))
            }
            other => {
                let why = other.map_or_else(|error| error.message, |message| unexpected(peer, message).message);
                *group.engine.write() = Engine::Fenced { by };
                for member in group.keeper.get().volumes {
                    if let Ok(volume) = self.volume(&member.name) {
                        volume.close(format!("whether '{peer}' has taken over is not known yet"));
                    }
                }
                tokio::task::block_in_place(|| primary.stop());
                Err(failed(format!(
                    "whether '{peer}' has taken over is not known ({why}): this side serves nothing. `tidemark rejoin {}` asks it \
                     again, and makes this side its copy, or primary as before",
                    group.keeper.name()
                )))
            }
        }
    }

    /// The copy's side: takes over at exactly that marker.
    pub(crate) async fn let_take_over(&self, connection: &Connection, request: &TakeOver) -> Result<u64, Refused> {
        agree(Versions::OURS, Versions { min: request.version_min, max: request.version_max })?;
        let here = &self.config.name;
        let refuse = |refusal, generation, message| Refused { refusal, message, generation };
        let group = self.group_asked_for(&request.group)?;
        // From the first look to the end of it nobody says that this side has not taken over.
        let _alone = self.changing.lock().await;
        let (name, record) = (group.keeper.name(), group.keeper.get());
        let Engine::Secondary(secondary) = group.engine.read().clone() else {
            return Err(refuse(Refusal::Conflict, record.generation, format!("group '{name}' is no copy on '{here}'")));
        };
        if record.primary != Some(connection.peer().0) || record.generation != request.generation {
            let message = format!("group '{name}' on '{here}' is the copy of another appliance or generation");
            return Err(refuse(Refusal::Conflict, record.generation, message));
        }
        let permitted = secondary.permitted().map_or(0, |permitted| permitted.marker.number);
        if permitted != request.marker {
            let message = format!("'{here}' stands at marker {permitted} of group '{name}', not at {}", request.marker);
            return Err(refuse(Refusal::Conflict, record.generation, message));
        }
        if request.marker <= group.denied.load(Ordering::Acquire) {
            let message = format!("'{here}' has said meanwhile that it is the copy of group '{name}' still");
            return Err(refuse(Refusal::Conflict, record.generation, message));
        }
        let taken = self.fail_over_alone(&name, &Failover { force: true, ..Failover::default() }).await;
        let report = taken.map_err(|error| refuse(Refusal::Unready, record.generation, error.message))?;
        Ok(report.generation)
    }
}

const fn is_certain(message: &Message) -> bool {
    matches!(message, Message::Refused(Refused { refusal, .. }) if !matches!(refusal, Refusal::Unready))
}

/// The pair to switch to: it has everything but the last moment.
fn ready_pair(primary: &Primary, name: &str, to: &str) -> Result<Arc<Pair>, ErrorBody> {
    let pair = primary.pair(to).ok_or_else(|| refused(format!("group '{name}' is not paired with '{to}'")))?;
    if let Some(other) = primary.pairs().iter().find(|pair| pair.peer() != to) {
        return Err(refused(format!(
            "group '{name}' is also paired with '{}', which '{to}' would know nothing of: delete that pair first",
            other.peer()
        )));
    }
    let status = pair.status();
    if !status.connected || !matches!(status.state, PairState::Paired | PairState::CatchingUp) {
        let why = status.reason.map(|reason| format!(": {reason}")).unwrap_or_default();
        return Err(refused(format!(
            "the pair with '{to}' is {}{}{why}. When that side is lost for good, use `tidemark failover {name}` there",
            status.state,
            if status.connected { "" } else { " and not connected" },
        )));
    }
    Ok(pair)
}
