//! `tidemark markers`: which moments a group can be taken back to.

use tidemark_common::api::types::MarkerInfo;
use tidemark_common::clock::{Clock, SystemClock};

use super::Service;
use crate::cli::name;
use crate::failure::Failure;
use crate::output::{self, figures, table::Table};

/// `tidemark markers GROUP`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The group
    #[arg(value_parser = name)]
    group: String,
}

/// Prints them, newest first.
pub(crate) async fn run(args: Args, service: &Service) -> Result<(), Failure> {
    let markers = service.client.markers(&args.group).await?;
    output::answer(service.json, &markers, |markers: &Vec<MarkerInfo>| {
        let now = SystemClock::new().wall();
        let mut table = Table::new(&[">MARKER", "TIME", ">AGE", ">UP TO WRITE", "TAG"]);
        for marker in markers {
            let (number, boundary) = (marker.number.to_string(), marker.boundary_seq.to_string());
            let (time, age) = (figures::time(marker.time), figures::age(marker.time, now));
            table.row(&[&number, &time, &age, &boundary, marker.tag.as_deref().unwrap_or("")]);
        }
        Ok(table.or("no marker is held"))
    })
}
