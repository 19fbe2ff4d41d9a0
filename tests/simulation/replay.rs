//! Power loss, with what a real run did to real disks: a primary with its threads, or a pair of both with theirs and a real link
//! between them, works on files of this machine, every change is written down in its order, and each of many beginnings of that
//! list is played to disks in memory, which then lose power. What is found there must hold what was flushed by then, or what the
//! copy had said it had, and both must be able to go on from there.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;
use tempfile::TempDir;
use tidemark_common::identity::Identity;
use tidemark_common::ids::{ApplianceId, Generation};
use tidemark_common::link::{Connection, Endpoint, LinkConfig, Trust};
use tidemark_common::storage::Disk;
use tidemark_common::wire::message::{Message, PROTOCOL_VERSION, Position};
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Links;
use tidemark_secondary::group::Secondary;
use tidemark_tests::history::Tick;
use tidemark_tests::wait::{check, wait_until};
use tokio::runtime::{Builder, Runtime};

use crate::device::Device;
use crate::fate::Points;
use crate::hosts::Hosts;
use crate::near::{Waiting, now};
use crate::profile::Profile;
use crate::recorder::{Entry, Player, Recorder, Recording};
use crate::site::{FAR, Ground, JOURNAL, NEAR, Nobody, Site};
use crate::world::{Moments, World};

const WRITES: usize = 300;
/// Beginnings of the list that are tried, each with several losses of power.
const BEGINNINGS: usize = 60;

fn ground(profile: &Profile, runtime: Runtime) -> Ground {
    Ground {
        settings: profile.settings.clone(),
        points: Points::deadly(&[]),
        memory: Arc::new(tempfile::Builder::new().prefix("tm").tempdir_in("/dev/shm").unwrap()),
        runtime: Arc::new(runtime),
        now_ns: Arc::new(AtomicU64::new(1)),
    }
}

/// The beginnings to try of a list, of which so much comes before anything counts: each is played, and then looked at with its
/// length, and the moment it ends at.
fn for_each_beginning(entries: &[Entry], before: usize, machines: usize, mut look: impl FnMut(&Player, usize, Tick)) {
    assert!(entries.len() > before + BEGINNINGS, "{} changes", entries.len());
    let step = (entries.len() - before).div_ceil(BEGINNINGS);
    let mut player = Player::new(machines);
    for (number, entry) in entries.iter().enumerate() {
        player.play(entry);
        if number >= before && (number - before).is_multiple_of(step) {
            let moment = entries.get(number + 1).map_or(Tick::MAX, |next| next.moment);
            look(&player, number + 1, moment);
        }
    }
}

/// A run with threads on files of this machine: the list, how much of it is only the begin, and what the hosts know.
fn recorded_run(site: &Site, now_ns: &AtomicU64) -> (Vec<Entry>, usize, Hosts) {
    let folder = tempfile::tempdir().unwrap();
    let mut hosts = Hosts::new(3, site.settings.volumes, site.settings.blocks);
    let recording = Recording::of(&hosts.history);
    let recorder = Recorder::new(folder.path(), 0, &recording);
    site.set_up(&recorder);
    let primary = site.start_primary(Arc::new(recorder), Arc::new(Nobody));
    let random = &mut StdRng::seed_from_u64(7);
    hosts.prefill(&primary, std::thread::yield_now);
    hosts.flush(&primary, std::thread::yield_now);
    let filled = recording.len();
    let wanted = hosts.history.acked_count() + WRITES;
    while hosts.history.acked_count() < wanted {
        assert!(!hosts.all_stopped(), "no host meets an error: {:?}", primary.problem());
        for host in 0..hosts.count() {
            hosts.step(host, site, &primary, random);
        }
        now_ns.fetch_add(20_000, Ordering::SeqCst);
        std::thread::yield_now();
    }
    primary.stop();
    (recording.entries(), filled, hosts)
}

#[test]
fn a_loss_of_power_anywhere_in_a_real_run_leaves_what_was_flushed() {
    let ground = ground(&Profile::short(), Builder::new_current_thread().enable_all().build().unwrap());
    let mut site = Site::new(NEAR, &ground, Device::well());
    let (entries, before, hosts) = recorded_run(&site, &ground.now_ns);
    // The run may have ended with writes in the buffer (its journal was full): they are lost with the memory.
    site.lost_memory();
    for_each_beginning(&entries, before, 1, |player, number, moment| {
        site.disk = player.disk(0).clone();
        for seed in 0..4 {
            let what = format!("power lost (seed {seed}) after {number} of {} changes", entries.len());
            let mut twin = site.twin(Some(seed));
            let (primary, _) = twin.open_primary().unwrap_or_else(|reason| panic!("{what}: {reason}"));
            hosts.judge_power_loss(&what, &twin.read_all(&primary), moment);
        }
    });
}

