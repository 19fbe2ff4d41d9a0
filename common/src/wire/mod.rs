//! What two appliances say to each other. `docs/PROTOCOL.md` has the conversation and the bytes.
//!
//! [`message`] is the vocabulary, [`codec`] turns it into bytes and back, [`handshake`] decides whether two appliances
//! can talk. Nothing here does I/O or reads a clock.

pub mod codec;
pub mod handshake;
pub mod message;
