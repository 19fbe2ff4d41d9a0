//! `tidemark cut`: a marker now.

use tidemark_common::api::types::Cut;

use super::Service;
use crate::cli::{name, tag};
use crate::failure::Failure;
use crate::output;

/// `tidemark cut GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
    /// Text kept with the marker, at most 200 bytes
    #[arg(long, value_name = "TEXT", value_parser = tag, allow_hyphen_values = true)]
    tag: Option<String>,
}

/// Prints the marker's number alone on a line.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let marker = service.client.cut(&args.group, &Cut { tag: args.tag }).await?;
    output::answer(service.json, &marker, |marker| Ok(marker.number.to_string()))
}
