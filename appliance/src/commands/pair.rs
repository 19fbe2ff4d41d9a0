//! `tidemark pair`: copies of a group on other appliances.

use clap::Subcommand;
use serde_json::json;
use tidemark_common::api::types::{PairStatus, PairTarget};

use super::Service;
use super::progress::carried_out;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures};

/// `tidemark pair ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Pair a group with a peer: makes the group and its copy volumes there and starts the initial copy
    Create(Pair),
    /// Stop sending to a peer until resumed; the copy over there stays usable
    Suspend(Pair),
    /// Go on with a suspended pair, or (--in-place) with one whose copy has no room beside the image kept there
    Resume(Resume),
    /// Stop keeping the journal for a peer that is behind: what it lacks is copied when it can be reached again
    Release(Pair),
    /// End a pair; the copy on the peer stays as it is. On a side that is not primary: give the group up; its volumes stay
    Delete(Delete),
}

/// A group and a peer.
#[derive(Debug, clap::Args)]
pub(crate) struct Pair {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// The peer
    #[arg(long, value_name = "PEER", value_parser = name)]
    to: String,
}

/// A pair to go on with.
#[derive(Debug, clap::Args)]
pub(crate) struct Resume {
    #[command(flatten)]
    pair: Pair,
    /// Overwrite the image on the peer with what differs: no failover is possible until the copy is complete
    #[arg(long)]
    in_place: bool,
}

/// A pair to end.
#[derive(Debug, clap::Args)]
pub(crate) struct Delete {
    #[command(flatten)]
    pair: Pair,
    /// Give the group up even if its volumes would not be complete. On a fenced side, or a primary that does not run: the last writes of
    /// hosts are not in the volumes, which then match no single moment; the journal is kept aside. On a copy whose newest marker is
    /// only in its journal, as with a history: that journal is lost
    #[arg(long)]
    force: bool,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let client = &service.client;
    let (group, pair) = match command {
        Command::Create(Pair { group, to }) => {
            let pair = client.pair_create(&group, &PairTarget { to }).await?;
            (group, pair)
        }
        Command::Suspend(Pair { group, to }) => {
            let pair = client.pair_suspend(&group, &to).await?;
            (group, pair)
        }
        Command::Release(Pair { group, to }) => {
            let pair = client.pair_release(&group, &to).await?;
            (group, pair)
        }
        Command::Resume(Resume { pair: Pair { group, to }, in_place }) => {
            let pair = if in_place {
                client.pair_in_place(&group, &to).await?
            } else {
                client.pair_resume(&group, &to).await?
            };
            (group, pair)
        }
        Command::Delete(Delete { pair: Pair { group, to }, force }) => {
            return delete(service, &group, &to, force).await;
        }
    };
    output::done(service.json, &pair, |pair: &PairStatus| {
        let state = figures::state(pair.state);
        let reason = pair.reason.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        format!("pair of '{group}' with '{}': {state}{reason}; `tidemark status --watch` shows it", pair.peer)
    })
}

async fn delete(service: &Service, group: &str, peer: &str, force: bool) -> Result<(), Failure> {
    let what = format!("the deletion of the pair of '{group}' with '{peer}'");
    carried_out(&what, service.client.pair_delete(group, peer, force)).await?;
    output::done(service.json, &json!({ "group": group, "peer": peer }), |_| {
        format!("pair of '{group}' with '{peer}' is deleted; the volumes of either side stay as they are")
    })
}
