//! The primary's side: following a write.
//!
//! [`volume`] (a host's request) → [`buffer`] (gate and ring) → [`drain`] (fold, compress, journal, cut) →
//! [`writeback`] (the local updater) and [`ship`] (a pair's shipper). [`group`] wires them.

pub mod buffer;
pub mod cut;
pub mod direct;
pub mod drain;
pub mod feeder;
pub mod image;
pub mod ring;
pub mod volume;
pub mod writeback;
