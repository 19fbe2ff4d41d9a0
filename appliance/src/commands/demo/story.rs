//! The story: what happens on the stage, act by act, and what each act must prove.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use tidemark_common::api::types::{
    Failover, FailoverReport, GroupCreate, GroupStatus, OnFull, PairState, PairStatus, PairTarget, Role, VolumeCreate,
};
use tidemark_common::clock::{Clock, SystemClock};
use tokio::task::spawn_blocking;

use super::book::{self, Volume};
use super::host::{Host, HostError};
use super::judge::{self, Consistent, Fault, Image};
use super::load::{History, Hosts, Load, Writer, now_ns};
use super::report::{Report, Waits, between, count, ms};
use super::screen::Screen;
use super::stage::{GROUP, Stage};
use crate::output::figures::{bytes, microseconds, seconds};

/// Between two cuts.
const INTERVAL: Duration = Duration::from_millis(250);
/// Transactions the volumes hold before they are paired.
const BEFORE_PAIRING: u64 = 500;
/// Transactions written on the new primary.
const AFTERWARDS: u64 = 200;
/// How long what comes at once may take on a slow machine.
const PATIENCE: Duration = Duration::from_secs(10);
/// Between two looks at the services.
const LOOK: Duration = Duration::from_millis(100);

/// Tells it all.
pub(super) async fn tell(stage: &mut Stage, screen: &mut Screen, length: Duration) -> anyhow::Result<Report> {
    let clock = SystemClock::new();
    let mut report = Report::default();
    screen.title("Tidemark", "two appliances on this machine: 'east' has the data, 'west' the copy");
    let base_seq = set_up(stage, screen).await?;
    let load = start_load(stage, screen).await?;
    pair(stage, screen, &load, &clock, &mut report).await?;
    let seen = replicate(stage, screen, &load, &clock, length).await?;
    let disaster = strike(stage, screen, load, &clock, &seen, &mut report).await?;
    let taken_over = fail_over(stage, screen, &clock, &disaster, &mut report).await?;
    let hosts = prove(screen, taken_over, &disaster, &seen, base_seq, &mut report).await?;
    lose(screen, &disaster, &seen, &report);
    go_on(screen, hosts, &mut report).await?;
    come_back(stage, screen, &mut report).await?;
    report.took_seconds = clock.monotonic().as_secs_f64();
    screen.end("Proven", &format!("in {}", seconds(report.took_seconds)));
    Ok(report)
}

/// Both services, their trust, the volumes and the group. The newest sequence number of the group.
async fn set_up(stage: &mut Stage, screen: &mut Screen) -> anyhow::Result<u64> {
    tokio::try_join!(stage.east.start(), stage.west.start())?;
    stage.introduce().await?;
    for volume in Volume::ALL {
        let request = VolumeCreate { name: volume.name().into(), size: volume.bytes(), backing: None };
        stage.east.client.volume_create(&request).await?;
    }
    let volumes = Volume::ALL.map(|volume| volume.name().to_owned()).to_vec();
    let interval_ms = u64::try_from(INTERVAL.as_millis())?;
    let request = GroupCreate {
        name: GROUP.into(),
        volumes,
        interval_ms,
        on_full: OnFull::Fold,
        history: tidemark_common::history::History::default(),
    };
    let group = stage.east.client.group_create(&request).await?;
    let [files, log] = Volume::ALL.map(|volume| format!("'{}' ({})", volume.name(), bytes(volume.bytes())));
    screen.act(
        "set up",
        &format!(
            "both serve and trust each other; group '{GROUP}' on east: volumes {files} and {log}, a cut every 250 ms"
        ),
    );
    Ok(group.positions.captured_seq)
}

/// The host begins; it goes on until its connection breaks.
async fn start_load(stage: &Stage, screen: &mut Screen) -> anyhow::Result<Load> {
    let socket = stage.east.nbd_socket();
    let load = spawn_blocking(move || Hosts::open(&socket))
        .await?
        .map_err(anyhow::Error::from)
        .and_then(|hosts| Ok(Load::start(hosts)?))?;
    screen.act("host", "writes over NBD: a version of one of 1,024 documents to 'files', then, when that is answered, the transaction that names it to 'log'");
    let begun = async {
        while load.progress.committed.load(Ordering::Relaxed) < BEFORE_PAIRING && !load.has_ended() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, begun).await.map_err(|_| anyhow!("the host's writes on east are not answered"))?;
    Ok(load)
}

