//! What two appliances say to each other. `docs/PROTOCOL.md` has the conversation.

pub mod message;
