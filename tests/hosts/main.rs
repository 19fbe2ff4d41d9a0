//! Real hosts: other people's NBD clients, a file system, a database, and the Prometheus that watches.

mod clients;
mod database;
mod database_images;
mod file_system;
mod invariants;
mod monitoring;
mod volumes;
