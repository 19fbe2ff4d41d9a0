//! `tidemark volume`: block address spaces served over NBD.

use std::path::{Path, PathBuf};

use clap::{ArgGroup, Subcommand};
use tidemark_common::api::types::{VolumeCreate, VolumeOffer, VolumeResize, VolumeStatus};

use super::{Service, whole_path};
use crate::cli::{name, size};
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark volume ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a volume: a new one, or one on an existing file or block device
    Create {
        /// Its name, which is also its NBD export name
        #[arg(value_parser = name)]
        name: String,
        /// Its size, as in 512MiB or 1GiB; a multiple of 512 bytes
        #[arg(long, value_parser = size)]
        size: u64,
        /// A file or block device to use [default: a sparse file in the appliance's directory]
        #[arg(long, value_name = "PATH")]
        backing: Option<PathBuf>,
    },
    /// List the volumes
    List,
    /// Delete a volume that is in no group and not connected; a --backing stays
    Delete {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Let a copy of another appliance's group be made on a volume in no group, which overwrites the volume
    #[command(group = ArgGroup::new("purpose").args(["group", "withdraw"]).required(true))]
    Offer {
        /// Its name, which must be that of the group's volume
        #[arg(value_parser = name)]
        name: String,
        /// The group whose copy may be made on it
        #[arg(long, value_parser = name)]
        group: Option<String>,
        /// Take the offer back, whichever group it is for; instead of --group
        #[arg(long)]
        withdraw: bool,
    },
    /// Grow a volume
    Resize {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
        /// Its new size
        #[arg(long, value_parser = size)]
        size: u64,
    },
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    match command {
        Command::Create { name, size, backing } => create(service, name, size, backing).await,
        Command::List => list(service).await,
        Command::Delete { name } => delete(service, &name).await,
        Command::Offer { name, group, .. } => offer(service, &name, group).await,
        Command::Resize { name, size } => resize(service, &name, size).await,
    }
}

async fn create(service: &Service, name: String, size: u64, backing: Option<PathBuf>) -> Result<(), Failure> {
    let request = VolumeCreate { name, size, backing: backing.as_deref().map(whole_path).transpose()? };
    let volume = service.client.volume_create(&request).await?;
    output::done(service.json, &volume, |volume: &VolumeStatus| {
        format!("volume '{}' is made: {}, {}", volume.name, figures::bytes(volume.size), volume.backing)
    })
}

async fn list(service: &Service) -> Result<(), Failure> {
    let volumes = service.client.status().await?.volumes;
    output::answer(service.json, &volumes, |volumes| {
        let mut table = Table::new(&["NAME", ">SIZE", "GROUP", ">CONNECTIONS", "BACKING"]);
        for volume in volumes {
            let offered = volume.offered_to.as_ref().map(|group| format!("- (offered to {group})"));
            let group = volume.group.clone().or(offered).unwrap_or_else(|| "-".into());
            let connections = volume.connections.to_string();
            table.row(&[&volume.name, &figures::bytes(volume.size), &group, &connections, &volume.backing]);
        }
        let problems = volumes.iter().filter_map(|volume| volume.problem.as_ref());
        Ok(problems.fold(
            table.or("there are no volumes: `tidemark volume create NAME --size SIZE` makes one"),
            |text, problem| text + "\n" + problem + "\n",
        ))
    })
}

async fn delete(service: &Service, name: &str) -> Result<(), Failure> {
    let volumes = service.client.status().await?.volumes;
    let backing = volumes.into_iter().find(|volume| volume.name == name).map(|volume| volume.backing);
    service.client.volume_delete(name).await?;
    // What the appliance made itself is gone by now. Both are on one machine: they speak over a socket of it.
    let stays = backing.filter(|backing| Path::new(backing).exists());
    output::done(service.json, &serde_json::json!({ "name": name, "stays": stays }), |_| match &stays {
        Some(backing) => format!("volume '{name}' is deleted; its backing stays as it is: {backing}"),
        None => format!("volume '{name}' is deleted"),
    })
}

async fn offer(service: &Service, name: &str, group: Option<String>) -> Result<(), Failure> {
    let volume = service.client.volume_offer(name, &VolumeOffer { group }).await?;
    output::done(service.json, &volume, |volume: &VolumeStatus| match &volume.offered_to {
        Some(group) => format!(
            "a copy of group '{group}' may be made on volume '{}': what it holds is overwritten when that begins",
            volume.name
        ),
        None => format!("volume '{}' is offered to no copy", volume.name),
    })
}

async fn resize(service: &Service, name: &str, size: u64) -> Result<(), Failure> {
    let volume = service.client.volume_resize(name, &VolumeResize { size }).await?;
    output::done(service.json, &volume, |volume: &VolumeStatus| {
        format!("volume '{}' has {} now", volume.name, figures::bytes(volume.size))
    })
}
