//! Positions that have to move as long as there is something for them to do. Who owns a position says where it is and whether
//! it is due ([`Movement`]); the [`Watchdog`] remembers since when it has stood. Pure: time comes in.

use std::collections::BTreeMap;
use std::time::Duration;

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// A position that stands for so long though there is something to do is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(60);
/// What is missing over there may grow for a while, as hosts come and go, without anything being wrong.
pub const DIVERGES_AFTER: Duration = Duration::from_secs(600);
/// Between two answers of a comparison the copy may have to apply all that it permitted, and the journal here to be read: what is waited for there
/// has time-outs, which are over by then.
pub const COMPARES_AFTER: Duration = Duration::from_secs(300);

/// A position of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Moving {
    /// Captured writes into the journal.
    Journal,
    /// What the journal holds, counted by a marker.
    Cut,
    /// From the journal to the volumes of a primary.
    WriteBack,
    /// To the other side of a pair: frames of the journal, and the regions of a copy.
    Ship,
    /// The least that a pair that is behind ever had to send: a copy that begins anew for ever ships without getting anywhere.
    Converge,
    /// A comparison with the other side of a pair.
    Verify,
    /// What has arrived at a copy, permitted to it.
    Permit,
    /// What is permitted to the volumes of a copy.
    Apply,
}

impl Moving {
    /// All of them.
    pub const ALL: [Self; 8] = [
        Self::Journal,
        Self::Cut,
        Self::WriteBack,
        Self::Ship,
        Self::Converge,
        Self::Verify,
        Self::Permit,
        Self::Apply,
    ];

    /// As in JSON and labels.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Journal => "journal",
            Self::Cut => "cut",
            Self::WriteBack => "write-back",
            Self::Ship => "ship",
            Self::Converge => "converge",
            Self::Verify => "verify",
            Self::Permit => "permit",
            Self::Apply => "apply",
        }
    }

    /// What it does not do when it stands, for people.
    #[must_use]
    pub const fn stands(self) -> &'static str {
        match self {
            Self::Journal => "nothing of the write buffer reaches the journal",
            Self::Cut => "no marker is cut though hosts have written",
            Self::WriteBack => "nothing of the journal is written back to the volumes",
            Self::Ship => "nothing more arrives at",
            Self::Converge => {
                "hosts write as fast as the link, or the disk over there, takes it: no nearer to the end of what is missing at"
            }
            Self::Verify => "nothing more is compared with",
            Self::Permit => "nothing of what has arrived is permitted to the copy",
            Self::Apply => "nothing of what is permitted is applied to the copy",
        }
    }

    /// How long it may stand.
    #[must_use]
    pub const fn patience(self) -> Duration {
        match self {
            Self::Converge => DIVERGES_AFTER,
            Self::Verify => COMPARES_AFTER,
            Self::Journal | Self::Cut | Self::WriteBack | Self::Ship | Self::Permit | Self::Apply => STUCK_AFTER,
        }
    }
}

/// Where a position is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Movement {
    /// Which one.
    pub moving: Moving,
    /// Of which pair, when it is a pair's.
    pub peer: Option<String>,
    /// Where it is: whatever changes with every step of it.
    pub at: [u64; 3],
    /// Whether there is something to do beyond that.
    pub due: bool,
    /// How long it may rest between two steps although there is: that is no standing.
    pub rests: Duration,
}

/// For how long a position has stood.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Standing {
    /// Which one.
    pub position: Moving,
    /// Of which pair, when it is a pair's.
    pub peer: Option<String>,
    /// Seconds since it last moved, or had nothing to do, without those that it may rest.
    pub seconds: f64,
}

impl Standing {
    /// Whether somebody has to look.
    #[must_use]
    pub fn is_stuck(&self) -> bool {
        self.seconds >= self.position.patience().as_secs_f64()
    }

    /// A line for people.
    #[must_use]
    pub fn text(&self) -> String {
        let peer = self.peer.as_ref().map_or_else(String::new, |peer| format!(" '{peer}'"));
        format!("{}{peer}, for {:.0} s now", self.position.stands(), self.seconds)
    }
}

#[derive(Debug)]
struct Seen {
    at: [u64; 3],
    moved: Duration,
    seconds: f64,
    told: bool,
}

type Positions = BTreeMap<(Moving, Option<String>), Seen>;

/// See the module.
#[derive(Debug, Default)]
pub struct Watchdog {
    groups: Mutex<BTreeMap<String, Positions>>,
}

