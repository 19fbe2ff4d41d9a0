//! The moments that images begin at: a marker of one group, or one moment of several. Groups come in; what goes out keeps their updaters
//! where the images begin, until these have begun.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tidemark_common::api::types::ErrorBody;
use tidemark_common::clock::{from_unix_ns, unix_ns};
use tidemark_common::ids::GroupId;
use tidemark_common::t0::ImagePoint;
use tidemark_primary::joint;
use tidemark_secondary::group::Secondary;
use tidemark_secondary::image_point::{Asked, PointError};
use tidemark_secondary::permission::Permitted;

use super::appliance::{Appliance, Engine, Group, failed, invalid, refused};
use super::image_commands::Wanted;

/// The moments of groups.
pub(crate) type Points = BTreeMap<GroupId, ImagePoint>;

impl Appliance {
    /// One moment of all that is wanted.
    pub(super) async fn points_of(&self, name: &str, wanted: &[Wanted], asked: Asked) -> Result<Points, ErrorBody> {
        if let [one] = wanted {
            return Ok(BTreeMap::from([(one.group.keeper.id(), self.image_point(&one.group, name, asked).await?)]));
        }
        let groups: Vec<_> = wanted.iter().map(|wanted| Arc::clone(&wanted.group)).collect();
        self.refuse_without_common_moment(&groups)?;
        self.image_points(&groups, name).await
    }

    /// The moment of an image; the updater stands there until it is begun.
    pub(crate) async fn image_point(&self, group: &Group, name: &str, asked: Asked) -> Result<ImagePoint, ErrorBody> {
        let engine = group.engine.read().clone();
        let of = group.keeper.name();
        match engine {
            Engine::Secondary(secondary) => {
                let now = self.clock.wall();
                tokio::task::block_in_place(|| held_point(&secondary, &of, asked, now)).map(|(_, point)| point)
            }
            _ => {
                let primary = self.primary(&of)?;
                if asked != Asked::Newest {
                    return Err(refused(format!(
                        "group '{of}' is primary here, and an image of it shows a marker that is cut for it, not {asked}: leave --at and \
                         --marker out, or ask on its copy, which may hold older ones"
                    )));
                }
                primary.image_point(Some(format!("image {name}"))).await.map_err(failed)
            }
        }
    }

    /// The moments of several groups. Those that are primary here have one and the same: all their gates are closed together. A
    /// copy has the moment of its own primary.
    pub(crate) async fn image_points(&self, groups: &[Arc<Group>], name: &str) -> Result<Points, ErrorBody> {
        let mut points = BTreeMap::new();
        let mut primaries = Vec::new();
        for group in groups {
            let engine = group.engine.read().clone();
            match engine {
                Engine::Primary(primary) if groups.len() > 1 => primaries.push(primary),
                _ => drop(points.insert(group.keeper.id(), self.image_point(group, name, Asked::Newest).await?)),
            }
        }
        let tag = format!("image {name}");
        points.extend(joint::image_points(&primaries, Some(&tag)).await.map_err(failed)?);
        Ok(points)
    }

    /// Volumes of several groups have one moment where these are primary.
    pub(crate) fn refuse_without_common_moment(&self, groups: &[Arc<Group>]) -> Result<(), ErrorBody> {
        let copy = groups.iter().find(|group| !matches!(&*group.engine.read(), Engine::Primary(_)));
        match copy.filter(|_| groups.len() > 1) {
            Some(copy) => Err(refused(format!(
                "group '{}' is not primary here, and copies of several groups have no common moment: name volumes of one group, or \
                 do it where the groups are primary",
                copy.keeper.name()
            ))),
            None => Ok(()),
        }
    }
}

/// The moment that a request names.
pub(crate) fn asked(marker: Option<u64>, time: Option<Timestamp>) -> Result<Asked, ErrorBody> {
    match (marker, time) {
        (None, None) => Ok(Asked::Newest),
        (Some(number), None) => Ok(Asked::Marker(number)),
        (None, Some(time)) => Ok(Asked::Time(unix_ns(time))),
        (Some(_), Some(_)) => Err(invalid("name a marker or a time, not both")),
    }
}

/// A moment that a copy holds.
pub(crate) fn held_point(
    secondary: &Secondary,
    of: &str,
    asked: Asked,
    now: Timestamp,
) -> Result<(Permitted, ImagePoint), ErrorBody> {
    refuse_to_come(secondary, of, asked, now)?;
    secondary.image_point(asked).map_err(|error| {
        let more = match &error {
            PointError::NotHeld { asked, newest, .. } => not_held(of, *asked, newest.0),
            _ => String::new(),
        };
        refused(format!("group '{of}': {error}{more}"))
    })
}

/// What a person does about a moment that is not held; a history keeps those that have been here.
fn not_held(of: &str, asked: Asked, newest: u64) -> String {
    match asked {
        Asked::Marker(number) if number > newest => {
            ". It has not come here yet, or is not cut yet: leave --marker out for the newest".into()
        }
        _ => format!(". `tidemark group set {of} --history 24h` on its primary has older ones kept from then on"),
    }
}

/// A time that has not come is one of a wrong date or zone: whoever names it does not mean the newest marker. Markers have the time of
/// the primary's clock, which may be ahead of the one here.
fn refuse_to_come(secondary: &Secondary, of: &str, asked: Asked, now: Timestamp) -> Result<(), ErrorBody> {
    let Asked::Time(time_ns) = asked else { return Ok(()) };
    if time_ns <= unix_ns(now) {
        return Ok(());
    }
    let held = secondary.held_markers().map_err(failed)?;
    let (Some(newest), Some(oldest)) = (held.first(), held.last()) else { return Ok(()) };
    if time_ns <= unix_ns(newest.time) {
        return Ok(());
    }
    let time = from_unix_ns(time_ns);
    Err(refused(format!(
        "group '{of}': {time:.3} has not come, it is {now:.3} here. Markers {} of {:.3} to {} of {:.3} are held: name one of them or a time \
         between, or leave --at out for the newest",
        oldest.number, oldest.time, newest.number, newest.time
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A history was advised for a marker that nobody has cut.
    #[test]
    fn a_history_is_advised_for_what_is_older_alone() {
        let told = not_held("g", Asked::Marker(999), 40);
        assert!(told.contains("not cut yet") && !told.contains("--history"), "{told}");
        for asked in [Asked::Marker(3), Asked::Time(7)] {
            assert!(not_held("g", asked, 40).contains("`tidemark group set g --history 24h`"));
        }
    }
}
