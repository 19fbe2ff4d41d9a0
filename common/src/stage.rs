//! Stages of work: under what name one is shown, behind whom it stands, and what becomes of it when a defect of ours ends it.

use std::time::Duration;

use rustix::thread::{name, set_name};
use tokio::task::JoinError;

/// Runs a stage under its name, by which `top -H`, `perf` and the table of processor time show it on a borrowed thread too. The system keeps 15
/// bytes of it; the thread has its old name back then.
pub fn named<T>(stage: &std::ffi::CStr, work: impl FnOnce() -> T) -> T {
    let before = name();
    // A thread without its name does the same work.
    let _ = set_name(stage);
    let done = work();
    if let Ok(before) = before {
        let _ = set_name(&before);
    }
    done
}

/// How far background work stands behind what answers hosts: a tenth of its share when both want a processor.
const BEHIND_HOSTS: i32 = 10;

/// Runs something long on a thread of its own, which gives way to everything that answers hosts; so do the threads it starts.
///
/// # Errors
/// What the system said: there is no thread then.
pub fn in_background(stage: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    let run = move || {
        // Who may not stand back does the same work.
        let _ = rustix::process::nice(BEHIND_HOSTS);
        work();
    };
    beside_hosts(stage, run)
}

/// The same for what has something in hand that hosts wait for: it stands back for nobody.
///
/// # Errors
/// What the system said: there is no thread then.
pub fn beside_hosts(stage: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(stage.into()).spawn(work).map(drop)
}

/// Does something until it ends in good order: a defect of ours in it is told, and it is begun anew after the pause. So that ends one look, one
/// connection, and not all that would follow.
pub async fn begin_anew<F: Future<Output = ()> + Send + 'static>(
    pause: Duration,
    duty: impl Fn() -> F + Send + Sync,
    tell: impl Fn(&JoinError) + Send + Sync,
) {
    while let Err(ended) = tokio::spawn(duty()).await {
        if !ended.is_panic() {
            return;
        }
        tell(&ended);
        tokio::time::sleep(pause).await;
    }
}

/// Tells of a panic that ends the stage it lives in.
#[derive(Debug)]
pub struct OnPanic<F: FnMut()>(pub F);

impl<F: FnMut()> Drop for OnPanic<F> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            (self.0)();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    use super::{BEHIND_HOSTS, OnPanic, begin_anew, beside_hosts, in_background, named};

    #[test]
    fn background_work_and_what_it_starts_stand_behind_hosts() {
        let nice = || rustix::process::nice(0).unwrap();
        let before = nice();
        let (told, hears) = std::sync::mpsc::sync_channel(1);
        let work = move || {
            let child = std::thread::spawn(nice).join().unwrap();
            told.send((nice(), child)).unwrap();
        };
        in_background("background", work).unwrap();
        let expected = (before + BEHIND_HOSTS).min(19);
        assert_eq!(hears.recv().unwrap(), (expected, expected));
        assert_eq!(nice(), before);
        let (told, hears) = std::sync::mpsc::sync_channel(1);
        beside_hosts("beside", move || told.send(nice()).unwrap()).unwrap();
        assert_eq!(hears.recv().unwrap(), before);
    }

    #[test]
    fn a_stage_has_its_name_while_it_works() {
        let shown = || std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        let before = shown();
        assert_eq!(named(c"feeder", shown), "feeder\n");
        assert_eq!(shown(), before);
    }

    /// No drill came due any more, no role was recorded, nobody was let in, and nothing said so.
    #[tokio::test(flavor = "multi_thread")]
    async fn what_is_done_again_and_again_is_begun_anew_behind_a_panic() {
        let (begun, told) = (Arc::new(AtomicUsize::new(0)), AtomicUsize::new(0));
        let counts = Arc::clone(&begun);
        let duty = move || {
            let before = counts.fetch_add(1, Ordering::AcqRel);
            async move { assert!(before >= 2, "as it was to") }
        };
        let tell = |_: &_| {
            told.fetch_add(1, Ordering::AcqRel);
        };
        tokio::time::timeout(Duration::from_secs(20), begin_anew(Duration::ZERO, duty, tell)).await.unwrap();
        assert_eq!((begun.load(Ordering::Acquire), told.load(Ordering::Acquire)), (3, 2));
    }

    #[test]
    fn a_stage_that_ends_by_a_panic_is_told_and_one_that_ends_in_good_order_is_not() {
        let told = Arc::new(AtomicUsize::new(0));
        let ends = |panics: bool| {
            let told = Arc::clone(&told);
            std::thread::spawn(move || {
                let _told = OnPanic(|| {
                    told.fetch_add(1, Ordering::AcqRel);
                });
                assert!(!panics, "as it was to");
            })
        };
        ends(false).join().unwrap();
        assert_eq!(told.load(Ordering::Acquire), 0);
        ends(true).join().unwrap_err();
        assert_eq!(told.load(Ordering::Acquire), 1);
    }
}
