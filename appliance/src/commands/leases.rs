//! `tidemark leases`: who holds which moment of the past, since when, what that takes, and what ends it.

use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::lease::{Lease, leases};

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark leases [GROUP]`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Show only this group
    #[arg(value_parser = name)]
    group: Option<String>,
}

/// Prints them, the oldest first.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let status = service.client.status().await?;
    if let Some(group) = &args.group
        && !status.groups.iter().any(|known| known.name == *group)
    {
        return Err(anyhow::anyhow!("there is no group '{group}': `tidemark status` shows them").into());
    }
    let mut all = leases(&status, SystemClock::new().wall());
    all.retain(|lease| args.group.as_ref().is_none_or(|group| lease.group == *group));
    output::answer(service.json, &all, |all: &Vec<Lease>| Ok(table(all)))
}

fn table(all: &[Lease]) -> String {
    let mut table = Table::new(&["GROUP", ">FROM MARKER", ">AGE", ">KEPT", "FOR", "OWNER", "ENDS WITH"]);
    for lease in all {
        let unknown = || "-".to_owned();
        let marker = lease.marker.map_or_else(unknown, |marker| marker.to_string());
        let age = lease.age_seconds.map_or_else(unknown, figures::seconds);
        let bytes = lease.bytes.map_or_else(unknown, figures::bytes);
        table.row(&[&lease.group, &marker, &age, &bytes, lease.kind.name(), &lease.owner, &lease.ends_with]);
    }
    table.or("nothing is kept of the past")
}
