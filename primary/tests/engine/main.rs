//! The primary's engine in one process, without a network: gate, ring, drain, journal, updater and recovery as
//! `Primary::start` wires them, over a disk in memory that fails on purpose. What comes back is judged by the oracle
//! that judges real processes.
//!
//! Each test that keeps an invariant is shown to fail when the mechanism is broken: `docs/mutants`, `make mutants`.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "a test fails where it stands, and its numbers are small"
)]

mod commit;
mod cut;
mod death;
mod faults;
mod fence;
mod gate;
mod hosts;
mod machine;
mod reads;
mod ships;
mod space;
mod staged;
mod watch;
