//! `tidemark clone`: writable images of a group at a moment.

use clap::Subcommand;
use tidemark_common::api::types::{CloneCreate, ImageKind};

use super::{Service, t0};
use crate::cli::{self, Moment, name};
use crate::failure::Failure;
use crate::output;

/// `tidemark clone ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a clone, at once; replication goes on
    Create {
        /// Name of the clone; its exports are NAME/VOLUME
        #[arg(value_parser = name)]
        name: String,
        /// The group
        #[arg(long, value_name = "GROUP", value_parser = name)]
        of: String,
        /// A marker that is held; by default the newest. On a primary a new marker is cut
        #[arg(long, value_name = "N")]
        marker: Option<u64>,
        /// A marker, or the newest one cut by a time: 2026-01-31T12:00:00Z, or 10m for ten minutes ago
        #[arg(long, value_name = "MARKER|TIME", value_parser = cli::moment, conflicts_with = "marker")]
        at: Option<Moment>,
        /// How much may be written to the clone [default: clone_bytes in config.toml]
        #[arg(long, value_name = "SIZE", value_parser = cli::size)]
        space: Option<u64>,
    },
    /// Delete a clone, with all that was written to it
    Delete(t0::Delete),
    /// List the clones
    List,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    match command {
        Command::Create { name, of, marker, at, space } => {
            let (marker, time) = at.map_or((marker, None), Moment::parts);
            let request = CloneCreate { name, of, marker, time, space_bytes: space };
            let image = service.client.clone_create(&request).await?;
            output::done(service.json, &image, t0::made)
        }
        Command::Delete(t0::Delete { name, force }) => t0::delete(service, t0::Kind::Clone, &name, force).await,
        Command::List => t0::list(service, |kind| kind != ImageKind::T0).await,
    }
}
