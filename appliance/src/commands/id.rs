//! `tidemark id`: who an appliance is.

use std::path::{Path, PathBuf};

use serde::Serialize;
use tidemark_common::ids::ApplianceId;

use super::directory;
use crate::cli::Common;
use crate::failure::Failure;
use crate::output;

/// `tidemark id DIR`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the appliance
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

#[derive(Serialize)]
struct Answer {
    id: ApplianceId,
}

/// Prints the id. Needs no running service.
pub(crate) fn run(args: Args, common: &Common) -> Result<(), Failure> {
    let id = load(&directory(args.directory, common)?)?;
    output::answer(common.json, &Answer { id }, |answer| Ok(answer.id.to_string()))
}

/// Makes key and certificate.
pub(super) fn create(directory: &Path) -> anyhow::Result<ApplianceId> {
    Ok(standin::create(directory)?)
}

fn load(directory: &Path) -> anyhow::Result<ApplianceId> {
    Ok(standin::load(directory)?)
}

/// Stand-in for `tidemark_common::identity`.
mod standin {
    use std::io::{self, Read};
    use std::path::Path;

    use tidemark_common::ids::ApplianceId;

    pub(super) fn create(directory: &Path) -> io::Result<ApplianceId> {
        let mut bytes = [0; 32];
        std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        let id = ApplianceId(bytes);
        std::fs::write(directory.join("cert.pem"), id.to_string())?;
        Ok(id)
    }

    pub(super) fn load(directory: &Path) -> io::Result<ApplianceId> {
        std::fs::read_to_string(directory.join("cert.pem"))?.parse().map_err(io::Error::other)
    }
}
