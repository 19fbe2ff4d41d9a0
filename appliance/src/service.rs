//! The service: opens what the directory holds, lets peers, hosts and operators in, and closes in the opposite order.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::{Context, anyhow};
use tidemark_common::api::control::Control;
use tidemark_common::api::server::{ControlListener, serve_control, serve_metrics};
use tidemark_common::api::types::Addresses;
use tidemark_common::catalog::{Catalog, CatalogError};
use tidemark_common::clock::{Clock, SystemClock};
use tidemark_common::config::Config;
use tidemark_common::identity::Identity;
use tidemark_common::link::{Endpoint, LinkConfig};
use tidemark_common::metrics::Metrics;
use tidemark_common::nbd::connection::ConnectionOptions;
use tidemark_common::nbd::server::{Server, ServerOptions};
use tidemark_common::repeats::Repeats;
use tidemark_common::stage::begin_anew;
use tidemark_common::storage::Disk;
use tidemark_common::storage::disk::SystemDisk;
use tidemark_common::watchdog::Watchdog;
use tokio::net::TcpListener;
use tokio::runtime::Handle;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinError;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::descriptors;
use crate::roles::appliance::{Appliance, KnownPeers, groups_folder};
use crate::roles::backups::Backups;
use crate::roles::drill::Drills;
use crate::roles::exports::{Served, Watched};
use crate::roles::images::Images;
use crate::roles::local_pairs::LocalPairs;
use crate::roles::lost::under_way::LostExports;
use crate::roles::offers::Offers;
use crate::roles::strangers::Strangers;
use crate::roles::verify::Comparisons;

/// How long what a defect has ended is left alone before it is begun anew.
const AGAIN: Duration = Duration::from_secs(1);
/// Between two looks at what is looked at again and again.
const LOOK: Duration = Duration::from_secs(1);

/// Runs the appliance in `directory` until SIGTERM or SIGINT; hosts are served by threads of their own.
///
/// # Errors
/// Why it could not start, or had to stop.
pub(crate) async fn run(directory: &Path, hosts: &Handle) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("listen for SIGINT")?;
    let descriptors = descriptors::raise();
    let appliance = open(directory)?;
    let stop = CancellationToken::new();
    let doors = start(&appliance, hosts, descriptors, &stop).await?;
    tracing::info!(name = %appliance.config.name, id = %appliance.identity.id(), "serving");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    tracing::info!("stopping: hosts first, then the buffers are drained");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    stop.cancel();
    appliance.drills.stop.cancel();
    appliance.comparisons.stop.cancel();
    // Their commands wait for them, and would hold up the end of the control API.
    appliance.stop_restores().await;
    let closed = async {
        for door in doors {
            let _ = door.await;
        }
    };
    if timeout(DOORS_GRACE, closed).await.is_err() {
        tracing::warn!(after = ?DOORS_GRACE, "not every connection has ended (some wait for a disk that does not answer): stopping without \
                                              waiting for them");
    }
    tokio::task::block_in_place(|| appliance.flush_clones());
    // Before those are stopped for whom volumes may wait.
    appliance.keep_images();
    appliance.stop_backups().await;
    appliance.local_pairs.stop().await;
    appliance.stop_groups().await;
    if let Some(endpoint) = appliance.endpoint.get() {
        endpoint.close("the appliance is stopping");
        endpoint.wait_idle().await;
    }
    tracing::info!("stopped");
    Ok(())
}

/// Sessions that wait for a disk have ended before that, unless it holds their thread.
const DOORS_GRACE: Duration = Duration::from_secs(15);

fn open(directory: &Path) -> anyhow::Result<Arc<Appliance>> {
    let config = Config::load(directory)?;
    let identity = Identity::load(directory)?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let catalog = open_catalog(directory, &*clock)?;
    over(directory, config, identity, clock, Arc::new(SystemDisk), catalog)
}

