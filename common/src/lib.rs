//! What both sides of Tidemark stand on.
//!
//! Reading order: [`ids`] and [`extent`] (the words), [`record`] (a frame), [`journal`] (where frames lie),
//! [`overlay`] (what is not yet written back), [`updater`] (journal to volume), [`t0`] (images at a moment), [`local_pair`] (pairs on
//! one appliance), [`catalog`] (what the journal does not hold), [`wire`] and [`link`] (what crosses the line), [`nbd`] (how hosts
//! come in), [`api`] (how operators come in).

pub mod api;
pub mod catalog;
pub mod clock;
pub mod config;
pub mod differential;
pub mod extent;
pub mod forecast;
pub mod history;
pub mod identity;
pub mod ids;
pub mod journal;
pub mod keeper;
pub mod lag;
pub mod lease;
pub mod limits;
pub mod link;
pub mod local_pair;
pub mod markers;
pub mod metrics;
pub mod nbd;
pub mod overlay;
pub mod pair;
pub mod plural;
mod private_socket;
pub mod rate;
pub mod record;
pub mod repeats;
pub mod sentences;
pub mod stage;
pub mod storage;
pub mod t0;
pub mod updater;
pub mod verify;
pub mod volumes;
pub mod watchdog;
pub mod wire;
pub mod workers;
