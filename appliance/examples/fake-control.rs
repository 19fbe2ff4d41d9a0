//! A control API with nothing behind it, for looking at the command line without an appliance:
//!
//! ```text
//! cargo run --release --example fake-control -- DIR [SAMPLE]
//! tidemark status --watch --dir DIR
//! ```
//!
//! Without a SAMPLE each one is shown for some seconds.

#[path = "../tests/fake/mod.rs"]
mod fake;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use fake::{Fake, samples, shifted};
use tidemark_common::api::control::Control;
use tidemark_common::api::server::{ControlListener, serve_control, serve_metrics};
use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::config::ControlAccess;
use tokio_util::sync::CancellationToken;

/// How long each sample is shown.
const SHOWN_FOR: Duration = Duration::from_secs(4);

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let mut words = std::env::args().skip(1);
    let directory = PathBuf::from(words.next().context("name a directory")?);
    let wanted = words.next();
    std::fs::create_dir_all(&directory)?;
    let fake = Fake::showing(samples::empty());
    let control: Arc<dyn Control> = fake.clone();
    let stop = CancellationToken::new();
    let metrics = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    eprintln!("metrics at http://{}/metrics", metrics.local_addr()?);
    let listener = ControlListener::bind(&directory, ControlAccess::Owner)?;
    let serving = tokio::spawn(serve_control(listener, control.clone(), stop.clone()));
    let serving_metrics = tokio::spawn(serve_metrics(metrics, control, stop.clone()));
    tokio::select! {
        () = show(&fake, wanted.as_deref()) => {}
        interrupted = tokio::signal::ctrl_c() => interrupted?,
    }
    stop.cancel();
    serving.await?;
    serving_metrics.await?;
    Ok(())
}

/// Shows the samples in turn, a second older each second.
async fn show(fake: &Fake, wanted: Option<&str>) {
    let clock = SystemClock::new();
    loop {
        for (name, sample) in samples::all() {
            if wanted.is_none_or(|wanted| wanted == name) {
                fake.show(shifted(sample, clock.wall()));
                tokio::time::sleep(SHOWN_FOR).await;
            }
        }
        tokio::task::yield_now().await;
    }
}
