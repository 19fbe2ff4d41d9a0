//! Which engine runs for which group on this appliance, and the volumes they stand on.
//!
//! Reading order: `appliance` (what there is), `door` (what hosts hold), `volumes`, `offers` and `groups` (what operators change),
//! `peers` (who may come in), `strangers` (who was refused), `accept` (peers that come in; `adopt`: as the primary of a copy; `suspended`: what they say that send nothing), `failover`, `rejoin` (`dirty`: what an old primary has alone, as it tells it), `give_up`, `unrecorded` (what a group is and the catalogue did not take), `images`, `image_commands`, `image_moments` and `image_ends` (T0 copies, clones), `local_pairs` (sources and targets), `drill` and `drill_check` (rehearsals), `exports` (the NBD names), `control` (the API's side of all that).

mod accept;
mod adopt;
pub(crate) mod appliance;
pub(crate) mod backups;
mod control;
mod dirty;
mod door;
pub(crate) mod drill;
pub(crate) mod drill_check;
pub(crate) mod drill_left;
pub(crate) mod exports;
mod failover;
mod give_up;
mod go_back;
mod groups;
mod image_commands;
mod image_ends;
mod image_moments;
pub(crate) mod images;
pub(crate) mod local_pairs;
mod lost;
mod lost_regions;
pub(crate) mod offers;
mod peers;
mod rejoin;
mod renew;
mod status;
pub(crate) mod strangers;
mod suspended;
mod switchover;
mod take_back;
mod takers;
mod unrecorded;
pub(crate) mod verify;
mod volumes;
