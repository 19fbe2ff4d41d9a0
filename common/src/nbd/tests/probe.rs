//! An export that notes what it is asked, waits where a test wants it to, and fails as a test wants it to.

use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use tokio::sync::{Semaphore, watch};

use crate::nbd::memory::MemoryExport;
use crate::nbd::{Allocation, Export, ExportInfo, IoError, IoFuture, ZeroMode};

/// What an export was asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Read(u64, usize),
    Write(u64, usize, bool),
    Flush,
    Trim(u64, u64, bool),
    Zero(u64, u64, ZeroMode),
    Cache(u64, u64),
    Status(u64, u64),
}

pub(super) struct Probe {
    pub(super) memory: MemoryExport,
    pub(super) calls: Mutex<Vec<Call>>,
    /// Calls that were begun.
    begun: watch::Sender<usize>,
    /// Offsets from here on, and flushes, wait for a permit each.
    pub(super) slow_from: Mutex<u64>,
    pub(super) permits: Semaphore,
    /// All calls fail so.
    pub(super) failure: Mutex<Option<IoError>>,
    /// What is discarded is written.
    pub(super) keeps_space: AtomicBool,
    /// What BLOCK_STATUS gives instead of the truth.
    pub(super) runs: Mutex<Option<Vec<Allocation>>>,
}

impl Probe {
    pub(super) fn new(size: u64) -> Self {
        Self {
            memory: MemoryExport::new(usize::try_from(size).unwrap(), false),
            calls: Mutex::default(),
            begun: watch::Sender::new(0),
            slow_from: Mutex::new(u64::MAX),
            permits: Semaphore::new(0),
            failure: Mutex::default(),
            keeps_space: AtomicBool::default(),
            runs: Mutex::default(),
        }
    }

    pub(super) fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.calls.lock())
    }

    /// Waits until so many calls were begun, over all time.
    pub(super) async fn begun(&self, calls: usize) {
        self.begun.subscribe().wait_for(|begun| *begun >= calls).await.unwrap();
    }

    pub(super) fn begun_now(&self) -> usize {
        *self.begun.borrow()
    }

    fn on_call<'a, T: 'a>(&'a self, call: Call, slow: bool, then: IoFuture<'a, T>) -> IoFuture<'a, T> {
        self.calls.lock().push(call);
        self.begun.send_modify(|begun| *begun += 1);
        Box::pin(async move {
            if slow {
                self.permits.acquire().await.unwrap().forget();
            }
            let failure = *self.failure.lock();
            match failure {
                Some(failure) => Err(failure),
                None => then.await,
            }
        })
    }

    fn is_slow(&self, offset: u64) -> bool {
        offset >= *self.slow_from.lock()
    }
}

impl Export for Probe {
    fn info(&self) -> ExportInfo {
        ExportInfo { gives_back: !self.keeps_space.load(Ordering::Acquire), ..self.memory.info() }
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        let call = Call::Read(offset, buffer.len());
        self.on_call(call, self.is_slow(offset), self.memory.read(offset, buffer))
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8], fua: bool) -> IoFuture<'a, ()> {
        assert_ne!(data, b"panic", "a test wants this export to panic");
        let call = Call::Write(offset, data.len(), fua);
        self.on_call(call, self.is_slow(offset), self.memory.write(offset, data, fua))
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        self.on_call(Call::Flush, self.is_slow(u64::MAX - 1), self.memory.flush())
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()> {
        self.on_call(Call::Trim(offset, length, fua), false, self.memory.trim(offset, length, fua))
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        self.on_call(Call::Zero(offset, length, mode), false, self.memory.write_zeroes(offset, length, mode))
    }

    fn cache(&self, offset: u64, length: u64) -> IoFuture<'_, ()> {
        self.on_call(Call::Cache(offset, length), false, self.memory.cache(offset, length))
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        let runs = self.runs.lock().clone();
        let runs = runs.map_or_else(
            || self.memory.block_status(offset, length),
            |runs| Box::pin(std::future::ready(Ok(runs))) as IoFuture<'_, _>,
        );
        self.on_call(Call::Status(offset, length), false, runs)
    }
}