/// The appliance of a catalogue; nothing of it runs yet.
fn over(
    directory: &Path,
    config: Config,
    identity: Identity,
    clock: Arc<dyn Clock>,
    disk: Arc<dyn Disk>,
    catalog: Catalog,
) -> anyhow::Result<Arc<Appliance>> {
    let peers = catalog.peers()?.into_iter().map(|peer| (peer.name.clone(), peer)).collect();
    let metrics = Arc::new(Metrics::new(&config.name, env!("CARGO_PKG_VERSION"), clock.wall()));
    let images = Images::new(&config.images);
    Ok(Arc::new_cyclic(|this| Appliance {
        directory: directory.to_owned(),
        config,
        identity,
        catalog,
        clock,
        disk,
        metrics,
        runtime: Handle::current(),
        endpoint: OnceLock::new(),
        addresses: OnceLock::new(),
        peers: parking_lot::RwLock::new(peers),
        volumes: parking_lot::RwLock::default(),
        unopened: parking_lot::RwLock::default(),
        groups: parking_lot::RwLock::default(),
        offers: Offers::default(),
        images,
        local_pairs: LocalPairs::default(),
        drills: Drills::default(),
        comparisons: Comparisons::default(),
        changing: tokio::sync::Mutex::default(),
        backups: Backups::default(),
        lost_exports: LostExports::default(),
        watchdog: Watchdog::default(),
        repeats: Repeats::default(),
        strangers: Strangers::default(),
        this: this.clone(),
    }))
}

/// Space kept for opening the catalogue on a disk that is full: a service that was killed must be able to start there.
const RESERVE: (&str, u64) = ("reserve", 16 << 20);

fn open_catalog(directory: &Path, clock: &dyn Clock) -> anyhow::Result<Catalog> {
    if let Some((catalog, groups)) = lost_catalog(directory) {
        return Err(anyhow!(
            "{} is missing, and {} holds journals of groups that only it knows: restore it (is its file system mounted?). To \
             begin anew, move {} away",
            catalog.display(),
            groups.display(),
            groups.display()
        ));
    }
    let reserve = directory.join(RESERVE.0);
    let opened = Catalog::open(directory, clock);
    let full = matches!(&opened, Err(CatalogError::NoSpace { .. })) && reserve.exists();
    let catalog = if full {
        std::fs::remove_file(&reserve).with_context(|| format!("give up {}", reserve.display()))?;
        tracing::warn!("the disk is full: the space kept for this case was used to open the catalogue");
        Catalog::open(directory, clock)?
    } else {
        opened?
    };
    if !full && let Err(error) = keep_reserve(&reserve) {
        tracing::warn!(%error, path = %reserve.display(), "no space could be kept for starting on a full disk");
        let _ = std::fs::remove_file(&reserve);
    }
    Ok(catalog)
}

/// What is missing is never taken for what was not made yet.
fn lost_catalog(directory: &Path) -> Option<(PathBuf, PathBuf)> {
    let (catalog, groups) = (directory.join("catalog"), groups_folder(directory));
    let has_groups = std::fs::read_dir(&groups).is_ok_and(|mut entries| entries.next().is_some());
    (!catalog.exists() && has_groups).then_some((catalog, groups))
}

fn keep_reserve(path: &Path) -> std::io::Result<()> {
    let file = std::fs::File::options().write(true).create(true).truncate(false).open(path)?;
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, RESERVE.1)?;
    Ok(())
}

/// A ring on a disk works, and every write of a host waits for that disk's page cache and write-back. Where there can be none, that would be
/// told by the first group that is made, or by a failover.
fn warn_of_ring_directory(directory: &Path, buffer_bytes: u64) {
    /// `TMPFS_MAGIC`, `RAMFS_MAGIC` of linux/magic.h.
    const MEMORY: [i64; 2] = [0x0102_1994, 0x8584_58f6];
    match rustix::fs::statfs(directory) {
        Ok(found) if MEMORY.contains(&found.f_type) => {
            let bytes = found.f_blocks.saturating_mul(u64::try_from(found.f_bsize).unwrap_or(0));
            if is_too_small(bytes, buffer_bytes) {
                tracing::warn!(
                    directory = %directory.display(), bytes, write_buffer_bytes = buffer_bytes,
                    "the tmpfs of ring_directory is smaller than one write buffer, and hosts wait when it is full: make it larger, or lower \
                     write_buffer_bytes in config.toml and restart"
                );
            }
        }
        Ok(_) => {
            tracing::warn!(directory = %directory.display(), "ring_directory is no tmpfs: hosts' writes wait for its disk. Is its file system mounted?");
        }
        Err(error) => {
            tracing::warn!(
                directory = %directory.display(), %error,
                "ring_directory cannot be used: no group can be made here, and no copy taken over. Mount its tmpfs, or correct it in config.toml and restart"
            );
        }
    }
}

