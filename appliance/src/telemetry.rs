//! The service's log: lines on stderr, for people or for machines, chosen by the variable `RUST_LOG`.

use std::env;
use std::io::{self, IsTerminal};

use anyhow::Context;
use tidemark_common::config::LogFormat;
use tracing_subscriber::EnvFilter;

/// What is logged unless `RUST_LOG` says otherwise: transport libraries only when something is wrong with them.
const FILTER: &str = "info,quinn=warn,quinn_proto=warn,rustls=warn,hyper=warn";

/// Starts logging. Once per process.
///
/// # Errors
/// When `RUST_LOG` makes no sense.
pub(crate) fn start(format: LogFormat) -> anyhow::Result<()> {
    let chosen = env::var("RUST_LOG").ok().filter(|filter| !filter.trim().is_empty());
    let filter = chosen.as_deref().unwrap_or(FILTER);
    let filter = EnvFilter::try_new(filter).with_context(|| {
        format!("RUST_LOG is '{filter}': write a level or TARGET=LEVEL,... as in info,tidemark=debug")
    })?;
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    match format {
        LogFormat::Text => lines.with_ansi(crate::output::colour_on(io::stderr().is_terminal())).init(),
        LogFormat::Json => lines.json().flatten_event(true).init(),
    }
    log_panics();
    Ok(())
}

/// A panic is a defect; its place belongs into the same log as everything else.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let said = panic.payload_as_str().unwrap_or("no message");
        tracing::error!(place, said, backtrace = %std::backtrace::Backtrace::capture(), "a thread panicked");
    }));
}
