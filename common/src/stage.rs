//! Names of borrowed threads: a stage that runs on the runtime's pool shows under its own name in `top -H`, `perf` and the
//! table of processor time, as the stages with threads of their own do.

use rustix::thread::{name, set_name};

/// Runs a stage under its name, of which the system keeps 15 bytes, and gives the thread its old name back.
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

#[cfg(test)]
mod tests {
    use super::{BEHIND_HOSTS, beside_hosts, in_background, named};

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
}
