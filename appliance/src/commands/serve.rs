//! `tidemark serve`: the service, in the foreground.
//!
//! Owns the lock on the directory for as long as the process lives: of two services on one directory the second is refused.

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf, absolute};
use std::time::Duration;

use anyhow::{Context, bail};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tidemark_common::config::Config;
use tidemark_common::limits::BLOCKING_THREADS_MAX;
use tidemark_common::workers;
use tokio::runtime;

use super::directory;
use crate::cli::Common;
use crate::failure::{Failure, with_causes};
use crate::{service, telemetry};

/// Name of the lock file in an appliance's directory.
const LOCK_FILE: &str = "lock";
/// Threads that still sit in a disk call when the service has ended are left behind after this time.
const THREADS_GRACE: Duration = Duration::from_secs(5);

/// `tidemark serve DIR`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory of the appliance [default: that of --dir or TIDEMARK_DIR]
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
}

/// Runs until SIGTERM or SIGINT.
pub(crate) fn run(args: Args, common: &Common) -> Result<(), Failure> {
    let given = directory(args.directory, common)?;
    let directory = absolute(&given).with_context(|| format!("find {}", given.display()))?;
    let config = Config::load(&directory).map_err(anyhow::Error::from)?;
    let _lock = lock(&directory)?;
    telemetry::start(config.log.format)?;
    let threads = |name| {
        let mut threads = runtime::Builder::new_multi_thread();
        threads.thread_name(name).max_blocking_threads(BLOCKING_THREADS_MAX).enable_all().build()
    };
    // What answers hosts never stands behind a peer's packets, nor behind an operator's request.
    let hosts = threads("hosts").context("start threads")?;
    let runtime = threads("link").context("start threads")?;
    workers::watch(&[hosts.handle(), runtime.handle()]).context("start threads")?;
    let outcome = runtime.block_on(service::run(&directory, hosts.handle()));
    hosts.shutdown_timeout(THREADS_GRACE);
    runtime.shutdown_timeout(THREADS_GRACE);
    outcome.map_err(|error| {
        tracing::error!(error = with_causes(&error), "the service ended");
        // RUST_LOG may let nothing of it through.
        if tracing::enabled!(tracing::Level::ERROR) { Failure::Logged } else { Failure::Here(error) }
    })
}

/// Takes the lock of a directory; it is let go with the process, however that ends. Whoever may open its file could hold it, so others may not.
fn lock(directory: &Path) -> anyhow::Result<File> {
    let path = directory.join(LOCK_FILE);
    let opening = || format!("open {}", path.display());
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(&path).with_context(opening)?;
    match flock(&file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => {}
        Err(Errno::WOULDBLOCK) => bail!("{}", taken(directory, &mut file)),
        Err(error) => return Err(error).with_context(|| format!("lock {}", path.display())),
    }
    write_process(&mut file).with_context(|| format!("write {}", path.display()))?;
    Ok(file)
}

fn write_process(file: &mut File) -> std::io::Result<()> {
    file.set_len(0)?;
    file.rewind()?;
    writeln!(file, "{}", std::process::id())
}

fn taken(directory: &Path, file: &mut File) -> String {
    let mut text = String::new();
    let read = file.take(32).read_to_string(&mut text);
    let process = match (read, text.trim().parse::<u32>()) {
        (Ok(_), Ok(process)) => format!("process {process}"),
        _ => "another process".into(),
    };
    format!("{} is served already, by {process}: stop that one first, or name another directory", directory.display())
}