impl Watchdog {
    /// All positions of a group, as they are now. Positions that are no longer named are forgotten.
    pub fn look(&self, group: &str, movements: Vec<Movement>, now: Duration) {
        let mut groups = self.groups.lock();
        let mut before = groups.remove(group).unwrap_or_default();
        let mut after = Positions::new();
        for Movement { moving, peer, at, due, rests } in movements {
            let key = (moving, peer);
            let seen = before.remove(&key).filter(|seen| due && seen.at == at);
            let mut seen = seen.unwrap_or(Seen { at, moved: now, seconds: 0.0, told: false });
            let stood = now.saturating_sub(seen.moved).saturating_sub(rests);
            seen.seconds = stood.as_secs_f64();
            if stood >= key.0.patience() && !seen.told {
                seen.told = true;
                let text = standing(&key, &seen).text();
                tracing::error!(group, position = key.0.name(), "{text}");
            }
            after.insert(key, seen);
        }
        if !after.is_empty() {
            groups.insert(group.to_owned(), after);
        }
    }

    /// Groups that are no more are forgotten.
    pub fn keep(&self, exists: impl Fn(&str) -> bool) {
        self.groups.lock().retain(|group, _| exists(group));
    }

    /// For how long each position of a group had stood at the last look.
    #[must_use]
    pub fn standing(&self, group: &str) -> Vec<Standing> {
        let groups = self.groups.lock();
        groups.get(group).into_iter().flatten().map(|(key, seen)| standing(key, seen)).collect()
    }
}

fn standing((position, peer): &(Moving, Option<String>), seen: &Seen) -> Standing {
    Standing { position: *position, peer: peer.clone(), seconds: seen.seconds }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn movement(at: u64, due: bool) -> Vec<Movement> {
        let (peer, rests) = (Some("west".into()), Duration::ZERO);
        vec![Movement { moving: Moving::Ship, peer, at: [at, 0, 0], due, rests }]
    }

    fn seconds(dog: &Watchdog) -> Vec<f64> {
        dog.standing("g").iter().map(|standing| standing.seconds).collect()
    }

    #[test]
    fn what_stands_though_it_is_due_is_timed_from_its_last_move() {
        let dog = Watchdog::default();
        for (at, due, now, expected) in [
            (1, true, 10, 0.0),
            (1, true, 12, 2.0),
            (2, true, 13, 0.0),
            (2, true, 60, 47.0),
            (2, true, 73, 60.0),
            (2, false, 74, 0.0),
            (2, true, 80, 6.0),
            (3, true, 90, 0.0),
        ] {
            dog.look("g", movement(at, due), Duration::from_secs(now));
            assert_eq!(seconds(&dog), [expected], "at {at}, due {due}, {now} s");
            assert_eq!(dog.standing("g")[0].is_stuck(), expected >= 60.0);
        }
    }

    #[test]
    fn pairs_and_groups_that_are_gone_are_forgotten() {
        let dog = Watchdog::default();
        dog.look("g", movement(1, true), Duration::from_secs(1));
        dog.look("g", Vec::new(), Duration::from_secs(2));
        dog.look("g", movement(1, true), Duration::from_secs(50));
        assert_eq!(seconds(&dog), [0.0]);
        dog.keep(|group| group != "g");
        assert!(dog.standing("g").is_empty());
    }

    #[test]
    fn a_pair_that_gets_no_nearer_is_given_longer() {
        let dog = Watchdog::default();
        for (now, stuck) in [(1, false), (300, false), (601, true)] {
            let movement = movement(5, true).into_iter().map(|one| Movement { moving: Moving::Converge, ..one });
            dog.look("g", movement.collect(), Duration::from_secs(now));
            assert_eq!(dog.standing("g")[0].is_stuck(), stuck, "{now}");
        }
    }

    #[test]
    fn what_may_rest_between_two_steps_stands_from_the_end_of_its_rest_on() {
        let dog = Watchdog::default();
        for (at, now, expected) in
            [(1, 10, 0.0), (1, 40, 0.0), (1, 41, 1.0), (1, 100, 60.0), (2, 110, 0.0), (2, 140, 0.0)]
        {
            let movement = movement(at, true).into_iter().map(|one| Movement { rests: Duration::from_secs(30), ..one });
            dog.look("g", movement.collect(), Duration::from_secs(now));
            assert_eq!(seconds(&dog), [expected], "at {at}, {now} s");
        }
    }

    #[test]
    fn a_line_names_what_stands() {
        let standing = Standing { position: Moving::Ship, peer: Some("west".into()), seconds: 75.4 };
        assert_eq!(standing.text(), "nothing more arrives at 'west', for 75 s now");
    }
}
