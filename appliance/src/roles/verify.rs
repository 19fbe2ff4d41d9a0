//! `verify`: both sides' images compared at one marker, under load; differences listed, and repaired when asked.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::api::types::{
    CopyProgress, ErrorBody, ErrorKind, PairState, PairStatus, VerifyDifference, VerifyReport, VerifyRequest,
};
use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::link::{Connection, ControlReceiver, ControlSender};
use tidemark_common::t0::{Eras, Image, ImageVolume};
use tidemark_common::verify::{RegionDigest, digests};
use tidemark_common::wire::handshake::{Versions, agree};
use tidemark_common::wire::message::{Message, Refusal, Refused, Verify};
use tidemark_primary::differences::everything;
use tidemark_primary::group::Primary;
use tidemark_primary::ship::Pair;
use tidemark_primary::verify::{Since, VerifyError, regions};
use tidemark_secondary::group::Secondary;
use tidemark_secondary::image_point::Asked;
use tidemark_secondary::state::Hold;

use super::appliance::{Appliance, Engine, failed, invalid, refused};
use super::rejoin::{answer, answer_within, unexpected};

/// Regions of one question.
const BATCH: u64 = 1024;
/// A region that hosts keep writing is compared at so many markers; then it is said to be not compared.
const PASSES: usize = 8;
/// Bytes compared at one marker when there is a rate: the copy does not stand for longer than they take.
const SLICE_BYTES: (u64, u64) = (16 << 20, 1 << 30);
/// Differences listed one by one.
const LISTED: usize = 10_000;
/// The copy reaches a marker within this time, or the comparison goes on with the one it has.
const PERMIT_TIMEOUT: Duration = Duration::from_secs(20);
/// The copy has applied what it permitted within this time, or nothing can be compared. Under full load it is that far behind.
const REACH_TIMEOUT: Duration = Duration::from_secs(120);
/// It says so within this time.
const HELD_TIMEOUT: Duration = Duration::from_secs(130);
/// Markers that a copy did not reach before a journal ran full are tried for so long.
const FIRST_TIME: Duration = Duration::from_secs(60);
/// What hosts keep writing is compared again for so long at most: a copy that follows slowly takes its time for each marker.
const PASSES_TIME: Duration = Duration::from_secs(30);
/// A primary that asks nothing for so long lets the copy go on.
const SILENCE: Duration = Duration::from_secs(120);
/// A comparison is broken off when its pair is down at so many looks in a row.
const LOOKS_DOWN: u32 = 15;
/// Between two of these.
const LOOK_DOWN: Duration = Duration::from_millis(200);
/// Between two looks.
const LOOK: Duration = Duration::from_millis(5);

/// A conversation with the copy.
struct Asking<'a> {
    connection: Connection,
    control: ControlSender,
    answers: ControlReceiver,
    peer: &'a str,
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        self.connection.close("compared");
    }
}

impl Asking<'_> {
    async fn hold(&mut self, request: &Verify) -> Result<u64, ErrorBody> {
        self.control.send(&Message::Verify(request.clone())).await.map_err(failed)?;
        match answer_within(HELD_TIMEOUT, &mut self.answers, self.peer).await? {
            Message::Held { marker } => Ok(marker),
            other => Err(unexpected(self.peer, other)),
        }
    }

    async fn digests(&mut self, part: Extent) -> Result<Vec<RegionDigest>, ErrorBody> {
        let count = u32::try_from(regions(part.length)).unwrap_or(u32::MAX);
        let ask = Message::Ask { volume: part.volume.0, offset: part.offset, regions: count };
        self.control.send(&ask).await.map_err(failed)?;
        match answer(&mut self.answers, self.peer).await? {
            Message::Digests { digests } => Ok(digests),
            other => Err(unexpected(self.peer, other)),
        }
    }
}

