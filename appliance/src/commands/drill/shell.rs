//! The begin of a check's process: it is killed when who started it dies, and becomes the shell.

use std::os::unix::process::CommandExt;

use anyhow::{Context, anyhow};
use rustix::process::{Signal, set_parent_process_death_signal};

use crate::failure::Failure;

/// Becomes the shell; comes back only when it could not.
pub(crate) fn run(command: &str) -> Result<(), Failure> {
    set_parent_process_death_signal(Some(Signal::KILL)).context("ask to be killed with the service")?;
    let error = std::process::Command::new("/bin/sh").args(["-c", command]).exec();
    Err(anyhow!(error).context("start /bin/sh").into())
}
