//! The secondary's side: following a write on its way into the copy.
//!
//! [`receive`] (the link) → [`intake`] (verify, journal) → [`permission`] (up to which marker) → [`apply`] (the
//! updater, which [`history`] holds back; [`damage`] is for a journal that cannot be read). [`points`] says which markers are
//! moments of the image, [`state`] is what they share, [`group`] wires them. [`takeover`] and [`returned`] are what becomes of it
//! when roles change; `staging` says whether a copy finds room beside what a side that returned still is.

pub mod apply;
pub mod as_of;
pub mod damage;
pub mod group;
pub mod history;
pub mod image_point;
pub mod intake;
pub mod permission;
pub mod points;
pub mod receive;
pub mod returned;
mod staging;
pub mod state;
pub mod takeover;
