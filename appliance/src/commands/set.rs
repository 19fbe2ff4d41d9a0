//! `tidemark set`: data sets, named lists of what to back up.

use clap::Subcommand;
use serde_json::json;
use tidemark_common::api::backup::types::SetCreate;

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, table::Table, text::escaped};

/// `tidemark set ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a set of volumes, ranges, partitions, and directories of ext4 or XFS file systems on them
    Create {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
        /// VOLUME, VOLUME:OFFSET+LENGTH, VOLUME:pN (a partition), VOLUME:/DIRECTORY or VOLUME:pN:/DIRECTORY
        #[arg(required = true, value_name = "EXTENT")]
        extents: Vec<String>,
    },
    /// List the sets and their extents
    List,
    /// Show one set
    Show {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
    /// Delete a set; its volumes, and backups made of it, stay as they are
    Delete {
        /// Its name
        #[arg(value_parser = name)]
        name: String,
    },
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    match command {
        Command::Create { name, extents } => {
            let set = service.client.set_create(&SetCreate { name, extents }).await?;
            output::done(service.json, &set, |set| format!("set '{}' has {}", set.name, set.extents.join(", ")))
        }
        Command::List => {
            let sets = service.client.sets().await?;
            output::answer(service.json, &sets, |sets| {
                let mut table = Table::new(&["NAME", "EXTENT", "MISSING VOLUMES"]);
                for set in sets {
                    let missing = set.missing_volumes.join(", ");
                    for (number, extent) in set.extents.iter().enumerate() {
                        let (name, missing) =
                            if number == 0 { (set.name.as_str(), missing.as_str()) } else { ("", "") };
                        table.row(&[name, extent, missing]);
                    }
                }
                Ok(table.or("there are no sets: `tidemark set create NAME EXTENT...` makes one"))
            })
        }
        Command::Show { name } => {
            let sets = service.client.sets().await?;
            let set = sets.into_iter().find(|set| set.name == name);
            let set = set.ok_or_else(|| {
                Failure::Here(anyhow::anyhow!("there is no set '{name}': `tidemark set list` lists the sets"))
            })?;
            output::answer(service.json, &set, |set| {
                Ok(set.extents.iter().map(|extent| escaped(extent)).collect::<Vec<_>>().join("\n"))
            })
        }
        Command::Delete { name } => {
            service.client.set_delete(&name).await?;
            output::done(service.json, &json!({ "name": name }), |_| format!("set '{name}' is deleted"))
        }
    }
}
