//! `tidemark lost`: what an old primary had written and never shipped.

use std::path::PathBuf;

use clap::Subcommand;
use serde_json::json;
use tidemark_common::api::types::{LostExport, LostExportStatus, LostTail, Status};

use super::progress::{self, carried_out};
use super::{Service, whole_path};
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark lost ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List what is kept: after which marker, how many writes, on which volumes; ranges with --json
    List {
        /// The group
        #[arg(value_parser = name)]
        group: String,
    },
    /// Write the kept data of a volume into a sparse file as large as the volume
    Export {
        #[command(flatten)]
        tail: Tail,
        /// The volume; or its index, as listed, if its name is not known any more or several volumes had it
        #[arg(long, value_name = "VOLUME", value_parser = name)]
        volume: String,
        /// A file that does not exist yet
        #[arg(long, value_name = "FILE")]
        to: PathBuf,
    },
    /// Discard kept writes, for good
    Discard(Tail),
}

/// One of those kept.
#[derive(Debug, clap::Args)]
pub(crate) struct Tail {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// Its name, as listed
    #[arg(value_parser = name)]
    name: String,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    match command {
        Command::List { group } => list(service, &group).await,
        Command::Export { tail, volume, to } => {
            let request = LostExport { volume, to: whole_path(&to)? };
            let what = format!("the export to {}", request.to);
            let find = |status: Status| Some(under_way(status, &request.to)?.progress);
            tokio::select! {
                biased;
                exported = carried_out(&what, service.client.lost_export(&tail.group, &tail.name, &request)) => exported?,
                never = progress::show(service, |_| Vec::new(), find) => match never {},
            }
            output::done(service.json, &json!({ "volume": request.volume, "file": request.to }), |_| {
                format!("what '{}' holds of volume '{}' is in {}", tail.name, request.volume, request.to)
            })
        }
        Command::Discard(tail) => {
            service.client.lost_discard(&tail.group, &tail.name).await?;
            output::done(service.json, &json!({ "group": tail.group, "name": tail.name }), |_| {
                format!("'{}' of group '{}' is discarded", tail.name, tail.group)
            })
        }
    }
}

fn under_way(status: Status, to: &str) -> Option<LostExportStatus> {
    status.lost_exports.into_iter().find(|export| export.to == to)
}

async fn list(service: &Service, group: &str) -> Result<(), Failure> {
    let tails = service.client.lost(group).await?;
    output::answer(service.json, &tails, |tails: &Vec<LostTail>| {
        let mut table = Table::new(&["NAME", ">AFTER MARKER", ">WRITES", "VOLUME", ">BYTES", ">RANGES"]);
        for tail in tails {
            let (marker, writes) = (tail.after_marker.to_string(), tail.writes.to_string());
            if tail.volumes.is_empty() {
                let writes = if tail.problem.is_some() { "-" } else { writes.as_str() };
                table.row(&[&tail.name, &marker, writes, "-", "-", "-"]);
            }
            for volume in &tail.volumes {
                let index = volume.index.to_string();
                let name = volume.name.as_deref().unwrap_or(&index);
                let (bytes, ranges) = (figures::bytes(volume.bytes), volume.ranges.len().to_string());
                table.row(&[&tail.name, &marker, &writes, name, &bytes, &ranges]);
            }
        }
        let unread = tails.iter().filter_map(|tail| Some((tail, tail.problem.as_ref()?)));
        let unread = unread.map(|(LostTail { name, folder, .. }, problem)| {
            format!(
                "'{name}' cannot be read: {problem}. It stays in {folder}: restore its files there, or discard it\n"
            )
        });
        Ok(unread.fold(table.or("nothing is kept aside"), |text, problem| text + "\n" + &problem))
    })
}
