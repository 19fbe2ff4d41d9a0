//! The control API: HTTP and JSON over `DIR/api.sock`, and the JSON contract of the command line.
//!
//! Reading order: [`types`] (what is said), [`control`] (what the appliance behind it does), `routes` (which path leads to
//! which method), [`server`] and [`client`] (the two ends of the socket).

mod answer;
pub mod backup;
pub mod client;
pub mod control;
mod listen;
pub mod local_pair;
mod routes;
pub mod server;
pub mod types;
mod verify;

pub use routes::openapi;
