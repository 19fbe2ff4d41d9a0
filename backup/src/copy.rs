//! The copying: one thread reads the images in the plan's order, at its pace; another writes what it becomes, with a few
//! pieces between them. A target that is slow holds up the reading, and nobody else.

use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use parking_lot::Mutex;
use tidemark_common::clock::Clock;

use crate::digest::Digest;
use crate::form::Form;
use crate::image::{Image, ImageError};
use crate::manifest::{KindSaid, MANIFEST_BYTES_MAX, MemberSaid, too_large};
use crate::names::is_escaped;
use crate::pace::Pace;
use crate::plan::{Images, Kind, Member, reads_once, spare_the_rest};
use crate::stop::Stop;

/// Bytes of one piece.
const PIECE_BYTES: u64 = 1 << 20;
/// Pieces between reading and writing.
const PIECES: usize = 4;
/// Memory one copying takes: the pieces in between, one being read and one being written.
pub const COPY_BYTES: u64 = PIECE_BYTES * (PIECES as u64 + 2);
/// A target that has not taken what it was given for so long is said to stall.
const STALL: Duration = Duration::from_secs(5);
/// When nothing is given to it.
const NOTHING_MS: u64 = u64::MAX;

/// Why a copying ended early.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// The image.
    #[error("{0}")]
    Image(#[from] ImageError),
    /// The target.
    #[error("write {member}: {source}")]
    Target {
        /// What was being written.
        member: String,
        /// What the system said.
        source: io::Error,
    },
    /// It could not be carried out here: no thread, no record.
    #[error("{0}")]
    Failed(String),
    /// As asked.
    #[error("{0}")]
    Stopped(String),
}

/// How far a copying is; many may look.
pub struct Progress {
    clock: Arc<dyn Clock>,
    total: OnceLock<u64>,
    done: AtomicU64,
    opens_ms: OnceLock<u64>,
    began_ms: OnceLock<u64>,
    /// Since when the target has what it is being given.
    given_ms: AtomicU64,
    member: Mutex<String>,
}

impl std::fmt::Debug for Progress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Progress").field("done", &self.done).field("total", &self.total).finish_non_exhaustive()
    }
}

/// What is known of a copying now.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Told {
    /// Bytes written.
    pub done_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
    /// Over the whole time.
    pub bytes_per_second: f64,
    /// At that speed.
    pub seconds_left: Option<f64>,
    /// What is being written.
    pub member: String,
    /// The target has taken nothing for so long.
    pub stalled: Option<Duration>,
}

impl Progress {
    /// Nothing is copied yet.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            total: OnceLock::new(),
            done: 0.into(),
            opens_ms: OnceLock::new(),
            began_ms: OnceLock::new(),
            given_ms: NOTHING_MS.into(),
            member: Mutex::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.clock.monotonic().as_millis()).unwrap_or(u64::MAX)
    }

    /// Its target is being opened: a pipe opens when somebody reads it.
    pub fn opens(&self) {
        let _ = self.opens_ms.set(self.now_ms());
    }

    /// It begins, with so many bytes before it.
    pub fn begin(&self, total: u64) {
        let _ = self.total.set(total);
        let _ = self.began_ms.set(self.now_ms());
    }

    fn moved(&self, bytes: u64) {
        self.done.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Gives something to the target. Between two such, it is the pace or the image that is waited for.
    pub fn giving<T>(&self, give: impl FnOnce() -> T) -> T {
        self.given_ms.store(self.now_ms(), Ordering::Relaxed);
        let given = give();
        self.given_ms.store(NOTHING_MS, Ordering::Relaxed);
        given
    }

    /// See [`Told`].
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    pub fn told(&self) -> Told {
        let (done, total) = (self.done.load(Ordering::Relaxed), self.total.get().copied().unwrap_or(0));
        let now = self.now_ms();
        let stalled_since = |since: u64| {
            let silent = Duration::from_millis(now.saturating_sub(since));
            (silent >= STALL).then_some(silent)
        };
        let Some(began) = self.began_ms.get() else {
            let stalled = self.opens_ms.get().copied().and_then(stalled_since);
            return Told { total_bytes: total, stalled, ..Told::default() };
        };
        let seconds = now.saturating_sub(*began) as f64 / 1000.0;
        let speed = if seconds > 0.0 { done as f64 / seconds } else { 0.0 };
        Told {
            done_bytes: done,
            total_bytes: total,
            bytes_per_second: speed,
            seconds_left: (speed > 0.0).then(|| total.saturating_sub(done) as f64 / speed),
            member: self.member.lock().clone(),
            stalled: Some(self.given_ms.load(Ordering::Relaxed))
                .filter(|since| *since != NOTHING_MS)
                .and_then(stalled_since),
        }
    }
}

