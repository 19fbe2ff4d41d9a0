//! The control API: HTTP and JSON over `DIR/api.sock`, and the JSON contract of the command line.

pub mod control;
pub mod types;
