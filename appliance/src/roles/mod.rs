//! Which engine runs for which group on this appliance, and the volumes they stand on.
//!
//! Reading order:
//!
//! | modules | what they are for |
//! |---|---|
//! | `appliance`, `engine`, `door`, `exports`, `status`, `control` | what there is, what runs for a group and how that changes, what hosts hold, the NBD names, what is shown, the API's side of all that |
//! | `volumes`, `offers`, `groups`, `give_up`, `journal_alone`, `stop_copy` | what operators change, and what they part with |
//! | `peers`, `strangers`, `accept`, `adopt`, `suspended` | who may come in, who was refused, peers that come in: as the primary of a copy, or to say that they send nothing |
//! | `copy_volumes`, `strays` | what a copy lies on; copies of no volume of their group |
//! | `renew`, `unrecorded` | a copy whose journal is damaged; what a group is and the catalogue did not take |
//! | `failover`, `alive`, `switchover`, `rejoin`, `dirty`, `go_back` | changes of roles; whether a primary may live still; what an old primary has alone, as it tells it; going back to what it was |
//! | `take_back`, `takers` | of two primaries the older one chosen; who has taken over |
//! | `lost`, `lost_regions` | what an old primary had alone, kept |
//! | `images`, `image_commands`, `image_moments`, `image_ends` | T0 copies and clones |
//! | `drill`, `drill_check`, `drill_left` | rehearsals, and what must not be left of them |
//! | `local_pairs`, `backups`, `verify` | sources and targets on one appliance; backups and restores; comparisons |
//! | `killed` | tests: the service is killed at every change of its disk |

mod accept;
mod adopt;
mod alive;
pub(crate) mod appliance;
pub(crate) mod backups;
mod control;
mod copy_volumes;
mod dirty;
mod door;
pub(crate) mod drill;
pub(crate) mod drill_check;
pub(crate) mod drill_left;
mod engine;
pub(crate) mod exports;
mod failover;
mod give_up;
mod go_back;
mod groups;
mod image_commands;
mod image_ends;
mod image_moments;
pub(crate) mod images;
mod journal_alone;
#[cfg(test)]
mod killed;
pub(crate) mod local_pairs;
pub(crate) mod lost;
mod lost_regions;
pub(crate) mod offers;
mod peers;
mod rejoin;
mod renew;
mod status;
mod stop_copy;
pub(crate) mod strangers;
mod strays;
mod suspended;
mod switchover;
mod take_back;
mod takers;
mod unrecorded;
pub(crate) mod verify;
mod volume_ends;
mod volumes;