/// What goes from reading to writing.
enum Step {
    Begin(usize),
    Data(u64, Vec<u8>),
    End,
}

/// What a copying needs.
#[derive(Debug)]
pub struct Copying<'a> {
    /// What to copy, in this order.
    pub members: &'a [Member],
    /// Its pace.
    pub pace: Pace,
    /// Told to stop through this.
    pub stop: &'a Stop,
    /// Where it says how far it is.
    pub progress: &'a Progress,
}

/// Copies all members; what the manifest says of each.
///
/// # Errors
/// [`CopyError`]; what was written is worth nothing then.
pub fn copy(mut work: Copying<'_>, images: &Images, form: &mut dyn Form) -> Result<Vec<MemberSaid>, CopyError> {
    let (members, stop, progress) = (work.members, work.stop, work.progress);
    spare_the_rest(members, images);
    let (sender, receiver) = sync_channel(PIECES);
    let hung_up = &AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reading = scope.spawn(move || {
            let outcome = read_all(members, images, &mut work.pace, stop, hung_up, &sender);
            drop(sender);
            outcome
        });
        let written = write_all(members, receiver, form, stop, progress);
        // Whoever reads may be waiting until hosts are quiet, or for his rate: what cannot be written is told now.
        hung_up.store(true, Ordering::Release);
        // What could not be read is the cause of what was not written; without it, what was written is not all.
        let broken = || ImageError("the reading ended by a defect of Tidemark, and the log has its message".into());
        let read = reading.join().unwrap_or_else(|_| Err(broken().into()));
        match (read, written) {
            (Err(CopyError::Stopped(_)) | Ok(()), written) => match stop.reason() {
                Some(reason) => Err(CopyError::Stopped(reason)),
                None => written,
            },
            (Err(error), _) => Err(error),
        }
    })
}

fn read_all(
    members: &[Member],
    images: &Images,
    pace: &mut Pace,
    stop: &Stop,
    hung_up: &AtomicBool,
    to: &SyncSender<Step>,
) -> Result<(), CopyError> {
    let once = reads_once(members);
    // The other side hangs up only when it cannot write, and says why itself.
    let send = |step| to.send(step).map_err(|_| CopyError::Stopped("the target takes nothing more".into()));
    for (number, member) in members.iter().enumerate() {
        send(Step::Begin(number))?;
        if !member.content.runs.is_empty() {
            let image = images.get(&member.volume);
            let image = image.ok_or_else(|| ImageError(format!("there is no image of volume '{}'", member.volume)))?;
            let mut wait = |length| pace.wait(length, stop, &|| hung_up.load(Ordering::Acquire));
            read_member(member, image.as_ref(), once, &mut wait, stop, &send)?;
        }
        send(Step::End)?;
    }
    Ok(())
}

fn read_member(
    member: &Member,
    image: &dyn Image,
    once: bool,
    wait: &mut impl FnMut(u64) -> bool,
    stop: &Stop,
    send: &impl Fn(Step) -> Result<(), CopyError>,
) -> Result<(), CopyError> {
    for run in &member.content.runs {
        let mut done = 0;
        while done < run.length {
            let from = run.from + done;
            // To the next multiple of a piece in the volume.
            let length = (PIECE_BYTES - from % PIECE_BYTES).min(run.length - done);
            if wait(length) {
                return Err(CopyError::Stopped(stop.reason().unwrap_or_default()));
            }
            let mut bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            image.read(from, &mut bytes)?;
            if once {
                image.copied(from, length);
            }
            send(Step::Data(run.at + done, bytes))?;
            done += length;
        }
    }
    Ok(())
}

