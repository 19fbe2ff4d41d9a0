//! The door of a volume: what hosts have opened. What is behind it changes (a volume joins a group, a role changes)
//! while requests come in; a change waits for the requests that are inside and holds the others for a moment.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::{Mutex, RwLock};
use tidemark_common::nbd::{Allocation, Bounds, Export, ExportInfo, IoError, IoFuture, ZeroMode};
use tokio::sync::RwLockWriteGuard;

/// What hosts hold on to.
pub(crate) struct Door {
    behind: RwLock<Arc<dyn Export>>,
    /// Held from the look at what is to be behind the door until it is there.
    settling: Mutex<()>,
    inside: tokio::sync::RwLock<()>,
    /// NBD connections open on it.
    pub(crate) connections: AtomicU64,
    /// Requests of hosts so far.
    asked: AtomicU64,
}

impl Door {
    /// A door to an export.
    pub(crate) fn new(behind: Arc<dyn Export>) -> Arc<Self> {
        Arc::new(Self {
            behind: RwLock::new(behind),
            settling: Mutex::default(),
            inside: tokio::sync::RwLock::new(()),
            connections: 0.into(),
            asked: 0.into(),
        })
    }

    /// Waits until nobody is inside, and keeps everybody out for as long as the guard lives. `None`: somebody stays inside for longer than
    /// this.
    pub(crate) async fn hold_within(&self, limit: Duration) -> Option<RwLockWriteGuard<'_, ()>> {
        tokio::time::timeout(limit, self.inside.write()).await.ok()
    }

    /// The same, however long somebody stays inside.
    pub(crate) async fn hold(&self) -> RwLockWriteGuard<'_, ()> {
        self.inside.write().await
    }

    /// Puts something else behind the door.
    pub(crate) async fn lead_to(&self, next: Arc<dyn Export>) {
        let _alone = self.hold().await;
        *self.behind.write() = next;
    }

    /// Puts something else behind the door without waiting for those inside, who get what they get.
    pub(crate) fn lead_to_now(&self, next: Arc<dyn Export>) {
        *self.behind.write() = next;
    }

    /// Puts behind the door what serves by now, without waiting for those inside. Of several that do so, whoever looked last is the last: what was
    /// found before a change is not put there behind it.
    pub(crate) fn settle(&self, serves: impl FnOnce() -> Arc<dyn Export>) {
        let _alone = self.settling.lock();
        let next = serves();
        self.lead_to_now(next);
    }

    /// Requests of hosts so far: whoever wants to know whether they are quiet looks twice.
    pub(crate) fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    async fn enter(&self) -> tokio::sync::RwLockReadGuard<'_, ()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        self.inside.read().await
    }

    fn behind(&self) -> Arc<dyn Export> {
        Arc::clone(&self.behind.read())
    }
}

impl Export for Door {
    fn info(&self) -> ExportInfo {
        self.behind().info()
    }

    fn bounds(&self) -> Bounds {
        self.behind.read().bounds()
    }

    fn read<'a>(&'a self, offset: u64, buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().read(offset, buffer).await
        })
    }

    fn write<'a>(&'a self, offset: u64, data: &'a [u8], fua: bool) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().write(offset, data, fua).await
        })
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().flush().await
        })
    }

    fn flush_alone(&self) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().flush_alone().await
        })
    }

    fn write_alone<'a>(&'a self, offset: u64, data: &'a [u8]) -> IoFuture<'a, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().write_alone(offset, data).await
        })
    }

    fn trim(&self, offset: u64, length: u64, fua: bool) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().trim(offset, length, fua).await
        })
    }

    fn write_zeroes(&self, offset: u64, length: u64, mode: ZeroMode) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().write_zeroes(offset, length, mode).await
        })
    }

    fn cache(&self, offset: u64, length: u64) -> IoFuture<'_, ()> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().cache(offset, length).await
        })
    }

    fn block_status(&self, offset: u64, length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Box::pin(async move {
            let _inside = self.enter().await;
            self.behind().block_status(offset, length).await
        })
    }
}

/// Behind the door of a volume that is not served here now: every request is refused.
pub(crate) struct Closed {
    /// Bytes of the volume.
    pub(crate) size: u64,
    /// Why, for people.
    pub(crate) reason: String,
}

impl Closed {
    fn refuse<T>() -> IoFuture<'static, T>
    where
        T: Send + 'static,
    {
        Box::pin(std::future::ready(Err(IoError::NotPermitted)))
    }
}

impl Export for Closed {
    fn info(&self) -> ExportInfo {
        ExportInfo { size: self.size, read_only: true, gives_back: false, description: self.reason.clone() }
    }

    fn read<'a>(&'a self, _offset: u64, _buffer: &'a mut [u8]) -> IoFuture<'a, ()> {
        Self::refuse()
    }

    fn write<'a>(&'a self, _offset: u64, _data: &'a [u8], _fua: bool) -> IoFuture<'a, ()> {
        Self::refuse()
    }

    fn flush(&self) -> IoFuture<'_, ()> {
        Self::refuse()
    }

    fn trim(&self, _offset: u64, _length: u64, _fua: bool) -> IoFuture<'_, ()> {
        Self::refuse()
    }

    fn write_zeroes(&self, _offset: u64, _length: u64, _mode: ZeroMode) -> IoFuture<'_, ()> {
        Self::refuse()
    }

    fn cache(&self, _offset: u64, _length: u64) -> IoFuture<'_, ()> {
        Self::refuse()
    }

    fn block_status(&self, _offset: u64, _length: u64) -> IoFuture<'_, Vec<Allocation>> {
        Self::refuse()
    }
}

/// Counts a connection for as long as it lasts.
pub(crate) struct Visit(Arc<Door>);

impl Visit {
    pub(crate) fn new(door: Arc<Door>) -> Self {
        door.connections.fetch_add(1, Ordering::Relaxed);
        Self(door)
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn who_stays_inside_is_waited_for_no_longer_than_asked_and_others_come_in_again() {
        let door = Door::new(Arc::new(Closed { size: 0, reason: String::new() }));
        let inside = door.inside.read().await;
        assert!(door.hold_within(Duration::ZERO).await.is_none(), "somebody is inside");
        assert!(door.inside.try_read().is_ok(), "nobody is kept out");
        drop(inside);
        assert!(door.hold_within(Duration::ZERO).await.is_some());
    }

    /// Invariant 8: it was opened to who had been primary when it was looked at, behind the back of who had closed it since.
    #[test]
    fn whoever_looks_later_what_serves_a_volume_is_not_overtaken() {
        let closed = |reason: &str| -> Arc<dyn Export> { Arc::new(Closed { size: 0, reason: reason.into() }) };
        let door = Door::new(closed("at first"));
        door.settle(|| {
            assert!(door.settling.is_locked(), "whoever looks from now on waits until this is there");
            closed("as it was found")
        });
        assert_eq!(door.info().description, "as it was found");
        assert!(!door.settling.is_locked());
    }
}