/// Markers that the copy of a pair's run has at least.
const MARKERS: u64 = 12;
/// A run that takes longer stands.
const RUN_MAX: Duration = Duration::from_secs(60);

struct Anybody;

impl Trust for Anybody {
    fn peer_name(&self, _: &ApplianceId) -> Option<String> {
        Some("somebody".into())
    }

    fn refused(&self, remote: SocketAddr, _: Option<ApplianceId>, why: &str) {
        panic!("{remote} is refused: {why}");
    }
}

/// The way to the copy.
struct ToFar {
    endpoint: Arc<Endpoint>,
    far: (ApplianceId, String),
}

impl Links for ToFar {
    fn endpoint(&self) -> Arc<Endpoint> {
        Arc::clone(&self.endpoint)
    }

    fn reach(&self, _: &str) -> Result<(ApplianceId, String), String> {
        Ok(self.far.clone())
    }

    fn name(&self) -> String {
        NEAR.into()
    }

    fn fenced(&self, group: &str, _: &str, _: Generation) {
        panic!("{group} is fenced, and nobody took over");
    }
}

fn endpoint() -> (ApplianceId, Endpoint) {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::create(folder.path()).unwrap();
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let endpoint = Endpoint::bind(any, &identity, Arc::new(Anybody), LinkConfig::default()).unwrap();
    (identity.id(), endpoint)
}

/// One connection of the primary, as an appliance takes it.
async fn serve(secondary: Arc<Secondary>, connection: Connection) {
    let Ok((control, mut incoming)) = connection.accept_control().await else { return };
    let Ok(Some(Message::Hello(hello))) = incoming.recv().await else { return };
    let _ = secondary.serve(connection, control, incoming, &hello, PROTOCOL_VERSION).await;
}

/// A pair with all its threads, and the link between them.
struct RealPair {
    ground: Ground,
    near_site: Site,
    far_site: Site,
    _folder: TempDir,
    recording: Arc<Recording>,
    far_endpoint: Arc<Endpoint>,
    primary: Arc<Primary>,
    secondary: Arc<Secondary>,
    hosts: Hosts,
    moments: Moments,
}

impl RealPair {
    fn start(profile: &Profile) -> Self {
        let ground = ground(profile, Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap());
        let (near_site, far_site) = (Site::new(NEAR, &ground, Device::well()), Site::new(FAR, &ground, Device::well()));
        let hosts = Hosts::new(3, profile.settings.volumes, profile.settings.blocks);
        let (folder, recording) = (tempfile::tempdir().unwrap(), Recording::of(&hosts.history));
        let disk = |site: &Site, machine| -> Arc<dyn Disk> {
            let disk = Recorder::new(&folder.path().join(site.name), machine, &recording);
            site.set_up(&disk);
            Arc::new(disk)
        };
        let (near_disk, far_disk) = (disk(&near_site, 0), disk(&far_site, 1));
        let runtime = Arc::clone(&ground.runtime);
        let _inside = runtime.enter();
        let ((_, near), (far_id, far)) = (endpoint(), endpoint());
        let links = ToFar { far: (far_id, far.local_addr().unwrap().to_string()), endpoint: Arc::new(near) };
        let secondary = far_site.start_secondary(far_disk);
        recording.ask(Box::new({
            let state = Arc::clone(secondary.state());
            move || state.position()
        }));
        let primary = near_site.start_primary(near_disk, Arc::new(links));
        let far_endpoint = Arc::new(far);
        let moments = Moments::new();
        Self {
            ground,
            near_site,
            far_site,
            _folder: folder,
            recording,
            far_endpoint,
            primary,
            secondary,
            hosts,
            moments,
        }
    }