fn write_all(
    members: &[Member],
    from: Receiver<Step>,
    form: &mut dyn Form,
    stop: &Stop,
    progress: &Progress,
) -> Result<Vec<MemberSaid>, CopyError> {
    let mut said = Vec::with_capacity(members.len());
    let mut current: Option<(&Member, Digest)> = None;
    for step in from {
        if let Some(reason) = stop.reason() {
            return Err(CopyError::Stopped(reason));
        }
        let name = || current.as_ref().map_or_else(String::new, |(member, _)| member.name.clone());
        let at_target = |source| CopyError::Target { member: name(), source };
        match step {
            Step::Begin(number) => {
                let Some(member) = members.get(number) else { continue };
                progress.member.lock().clone_from(&member.name);
                let begun = progress.giving(|| form.begin(member));
                begun.map_err(|source| CopyError::Target { member: member.name.clone(), source })?;
                current = Some((member, Digest::default()));
            }
            Step::Data(at, bytes) => {
                progress.giving(|| form.data(at, &bytes)).map_err(at_target)?;
                if let Some((_, digest)) = &mut current {
                    digest.add(at, &bytes);
                }
                progress.moved(bytes.len() as u64);
            }
            Step::End => {
                progress.giving(|| form.end()).map_err(at_target)?;
                said.extend(current.take().map(|(member, digest)| describe(member, digest)));
            }
        }
    }
    Ok(said)
}

/// Whether an archive of these members has a manifest that is read back: better known before they are copied.
///
/// # Errors
/// For people, that it is too large.
pub fn check_manifest(members: &[Member]) -> Result<(), String> {
    check_manifest_within(members, MANIFEST_BYTES_MAX)
}

fn check_manifest_within(members: &[Member], bytes_max: u64) -> Result<(), String> {
    let mut text = Measured::default();
    for member in members {
        // All digests are of one length.
        let said = describe(member, Digest::default());
        serde_json::to_writer_pretty(&mut text, &said).map_err(|error| error.to_string())?;
        // What separates it from the next one.
        text.bytes += 2;
        text.lines += 1;
    }
    // Members stand two levels deep, each of which is two blanks.
    let bytes = text.bytes.saturating_add(text.lines.saturating_mul(4));
    if bytes > bytes_max { Err(too_large(bytes, bytes_max)) } else { Ok(()) }
}

/// A text that nobody keeps.
#[derive(Default)]
struct Measured {
    bytes: u64,
    lines: u64,
}

impl io::Write for Measured {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.bytes += bytes.len() as u64;
        self.lines += bytes.iter().filter(|byte| **byte == b'\n').count() as u64;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn describe(member: &Member, mut digest: Digest) -> MemberSaid {
    let extents = || member.content.runs.iter().map(|run| (run.from, run.length)).collect();
    let (kind, offset, extents, meta) = match &member.kind {
        Kind::Range { offset } => (KindSaid::Range, Some(*offset), Vec::new(), None),
        Kind::File(meta) => (KindSaid::File, None, extents(), Some(*meta)),
        Kind::Folder(meta) => (KindSaid::Folder, None, Vec::new(), Some(*meta)),
        Kind::Link(meta, to) => {
            digest.add(0, to);
            (KindSaid::Link, None, Vec::new(), Some(*meta))
        }
    };
    MemberSaid {
        set: member.set.clone(),
        name: member.name.clone(),
        escaped: is_escaped(&member.name),
        volume: member.volume.clone(),
        kind,
        offset,
        size: member.content.size,
        data_bytes: member.content.data_bytes(),
        meta,
        extents,
        blake3: digest.finish(member.content.size),
    }
}

#[cfg(test)]
mod tests {
    use tidemark_common::clock::HandClock;

