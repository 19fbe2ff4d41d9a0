//! `tidemark group`: volumes that are cut together.

use clap::{Subcommand, ValueEnum};
use tidemark_common::api::types::{GroupCreate, GroupSet, GroupStatus, GroupVolume, OnFull};
use tidemark_common::history::{History, parse_history};
use tidemark_common::plural::counted;

use super::Service;
use super::progress::carried_out;
use crate::cli::{self, name};
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark group ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a consistency group of volumes
    Create {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
        /// A volume of it; may be given several times
        #[arg(long = "volume", value_name = "VOLUME", value_parser = name, required = true)]
        volumes: Vec<String>,
        /// Time between two cuts
        #[arg(long, value_name = "DURATION", value_parser = cli::interval, default_value = "1s")]
        interval: u64,
        /// When the journal fills: fold keeps hosts at full speed, and a copy that is behind is brought up to date later; throttle slows
        /// hosts to the speed of the copy (for a copy that is away, only until the journal is full)
        #[arg(long, value_enum, default_value_t = Full::Fold)]
        on_full: Full,
        /// How much of the past copies keep, so that any marker of it can be cloned or failed over to: a time (24h), a size of their
        /// journal (50GiB), both (24h,50GiB), or off
        #[arg(long, value_name = "TIME|SIZE", value_parser = parse_history, default_value = "off")]
        history: History,
    },
    /// Change how much history a group's copies keep, or what it does when its journal fills; on its primary
    Set {
        /// The group
        #[arg(value_parser = name)]
        group: String,
        /// How much history copies keep: a time (24h), a size of their journal (50GiB), both (24h,50GiB), or off
        #[arg(long, value_name = "TIME|SIZE", value_parser = parse_history, required_unless_present = "on_full")]
        history: Option<History>,
        /// When the journal fills: fold keeps hosts at full speed, throttle slows them to the speed of the copy
        #[arg(long, value_enum)]
        on_full: Option<Full>,
    },
    /// Delete a group that has no pair; its volumes stay, in no group
    Delete {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Add a volume to a group, which may be running and paired
    Add {
        #[command(flatten)]
        member: Member,
        /// Add it even if a copy has no room for it: the pair then stops until somebody does what its reason says
        #[arg(long)]
        force: bool,
    },
    /// Take a volume out of a group
    Remove(Member),
}

/// A group and one volume.
#[derive(Debug, clap::Args)]
pub(crate) struct Member {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// The volume
    #[arg(long, value_parser = name)]
    volume: String,
}

/// `--on-full`.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Full {
    Fold,
    Throttle,
}

impl From<Full> for OnFull {
    fn from(full: Full) -> Self {
        match full {
            Full::Fold => Self::Fold,
            Full::Throttle => Self::Throttle,
        }
    }
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let client = &service.client;
    let group = match command {
        Command::Create { name, volumes, interval, on_full, history } => {
            let on_full = on_full.into();
            client.group_create(&GroupCreate { name, volumes, interval_ms: interval, on_full, history }).await?
        }
        Command::Set { group, history, on_full } => {
            let on_full = on_full.map(OnFull::from);
            let set = client.group_set(&group, &GroupSet { history, on_full }).await?;
            return output::done(service.json, &set, |set: &GroupStatus| {
                let history = history.map(|history| history_of(&set.name, &history));
                let told = history.into_iter().chain(on_full.map(|on_full| on_full_of(&set.name, on_full)));
                told.collect::<Vec<_>>().join("\n")
            });
        }
        Command::Delete { name } => {
            carried_out(&format!("the deletion of group '{name}'"), client.group_delete(&name)).await?;
            let said = serde_json::json!({ "name": name });
            return output::done(service.json, &said, |_| {
                format!("group '{name}' is deleted; its volumes are in no group now")
            });
        }
        Command::Add { member: Member { group, volume }, force } => {
            client.group_add(&group, &GroupVolume { volume }, force).await?
        }
        Command::Remove(member) => remove(member, service).await?,
    };
    output::done(service.json, &group, |group: &GroupStatus| {
        let volumes = if group.volumes.len() == 1 { "volume" } else { "volumes" };
        format!("group '{}' has the {volumes} {}", group.name, group.volumes.join(", "))
    })
}

/// What copies keep from now on.
fn history_of(group: &str, history: &History) -> String {
    if history.is_off() {
        format!("copies of group '{group}' keep no older markers any more")
    } else {
        let asked = figures::history(history);
        format!(
            "copies of group '{group}' keep older markers from now on: {asked}, if their journals have room for that"
        )
    }
}

/// What it does from now on when its journal is full.
fn on_full_of(group: &str, on_full: OnFull) -> String {
    match on_full {
        OnFull::Fold => format!("hosts of group '{group}' are not slowed when its journal fills"),
        OnFull::Throttle => format!("hosts of group '{group}' are slowed while its journal fills"),
    }
}

/// Hosts that have it open go on without noticing, so who takes it out is told.
async fn remove(Member { group, volume }: Member, service: &Service) -> Result<GroupStatus, Failure> {
    let left = service.client.group_remove(&group, &volume).await?;
    if service.json {
        return Ok(left);
    }
    let volumes = service.client.status().await?.volumes;
    let connections = volumes.iter().find(|found| found.name == volume).map_or(0, |found| found.connections);
    if connections > 0 {
        let connections = counted(connections, "connection");
        output::say(&format!(
            "volume '{volume}' is still open over NBD ({connections}): what is written to it from now on is not in any copy, marker or \
             backup of group '{group}'"
        ));
    }
    Ok(left)
}
