//! `tidemark peer`: whom this appliance trusts.

use clap::Subcommand;
use tidemark_common::api::types::{PeerAdd, PeerStatus};
use tidemark_common::config::HostPort;
use tidemark_common::ids::ApplianceId;

use super::Service;
use crate::cli::{appliance_id, name};
use crate::failure::Failure;
use crate::output::{self, table::Table};

/// `tidemark peer ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Trust an appliance; each side adds the other
    Add {
        /// Its name on this appliance
        #[arg(value_parser = name)]
        name: String,
        /// Its id, as `tidemark id` prints it over there
        #[arg(long, value_parser = appliance_id)]
        id: ApplianceId,
        /// Where to reach it: HOST:PORT; not needed on a side that never connects to it
        #[arg(long, value_name = "HOST:PORT")]
        addr: Option<HostPort>,
    },
    /// List the appliances that this one trusts
    List,
    /// Stop trusting an appliance; refused while a group is paired with it
    Remove {
        /// Its name on this appliance
        #[arg(value_parser = name)]
        name: String,
    },
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let (name, id, addr) = match command {
        Command::Add { name, id, addr } => (name, id, addr),
        Command::List => return list(service).await,
        Command::Remove { name } => return remove(service, &name).await,
    };
    let request = PeerAdd { name, id: id.to_string(), address: addr.map(|address| address.to_string()) };
    let peer = service.client.peer_add(&request).await?;
    output::done(service.json, &peer, |peer: &PeerStatus| match &peer.address {
        Some(address) => format!("peer '{}' at {address} is trusted", peer.name),
        None => format!("peer '{}' is trusted; it has no address here, so it must connect to this side", peer.name),
    })
}

async fn list(service: &Service) -> Result<(), Failure> {
    let peers = service.client.status().await?.peers;
    output::answer(service.json, &peers, |peers| {
        let mut table = Table::new(&["NAME", "ADDRESS", "ID"]);
        for peer in peers {
            table.row(&[&peer.name, peer.address.as_deref().unwrap_or("- (it comes here)"), &peer.id]);
        }
        Ok(table.or("no appliance is trusted: `tidemark peer add` adds one"))
    })
}

async fn remove(service: &Service, name: &str) -> Result<(), Failure> {
    service.client.peer_remove(name).await?;
    output::done(service.json, &serde_json::json!({ "name": name }), |_| {
        format!("peer '{name}' is no longer trusted; its name is free")
    })
}
