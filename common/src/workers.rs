//! Threads of a runtime that are kept by something long, such as a disk that does not answer. One of them looks for what comes from sockets and
//! timers; when that is a single task, it runs it itself, and wakes nobody who would look on meanwhile. While that task waits for a disk, no host,
//! peer or operator of the runtime is heard, though its other threads have nothing to do. So it is looked at from outside, several times a second:
//! where a thread has been at its work since the last look, another one is woken. It finds nothing to run, and looks on.
//!
//! That helps as long as one of them has nothing to do: a small machine has two in all. So who is known to wait says so ([`wait`]), and another
//! thread takes over what the runtime has for this one.
//!
//! In: runtimes. Out: nothing but that. Owned: what each of their threads had counted at the last look.

use std::io;
use std::time::Duration;

use tokio::runtime::{Handle, RuntimeFlavor};
use tokio::task::block_in_place;

use crate::stage;

/// Between two looks: so long are those who wait for a socket or a timer kept at most.
const LOOK_EVERY: Duration = Duration::from_millis(100);

/// Does something that may wait for a disk, or for somebody who does. On a thread of a runtime: its other tasks go on meanwhile, unless that
/// runtime has a single thread for all.
pub fn wait<T>(work: impl FnOnce() -> T) -> T {
    let is_one_of_several =
        Handle::try_current().is_ok_and(|runtime| runtime.runtime_flavor() == RuntimeFlavor::MultiThread);
    if is_one_of_several { block_in_place(work) } else { work() }
}

/// The threads of one runtime.
#[derive(Debug)]
struct Workers {
    runtime: Handle,
    /// How often each of them has gone to sleep and woken.
    seen: Vec<u64>,
}

impl Workers {
    const fn of(runtime: Handle) -> Self {
        Self { runtime, seen: Vec::new() }
    }

    /// Wakes a thread when another one has been awake since the last look.
    fn look(&mut self) {
        let metrics = self.runtime.metrics();
        let now: Vec<u64> = (0..metrics.num_workers()).map(|worker| metrics.worker_park_unpark_count(worker)).collect();
        // An odd number: it sleeps.
        let is_kept = |(now, before): (&u64, &u64)| now == before && now.is_multiple_of(2);
        // What waits for any of them has woken one already; where all are kept, it is not to become more.
        if metrics.global_queue_depth() == 0 && now.iter().zip(&self.seen).any(is_kept) {
            drop(self.runtime.spawn(std::future::ready(())));
        }
        self.seen = now;
    }
}

/// Looks at these runtimes from now on, for as long as the process lives.
///
/// # Errors
/// What the system said: there is no thread for it.
pub fn watch(runtimes: &[&Handle]) -> io::Result<()> {
    let watched: Vec<Workers> = runtimes.iter().map(|runtime| Workers::of((*runtime).clone())).collect();
    stage::beside_hosts("workers", move || look_on(watched))
}

fn look_on(mut watched: Vec<Workers>) {
    loop {
        std::thread::sleep(LOOK_EVERY);
        watched.iter_mut().for_each(Workers::look);
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::os::unix::net::UnixStream;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};

    use parking_lot::Mutex;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::runtime::{Builder, Runtime};

    use super::*;

    /// A host, and the service's end of its socket.
    fn host(runtime: &Runtime) -> (UnixStream, tokio::net::UnixStream) {
        let (host, socket) = UnixStream::pair().unwrap();
        host.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        socket.set_nonblocking(true).unwrap();
        let _inside = runtime.enter();
        (host, tokio::net::UnixStream::from_std(socket).unwrap())
    }

    fn hears(host: &mut UnixStream) -> u8 {
        let mut byte = [0];
        host.read_exact(&mut byte).expect("it is not heard");
        byte[0]
    }

    fn all_sleep(runtime: &Runtime) -> bool {
        let metrics = runtime.handle().metrics();
        (0..metrics.num_workers()).all(|worker| !metrics.worker_park_unpark_count(worker).is_multiple_of(2))
    }

    /// As a commit on a host's own task does, or a change of state that is recorded.
    #[test]
    fn others_are_heard_while_the_thread_that_looked_for_them_waits_for_a_disk() {
        let runtime = Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (disk, waits) = (Arc::new(Mutex::new(())), Arc::new(AtomicBool::new(false)));
        let ((mut one, mut of_one), (mut other, mut of_other)) = (host(&runtime), host(&runtime));
        let hangs = disk.lock();
        let (its_disk, is_waiting) = (Arc::clone(&disk), Arc::clone(&waits));
        runtime.spawn(async move {
            of_one.write_u8(1).await.unwrap();
            of_one.read_u8().await.unwrap();
            is_waiting.store(true, Ordering::Release);
            drop(its_disk.lock());
        });
        runtime.spawn(async move {
            of_other.write_u8(2).await.unwrap();
            let byte = of_other.read_u8().await.unwrap();
            of_other.write_u8(byte).await.unwrap();
        });
        // Both are there, and wait for what their hosts send.
        assert_eq!((hears(&mut one), hears(&mut other)), (1, 2));
        while !all_sleep(&runtime) {
            std::thread::yield_now();
        }
        one.write_all(&[3]).unwrap();
        while !waits.load(Ordering::Acquire) {
            std::thread::yield_now();
        }
        other.write_all(&[4]).unwrap();
        let mut workers = Workers::of(runtime.handle().clone());
        (0..2).for_each(|_| workers.look());
        assert_eq!(hears(&mut other), 4);
        drop(hangs);
    }
}
