//! `tidemark man`: the manual, one page per command.

use std::fs;
use std::path::PathBuf;

use anyhow::Context;
use clap::CommandFactory;

use crate::cli::Cli;
use crate::failure::Failure;
use crate::output;

/// `tidemark man DIR`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory to write the pages to, such as /usr/local/share/man/man1
    #[arg(value_name = "DIR")]
    pages: PathBuf,
}

/// Writes them.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let pages = &args.pages;
    let writing = || format!("write man pages to {}", pages.display());
    fs::create_dir_all(pages).with_context(writing)?;
    clap_mangen::generate_to(Cli::command(), pages).with_context(writing)?;
    output::say(&format!("the man pages are in {}", pages.display()));
    Ok(())
}
