//! One file per command: its arguments and what it does with them.

pub(crate) mod backup;
pub(crate) mod clone;
pub(crate) mod completions;
pub(crate) mod cut;
pub(crate) mod demo;
pub(crate) mod drill;
pub(crate) mod failover;
pub(crate) mod group;
pub(crate) mod id;
pub(crate) mod init;
pub(crate) mod leases;
pub(crate) mod local_pair;
pub(crate) mod lost;
pub(crate) mod man;
pub(crate) mod markers;
mod openapi;
pub(crate) mod pair;
pub(crate) mod peer;
mod progress;
pub(crate) mod rejoin;
pub(crate) mod serve;
pub(crate) mod set;
pub(crate) mod status;
pub(crate) mod switchover;
pub(crate) mod t0;
pub(crate) mod verify;
pub(crate) mod volume;
pub(crate) mod wait;

use std::future::Future;
use std::path::{Path, PathBuf, absolute};

use anyhow::Context;
use tidemark_common::api::client::Client;
use tokio::runtime;

use crate::cli::{Cli, Command, Common};
use crate::failure::Failure;

/// Does what the command line says.
pub(crate) fn run(cli: Cli) -> Result<(), Failure> {
    let common = cli.common;
    match cli.command {
        Command::Init(args) => init::run(args, &common),
        Command::Id(args) => id::run(args, &common),
        Command::Serve(args) => serve::run(args, &common),
        Command::Peer(command) => ask(&common, async |service| peer::run(command, &service).await),
        Command::Volume(command) => ask(&common, async |service| volume::run(command, &service).await),
        Command::Group(command) => ask(&common, async |service| group::run(command, &service).await),
        Command::Pair(command) => ask(&common, async |service| pair::run(command, &service).await),
        Command::Cut(args) => ask(&common, async |service| cut::run(args, &service).await),
        Command::Markers(args) => ask(&common, async |service| markers::run(args, &service).await),
        Command::Wait(args) => ask(&common, async |service| wait::run(args, &service).await),
        Command::Status(args) => ask(&common, async |service| status::run(args, &service).await),
        Command::Verify(args) => ask(&common, async |service| verify::run(args, &service).await),
        Command::Failover(args) => ask(&common, async |service| failover::run(args, &service).await),
        Command::Switchover(args) => ask(&common, async |service| switchover::run(args, &service).await),
        Command::Leases(args) => ask(&common, async |service| leases::run(args, &service).await),
        Command::Lost(command) => ask(&common, async |service| lost::run(command, &service).await),
        Command::LocalPair(command) => ask(&common, async |service| local_pair::run(command, &service).await),
        Command::Set(command) => ask(&common, async |service| set::run(command, &service).await),
        Command::Backup(command) => backup::run(command, &common),
        Command::Rejoin(args) => ask(&common, async |service| rejoin::run(args, &service).await),
        Command::T0(command) => ask(&common, async |service| t0::run(command, &service).await),
        Command::Clone(command) => ask(&common, async |service| clone::run(command, &service).await),
        Command::Drill(drill::Command::Check(command)) => drill::check::run(command),
        Command::Drill(drill::Command::Guard { folder, command }) => drill::guard::run(&folder, &command),
        Command::Drill(command) => ask(&common, async |service| drill::run(command, &service).await),
        Command::Demo(args) => demo::run(&args, &common),
        Command::Completions(args) => completions::run(&args),
        Command::Man(args) => man::run(&args),
        Command::Openapi => openapi::run(),
    }
}

/// A running service, as an administration command sees it.
pub(crate) struct Service {
    /// Its API.
    pub(crate) client: Client,
    /// Whether the answer goes to a machine.
    pub(crate) json: bool,
}

fn ask<F>(common: &Common, command: impl FnOnce(Service) -> F) -> Result<(), Failure>
where
    F: Future<Output = Result<(), Failure>>,
{
    let directory = directory(None, common)?;
    let service = Service { client: Client::new(&directory), json: common.json };
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let outcome = runtime.block_on(command(service));
    // A terminal being read in the background must not keep the command from ending.
    runtime.shutdown_background();
    outcome
}

/// The appliance's directory: the one given in its place, or `--dir`, or `TIDEMARK_DIR`.
fn directory(given: Option<PathBuf>, common: &Common) -> Result<PathBuf, Failure> {
    let found = given.as_deref().or(common.dir.as_deref()).filter(|dir| *dir != Path::new(""));
    found
        .map(Path::to_path_buf)
        .ok_or_else(|| Failure::Usage("which appliance? Name its directory with --dir DIR, or set TIDEMARK_DIR".into()))
}

/// A path as it is told to the service, and kept: whole, because the service has another working directory, and text. Of another one, something
/// else would be made under a name that is nearly it.
fn whole_path(path: &Path) -> Result<String, Failure> {
    let whole = absolute(path).with_context(|| format!("find {}", path.display()))?;
    whole.into_os_string().into_string().map_err(|path| {
        Failure::Usage(format!("{} is not a path in UTF-8: give it another name, or a symbolic link", path.display()))
    })
}