    use super::*;
    use crate::archive::write::ArchiveWriter;
    use crate::content::{Content, Run};
    use crate::image::memory::Bytes;

    /// A target that takes nothing more.
    struct Full;

    impl Form for Full {
        fn begin(&mut self, _member: &Member) -> io::Result<()> {
            Ok(())
        }

        fn data(&mut self, _at: u64, _bytes: &[u8]) -> io::Result<()> {
            Err(io::ErrorKind::StorageFull.into())
        }

        fn end(&mut self) -> io::Result<()> {
            Ok(())
        }

        fn finish(&mut self, _manifest: &str) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_target_that_breaks_off_ends_it_whatever_its_pace() {
        let (tell, told) = sync_channel(1);
        std::thread::spawn(move || {
            let clock: Arc<dyn Clock> = Arc::new(HandClock::default());
            let (stop, progress) = (Stop::default(), Progress::new(Arc::clone(&clock)));
            let image: Arc<dyn Image> = Arc::new(Bytes::new(vec![1; 2 << 20]));
            let content = Content { size: 2 << 20, runs: vec![Run { at: 0, from: 0, length: 2 << 20 }] };
            let kind = Kind::Range { offset: 0 };
            let members = [Member { set: "s".into(), name: "s/a".into(), volume: "a".into(), kind, content }];
            // The clock stands: the second piece is never due.
            let pace = Pace::new(clock, Some(1), None);
            let work = Copying { members: &members, pace, stop: &stop, progress: &progress };
            let ended = copy(work, &Images::from([("a".into(), image)]), &mut Full);
            let _ = tell.send(ended.map_err(|error| error.to_string()));
        });
        let ended = told.recv_timeout(Duration::from_secs(20)).unwrap();
        assert!(ended.unwrap_err().starts_with("write s/a: "));
    }

    /// Hosts that wrote elsewhere in the volume filled the side store for a backup of a small part of it, which forgot its rate then, or failed.
    #[test]
    fn what_no_member_reads_is_kept_for_nobody() {
        const REST: u64 = 16 << 20;
        let image = || Arc::new(Bytes::new(vec![0; usize::try_from(4 * REST).unwrap()]));
        let (part, holes) = (image(), image());
        let member = |name: &str, volume: &str, runs: &[u64]| {
            let runs: Vec<_> = runs.iter().map(|from| Run { at: 0, from: *from, length: 4096 }).collect();
            let content = Content { size: 4096, runs };
            Member {
                set: "s".into(),
                name: name.into(),
                volume: volume.into(),
                kind: Kind::Range { offset: 0 },
                content,
            }
        };
        // What lies between two of them is too little, and one is read twice: of what is read, nothing is spared.
        let members = [
            member("s/2", "part", &[REST + 8192]),
            member("s/1", "part", &[REST]),
            member("s/3", "part", &[REST]),
            member("s/4", "holes", &[]),
        ];
        let clock: Arc<dyn Clock> = Arc::new(HandClock::default());
        let (stop, progress) = (Stop::default(), Progress::new(Arc::clone(&clock)));
        let work = Copying { members: &members, pace: Pace::new(clock, None, None), stop: &stop, progress: &progress };
        let images = [("part", &part), ("holes", &holes)];
        let images = images.map(|(name, image)| (name.to_owned(), Arc::clone(image) as Arc<dyn Image>));
        copy(work, &Images::from(images), &mut ArchiveWriter::new(io::sink(), 0)).unwrap();
        assert_eq!(*part.copied.lock(), [(0, REST), (REST + 12_288, 3 * REST - 12_288)]);
        assert_eq!(*holes.copied.lock(), [(0, 4 * REST)]);
    }

    /// An image that cannot be read without a panic.
    struct Broken;

    impl Image for Broken {
        fn size(&self) -> u64 {
            4096
        }

        fn read(&self, _offset: u64, _buffer: &mut [u8]) -> Result<(), ImageError> {
            panic!("as it was to")
        }

        fn hole(&self, _offset: u64, _length: u64) -> Result<u64, ImageError> {
            Ok(0)
        }