/// Whether a file system never holds a write buffer. One without a bound says that it has nothing.
const fn is_too_small(bytes: u64, buffer_bytes: u64) -> bool {
    bytes > 0 && bytes < buffer_bytes
}

type Doors = Vec<tokio::task::JoinHandle<()>>;

/// Listens everywhere first, so that a busy port is said before anything runs; the control socket comes last: when it
/// answers, everything is ready.
async fn start(
    appliance: &Arc<Appliance>,
    hosts: &Handle,
    descriptors: u64,
    stop: &CancellationToken,
) -> anyhow::Result<Doors> {
    let config = &appliance.config;
    let endpoint = bind_endpoint(appliance).await?;
    let server = bind_nbd(appliance, hosts, descriptors).await?;
    let metrics = config.metrics.address.to_string();
    let listener = TcpListener::bind(&metrics).await;
    let listener = listener.with_context(|| {
        format!("listen for Prometheus on {metrics}: choose another address under [metrics] in config.toml, or stop what uses it")
    })?;
    let addresses = Addresses {
        nbd: server.addresses().iter().map(ToString::to_string).collect(),
        replication: endpoint.local_addr().context("ask for the replication address")?.to_string(),
        metrics: listener.local_addr().context("ask for the metrics address")?.to_string(),
    };
    let _ = appliance.addresses.set(addresses);
    let _ = appliance.endpoint.set(Arc::new(endpoint));
    start_groups(appliance).await?;
    appliance.start_local_pairs().await;
    appliance.open_drills().await.map_err(|error| anyhow!("open the drills: {}", error.message))?;
    keep_looking(appliance, stop, |appliance| async move { appliance.run_due_drills() });
    keep_looking(appliance, stop, |appliance| async move { appliance.look_after_drills().await });
    keep_looking(appliance, stop, |appliance| async move { appliance.look_at_positions() });
    keep_looking(appliance, stop, |appliance| async move { appliance.free_imaged() });
    appliance.recover_backups().await?;
    keep_looking(appliance, stop, |appliance| async move { appliance.record_ends_of_backups() });
    keep_looking(appliance, stop, |appliance| async move { appliance.record_roles() });
    appliance.open_comparisons().await;
    keep_looking(appliance, stop, |appliance| async move { appliance.settle_comparisons().await });
    let control = Arc::clone(appliance) as Arc<dyn Control>;
    let socket = ControlListener::bind(&appliance.directory, config.control.access)?;
    keep(appliance, Appliance::accept_peers);
    Ok(vec![
        hosts.spawn(server.run(stop.clone())),
        tokio::spawn(serve_metrics(listener, Arc::clone(&control), stop.clone())),
        tokio::spawn(serve_control(socket, control, stop.clone())),
    ])
}

/// The groups of the catalogue, behind all that they stand on.
async fn start_groups(appliance: &Arc<Appliance>) -> anyhow::Result<()> {
    appliance.open_volumes()?;
    appliance.open_offers()?;
    appliance.open_restores()?;
    appliance.open_images().map_err(|error| anyhow!("open the images: {}", error.message))?;
    appliance.open_local_pairs().map_err(|error| anyhow!("open the local pairs: {}", error.message))?;
    let groups = &appliance.config.groups;
    warn_of_ring_directory(&groups.ring_directory, groups.write_buffer_bytes);
    appliance.start_groups().await?;
    Ok(())
}

