//! `tidemark backup`: data sets at one moment, as an archive in the order asked for.

mod show;
mod stored;

use std::io::{IsTerminal, Write};
use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};
use serde_json::json;
use tidemark_common::api::backup::types::{BackupCreate, BackupInfo, BackupOrder, BackupState, WhileDifferential};

use super::{Service, ask, whole_path};
use crate::cli::{Common, name, size, time};
use crate::failure::Failure;
use crate::output;

/// `tidemark backup ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Back data sets up as they are now: returns as soon as the images are there, and copies in the background
    Create(Create),
    /// List the backups
    List,
    /// Show one backup: the moment it holds, its progress, or why it ended
    Show {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Wait until a backup has ended, with a progress bar on a terminal; exits with 1 when it is not complete
    Wait {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// End a backup; nothing of it is left
    Cancel {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Delete the record of a backup that has ended; its archive stays where it is
    Delete {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Check every digest of a backup, without a service; exits with 1 when something is not as it was backed up
    Verify {
        /// An archive, a folder of raw files, '-' for an archive on the standard input, or the name of a backup
        #[arg(value_name = "FILE|NAME")]
        backup: String,
    },
    /// Restore a backup, or one set of it: onto volumes, as a host would write them, or into a folder. A restore onto volumes is done
    /// by the service, and goes on when this command is interrupted. A volume whose restore did not complete stays closed to hosts
    /// until it is restored again, or opened with --give-up
    Restore(Restore),
}

/// The order of an archive's members.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Order {
    /// In the order in which sets and extents were given
    Given,
    /// By volume and address
    Address,
    /// Smallest first
    SmallestFirst,
}

/// What is done about what a target still lacks of the image of its split.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Differential {
    /// Copy it to the target when the backup comes to it
    Copy,
    /// Start copying when the target has everything
    Wait,
    /// Read it from the source, without waiting
    Merge,
}

/// `tidemark backup create`.
#[derive(Debug, clap::Args)]
pub(crate) struct Create {
    /// Its name
    #[arg(value_parser = name)]
    name: String,
    /// A data set; several may be named
    #[arg(long = "set", value_name = "SET", required = true, value_parser = name)]
    sets: Vec<String>,
    /// The order of the archive's members
    #[arg(long, value_enum, default_value = "given")]
    order: Order,
    /// A file that is not there yet, a folder (raw files), a pipe, a tape, or '-' for the standard output
    #[arg(long, value_name = "TARGET")]
    to: PathBuf,
    /// Start at this time, as in 2026-01-31T03:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<jiff::Timestamp>,
    /// Copy at most this many bytes per second
    #[arg(long, value_name = "SIZE", value_parser = size)]
    rate: Option<u64>,
    /// Copy only while hosts are quiet
    #[arg(long)]
    when_idle: bool,
    /// For split targets of local pairs: what to do about data that is not copied to them yet
    #[arg(long, value_enum, default_value = "merge", value_name = "HOW")]
    while_differential: Differential,
    /// Wait until the backup has ended
    #[arg(long)]
    wait: bool,
}

/// `tidemark backup restore`.
#[derive(Debug, clap::Args)]
#[command(group = clap::ArgGroup::new("where").required(true).args(["onto", "onto_volumes", "into", "give_up"]))]
pub(crate) struct Restore {
    /// An archive, a folder of raw files, or the name of a backup
    #[arg(value_name = "FILE|NAME", required_unless_present = "give_up")]
    backup: Option<String>,
    /// Restore only this set
    #[arg(long, value_name = "SET", value_parser = name)]
    set: Option<String>,
    /// Overwrite this volume; the backup or set must be of one volume
    #[arg(long, value_name = "VOLUME", value_parser = name)]
    onto: Option<String>,
    /// Overwrite the volumes that were backed up
    #[arg(long)]
    onto_volumes: bool,
    /// Write files into this folder
    #[arg(long, value_name = "FOLDER")]
    into: Option<PathBuf>,
    /// End a restore onto volumes that is under way, instead of starting one; give the same arguments as for the restore. Volumes that
    /// it has begun to overwrite stay half restored, and closed to hosts
    #[arg(long, conflicts_with_all = ["into", "give_up"])]
    cancel: bool,
    /// Open this volume, whose restore did not complete, to hosts as it is, instead of restoring
    #[arg(long, value_name = "VOLUME", value_parser = name, conflicts_with_all = ["backup", "set"])]
    give_up: Option<String>,
}

/// Carries it out. What lies in files needs no service to be verified or taken out.
pub(crate) fn run(command: Command, common: &Common) -> Result<(), Failure> {
    match command {
        Command::Verify { backup } if stored::is_here(&backup) => stored::verify_here(&backup, common.json),
        Command::Restore(Restore { backup: Some(backup), set, into: Some(folder), .. }) if stored::is_here(&backup) => {
            stored::take_out(&backup, set.as_deref(), &folder, common.json)
        }
        command => {
            if let Command::Verify { backup } | Command::Restore(Restore { backup: Some(backup), .. }) = &command {
                stored::check_named(backup, common)?;
            }
            ask(common, async |service| run_with(command, &service).await)
        }
    }
}

async fn run_with(command: Command, service: &Service) -> Result<(), Failure> {
    match command {
        Command::Create(args) => create(args, service).await,
        Command::List => show::list(service).await,
        Command::Show { name } => show::show(service, &name).await,
        Command::Wait { name } => {
            let backup = show::follow(service, &name).await?;
            over(service, &backup)
        }
        Command::Cancel { name } => {
            let backup = service.client.backup_cancel(&name).await?;
            output::done(service.json, &backup, |backup| format!("backup '{}' is {}", backup.name, backup.state.name()))
        }
        Command::Delete { name } => {
            service.client.backup_delete(&name).await?;
            output::done(service.json, &json!({ "name": name }), |_| {
                format!("the record of backup '{name}' is deleted")
            })
        }
        Command::Verify { backup } => stored::verify(&backup, service).await,
        Command::Restore(args) => stored::restore(args, service).await,
    }
}

async fn create(args: Create, service: &Service) -> Result<(), Failure> {
    let stream = args.to.as_os_str() == "-";
    if stream && (std::io::stdout().is_terminal() || args.at.is_some() || service.json) {
        let why = "with `--to -` the archive itself goes to the standard output, at once and into a file or a pipe: leave --json and --at \
                   out, and redirect the output";
        return Err(Failure::Usage(why.into()));
    }
    let order = match args.order {
        Order::Given => BackupOrder::Given,
        Order::Address => BackupOrder::Address,
        Order::SmallestFirst => BackupOrder::SmallestFirst,
    };
    // A slash at its end stays: it says that it is a folder.
    let to = if stream { "-".to_owned() } else { whole_path(&args.to)? };
    let while_differential = match args.while_differential {
        Differential::Copy => WhileDifferential::Copy,
        Differential::Wait => WhileDifferential::Wait,
        Differential::Merge => WhileDifferential::Merge,
    };
    let Create { name, sets, at, rate, when_idle, .. } = args;
    let request = BackupCreate { name: name.clone(), sets, order, to, at, rate, when_idle, while_differential };
    let backup = service.client.backup_create(&request).await?;
    if stream {
        return take_stream(service, &name).await;
    }
    if args.wait {
        let backup = show::follow(service, &name).await?;
        return over(service, &backup);
    }
    output::done(service.json, &backup, show::created)
}

/// How often, and how long apart, it is looked whether a backup whose stream has ended is over.
const LOOKS_FOR_END: u32 = 500;
const LOOK_FOR_END: std::time::Duration = std::time::Duration::from_millis(20);

async fn take_stream(service: &Service, name: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    let mut unwritten = None;
    let take = |piece: &[u8]| stdout.write_all(piece).inspect_err(|error| unwritten = Some(not_written(error)));
    let taken = service.client.backup_stream(name, take).await?;
    if taken.is_ok()
        && let Err(error) = stdout.flush()
    {
        unwritten = Some(not_written(&error));
    }
    // A stream that ends early is said by the backup's own record, which comes after the last byte.
    let mut backup = service.client.backup(name).await?;
    for _ in 0..LOOKS_FOR_END {
        if backup.state.is_over() {
            break;
        }
        tokio::time::sleep(LOOK_FOR_END).await;
        backup = service.client.backup(name).await?;
    }
    if let Some(why) = unwritten {
        // The service only sees that nobody reads any more.
        return Err(Failure::Here(anyhow::anyhow!("backup '{name}': {why}")));
    }
    match (taken, backup.state) {
        (Ok(()), BackupState::Done) => Ok(()),
        (taken, _) => {
            // Of one that is done, this is no reason.
            let reason = backup.reason.filter(|_| backup.state != BackupState::Done);
            let why = reason.or_else(|| taken.err().map(|error| error.to_string()));
            Err(Failure::Here(anyhow::anyhow!("backup '{name}': {}", why.unwrap_or_else(|| "it broke off".into()))))
        }
    }
}

/// Why an archive did not get where it was to go, which this command alone knows.
fn not_written(error: &std::io::Error) -> String {
    let what = match error.kind() {
        std::io::ErrorKind::BrokenPipe => "whoever read it hung up".to_owned(),
        _ => error.to_string(),
    };
    format!("the archive cannot be written to the standard output ({what}): what was written there is not a backup")
}

fn over(service: &Service, backup: &BackupInfo) -> Result<(), Failure> {
    output::ended(service.json, backup, show::ended, backup.state == BackupState::Done)
}
