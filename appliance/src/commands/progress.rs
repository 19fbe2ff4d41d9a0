//! A command that waits for a long operation of the service: how far that is, on a terminal, and what it says when it is broken
//! off (Ctrl-C, SIGTERM) while the operation goes on.

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use tidemark_common::api::client::ClientError;
use tidemark_common::api::types::{CopyProgress, Status};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use super::Service;
use crate::failure::Failure;
use crate::output::{self, figures};

/// Time between two looks at the progress.
pub(super) const LOOK_INTERVAL: Duration = Duration::from_millis(500);

/// A progress line that leaves nothing behind. indicatif draws on stderr, and only when that is a terminal.
pub(super) struct Line(pub(super) ProgressBar);

impl Drop for Line {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

/// How far something is that this command reads itself: so many bytes in all, about, where that is known.
pub(super) fn reading(total_bytes: Option<u64>) -> Line {
    let (line, template) = match total_bytes {
        Some(bytes) => (ProgressBar::new(bytes), "{bar:30} {percent}%  {binary_bytes_per_sec}  {eta} left"),
        None => (ProgressBar::no_length(), "{spinner} {binary_bytes} read  {binary_bytes_per_sec}"),
    };
    if let Ok(style) = ProgressStyle::with_template(template) {
        line.set_style(style);
    }
    Line(line)
}

/// Says what there is to say of an operation, and shows how far it is, until this is dropped, which clears the line. What is `told` for
/// people begins when the service has taken the operation up (it may refuse it until then), grows at its end, and is said once.
pub(super) async fn show(
    service: &Service,
    told: impl Fn(&Status) -> Vec<String>,
    find: impl Fn(Status) -> Option<CopyProgress>,
) -> Infallible {
    let line = Line(ProgressBar::new(0));
    if let Ok(style) = ProgressStyle::with_template("{bar:30} {percent}%  {bytes} of {total_bytes}  {msg}") {
        line.0.set_style(style);
    }
    let mut looks = interval(LOOK_INTERVAL);
    looks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    // The first is at once: a refusal comes before the second.
    looks.tick().await;
    let mut said = 0;
    loop {
        looks.tick().await;
        // A failed look is not worth a word here: the operation itself tells how it ends.
        let Ok(status) = service.client.status().await else { continue };
        if !service.json {
            let told = told(&status);
            for words in told.iter().skip(said) {
                line.0.suspend(|| output::say(words));
            }
            said = said.max(told.len());
        }
        let Some(progress) = find(status) else { continue };
        line.0.set_length(progress.total_bytes);
        line.0.set_position(progress.done_bytes);
        line.0.set_message(progress.seconds_left.map_or_else(String::new, |left| figures::seconds(left) + " left"));
    }
}

/// Waits for an operation that the service carries out to its end whatever becomes of the command: who breaks that off (Ctrl-C, SIGTERM) is told.
pub(super) async fn carried_out<T>(
    what: &str,
    operation: impl Future<Output = Result<T, ClientError>>,
) -> Result<T, Failure> {
    let mut interrupts = Interrupts::listen()?;
    tokio::select! {
        biased;
        outcome = operation => Ok(outcome?),
        broken_off = interrupts.next() => {
            output::say(&format!(
                "interrupted: the service goes on with {what} and completes what it has begun. `tidemark status` shows the result"
            ));
            Err(broken_off)
        }
    }
}

/// Who breaks the command off. From when this is made on, that no longer ends the process by itself.
pub(super) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    /// Listens.
    pub(super) fn listen() -> Result<Self, Failure> {
        let interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
        let terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
        Ok(Self { interrupt, terminate })
    }

    /// The next time: how the command then ends.
    pub(super) async fn next(&mut self) -> Failure {
        tokio::select! {
            _ = self.interrupt.recv() => Failure::Interrupted(SignalKind::interrupt()),
            _ = self.terminate.recv() => Failure::Interrupted(SignalKind::terminate()),
        }
    }
}