/// Has something done until the service stops.
fn keep<F: Future<Output = ()> + Send + 'static>(
    appliance: &Arc<Appliance>,
    duty: impl Fn(Arc<Appliance>) -> F + Send + Sync + 'static,
) {
    let appliance = Arc::clone(appliance);
    let tell = |ended: &JoinError| {
        tracing::error!(%ended, "a periodic task of the service has ended by a defect of Tidemark: it is started again");
    };
    tokio::spawn(begin_anew(AGAIN, move || duty(Arc::clone(&appliance)), tell));
}

/// Has something looked at again and again until the service stops. Each by itself: a look that waits for a disk or a peer holds up no other.
fn keep_looking<F: Future<Output = ()> + Send + 'static>(
    appliance: &Arc<Appliance>,
    stop: &CancellationToken,
    look: impl Fn(Arc<Appliance>) -> F + Send + Sync + 'static,
) {
    let (stop, look) = (stop.clone(), Arc::new(look));
    keep(appliance, move |appliance| {
        let (stop, look) = (stop.clone(), Arc::clone(&look));
        async move {
            while stop.run_until_cancelled(tokio::time::sleep(LOOK)).await.is_some() {
                look(Arc::clone(&appliance)).await;
            }
        }
    });
}

async fn bind_endpoint(appliance: &Arc<Appliance>) -> anyhow::Result<Endpoint> {
    let config = &appliance.config.replication;
    let text = config.address.to_string();
    let mut found =
        tokio::net::lookup_host(&text).await.with_context(|| format!("find the replication address {text}"))?;
    let address: SocketAddr = found.next().ok_or_else(|| anyhow!("the replication address {text} leads nowhere"))?;
    let trust = Arc::new(KnownPeers(Arc::downgrade(appliance), Arc::clone(&appliance.metrics)));
    let endpoint = Endpoint::bind(address, &appliance.identity, trust, LinkConfig::from(config));
    endpoint.with_context(|| {
        format!("listen for peers on {text}: choose another address under [replication] in config.toml, or stop what uses it")
    })
}

