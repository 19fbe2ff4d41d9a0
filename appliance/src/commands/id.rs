//! `tidemark id`: who an appliance is.

use std::path::PathBuf;

use anyhow::anyhow;
use serde::Serialize;
use tidemark_common::config::CONFIG_FILE;
use tidemark_common::identity::{Identity, IdentityError};
use tidemark_common::ids::ApplianceId;

use super::directory;
use crate::cli::Common;
use crate::failure::Failure;
use crate::output;

/// `tidemark id DIR`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the appliance [default: that of --dir or TIDEMARK_DIR]
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    id: ApplianceId,
}

/// Prints the id. Needs no running service.
pub(crate) fn run(args: Args, common: &Common) -> Result<(), Failure> {
    let directory = directory(args.directory, common)?;
    let identity = Identity::load(&directory).map_err(|error| match error {
        // A slip in the path is no lost identity: a new appliance is not the way out.
        IdentityError::Missing { .. } if !directory.join(CONFIG_FILE).exists() => {
            anyhow!("{} holds no appliance; name the right directory", directory.display())
        }
        error => error.into(),
    });
    let id = identity?.id();
    output::answer(common.json, &Answer { id }, |answer| Ok(answer.id.to_string()))
}
