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

#[cfg(test)]
mod tests {
    use super::named;

    #[test]
    fn a_stage_has_its_name_while_it_works() {
        let shown = || std::fs::read_to_string("/proc/thread-self/comm").unwrap();
        let before = shown();
        assert_eq!(named(c"feeder", shown), "feeder\n");
        assert_eq!(shown(), before);
    }
}
