//! Hosts: dependent, stamped writes over all volumes, trims, flushes, and reads that must show what was answered.

use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;

use rand::RngExt;
use rand::rngs::StdRng;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::nbd::{IoError, ZeroMode};
use tidemark_primary::group::Primary;
use tidemark_tests::history::{History, Kind, Tick};
use tidemark_tests::image::Image;
use tidemark_tests::oracle::{Bounds, Verdict, assert_legal};
use tidemark_tests::stamp::{self, BLOCK_BYTES, Content, WriteId};

use crate::near::{Waiting, now};
use crate::site::{Site, name_of};

const WRITE_BLOCKS_MAX: u64 = 4;

/// What a host waits for.
enum Doing {
    Write { id: WriteId, fua: bool },
    Flush { moment: Tick },
}

/// One host: a stripe of blocks of every volume is its own, and it does one thing at a time.
struct Host {
    stripe: Range<u64>,
    volume: usize,
    doing: Option<(Doing, Waiting<Result<(), IoError>>)>,
    /// It met an error: it waits for its machine to be started again.
    stopped: bool,
}

/// All hosts, and what they know.
pub(crate) struct Hosts {
    pub(crate) history: Arc<History>,
    hosts: Vec<Host>,
    blocks: u64,
    /// Everything answered before the first moment was flushed, and that was answered at the second.
    flushed: Vec<(Tick, Tick)>,
    /// Writes answered with FUA.
    forced: Vec<WriteId>,
    /// Once each: else a zero would not tell which write it shows.
    zeroed: BTreeSet<(usize, u64)>,
    /// What each block of each volume shows, unless a write to it is under way.
    shows: Vec<Vec<Content>>,
    pub(crate) reads: u64,
    /// Nothing new is begun.
    pub(crate) resting: bool,
}

/// What hosts know, without them.
pub(crate) struct Known {
    history: History,
    stripes: Vec<Range<u64>>,
    blocks: u64,
    flushed: Vec<(Tick, Tick)>,
    forced: Vec<WriteId>,
    zeroed: BTreeSet<(usize, u64)>,
    shows: Vec<Vec<Content>>,
}

impl Known {
    /// Hosts that know it, and go their own way.
    pub(crate) fn hosts(&self) -> Hosts {
        let host = |stripe: &Range<u64>| Host { stripe: stripe.clone(), volume: 0, doing: None, stopped: false };
        Hosts {
            history: Arc::new(self.history.as_of(Tick::MAX)),
            hosts: self.stripes.iter().map(host).collect(),
            blocks: self.blocks,
            flushed: self.flushed.clone(),
            forced: self.forced.clone(),
            zeroed: self.zeroed.clone(),
            shows: self.shows.clone(),
            reads: 0,
            resting: false,
        }
    }
}

impl Hosts {
    pub(crate) fn new(count: u64, volumes: u32, blocks: u64) -> Self {
        let stripe = blocks / count;
        let host =
            |number| Host { stripe: number * stripe..(number + 1) * stripe, volume: 0, doing: None, stopped: false };
        Self {
            history: Arc::default(),
            hosts: (0..count).map(host).collect(),
            blocks,
            flushed: Vec::new(),
            forced: Vec::new(),
            zeroed: BTreeSet::new(),
            shows: vec![vec![Content::Zero; usize::try_from(blocks).unwrap()]; volumes as usize],
            reads: 0,
            resting: false,
        }
    }

