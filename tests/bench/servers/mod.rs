//! What is compared: our live pair, and other people's servers.

mod ours;
mod peer;
mod qmp;

pub(crate) use ours::{Group, Ours};
pub(crate) use peer::{Kind, Peer, preallocated, write_back};
