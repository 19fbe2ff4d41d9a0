//! `tidemark local-pair`: a source and a target volume on one appliance.

use std::time::Duration;

use clap::Subcommand;
use serde_json::json;
use tidemark_common::api::client::ClientError;
use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairSplit, LocalPairState, LocalPairStatus};
use tidemark_common::api::types::{ErrorBody, ErrorKind};

use super::Service;
use super::progress::LOOK_INTERVAL;
use crate::cli::{milliseconds, name, size};
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark local-pair ...`. A pair is named by its target.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Make a volume the target of another: it is overwritten, then follows its source
    Create {
        /// A volume of a group
        #[arg(value_parser = name)]
        source: String,
        /// A volume in no group, at least as large
        #[arg(long, value_name = "TARGET", value_parser = name)]
        target: String,
        /// Copy at most this many bytes per second
        #[arg(long, value_name = "SIZE", value_parser = size)]
        rate: Option<u64>,
    },
    /// Split targets off: they become images of their sources at one moment, and can be opened as soon as the command returns
    Split {
        /// The targets; their sources may be of several groups
        #[arg(value_name = "TARGET", value_parser = name, required = true)]
        targets: Vec<String>,
    },
    /// Let a target follow its source again: only differences are copied, and what was written to the target is lost
    Resync(OfTarget),
    /// Write a target back to its source: only differences are copied; both are closed to hosts until that is done
    Reverse {
        /// The target
        #[arg(value_parser = name)]
        target: String,
    },
    /// Wait until nothing is left to copy: the target follows, is a complete image, or its source is restored
    Wait {
        /// The target
        #[arg(value_parser = name)]
        target: String,
        /// How long to wait at most; then the exit code is 4
        #[arg(long, value_name = "DURATION", value_parser = milliseconds, default_value = "30s")]
        timeout: u64,
    },
    /// End a pair; both volumes stay
    Delete(OfTarget),
    /// List the pairs
    List,
    /// Show the pair of a target; a volume that is not a target is shown as simplex
    Show {
        /// The volume
        #[arg(value_parser = name)]
        volume: String,
    },
}

/// A target, and whether what is lost with it may be lost.
#[derive(Debug, clap::Args)]
pub(crate) struct OfTarget {
    /// The target
    #[arg(value_parser = name)]
    target: String,
    /// Do it even while hosts are connected to the target, or its image is not complete
    #[arg(long)]
    force: bool,
}

/// Carries it out.
pub(crate) async fn run(command: Command, service: &Service) -> Result<(), Failure> {
    let client = &service.client;
    match command {
        Command::Create { source, target, rate } => {
            let pair = client.local_pair_create(&LocalPairCreate { source, target, rate }).await?;
            output::done(service.json, &pair, |pair| {
                format!(
                    "'{}' is being made a copy of '{}': {} to copy",
                    pair.target,
                    pair.source,
                    figures::bytes(pair.differential_bytes)
                )
            })
        }
        Command::Split { targets } => {
            let pairs = client.local_pair_split(&LocalPairSplit { targets }).await?;
            output::done(service.json, &pairs, |pairs| pairs.iter().map(split).collect::<Vec<_>>().join("\n"))
        }
        Command::Resync(OfTarget { target, force }) => {
            let pair = client.local_pair_resync(&target, force).await?;
            output::done(service.json, &pair, |pair| {
                format!(
                    "'{}' follows '{}' again: {} to copy",
                    pair.target,
                    pair.source,
                    figures::bytes(pair.differential_bytes)
                )
            })
        }
        Command::Reverse { target } => {
            let pair = client.local_pair_reverse(&target).await?;
            output::done(service.json, &pair, |pair| {
                let why = pair.reason.as_ref().map_or_else(String::new, |reason| format!(". {reason}"));
                format!(
                    "'{}' is being restored from '{}': both are closed until that is done{why}",
                    pair.source, pair.target
                )
            })
        }
        Command::Wait { target, timeout } => {
            let pair = wait(service, &target, Duration::from_millis(timeout)).await?;
            output::done(service.json, &pair, |pair| {
                format!("'{}' is in state {}, and nothing is left to copy", pair.target, pair.state.name())
            })
        }
        Command::Delete(OfTarget { target, force }) => {
            client.local_pair_delete(&target, force).await?;
            output::done(service.json, &json!({ "target": target }), |_| {
                format!("the pair of '{target}' is deleted, and the volume stays")
            })
        }
        Command::List => {
            let pairs = client.local_pairs().await?;
            output::answer(service.json, &pairs, |pairs: &Vec<LocalPairStatus>| Ok(table(pairs)))
        }
        Command::Show { volume } => {
            let pair = client.local_pair(&volume).await?;
            output::answer(service.json, &pair, |pair: &LocalPairStatus| Ok(shown(pair)))
        }
    }
}

async fn wait(service: &Service, target: &str, limit: Duration) -> Result<LocalPairStatus, Failure> {
    let failed = |kind, message| Failure::from(ClientError::Answered(ErrorBody::new(kind, message)));
    let quiet = async {
        loop {
            let pair = service.client.local_pair(target).await?;
            match pair.state {
                LocalPairState::Simplex => return Err(failed(ErrorKind::NotFound, shown(&pair))),
                LocalPairState::Error => {
                    return Err(failed(ErrorKind::Failed, format!("'{target}' is in {}", state(&pair))));
                }
                LocalPairState::Pair | LocalPairState::Split if pair.differential_bytes == 0 => return Ok(pair),
                _ => tokio::time::sleep(LOOK_INTERVAL.min(limit)).await,
            }
        }
    };
    let late =
        |_| failed(ErrorKind::Timeout, format!("after {} ms there is still something to copy", limit.as_millis()));
    tokio::time::timeout(limit, quiet).await.map_err(late)?
}

fn split(pair: &LocalPairStatus) -> String {
    let LocalPairStatus { target, source, marker, export, .. } = pair;
    let export = export.as_deref().unwrap_or("closed");
    format!("'{target}' is '{source}' at marker {}: {export}", marker.unwrap_or(0))
}

fn state(pair: &LocalPairStatus) -> String {
    match &pair.reason {
        Some(reason) => format!("{}: {reason}", pair.state.name()),
        None => pair.state.name().to_owned(),
    }
}

/// Pairs for people.
fn table(pairs: &[LocalPairStatus]) -> String {
    let mut table = Table::new(&[
        "TARGET",
        "SOURCE",
        "GROUP",
        ">TO COPY",
        ">SOURCE CHANGED",
        ">TARGET CHANGED",
        ">MARKER",
        ">HOSTS",
        "STATE",
    ]);
    for pair in pairs {
        table.row(&[
            &pair.target,
            &pair.source,
            &pair.group,
            &figures::bytes(pair.differential_bytes),
            &figures::bytes(pair.source_changed_bytes),
            &figures::bytes(pair.target_changed_bytes),
            &pair.marker.map_or_else(|| "-".to_owned(), |marker| marker.to_string()),
            &pair.connections.to_string(),
            &state(pair),
        ]);
    }
    table.or("there are no local pairs: `tidemark local-pair create SOURCE --target TARGET` makes one")
}

fn shown(pair: &LocalPairStatus) -> String {
    if pair.state == LocalPairState::Simplex {
        return format!("volume '{}' is simplex: not the target of a local pair", pair.target);
    }
    let image = pair.export.as_ref().map_or_else(String::new, |export| {
        let time = pair.marker_time.map_or_else(String::new, |time| format!(" of {}", figures::time(time)));
        format!("\nimage: marker {}{time}, {export}", pair.marker.unwrap_or(0))
    });
    format!(
        "target '{}' of source '{}' in group '{}'\nstate: {}, since {}\nto copy: {} of {}, at most {} each second\n\
         changed since the split: source {}, target {}\nkept aside: {}{image}",
        pair.target,
        pair.source,
        pair.group,
        state(pair),
        figures::time(pair.since),
        figures::bytes(pair.differential_bytes),
        figures::bytes(pair.size),
        figures::bytes(pair.rate),
        figures::bytes(pair.source_changed_bytes),
        figures::bytes(pair.target_changed_bytes),
        figures::bytes(pair.saved_bytes),
    )
}
