//! `tidemark`: the service and the commands that administer it.
//!
//! Reading order: `cli` (what can be said), `commands` (one file for each), `output` (what people and scripts see),
//! `failure` (exit codes), `service` (what `serve` runs).

mod cli;
mod commands;
mod descriptors;
mod failure;
mod output;
mod roles;
mod service;
mod telemetry;

use std::process::ExitCode;

use clap::Parser;

fn main() -> ExitCode {
    match commands::run(cli::Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
