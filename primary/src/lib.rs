//! The primary's side: following a write.
//!
//! [`volume`] (a host's request) → [`buffer`] (gate and ring) → [`drain`] (fold, compress, journal, cut) →
//! [`writeback`] (the local updater) and [`ship`] (a pair's shipper, which carries what `conversation` says, and `suspended` while
//! it sends nothing). [`group`] wires them.

pub mod buffer;
pub mod coalesce;
pub mod commit;
mod conversation;
pub mod cut;
pub mod differences;
pub mod direct;
pub mod drain;
pub mod feeder;
pub mod group;
pub mod image;
pub mod joint;
mod plan;
mod pressure;
pub mod recovery;
#[cfg(test)]
mod rig;
pub mod ring;
mod ring_place;
pub mod ship;
mod suspended;
pub mod throttle;
pub mod verify;
mod view;
pub mod volume;
pub mod watch;
pub mod writeback;
