//! `tidemark demo`: the whole story in under a minute, on embedded defaults.
//!
//! Reading order: `story` (what happens), `stage` (the two services), `book` (the data), `load` (the host that writes it, on
//! `host`, an NBD client), `judge` (what the copy proves), `screen` and `report` (what people and machines are told).
//!
//! Exit code 0 means that everything was proven. However it ends, no process is left behind; the folder is removed unless
//! it is evidence or `--keep` is given.

mod book;
mod host;
mod judge;
mod load;
mod report;
mod screen;
mod stage;
mod story;

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};

use crate::cli::Common;
use crate::failure::{Failure, with_causes};
use crate::output;
use report::Report;
use screen::Screen;
use stage::Stage;

/// What the demo takes beyond its load, at most.
const PATIENCE: Duration = Duration::from_secs(28);

/// `tidemark demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds that the load runs before the disaster
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=30))]
    seconds: u32,
    /// Keep the folder with both appliances afterwards
    #[arg(long)]
    keep: bool,
}

/// Plays it.
pub(crate) fn run(args: &Args, common: &Common) -> Result<(), Failure> {
    let runtime = runtime::Builder::new_current_thread().enable_all().build().context("start")?;
    let outcome = runtime.block_on(play(args, common.json));
    runtime.shutdown_background();
    if common.json { output::json(&outcome?) } else { outcome.map(drop) }
}

async fn play(args: &Args, json: bool) -> Result<Report, Failure> {
    let mut signals = Vec::new();
    for kind in [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()] {
        signals.push(signal(kind)?);
    }
    let [interrupt, terminate, hang_up] = signals.as_mut_slice() else {
        return Err(anyhow!("listen for signals").into());
    };
    let mut stage = Stage::build()?;
    let mut screen = Screen::new(json);
    let length = Duration::from_secs(args.seconds.into());
    let ended = tokio::select! {
        told = story::tell(&mut stage, &mut screen, length) => Ended::Told(told),
        () = tokio::time::sleep(length + PATIENCE) => {
            Ended::Told(Err(anyhow!("it takes too long: given up after {} s", (length + PATIENCE).as_secs())))
        }
        _ = interrupt.recv() => Ended::Interrupted(SignalKind::interrupt()),
        _ = terminate.recv() => Ended::Interrupted(SignalKind::terminate()),
        _ = hang_up.recv() => Ended::Interrupted(SignalKind::hangup()),
    };
    screen.settle();
    close(stage, &mut screen, ended, args.keep).await
}

enum Ended {
    Told(anyhow::Result<Report>),
    Interrupted(SignalKind),
}

/// Leaves nothing behind but what was asked for, or what tells why it failed.
async fn close(stage: Stage, screen: &mut Screen, ended: Ended, keep: bool) -> Result<Report, Failure> {
    let logs = stage.logs();
    match ended {
        Ended::Told(Ok(report)) => {
            if let Some(kept) = stage.close(keep).await? {
                screen.act("kept", &restart(&kept));
            }
            Ok(report)
        }
        Ended::Told(Err(error)) => {
            let kept = stage.close(true).await?.unwrap_or_default();
            let why = with_causes(&error);
            Err(anyhow!("the demo failed: {why}\nthe services' logs are {logs}; {} is kept", kept.display()).into())
        }
        Ended::Interrupted(signal) => {
            stage.close(false).await?;
            output::say("interrupted: both services are stopped, and their folder is removed");
            Err(Failure::Interrupted(signal))
        }
    }
}

fn restart(kept: &Path) -> String {
    let kept = kept.display();
    format!("{kept}; `tidemark serve {kept}/west` brings the copy back")
}