    /// Hosts write while everything goes on, and then all of it is brought over. How much of the list came before the copy began.
    fn run(&mut self, writes: usize) -> usize {
        let begun = Instant::now();
        self.hosts.prefill(&self.primary, std::thread::yield_now);
        self.hosts.flush(&self.primary, std::thread::yield_now);
        self.note_moment();
        let filled = self.recording.len();
        let (endpoint, secondary) = (Arc::clone(&self.far_endpoint), Arc::clone(&self.secondary));
        self.ground.runtime.spawn(async move {
            while let Some(connection) = endpoint.accept().await {
                tokio::spawn(serve(Arc::clone(&secondary), connection));
            }
        });
        let random = &mut StdRng::seed_from_u64(8);
        let wanted = self.hosts.history.acked_count() + writes;
        while self.hosts.history.acked_count() < wanted || self.applied_marker() < MARKERS {
            let stands = || format!("{:?}, {:#?}", self.primary.problem(), self.primary.status());
            assert!(begun.elapsed() < RUN_MAX && !self.hosts.all_stopped(), "the run stands: {}", stands());
            for host in 0..self.hosts.count() {
                self.hosts.step(host, &self.near_site, &self.primary, random);
                self.note_moment();
            }
            self.ground.now_ns.store(u64::try_from(begun.elapsed().as_nanos()).unwrap(), Ordering::SeqCst);
            std::thread::yield_now();
        }
        self.bring_over();
        filled
    }

    /// Nothing is captured meanwhile: only whoever calls this writes.
    fn note_moment(&mut self) {
        let captured = self.primary.status().positions.captured_seq;
        self.moments.entry(captured).or_insert_with(|| self.hosts.history.tick());
    }

    fn applied_marker(&self) -> u64 {
        self.secondary.state().position().applied_marker
    }

    /// The copy has all that was written, and both stop.
    fn bring_over(&self) {
        let primary = Arc::clone(&self.primary);
        let mut cut: Waiting<_> = Box::pin(async move { primary.cut(None).await });
        let marker = loop {
            if let Some(marker) = now(&mut cut) {
                break marker.expect("a cut").number;
            }
            std::thread::yield_now();
        };
        wait_until("the copy to have all", RUN_MAX, || {
            let applied = self.applied_marker();
            check(applied >= marker, || format!("{applied} of {marker}"))
        });
        self.primary.stop();
        self.ground.runtime.block_on(self.secondary.stop());
        self.far_endpoint.close("over");
    }
}

/// That a copy that starts now says no less than one said.
fn assert_says_no_less(what: &str, site: &Site, told: &Position) {
    let (secondary, _) = site.twin(None).open_secondary().unwrap_or_else(|why| panic!("{what}: {}", why.reason));
    let says = secondary.state().position();
    let known = |position: &Position| {
        [position.durable_seq, position.received_marker, position.permitted_marker, position.applied_marker]
    };
    let less = known(&says).iter().zip(known(told)).any(|(says, told)| *says < told);
    assert!(!less, "{what}: it said {told:?}, and now it says {says:?}");
}

/// Power is lost at both sides, or at the copy's while the primary's process dies. What a copy said is there, its image is one that
/// was, and the pair goes on from there by the journal: the primary still has the place that the copy goes on from.
#[test]
fn a_loss_of_power_anywhere_in_a_real_run_of_a_pair_leaves_what_the_copy_said_and_it_goes_on() {
    let profile = Profile::goes_on();
    let mut pair = RealPair::start(&profile);
    let before = pair.run(2 * WRITES);
    let entries = pair.recording.entries();
    let RealPair { near_site, far_site, hosts, moments, .. } = &mut pair;
    let mut ended = Player::new(2);
    entries.iter().for_each(|entry| ended.play(entry));
    for machine in [0, 1] {
        let segments = ended.disk(machine).list(JOURNAL.as_ref()).unwrap();
        assert!(
            !segments.iter().any(|name| name.starts_with("0000000000000000.")),
            "both give room back: {segments:?}"
        );
    }
    for_each_beginning(&entries, before, 2, |player, number, moment| {
        near_site.disk = player.disk(0).clone();
        far_site.disk = player.disk(1).clone();
        let told = entries.get(number).map_or(entries[number - 1].told, |next| next.told);
        for seed in 0..3 {
            let what = format!("power lost (seed {seed}) after {number} of {} changes", entries.len());
            let far = far_site.twin(Some(seed));
            assert_says_no_less(&what, &far, &told);
            let near = near_site.twin((seed > 0).then_some(!seed));
            // What it kept in memory is of another moment.
            near.lost_memory();
            let told = (told.durable_seq, told.permitted_marker, told.applied_marker);
            let hosts = hosts.as_of(moment).hosts();
            let mut world = World::going_on(seed, profile.clone(), [near, far], hosts, moments.clone(), told);
            let figures = world.run();
            assert_eq!((figures.differential, figures.resyncs), (0, 0), "{what}: it goes on by the journal");
        }
    });
}