/// The initial copy, under load.
async fn pair(
    stage: &Stage,
    screen: &mut Screen,
    load: &Load,
    clock: &dyn Clock,
    report: &mut Report,
) -> anyhow::Result<()> {
    let begin = clock.monotonic();
    stage.east.client.pair_create(GROUP, &PairTarget { to: stage.west.name.into() }).await?;
    loop {
        let (_, pair) = stage.east.pair().await?;
        let took = clock.monotonic() - begin;
        let done = pair.copy.map_or(0, |copy| copy.done_bytes);
        screen.live("pair", &format!("initial copy: {} done after {}", bytes(done), seconds(took.as_secs_f64())), took);
        ensure!(!load.has_ended(), "the host lost its connection to east");
        ensure!(
            took < PATIENCE,
            "the initial copy has not ended after {} s: the pair is {:?}, {:?}",
            PATIENCE.as_secs(),
            pair.state,
            pair.reason
        );
        if pair.state == PairState::Paired && pair.permitted_marker > 0 {
            report.initial_copy_ms = ms(took);
            break;
        }
        tokio::time::sleep(LOOK / 5).await;
    }
    let total = Volume::ALL.iter().map(|volume| volume.bytes()).sum();
    screen.act(
        "pair",
        &format!(
            "with west; initial copy of {} in {} ms, while the host wrote on",
            bytes(total),
            report.initial_copy_ms.round()
        ),
    );
    Ok(())
}

/// What was last seen before the disaster.
struct Seen {
    east: GroupStatus,
    west: PairStatus,
}

/// The load runs, and the figures with it.
async fn replicate(
    stage: &Stage,
    screen: &mut Screen,
    load: &Load,
    clock: &dyn Clock,
    length: Duration,
) -> anyhow::Result<Seen> {
    screen.space();
    let begin = clock.monotonic();
    loop {
        let (east, pair) = stage.east.pair().await?;
        let (_, west) = stage.west.pair().await?;
        ensure!(!load.has_ended(), "the host lost its connection to east");
        let at = clock.monotonic() - begin;
        screen.live("replicating", &figures_now(at, load, &east, &pair, &west), at);
        if at >= length {
            screen.settle();
            screen.space();
            return Ok(Seen { east, west });
        }
        tokio::time::sleep(LOOK.min(length.saturating_sub(at))).await;
    }
}

fn figures_now(at: Duration, load: &Load, east: &GroupStatus, pair: &PairStatus, west: &PairStatus) -> String {
    let committed = count(load.progress.committed.load(Ordering::Relaxed));
    let written = bytes(load.progress.bytes.load(Ordering::Relaxed));
    let lag = pair.rpo_seconds.map_or_else(|| "no copy".into(), seconds);
    let lag_bytes = bytes(pair.lag_bytes);
    let (cut, applied) = (east.marker.last, west.applied_marker);
    let freeze = microseconds(east.freeze.p50_us);
    let longest = microseconds(east.freeze.max_us);
    format!(
        "{:>6}  {committed:>7} transactions {written:>9}  marker {cut:>3}, applied {applied:>3}  lag {lag} {lag_bytes:>9}  freeze {freeze}, longest {longest}",
        seconds(at.as_secs_f64())
    )
}

/// What is left of east: the host's memories.
struct Disaster {
    history: Arc<History>,
    struck_ns: i64,
    struck_at: Duration,
}

