//! Threads that wait for disks in place of the tasks that answer hosts. All exports have them out of one pool, and each no more than its share: a
//! disk that hangs holds those of its own exports, and the hosts of all others are answered.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::IoError;
use crate::limits::DISK_THREADS_MAX;

/// The share of one export.
#[derive(Debug, Clone)]
pub struct DiskThreads(Arc<Semaphore>);

impl Default for DiskThreads {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(DISK_THREADS_MAX)))
    }
}

impl DiskThreads {
    /// Does this on one of them, once one is free. What has begun goes on to its end, also when nobody waits for it any more.
    ///
    /// # Errors
    /// [`IoError::ShuttingDown`]: there are no threads any more.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, IoError> {
        let turn = Arc::clone(&self.0).acquire_owned().await.map_err(|_| IoError::ShuttingDown)?;
        let done = tokio::task::spawn_blocking(move || {
            let _turn = turn;
            work()
        });
        done.await.map_err(|_| IoError::ShuttingDown)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use parking_lot::RwLock;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn a_disk_that_hangs_leaves_threads_to_the_exports_of_others() {
        let threads = DISK_THREADS_MAX + 1;
        let runtime = tokio::runtime::Builder::new_multi_thread().max_blocking_threads(threads).enable_all().build();
        let runtime = runtime.unwrap();
        let (hangs, other) = (DiskThreads::default(), DiskThreads::default());
        let (disk, inside) = (Arc::new(RwLock::new(())), Arc::new(AtomicUsize::new(0)));
        let hung = disk.write();
        let answered = runtime.block_on(async {
            for _ in 0..2 * threads {
                let (hangs, disk, inside) = (hangs.clone(), Arc::clone(&disk), Arc::clone(&inside));
                tokio::spawn(async move {
                    let read = move || {
                        inside.fetch_add(1, Ordering::AcqRel);
                        drop(disk.read());
                    };
                    hangs.run(read).await
                });
            }
            while inside.load(Ordering::Acquire) < DISK_THREADS_MAX {
                tokio::task::yield_now().await;
            }
            tokio::time::timeout(LIMIT, other.run(|| 7)).await
        });
        drop(hung);
        assert_eq!(answered, Ok(Ok(7)));
    }
}
