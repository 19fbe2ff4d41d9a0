//! The stage: two appliances in a temporary folder, each a process of its own running this very binary.
//!
//! Owns the processes and the folder. However the demo ends, [`Stage::close`] ends the processes and removes the folder, or
//! keeps it when it is evidence.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use tempfile::TempDir;
use tidemark_common::api::client::Client;
use tidemark_common::api::types::{GroupStatus, PairStatus, PeerAdd, Status};
use tidemark_common::config::{Config, HostPort};
use tidemark_common::ids::ApplianceId;
use tokio::process::{Child, Command};

use super::super::init;

/// Name of the group.
pub(super) const GROUP: &str = "shop";
/// Longest path of a Unix socket, bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;
/// How long a service may take to start.
const SERVICE_PATIENCE: Duration = Duration::from_secs(15);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(10);
/// Shared memory, where write buffers belong.
const SHARED_MEMORY: &str = "/dev/shm";

/// Both appliances and what they lie in.
#[derive(Debug)]
pub(super) struct Stage {
    /// Where the data is.
    pub(super) east: Site,
    /// Where the copy is.
    pub(super) west: Site,
    folder: TempDir,
    buffers: Option<TempDir>,
}

impl Stage {
    /// Makes both appliances; they do not run yet.
    pub(super) fn build() -> anyhow::Result<Self> {
        let folder = tempfile::Builder::new().prefix("tidemark-demo-").tempdir().context("make a temporary folder")?;
        let socket = folder.path().join("east").join("nbd.sock");
        ensure!(
            socket.as_os_str().len() <= SOCKET_PATH_BYTES_MAX,
            "{} is too long for a socket: set TMPDIR to a shorter path",
            socket.display()
        );
        // Without shared memory the buffers lie on the disk, which is slower.
        let buffers = tempfile::Builder::new().prefix("tidemark-demo-").tempdir_in(SHARED_MEMORY).ok();
        let rings = buffers.as_ref().map_or_else(|| folder.path().join("buffers"), |made| made.path().to_owned());
        std::fs::create_dir_all(&rings).with_context(|| format!("make {}", rings.display()))?;
        let east = Site::make(folder.path(), "east", &rings)?;
        let west = Site::make(folder.path(), "west", &rings)?;
        Ok(Self { east, west, folder, buffers })
    }

    /// Each trusts the other.
    pub(super) async fn introduce(&self) -> anyhow::Result<()> {
        for (site, other) in [(&self.east, &self.west), (&self.west, &self.east)] {
            let address = Some(other.status().await?.addresses.replication);
            let request = PeerAdd { name: other.name.into(), id: other.id.to_string(), address };
            site.client.peer_add(&request).await?;
        }
        Ok(())
    }

    /// Where the services tell what went wrong.
    pub(super) fn logs(&self) -> String {
        format!("{} and {}", self.east.log.display(), self.west.log.display())
    }

    /// Ends the processes, and removes the folder unless it is to be kept; where it is then.
    pub(super) async fn close(mut self, keep: bool) -> anyhow::Result<Option<PathBuf>> {
        // What they leave behind is good after a kill, too: that is what they promise.
        let (east, west) = (self.east.kill().await, self.west.kill().await);
        if keep {
            if let Some(buffers) = self.buffers {
                let _ = buffers.keep();
            }
            return Ok(Some(self.folder.keep()));
        }
        let path = self.folder.path().to_owned();
        let removed = self.folder.close().and(self.buffers.map_or(Ok(()), TempDir::close));
        removed.with_context(|| format!("remove {}", path.display()))?;
        east.and(west).map(|()| None)
    }
}

/// One appliance.
#[derive(Debug)]
pub(super) struct Site {
    /// Its name.
    pub(super) name: &'static str,
    /// Its control API.
    pub(super) client: Client,
    id: ApplianceId,
    directory: PathBuf,
    log: PathBuf,
    process: Option<Child>,
}

impl Site {
    fn make(folder: &Path, name: &'static str, rings: &Path) -> anyhow::Result<Self> {
        let any_port = || HostPort { host: "127.0.0.1".into(), port: 0 };
        let mut config = Config::new(name);
        config.replication.address = any_port();
        config.metrics.address = any_port();
        config.groups.ring_directory = rings.into();
        let directory = folder.join(name);
        let id = init::make(&directory, &config)?;
        let log = folder.join(format!("{name}.log"));
        Ok(Self { name, client: Client::new(&directory), id, directory, log, process: None })
    }

    /// Starts the service and waits until it answers.
    pub(super) async fn start(&mut self) -> anyhow::Result<()> {
        let program = std::env::current_exe().context("find this program")?;
        let log = File::options().create(true).append(true).open(&self.log);
        let log = log.with_context(|| format!("open {}", self.log.display()))?;
        let mut command = Command::new(program);
        command.arg("serve").arg(&self.directory).env_remove("TIDEMARK_DIR").env_remove("NOTIFY_SOCKET");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        // A process group of its own: Ctrl-C is for the demo, which ends the services itself.
        command.process_group(0);
        let process = self.process.insert(command.spawn().with_context(|| format!("start '{}'", self.name))?);
        let answers = async {
            while self.client.status().await.is_err() {
                if let Some(status) = process.try_wait().context("look after a service")? {
                    bail!("'{}' did not start: {status}", self.name);
                }
                tokio::time::sleep(LOOK).await;
            }
            Ok(())
        };
        let in_time = tokio::time::timeout(SERVICE_PATIENCE, answers).await;
        in_time.unwrap_or_else(|_| {
            bail!("'{}' does not answer, {} s after its start", self.name, SERVICE_PATIENCE.as_secs())
        })
    }

    /// `kill -9`, and waits until it is dead.
    pub(super) async fn kill(&mut self) -> anyhow::Result<()> {
        let Some(mut process) = self.process.take() else { return Ok(()) };
        process.kill().await.with_context(|| format!("kill '{}'", self.name))
    }

    /// What it says of itself.
    pub(super) async fn status(&self) -> anyhow::Result<Status> {
        Ok(self.client.status().await?)
    }

    /// What it says of the group.
    pub(super) async fn group(&self) -> anyhow::Result<GroupStatus> {
        let group = self.status().await?.groups.into_iter().find(|group| group.name == GROUP);
        group.with_context(|| format!("'{}' knows no group '{GROUP}'", self.name))
    }

    /// What it says of the group and its pair.
    pub(super) async fn pair(&self) -> anyhow::Result<(GroupStatus, PairStatus)> {
        let mut group = self.group().await?;
        let pair = group.pairs.pop().with_context(|| format!("group '{GROUP}' has no pair on '{}'", self.name))?;
        Ok((group, pair))
    }

    /// Where its hosts come in.
    pub(super) fn nbd_socket(&self) -> PathBuf {
        self.directory.join("nbd.sock")
    }
}