impl Appliance {
    /// `verify`.
    pub(crate) async fn verify(&self, name: &str, request: &VerifyRequest) -> Result<VerifyReport, ErrorBody> {
        let begin = self.clock.monotonic();
        let primary = self.primary(name)?;
        let pair = primary.pair(&request.to);
        let pair = pair.ok_or_else(|| refused(format!("group '{name}' is not paired with '{}'", request.to)))?;
        if request.rate_bytes_per_second == Some(0) {
            return Err(invalid("at a rate of 0 a comparison never ends"));
        }
        self.wait_until_up(name, &pair, request.wait_ms).await?;
        let found = tokio::select! {
            found = self.compare_all(&primary, &pair, request) => found,
            why = down_for_good(&pair) => Err(refused(format!("the comparison was broken off: {}", down(name, &why)))),
        };
        // What a conversation says of its end is not what ended it.
        let found = found.map_err(|error| match pair.status() {
            status if is_up(&status) || error.message.starts_with("the comparison was") => error,
            status => refused(format!("the comparison was broken off: {}", down(name, &status))),
        })?;
        let repaired = request.repair && !found.different.is_empty();
        if repaired {
            pair.mend(&found.different).await.map_err(failed)?;
        }
        let members = primary.keeper().get().volumes;
        let mut differences = Vec::new();
        let mut at = (VolumeIndex(0), 0);
        while let Some(run) = found.different.next_run(at.0, at.1).filter(|_| differences.len() < LISTED) {
            at = (run.volume, run.end());
            let volume = members.iter().find(|member| member.index == run.volume.0);
            let volume = volume.map_or_else(|| run.volume.to_string(), |member| member.name.clone());
            differences.push(VerifyDifference { volume, offset: run.offset, length: run.length });
        }
        if !found.different.is_empty() {
            tracing::error!(
                group = name,
                peer = request.to,
                marker = found.marker,
                bytes = found.different.bytes(),
                repaired,
                "the copy differs from its marker"
            );
        }
        Ok(VerifyReport {
            group: name.into(),
            peer: request.to.clone(),
            marker: found.marker,
            compared_bytes: found.compared_bytes,
            different_bytes: found.different.bytes(),
            differences,
            not_compared_bytes: found.busy.bytes(),
            repaired,
            took_seconds: self.clock.monotonic().saturating_sub(begin).as_secs_f64(),
        })
    }

    /// Nothing can be compared with a side that does not answer, or has no image.
    async fn wait_until_up(&self, name: &str, pair: &Pair, wait_ms: Option<u64>) -> Result<(), ErrorBody> {
        let deadline = wait_ms.map(|wait| self.clock.monotonic() + Duration::from_millis(wait));
        loop {
            let status = pair.status();
            if is_up(&status) {
                return Ok(());
            }
            match deadline {
                None => {
                    return Err(refused(format!("{}: compare when it is paired, or with --wait", down(name, &status))));
                }
                Some(deadline) if self.clock.monotonic() >= deadline => {
                    return Err(ErrorBody::new(ErrorKind::Timeout, down(name, &status)));
                }
                Some(_) => tokio::time::sleep(LOOK).await,
            }
        }
    }

    /// Everything at one marker, or, with a rate, one slice after another: the copy stands only while a slice is compared.
    async fn compare_all(
        &self,
        primary: &Arc<Primary>,
        pair: &Arc<Pair>,
        request: &VerifyRequest,
    ) -> Result<Found, ErrorBody> {
        let all = everything(&primary.volume_sizes());
        let shown = Shown { pair: Arc::clone(pair), begin: self.clock.monotonic(), total_bytes: all.bytes() };
        let slice_bytes =
            request.rate_bytes_per_second.map_or(u64::MAX, |rate| rate.clamp(SLICE_BYTES.0, SLICE_BYTES.1));
        let (mut found, mut at) = (Found::default(), (VolumeIndex(0), 0));
        while let Some(slice) = next_slice(&all, &mut at, slice_bytes) {
            let left = std::mem::replace(&mut found.busy, slice);
            self.compare(primary, &shown, &request.to, &mut found).await?;
            found.busy.merge(&left);
            if let Some(rate) = request.rate_bytes_per_second.filter(|rate| *rate > 0) {
                let due = Duration::from_millis(found.compared_bytes.saturating_mul(1000) / rate);
                let took = self.clock.monotonic().saturating_sub(shown.begin);
                tokio::time::sleep(due.saturating_sub(took)).await;
            }
        }
        Ok(found)
    }