/// East dies without warning.
async fn strike(
    stage: &mut Stage,
    screen: &mut Screen,
    load: Load,
    clock: &dyn Clock,
    seen: &Seen,
    report: &mut Report,
) -> anyhow::Result<Disaster> {
    ensure!(!load.has_ended(), "the host lost its connection to east before the disaster");
    let (struck_ns, struck_at) = (now_ns(clock), clock.monotonic());
    stage.east.kill().await?;
    let ended = spawn_blocking(move || load.end()).await?;
    let (history, error) = ended.map_err(|_| anyhow!("the host's thread failed"))?;
    ensure!(matches!(error, HostError::Io { .. }), "the host was not stopped by the disaster: {error}");
    report.transactions = history.committed();
    let freeze = seen.east.freeze;
    (report.cuts, report.freeze_p50_us, report.freeze_max_us) = (freeze.count, freeze.p50_us, freeze.max_us);
    let next = count(history.committed() + 1);
    screen.blow("disaster", &format!("kill -9 of east, in the middle of the host's transaction {next}"));
    Ok(Disaster { history: Arc::new(history), struck_ns, struck_at })
}

/// West as it serves now.
struct TakenOver {
    report: FailoverReport,
    hosts: Hosts,
}

/// West takes over, without east.
async fn fail_over(
    stage: &Stage,
    screen: &mut Screen,
    clock: &dyn Clock,
    disaster: &Disaster,
    report: &mut Report,
) -> anyhow::Result<TakenOver> {
    // Forced, because the primary was heard a moment ago; that it is dead is known here.
    let done = stage
        .west
        .client
        .failover(GROUP, &Failover { force: true, ..Failover::default() })
        .await
        .context("fail over to west")?;
    let socket = stage.west.nbd_socket();
    let opened = spawn_blocking(move || -> Result<Hosts, HostError> {
        let mut hosts = Hosts::open(&socket)?;
        let mut sector = [0; 512];
        Volume::ALL.iter().try_for_each(|volume| hosts.of(*volume).read(0, &mut sector))?;
        Ok(hosts)
    });
    let hosts = opened.await?.context("read the copy on west")?;
    let rto = clock.monotonic() - disaster.struck_at;
    (report.marker, report.failover_ms, report.rto_ms) = (done.marker.number, done.took_ms, ms(rto));
    screen.act("failover", &format!(
        "west is primary, generation {}, and serves marker {}: {:.0} ms after the kill, {:.0} ms of it the failover itself",
        done.generation, done.marker.number, report.rto_ms, done.took_ms
    ));
    Ok(TakenOver { report: done, hosts })
}

/// What the judge found.
struct Verdict {
    consistent: Consistent,
    compared_bytes: u64,
    answered: u64,
    image: Image,
}

/// The copy is the exact image at its marker.
async fn prove(
    screen: &mut Screen,
    taken_over: TakenOver,
    disaster: &Disaster,
    seen: &Seen,
    base_seq: u64,
    report: &mut Report,
) -> anyhow::Result<Hosts> {
    let marker = &taken_over.report.marker;
    // The host is the only one who writes, and each of its writes is one captured write.
    let prefix =
        marker.boundary_seq.checked_sub(base_seq).context("the marker is older than the host's first write")?;
    let cut_ns = i64::try_from(marker.time.as_nanosecond())?;
    let (reported, history) = (seen.west.permitted_marker, Arc::clone(&disaster.history));
    let hosts = taken_over.hosts;
    screen.live("proof", "the judge reads both volumes from west", Duration::ZERO);
    let judged = spawn_blocking(move || -> Result<Verdict, Fault> {
        let mut image = Image::new(hosts);
        let consistent = judge::consistent(&mut image)?;
        let compared_bytes = judge::exact(&mut image, prefix)?;
        let answered = judge::as_new_as_its_marker(&history.moments, cut_ns, prefix)?;
        Ok(Verdict { consistent, compared_bytes, answered, image })
    });
    let verdict = judged.await?.with_context(|| format!("the copy is NOT the image at marker {}", marker.number))?;
    ensure!(marker.number >= reported, "west had reported marker {reported}, and serves the older {}", marker.number);
    let Consistent { records, documents, bytes: checked } = verdict.consistent;
    let (each, all) = (count(records), bytes(verdict.compared_bytes));
    screen.proven(
        "proof",
        "every log record has its file, whole",
        &format!("{each} records and files, {}", bytes(checked)),
    );
    screen.proven("", "the directory leads where the log says", &format!("{documents} documents"));
    screen.proven("", "each byte is as of the marker", &format!("{all} are the host's first {} writes", count(prefix)));
    screen.proven(
        "",
        "nothing from before the cut is missing",
        &format!("{} writes had been answered", count(verdict.answered)),
    );
    screen.proven("", "no step back", &format!("west had reported marker {reported}"));
    (report.records, report.writes, report.compared_bytes) = (records, prefix, verdict.compared_bytes);
    report.lost_transactions = disaster.history.committed().saturating_sub(records);
    report.rpo_ms = ms(between(cut_ns, disaster.struck_ns));
    Ok(verdict.image.into_hosts())
}

