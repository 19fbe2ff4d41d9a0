//! The harness: real appliances as processes, real NBD clients, a link that can be impaired, and an oracle.
//!
//! A scenario reads like this: [`pair::Pair`] starts two appliances with a group between them, [`workload::Load`] writes
//! dependent, stamped blocks and keeps the acknowledged [`history::History`], something breaks, [`image::read`] reads what
//! is served afterwards, and [`oracle::judge`] says whether that image could have existed.
//!
//! Everything is driven through the command line and its JSON, as an operator would. Nothing outlives a test: processes,
//! mounts and files go when their handle is dropped, also when the test panics.

pub mod appliance;
pub mod cluster;
pub mod command;
pub mod database;
pub mod disk;
pub mod figures;
pub mod flood;
pub mod history;
pub mod host;
pub mod image;
pub mod impairment;
pub mod noise;
pub mod oracle;
pub mod pair;
pub mod postgres;
pub mod prometheus;
pub mod small_disk;
pub mod stamp;
pub mod virtual_path;
pub mod wait;
pub mod workload;
