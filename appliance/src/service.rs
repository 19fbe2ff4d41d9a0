//! PLACEHOLDER, replaced by the integrator with the service itself: `serve` calls [`run`] with the lock held and tracing
//! set up.

use std::path::Path;

/// PLACEHOLDER: runs the appliance in `directory` until SIGTERM or SIGINT.
///
/// # Errors
/// Why it could not start, or had to stop.
pub(crate) async fn run(directory: &Path) -> anyhow::Result<()> {
    tracing::info!(directory = %directory.display(), "placeholder: waiting for SIGINT");
    tokio::signal::ctrl_c().await?;
    Ok(())
}