/// What the disaster cost, and what the copies had cost until then.
fn lose(screen: &mut Screen, disaster: &Disaster, seen: &Seen, report: &Report) {
    screen.space();
    let lost = match report.lost_transactions {
        0 => "nothing that had been acknowledged".to_owned(),
        1 => "1 acknowledged transaction".to_owned(),
        many => format!("{} acknowledged transactions", count(many)),
    };
    let age = report.rpo_ms;
    screen.act("lost", &format!("{lost}: the marker was cut {age:.0} ms before the kill; all before it is there"));
    let freeze = seen.east.freeze;
    let (half, longest) = (microseconds(freeze.p50_us), microseconds(freeze.max_us));
    let abandoned = match freeze.abandoned {
        0 => "none was given up".into(),
        1 => "1 was given up".into(),
        some => format!("{some} were given up"),
    };
    screen.act(
        "freezes",
        &format!("{} cuts held the host {half} in the median, {longest} at most; {abandoned}", freeze.count),
    );
    let [plain, durable] = [false, true].map(|fua| Waits::of(&disaster.history.moments, fua));
    let shown = |wait: Duration| microseconds(wait.as_secs_f64() * 1e6);
    screen.act(
        "host",
        &format!(
            "waited {} for a write, {} for a durable one in the median; {} at most",
            shown(plain.median),
            shown(durable.median),
            shown(plain.longest.max(durable.longest))
        ),
    );
}

/// The host's work continues where the copy ends.
async fn go_on(screen: &mut Screen, hosts: Hosts, report: &mut Report) -> anyhow::Result<()> {
    let first = report.records + 1;
    let last = report.records + AFTERWARDS;
    let work = spawn_blocking(move || -> anyhow::Result<()> {
        let clock = SystemClock::new();
        let mut writer = Writer { hosts, history: History::default() };
        for number in first..=last {
            writer.transact(number, &clock).with_context(|| format!("write transaction {number} on west"))?;
        }
        let mut image = Image::new(writer.hosts);
        judge::exact(&mut image, book::writes_until(last)).context("what was written on west does not read back")?;
        Ok(())
    });
    work.await??;
    report.transactions_after = AFTERWARDS;
    screen.act(
        "on west",
        &format!("the host goes on with transaction {}: {AFTERWARDS} more, all read back", count(first)),
    );
    Ok(())
}

/// East comes back, and is fenced.
async fn come_back(stage: &mut Stage, screen: &mut Screen, report: &mut Report) -> anyhow::Result<()> {
    stage.east.start().await?;
    let fenced = async {
        loop {
            let group = stage.east.group().await?;
            if group.role == Role::Fenced {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK / 5).await;
        }
    };
    let in_time = tokio::time::timeout(PATIENCE, fenced).await;
    in_time.map_err(|_| anyhow!("east came back, and was not fenced within {} s", PATIENCE.as_secs()))??;
    let socket = stage.east.nbd_socket();
    let refused = spawn_blocking(move || Host::open(&socket, Volume::Log.name())).await?;
    match refused {
        Err(HostError::Refused { message }) => {
            screen.act("fenced", &format!("east is back, and serves nothing: {message}"));
        }
        Err(other) => return Err(other).context("ask east for its volume"),
        Ok(_) => bail!("east is fenced, and serves its volume all the same"),
    }
    report.fenced = true;
    Ok(())
}