        fn copied(&self, _offset: u64, _length: u64) {}
    }

    /// What came before it was written, with its manifest, and called done.
    #[test]
    fn a_reading_that_a_panic_has_ended_is_no_whole_backup() {
        let clock: Arc<dyn Clock> = Arc::new(HandClock::default());
        let (stop, progress) = (Stop::default(), Progress::new(Arc::clone(&clock)));
        let content = Content { size: 4096, runs: vec![Run { at: 0, from: 0, length: 4096 }] };
        let kind = Kind::Range { offset: 0 };
        let members = [Member { set: "s".into(), name: "s/a".into(), volume: "a".into(), kind, content }];
        let work = Copying { members: &members, pace: Pace::new(clock, None, None), stop: &stop, progress: &progress };
        let images = Images::from([("a".into(), Arc::new(Broken) as Arc<dyn Image>)]);
        let ended = copy(work, &images, &mut ArchiveWriter::new(io::sink(), 0));
        assert!(ended.unwrap_err().to_string().contains("defect"));
    }

    #[test]
    fn a_manifest_that_nobody_reads_back_is_known_before_anything_is_copied() {
        let member = |name: &str, runs: u64| {
            let runs: Vec<_> = (0..runs).map(|run| Run { at: run * 8192, from: run * 12_288, length: 4096 }).collect();
            let content = Content { size: 1 << 20, runs };
            let kind = Kind::File(crate::plan::Meta::default());
            Member { set: "s".into(), name: name.into(), volume: "a".into(), kind, content }
        };
        let members = [member("s/a/one\n\u{e4}", 0), member("s/a/two", 1), member(r"s/a/\x41", 40)];
        let said: Vec<_> = members.iter().map(|member| describe(member, Digest::default())).collect();
        let text = serde_json::to_string_pretty(&serde_json::json!({ "members": said })).unwrap();
        let without = serde_json::to_string_pretty(&serde_json::json!({ "members": [] })).unwrap();
        // But for the brackets of an empty list that stand in one line.
        let bytes = (text.len() - without.len()) as u64 - 2;
        assert_eq!(check_manifest_within(&members, bytes), Ok(()));
        assert!(check_manifest_within(&members, bytes - 1).unwrap_err().contains("fewer files"));
        assert_eq!(check_manifest(&members), Ok(()));
    }

    #[test]
    fn how_far_it_is_is_told_with_what_is_left_and_a_target_that_stalls() {
        let clock = Arc::new(HandClock::default());
        let progress = Progress::new(Arc::clone(&clock) as Arc<dyn Clock>);
        assert_eq!(progress.told(), Told::default());
        clock.set(Duration::from_millis(1000));
        progress.begin(8 << 20);
        assert_eq!(progress.told().seconds_left, None, "nothing has moved");
        clock.set(Duration::from_millis(3000));
        progress.moved(2 << 20);
        let told = progress.told();
        assert_eq!((told.done_bytes, told.total_bytes), (2 << 20, 8 << 20));
        assert_eq!((told.seconds_left, told.stalled), (Some(6.0), None), "a mebibyte a second");
        progress.giving(|| {
            clock.set(Duration::from_millis(8000));
            assert_eq!(progress.told().stalled, Some(STALL));
        });
        assert_eq!(progress.told().stalled, None);
        // Hosts are busy for an hour, or a piece is due in one.
        clock.set(Duration::from_secs(3600));
        assert_eq!(progress.told().stalled, None, "nothing was given to it");
    }

    #[test]
    fn a_target_that_does_not_open_is_told_as_one_that_stalls() {
        let clock = Arc::new(HandClock::default());
        let progress = Progress::new(Arc::clone(&clock) as Arc<dyn Clock>);
        progress.opens();
        assert_eq!(progress.told().stalled, None);
        clock.set(Duration::from_millis(5000));
        assert_eq!(progress.told().stalled, Some(STALL), "nobody reads the pipe");
        progress.begin(1);
        assert_eq!(progress.told().stalled, None, "it is open");
    }
}