async fn bind_nbd(appliance: &Arc<Appliance>, hosts: &Handle, descriptors: u64) -> anyhow::Result<Server> {
    let config = &appliance.config.nbd;
    let exports = Arc::new(Served(Arc::clone(appliance)));
    let watched = Watched { appliance: Arc::clone(appliance), metrics: Arc::clone(&appliance.metrics) };
    let connection = ConnectionOptions {
        tls: crate::roles::exports::tls(config)?,
        observer: Arc::new(watched),
        clock: Arc::clone(&appliance.clock),
        ..ConnectionOptions::default()
    };
    let connections_max = descriptors::connections_of_hosts(descriptors);
    let options = ServerOptions { connection, connections_max, ..ServerOptions::default() };
    let addresses = config.addresses.clone();
    // Whoever makes a listener is who hears of its connections.
    Ok(hosts.spawn(async move { Server::bind(&addresses, exports, options).await }).await??)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

    use parking_lot::Mutex;
    use tidemark_common::api::types::{GroupCreate, OnFull, VolumeCreate};
    use tidemark_common::catalog::{
        Batch, GroupRecord, ImageKindRecord, ImageRecord, ImageRecords, PairRecord, RestoreRecord, RoleRecord,
    };
    use tidemark_common::clock::HandClock;
    use tidemark_common::history::History;
    use tidemark_common::ids::VolumeIndex;
    use tidemark_common::storage::Open;
    use tidemark_common::storage::filter::{self, Filter};
    use tidemark_common::storage::memory::MemoryDisk;
    use tidemark_common::volumes::VolumeFile;
    use tidemark_common::wire::handshake::Versions;
    use tidemark_common::wire::message::Hello;
    use tidemark_secondary::group::Secondary;

    use super::*;
    use crate::roles::appliance::{Engine, Group, Volume};

    #[test]
    fn a_tmpfs_that_cannot_hold_a_write_buffer_is_known() {
        assert!(is_too_small(24 << 30, 1 << 40));
        assert!(!is_too_small(1 << 40, 1 << 40) && !is_too_small(0, 1 << 40), "none has no bound");
    }

    /// What befalls whoever writes into the catalogue of a test's appliance.
    #[derive(Default)]
    pub(crate) struct Faults {
        /// There is no room.
        pub(crate) full: AtomicBool,
        /// Writes wait as long as somebody has this.
        pub(crate) hang: Mutex<()>,
        /// Writes that have come.
        pub(crate) writes: AtomicU64,
    }

    impl Filter for Faults {
        fn before_write(&self) -> io::Result<()> {
            self.writes.fetch_add(1, Ordering::AcqRel);
            drop(self.hang.lock());
            if self.full.load(Ordering::Acquire) { Err(io::ErrorKind::StorageFull.into()) } else { Ok(()) }
        }
    }

    /// An appliance with nothing in it, of which nothing runs.
    pub(crate) fn appliance(directory: &Path, faults: &Arc<Faults>) -> Arc<Appliance> {
        appliance_on(directory, faults, Arc::new(SystemDisk))
    }

    /// The same, with all that is not in its catalogue on this disk.
    pub(crate) fn appliance_on(directory: &Path, faults: &Arc<Faults>, disk: Arc<dyn Disk>) -> Arc<Appliance> {
        alone(directory, faults, disk, Arc::new(SystemClock::new()))
    }

    /// The same, whose time passes when it is told to.
    pub(crate) fn appliance_by(directory: &Path, faults: &Arc<Faults>, clock: Arc<HandClock>) -> Arc<Appliance> {
        alone(directory, faults, Arc::new(SystemDisk), clock)
    }

    fn alone(directory: &Path, faults: &Arc<Faults>, disk: Arc<dyn Disk>, clock: Arc<dyn Clock>) -> Arc<Appliance> {
        let records = filter::disk(Arc::new(MemoryDisk::new()), faults);
        let catalog = Catalog::open_simulated(&*records, "catalog".as_ref(), &*clock).unwrap();
        let identity = Identity::create(directory).unwrap();
        over(directory, small("alone", directory), identity, clock, disk, catalog).unwrap()
    }

    /// Rings and journals as small as they may be, and nothing outside of the directory.
    fn small(name: &str, directory: &Path) -> Config {
        let mut config = Config::new(name);
        config.groups.ring_directory = directory.to_owned();
        config.groups.write_buffer_bytes = 16 << 20;
        config.groups.segment_bytes = 8 << 20;
        config.groups.journal_bytes = 64 << 20;
        config
    }

    /// One that others reach, with its catalogue on this disk, too: opened again, it has what that holds. Nothing of it runs yet.
    pub(crate) async fn opened(directory: &Path, name: &str, disk: Arc<dyn Disk>) -> Arc<Appliance> {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
        let catalog = Catalog::open_simulated(&*disk, &directory.join("records"), &*clock).unwrap();
        let identity = Identity::load(directory).or_else(|_| Identity::create(directory)).unwrap();
        let mut config = small(name, directory);
        config.replication.address.port = 0;
        let appliance = over(directory, config, identity, clock, disk, catalog).unwrap();
        let endpoint = bind_endpoint(&appliance).await.unwrap();
        let _ = appliance.endpoint.set(Arc::new(endpoint));
        appliance
    }

    /// Runs it as the service does, with nobody but peers let in.
    pub(crate) async fn run_groups(appliance: &Arc<Appliance>) {
        start_groups(appliance).await.unwrap();
        tokio::spawn(Arc::clone(appliance).accept_peers());
    }

    /// Gives it a volume in no group, of a MiB.
    pub(crate) async fn add_volume(appliance: &Appliance, name: &str) -> Arc<Volume> {
        let request = VolumeCreate { name: name.into(), size: 1 << 20, backing: None };
        appliance.create_volume(request).await.unwrap();
        appliance.volume(name).unwrap()
    }

    /// Gives it a group that is primary and has no pair, with a volume of its own.
    pub(crate) async fn add_primary(appliance: &Appliance, name: &str, volume: &str) -> Arc<Volume> {
        let added = add_volume(appliance, volume).await;
        appliance.create_group(group_of(name, &[volume])).await.unwrap();
        added
    }

    /// What is asked for to make a group of these volumes.
    pub(crate) fn group_of(name: &str, volumes: &[&str]) -> GroupCreate {
        GroupCreate {
            name: name.into(),
            volumes: volumes.iter().map(|volume| (*volume).into()).collect(),
            interval_ms: 1000,
            on_full: OnFull::default(),
            history: History::default(),
        }
    }

    /// As a kill in the middle of a restore leaves it.
    pub(crate) fn leave_half_restored(appliance: &Appliance, volume: &str) {
        let record = RestoreRecord { volume: volume.into(), from: "b.tar".into(), began_ns: 0, ranges: vec![(0, 512)] };
        let mut batch = Batch::new();
        batch.put_restore(&record).unwrap();
        appliance.catalog.commit(batch).unwrap();
        appliance.open_restores().unwrap();
    }

    /// The record of a copy without volumes, whose primary is 'east'.
    pub(crate) fn copy_record(name: &str, id: [u8; 16]) -> GroupRecord {
        let pairs = vec![PairRecord::new("east", 0)];
        GroupRecord { role: RoleRecord::Secondary, pairs, ..GroupRecord::new(name, id) }
    }

    /// Gives it a copy of group 'g', which holds nothing.
    pub(crate) fn add_copy(appliance: &Appliance) {
        appliance.catalog.put_group(&copy_record("g", [7; 16])).unwrap();
    }

    /// An appliance that runs, with the copy of group 'g' that `add` gives it; last, what that answers.
    pub(crate) async fn with_copy<T>(
        directory: &Path,
        faults: &Arc<Faults>,
        add: impl FnOnce(&Appliance) -> T,
    ) -> (Arc<Appliance>, Arc<Group>, T) {
        let appliance = appliance(directory, faults);
        let added = add(&appliance);
        appliance.start_groups().await.unwrap();
        let group = appliance.group("g").unwrap();
        (appliance, group, added)
    }

    pub(crate) fn copy_of(group: &Group) -> Arc<Secondary> {
        let engine = group.engine.read().clone();
        let Engine::Secondary(copy) = engine else { panic!("it is a copy") };
        copy
    }

    /// What 'east' says when it calls its copy of group 'g', which has no volumes.
    pub(crate) fn hello() -> Hello {
        Hello {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            appliance: "east".into(),
            group: [7; 16],
            group_name: "g".into(),
            member: 0,
            members: 1,
            generation: 1,
            create: false,
            volumes: Vec::new(),
            interval_ms: 1000,
            generation_start_seq: 1,
        }
    }

    /// A volume whose disk did not take what it was given.
    pub(crate) fn volume_in_doubt() -> VolumeFile {
        let disk = MemoryDisk::new();
        let file = disk.open("v".as_ref(), Open::New).unwrap();
        let volume = VolumeFile::new(VolumeIndex(1), "v".into(), file, 4096);
        disk.fail_next_sync(io::ErrorKind::Other);
        volume.sync().unwrap_err();
        volume
    }

    /// Gives it an image, which has no volumes and cannot be read.
    pub(crate) fn add_image(appliance: &Appliance, name: &str, kind: ImageKindRecord) {
        let first = ImageRecord {
            name: name.into(),
            kind,
            group: "g".into(),
            group_id: [7; 16],
            era: 1,
            begin: None,
            marker: 5,
            boundary_seq: 9,
            time_ns: 0,
            tag: None,
            created_ns: 0,
            volumes: Vec::new(),
            broken: Some("as in a test".into()),
        };
        let record = ImageRecords { first, others: Vec::new() };
        appliance.catalog.put_image(&record).unwrap();
        let held = Arc::new(appliance.open_image(record).unwrap());
        appliance.images.held.write().insert(name.into(), held);
    }
}
