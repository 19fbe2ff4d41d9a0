//! `tidemark status`: the appliance, its groups and their pairs.

use super::Service;
use crate::failure::Failure;
use crate::output::{self, watch};

/// `tidemark status`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Update the display every second, until q or Ctrl-C
    #[arg(long)]
    watch: bool,
}

/// Prints it, once or again and again.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    if args.watch {
        return watch::watch(service).await;
    }
    let status = service.client.status().await?;
    if service.json { output::json(&status) } else { watch::once(&status) }
}