    /// What they knew at a moment, with nothing under way: whoever goes on from there settles what has happened.
    pub(crate) fn as_of(&self, moment: Tick) -> Known {
        let history = self.history.as_of(moment);
        let writes = history.writes();
        let answered = |id: &WriteId| writes.get(usize::try_from(*id).unwrap() - 1).is_some_and(|w| w.acked.is_some());
        Known {
            stripes: self.hosts.iter().map(|host| host.stripe.clone()).collect(),
            blocks: self.blocks,
            flushed: self.flushed.iter().copied().filter(|(_, answered)| *answered < moment).collect(),
            forced: self.forced.iter().copied().filter(answered).collect(),
            zeroed: self.zeroed.clone(),
            shows: self.shows.clone(),
            history,
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.hosts.len()
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.hosts.iter().all(|host| host.doing.is_none())
    }

    pub(crate) fn all_stopped(&self) -> bool {
        self.hosts.iter().all(|host| host.stopped)
    }

    /// One host goes on. Whether it did anything.
    pub(crate) fn step(&mut self, number: usize, site: &Site, primary: &Primary, random: &mut StdRng) -> bool {
        let host = &mut self.hosts[number];
        if host.stopped {
            return false;
        }
        let Some((doing, mut answer)) = host.doing.take() else {
            return !self.resting && self.begin(number, site, primary, random);
        };
        match now(&mut answer) {
            None => {
                host.doing = Some((doing, answer));
                false
            }
            Some(Err(_)) => {
                host.stopped = true;
                true
            }
            Some(Ok(())) => {
                self.answered(&doing);
                true
            }
        }
    }

    fn answered(&mut self, doing: &Doing) {
        match *doing {
            Doing::Flush { moment } => self.flushed.push((moment, self.history.tick())),
            Doing::Write { id, fua } => {
                self.history.acknowledged(id);
                self.forced.extend(fua.then_some(id));
                let write = self.history.writes()[usize::try_from(id).unwrap() - 1].clone();
                let content = if write.kind == Kind::Zero { Content::Zero } else { Content::Stamp(id) };
                for block in write.range() {
                    self.shows[write.volume][usize::try_from(block).unwrap()] = content.clone();
                }
            }
        }
    }

    fn begin(&mut self, number: usize, site: &Site, primary: &Primary, random: &mut StdRng) -> bool {
        let volumes = self.shows.len();
        let host = &mut self.hosts[number];
        // To another volume each time: order holds across volumes.
        host.volume = (host.volume + random.random_range(1..volumes.max(2))) % volumes;
        let (volume, stripe) = (host.volume, host.stripe.clone());
        let blocks = random.random_range(1..=WRITE_BLOCKS_MAX);
        let first = random.random_range(stripe.start..=stripe.end - blocks);
        let doing = match random.random_range(0..24) {
            0 | 1 => {
                let moment = self.history.tick();
                let export = primary.export(&name_of(0)).unwrap();
                (Doing::Flush { moment }, Box::pin(async move { export.flush().await }) as Waiting<_>)
            }
            2 | 3 => {
                self.read(volume, first, blocks, site, primary);
                return true;
            }
            4 if self.may_zero(volume, first, blocks) => self.zero(volume, first, blocks, primary, random),
            what => self.write(volume, first, blocks, what == 5, primary),
        };
        self.hosts[number].doing = Some(doing);
        true
    }

    fn read(&mut self, volume: usize, first: u64, blocks: u64, site: &Site, primary: &Primary) {
        let length = blocks * BLOCK_BYTES as u64;
        let read = site.read(primary, u32::try_from(volume).unwrap(), first * BLOCK_BYTES as u64, length);
        self.reads += 1;
        let bytes = match read {
            // What lies there is not given out; anything else would be wrong.
            Err(_) if site.device.refuses_reads() => return,
            read => read.expect("a read"),
        };
        for (block, bytes) in (first..).zip(bytes.chunks(BLOCK_BYTES)) {
            let shown = stamp::read(bytes, volume, block);
            let expected = &self.shows[volume][usize::try_from(block).unwrap()];
            assert_eq!(shown, *expected, "a host reads volume {volume} block {block}");
        }
    }

    fn may_zero(&self, volume: usize, first: u64, blocks: u64) -> bool {
        let fresh = (first..first + blocks).all(|block| !self.zeroed.contains(&(volume, block)));
        fresh && first + blocks <= self.history.prefilled_to()
    }

    fn write(
        &self,
        volume: usize,
        first: u64,
        blocks: u64,
        fua: bool,
        primary: &Primary,
    ) -> (Doing, Waiting<Result<(), IoError>>) {
        let id = self.history.sending(volume, first, blocks, Kind::Stamp);
        let data: Vec<u8> = (first..first + blocks).flat_map(|block| stamp::stamp(id, volume, block)).collect();
        let export = primary.export(&name_of(u32::try_from(volume).unwrap())).unwrap();
        let offset = first * BLOCK_BYTES as u64;
        (Doing::Write { id, fua }, Box::pin(async move { export.write(offset, &data, fua).await }))
    }

    fn zero(
        &mut self,
        volume: usize,
        first: u64,
        blocks: u64,
        primary: &Primary,
        random: &mut StdRng,
    ) -> (Doing, Waiting<Result<(), IoError>>) {
        self.zeroed.extend((first..first + blocks).map(|block| (volume, block)));
        let id = self.history.sending(volume, first, blocks, Kind::Zero);
        let export = primary.export(&name_of(u32::try_from(volume).unwrap())).unwrap();
        let (offset, length) = (first * BLOCK_BYTES as u64, blocks * BLOCK_BYTES as u64);
        let trims = random.random_bool(0.5);
        let answer = Box::pin(async move {
            if trims {
                export.trim(offset, length, false).await
            } else {
                export.write_zeroes(offset, length, ZeroMode::default()).await
            }
        });
        (Doing::Write { id, fua: false }, answer)
    }

    /// What has data from the beginning, in writes of four blocks; whoever calls this makes room.
    pub(crate) fn prefill(&mut self, primary: &Primary, mut make_room: impl FnMut()) {
        for volume in 0..self.shows.len() {
            for first in (0..self.blocks).step_by(4) {
                let (doing, mut answer) = self.write(volume, first, 4.min(self.blocks - first), false, primary);
                while now(&mut answer).is_none() {
                    make_room();
                }
                self.answered(&doing);
            }
        }
        self.history.prefilled(self.blocks);
    }

    /// Everything answered so far becomes durable.
    pub(crate) fn flush(&mut self, primary: &Primary, mut make_room: impl FnMut()) {
        let moment = self.history.tick();
        let export = primary.export(&name_of(0)).unwrap();
        let mut answer: Waiting<_> = Box::pin(async move { export.flush().await });
        while now(&mut answer).is_none() {
            make_room();
        }
        self.answered(&Doing::Flush { moment });
    }

    /// The machine is down: what was under way will not be answered.
    pub(crate) fn cut_off(&mut self) {
        for host in &mut self.hosts {
            host.doing = None;
            host.stopped = false;
        }
    }

    /// The machine is up again: what it shows has happened, the rest never will.
    pub(crate) fn settle(&mut self, what: &str, volumes: &[Vec<u8>], power_lost: bool) {
        let image = Image::from_bytes(volumes);
        let bounds = if power_lost { self.flushed_before(Tick::MAX) } else { Bounds::EVERYTHING_ACKED };
        let verdict = assert_legal(what, &self.history.writes(), &image, bounds);
        self.check_forced(what, &verdict, Tick::MAX);
        self.history.settle(&verdict);
        for (volume, block, content) in image.blocks() {
            self.shows[volume][usize::try_from(block).unwrap()] = content.clone();
        }
    }

    /// Another machine serves the image of a moment: what it lacks never was, and what it shows is there to stay.
    pub(crate) fn taken_over(&mut self, what: &str, volumes: &[Vec<u8>], moment: Tick) {
        self.cut_off();
        let image = Image::from_bytes(volumes);
        let verdict = assert_legal(what, &self.history.writes(), &image, Bounds::cut(moment, moment));
        self.history.settle(&verdict);
        self.forced.retain(|id| verdict.holds(*id));
        let now = self.history.tick();
        self.flushed = vec![(now, now)];
        for (volume, block, content) in image.blocks() {
            self.shows[volume][usize::try_from(block).unwrap()] = content.clone();
        }
    }

    /// What an old primary still shows of writes that were lost with it: it has to say so of each.
    pub(crate) fn check_lost(&self, volumes: &[Vec<u8>], says: impl Fn(VolumeIndex, u64) -> bool) {
        let writes = self.history.writes();
        let image = Image::from_bytes(volumes);
        for (volume, block, content) in image.blocks() {
            let Content::Stamp(id) = content else { continue };
            if writes[usize::try_from(*id).unwrap() - 1].lost {
                let index = VolumeIndex(u32::try_from(volume).unwrap() + 1);
                let said = says(index, block * BLOCK_BYTES as u64);
                assert!(
                    said,
                    "write {id} to volume {volume} block {block} was lost, and its old primary does not say so"
                );
            }
        }
    }

    /// As [`Self::settle`], for a machine that only might have been, where power was lost before this moment.
    pub(crate) fn judge_power_loss(&self, what: &str, volumes: &[Vec<u8>], moment: Tick) {
        let bounds = self.flushed_before(moment);
        let verdict = assert_legal(what, &self.history.writes(), &Image::from_bytes(volumes), bounds);
        self.check_forced(what, &verdict, moment);
    }

    /// As [`Self::judge_power_loss`], where nobody can say how much is left.
    pub(crate) fn judge_remains(&self, what: &str, volumes: &[Vec<u8>]) {
        assert_legal(what, &self.history.writes(), &Image::from_bytes(volumes), Bounds::ANY);
    }

    fn flushed_before(&self, moment: Tick) -> Bounds {
        let flushed = self.flushed.iter().filter(|(_, answered)| *answered < moment).map(|(begun, _)| *begun).max();
        Bounds { holds_acked_before: flushed, nothing_sent_after: None }
    }

    fn check_forced(&self, what: &str, verdict: &Verdict, moment: Tick) {
        let writes = self.history.writes();
        for id in &self.forced {
            let answered = writes[usize::try_from(*id).unwrap() - 1].acked.is_some_and(|acked| acked < moment);
            assert!(verdict.holds(*id) || !answered, "{what}: write {id} was answered with FUA and is gone");
        }
    }

    /// Whether the image of a copy is that of one moment.
    pub(crate) fn judge_copy(&self, what: &str, volumes: &[Vec<u8>], moment: Tick) {
        let bounds = Bounds::cut(moment, moment);
        assert_legal(what, &self.history.writes(), &Image::from_bytes(volumes), bounds);
    }
}