    async fn ask<'a>(&self, peer: &'a str) -> Result<Asking<'a>, ErrorBody> {
        let (connection, control, answers) = self.call(peer).await?;
        Ok(Asking { connection, control, answers, peer })
    }

    async fn compare(
        &self,
        primary: &Arc<Primary>,
        shown: &Shown,
        peer: &str,
        found: &mut Found,
    ) -> Result<(), ErrorBody> {
        let mut asking = None;
        let keeper = primary.keeper();
        let request = Verify {
            version_min: Versions::OURS.min,
            version_max: Versions::OURS.max,
            group: keeper.id().0,
            generation: keeper.generation().0,
        };
        let (mut first, begin) = (true, self.clock.monotonic());
        for pass in 0..PASSES {
            let taken = self.clock.monotonic().saturating_sub(begin);
            if !first && taken > PASSES_TIME {
                break;
            }
            if first && taken > FIRST_TIME {
                return Err(refused(format!(
                    "the comparison was broken off: '{peer}' is so far behind that a journal runs full before it reaches a marker. Compare when \
                     hosts write less"
                )));
            }
            // A new marker: what was written before it can be judged by it.
            let watch = primary.watch();
            let cut = primary.cut(None).await.map_err(failed)?;
            let deadline = self.clock.monotonic() + PERMIT_TIMEOUT;
            while shown.pair.remote().permitted_marker < cut.number && self.clock.monotonic() < deadline {
                tokio::time::sleep(LOOK).await;
            }
            // Called only now: who calls and says nothing is not waited for over there.
            let asking = match &mut asking {
                Some(asking) => asking,
                none => none.insert(self.ask(peer).await?),
            };
            found.marker = match asking.hold(&request).await {
                // What was compared stands: the rest is busy still.
                Err(error) if !first && is_up(&shown.pair.status()) => {
                    tracing::info!(group = %keeper.name(), peer = asking.peer, error = %error.message, "what hosts keep writing is not compared");
                    break;
                }
                held => held?,
            };
            let since = tokio::task::block_in_place(|| primary.since_marker(found.marker, watch));
            let since = match since {
                // The journal ran full until the copy stood there: the next one is newer.
                Err(error) if error.wants_another_marker() && pass + 1 < PASSES => continue,
                since => since.map_err(failed)?,
            };
            let progress = |compared| shown.progress(compared, self.clock.monotonic());
            let (again, busy_bytes) = (!first, found.busy.bytes());
            first &= !found.pass(primary, asking, since, progress, first).await?;
            let left_bytes = found.busy.bytes();
            // Hosts that write there all the time do so at the next marker, too, and a copy that is behind takes long to reach it.
            if left_bytes == 0 || again && left_bytes > busy_bytes / 8 * 7 {
                break;
            }
        }
        Ok(())
    }

    /// The copy's side: holds its image, and tells digests, for as long as the primary asks.
    pub(crate) async fn let_verify(
        &self,
        connection: &Connection,
        control: &ControlSender,
        incoming: &mut ControlReceiver,
        first: &Verify,
    ) -> Result<(), Refused> {
        agree(Versions::OURS, Versions { min: first.version_min, max: first.version_max })?;
        let secondary = self.copy_of(connection, first)?;
        let refuse = |message: String| Refused { refusal: Refusal::Unready, message, generation: 0 };
        let Some(mut looked) = self.look_for(connection, &secondary).await.map_err(refuse)? else { return Ok(()) };
        let mut reply = Message::Held { marker: looked.marker() };
        loop {
            control.send(&reply).await.map_err(|error| refuse(error.to_string()))?;
            let next = tokio::time::timeout(SILENCE, incoming.recv()).await;
            reply = match next {
                Ok(Ok(Some(Message::Ask { volume, offset, regions }))) => {
                    let told = tokio::task::block_in_place(|| looked.digests(&secondary, volume, offset, regions));
                    Message::Digests { digests: told.map_err(refuse)? }
                }
                Ok(Ok(Some(Message::Verify(_)))) => {
                    drop(looked);
                    let Some(next) = self.look_for(connection, &secondary).await.map_err(refuse)? else {
                        return Ok(());
                    };
                    looked = next;
                    Message::Held { marker: looked.marker() }
                }
                // The end, in good order or not: the hold goes with it.
                _ => return Ok(()),
            };
        }
    }

    fn copy_of(&self, connection: &Connection, request: &Verify) -> Result<Arc<Secondary>, Refused> {
        let here = &self.config.name;
        let refuse = |message: String| Refused { refusal: Refusal::Conflict, message, generation: 0 };
        let group = self.group_asked_for(&request.group)?;
        let record = group.keeper.get();
        let Engine::Secondary(secondary) = group.engine.read().clone() else {
            return Err(refuse(format!("group '{}' is no copy on '{here}'", record.name)));
        };
        if record.primary != Some(connection.peer().0) || record.generation != request.generation {
            return Err(refuse(format!(
                "group '{}' on '{here}' is the copy of another appliance or generation",
                record.name
            )));
        }
        Ok(secondary)
    }

    /// `None`: who asked is gone, and the copy goes on.
    async fn look_for(&self, connection: &Connection, secondary: &Arc<Secondary>) -> Result<Option<Looked>, String> {
        tokio::select! {
            looked = self.look(secondary) => looked.map(Some),
            _ = connection.closed() => Ok(None),
        }
    }

    /// The copy volumes, held at their marker; with a history they are behind on purpose, and an image is looked at instead.
    async fn look(&self, secondary: &Arc<Secondary>) -> Result<Looked, String> {
        if secondary.state().history().floor.is_none() {
            return self.hold(secondary).await.map(Looked::Volumes);
        }
        tokio::task::block_in_place(|| {
            let point = secondary.image_point(Asked::Newest).map_err(|error| error.to_string())?.1;
            let eras = self.eras(secondary.keeper().id()).map_err(|error| error.message)?;
            let indexes = point.volumes.iter().map(|spec| VolumeIndex(spec.index)).collect();
            let era = eras.begin(&point.barrier, &indexes).map_err(|error| error.to_string())?.era;
            let files = point.volumes.iter().filter_map(|spec| secondary.files().get(VolumeIndex(spec.index)));
            let volumes = files.map(|file| ImageVolume {
                index: file.index,
                name: file.name.clone(),
                size: file.size(),
                file: Arc::clone(&file.file),
            });
            let image = Image::new(Arc::clone(&eras), era, volumes.collect());
            Ok(Looked::Image { marker: point.marker.number, image, _era: LeavesEra { eras, era } })
        })
    }

    async fn hold(&self, secondary: &Secondary) -> Result<Hold, String> {
        let hold = secondary.state().hold();
        let hold = hold.ok_or("there is no image yet: the initial copy is not complete")?;
        let deadline = self.clock.monotonic() + REACH_TIMEOUT;
        while !hold.is_reached() {
            if self.clock.monotonic() >= deadline {
                return Err(format!("marker {} is not applied yet: try again", hold.permitted.marker.number));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(hold)
    }
}

fn is_up(status: &PairStatus) -> bool {
    status.connected
        && status.permitted_marker > 0
        && matches!(status.state, PairState::Paired | PairState::CatchingUp | PairState::Resync)
}

/// Why nothing can be compared, as `status` has it.
fn down(group: &str, status: &PairStatus) -> String {
    let PairStatus { peer, state, reason, .. } = status;
    let reason = reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
    let link = if status.connected { "" } else { " and not connected" };
    format!("the pair of group '{group}' with '{peer}' is {state}{link}{reason}")
}

/// Resolves when a pair has been down for longer than a connection takes to come back.
async fn down_for_good(pair: &Pair) -> PairStatus {
    let mut looks = 0;
    loop {
        let status = pair.status();
        looks = if is_up(&status) { 0 } else { looks + 1 };
        if looks > LOOKS_DOWN {
            return status;
        }
        tokio::time::sleep(LOOK_DOWN).await;
    }
}

/// The comparison as status shows it, for as long as it runs.
struct Shown {
    pair: Arc<Pair>,
    begin: Duration,
    total_bytes: u64,
}

impl Shown {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn progress(&self, done_bytes: u64, now: Duration) {
        let seconds = now.saturating_sub(self.begin).as_secs_f64();
        let bytes_per_second = if seconds > 0.0 { done_bytes as f64 / seconds } else { 0.0 };
        let left = self.total_bytes.saturating_sub(done_bytes) as f64;
        let seconds_left = (bytes_per_second > 0.0).then(|| left / bytes_per_second);
        let total_bytes = self.total_bytes;
        self.pair.verifying(Some(CopyProgress { done_bytes, total_bytes, bytes_per_second, seconds_left }));
    }
}

impl Drop for Shown {
    fn drop(&mut self) {
        self.pair.verifying(None);
    }
}

/// The next regions of a bitmap, so many bytes of them.
fn next_slice(all: &Bitmap, at: &mut (VolumeIndex, u64), bytes: u64) -> Option<Bitmap> {
    let (mut slice, mut left) = (Bitmap::default(), bytes / REGION_BYTES * REGION_BYTES);
    while left > 0
        && let Some(run) = all.next_run(at.0, at.1)
    {
        let part = Extent { length: run.length.min(left), ..run };
        slice.mark(part);
        left -= part.length;
        *at = (part.volume, part.end());
    }
    (!slice.is_empty()).then_some(slice)
}

/// What a comparison has found so far.
#[derive(Default)]
struct Found {
    marker: u64,
    compared_bytes: u64,
    different: Bitmap,
    /// Still to be compared: hosts wrote there meanwhile.
    busy: Bitmap,
}

impl Found {
    /// Compares everything that is busy, at the marker held. `false`: the journal ran full; what is left is still busy.
    async fn pass(
        &mut self,
        primary: &Arc<Primary>,
        asking: &mut Asking<'_>,
        mut since: Since,
        mut progress: impl FnMut(u64),
        first: bool,
    ) -> Result<bool, ErrorBody> {
        let todo = std::mem::take(&mut self.busy);
        let mut at = (VolumeIndex(0), 0);
        while let Some(run) = todo.next_run(at.0, at.1) {
            let part = Extent { length: run.length.min(BATCH * REGION_BYTES), ..run };
            at = (part.volume, part.end());
            let there = asking.digests(part).await?;
            let count = usize::try_from(regions(part.length)).unwrap_or(0);
            let here = tokio::task::block_in_place(|| {
                let here = primary.digests(part.volume, part.offset, count)?;
                primary.catch_up(&mut since)?;
                Ok::<_, VerifyError>(here)
            });
            let here = match here {
                Err(error) if error.wants_another_marker() => {
                    self.leave(&todo, part, first);
                    return Ok(false);
                }
                here => here.map_err(failed)?,
            };
            if first {
                self.compared_bytes += here.len() as u64 * REGION_BYTES;
                progress(self.compared_bytes);
            }
            for (number, here) in (0..).zip(&here) {
                let region = Extent { offset: part.offset + number * REGION_BYTES, length: REGION_BYTES, ..part };
                let same = usize::try_from(number).ok().and_then(|number| there.get(number)) == Some(here);
                if same {
                    continue;
                }
                if since.has(region.volume, region.offset) {
                    self.busy.mark(region);
                } else {
                    self.different.mark(region);
                }
            }
        }
        Ok(true)
    }

    /// What is to be compared from a part on is left to the next marker, and what is busy before it counts then.
    fn leave(&mut self, todo: &Bitmap, part: Extent, counted: bool) {
        if counted {
            self.compared_bytes = self.compared_bytes.saturating_sub(self.busy.bytes());
        }
        let mut at = (part.volume, part.offset);
        while let Some(run) = todo.next_run(at.0, at.1) {
            self.busy.mark(run);
            at = (run.volume, run.end());
        }
    }
}

/// What the copy's side tells digests of.
enum Looked {
    Volumes(Hold),
    Image { marker: u64, image: Image, _era: LeavesEra },
}

/// The user of an era, for as long as it lives; no record names it, so a restart forgets it.
struct LeavesEra {
    eras: Arc<Eras>,
    era: u64,
}

impl Drop for LeavesEra {
    fn drop(&mut self) {
        self.eras.leave(self.era);
    }
}

impl Looked {
    const fn marker(&self) -> u64 {
        match self {
            Self::Volumes(hold) => hold.permitted.marker.number,
            Self::Image { marker, .. } => *marker,
        }
    }

    fn digests(
        &self,
        secondary: &Secondary,
        volume: u32,
        offset: u64,
        count: u32,
    ) -> Result<Vec<RegionDigest>, String> {
        let Self::Image { image, .. } = self else { return digests_of(secondary, volume, offset, count) };
        let index = VolumeIndex(volume);
        let found = image.volumes().iter().find(|found| found.index == index);
        let found = found.ok_or_else(|| format!("there is no volume {volume} here"))?;
        check_question(offset, count)?;
        let hole = |offset, length| image.hole(index, offset, length).map_err(std::io::Error::other);
        let read = |offset, target: &mut [u8]| image.read(index, offset, target).map_err(std::io::Error::other);
        let count = usize::try_from(count).unwrap_or(0);
        digests::<std::io::Error>(found.size, offset, count, hole, read).map_err(|error| error.to_string())
    }
}

fn check_question(offset: u64, count: u32) -> Result<(), String> {
    if !offset.is_multiple_of(REGION_BYTES) || u64::from(count) > BATCH {
        return Err("a question that makes no sense".into());
    }
    Ok(())
}

fn digests_of(secondary: &Secondary, volume: u32, offset: u64, count: u32) -> Result<Vec<RegionDigest>, String> {
    let file = secondary.files().get(VolumeIndex(volume)).ok_or_else(|| format!("there is no volume {volume} here"))?;
    check_question(offset, count)?;
    let hole = |offset: u64, length: u64| {
        let data = file.file.next_data(offset)?;
        Ok(data.map_or(length, |(begin, _)| begin.saturating_sub(offset).min(length)))
    };
    let read = |offset: u64, target: &mut [u8]| file.file.read_exact_at(target, offset);
    let count = usize::try_from(count).unwrap_or(0);
    digests::<std::io::Error>(file.size(), offset, count, hole, read)
        .map_err(|error| format!("read volume '{}': {error}", file.name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_cover_everything_once_and_none_is_larger_than_asked_for() {
        const MIB: u64 = 1 << 20;
        let all =
            everything(&[(VolumeIndex(1), 40 * MIB + 512), (VolumeIndex(2), 3 * MIB), (VolumeIndex(7), 33 * MIB)]);
        let (mut seen, mut sum, mut at) = (Bitmap::default(), 0, (VolumeIndex(0), 0));
        while let Some(slice) = next_slice(&all, &mut at, 16 * MIB) {
            assert!(slice.bytes() <= 16 * MIB);
            sum += slice.bytes();
            seen.merge(&slice);
        }
        assert_eq!((seen, sum), (all.clone(), all.bytes()));
    }
}
