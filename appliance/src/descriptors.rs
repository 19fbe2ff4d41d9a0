//! File descriptors: what the system gives the service, and how many of them hosts may take.
//!
//! A journal that cannot open its next segment takes nothing until it can, so hosts that connect again and again must never get to the last
//! descriptor.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tidemark_common::limits::NBD_CONNECTIONS_MAX;

/// More than an appliance needs: as many as `docs/OPERATING.md` gives it. Programs that checks of drills run may look at each, so not all
/// that there are.
const WANTED: u64 = 65_536;
/// A host's connection has its socket, and that once more while it is full.
const OF_A_CONNECTION: u64 = 2;

/// As many as are wanted, as far as the system allows it. Returns how many there are.
pub(crate) fn raise() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    let (now, wanted) = (limit.current.unwrap_or(u64::MAX), wanted(limit));
    if now == wanted {
        return now;
    }
    match setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), ..limit }) {
        Ok(()) => wanted,
        Err(error) => {
            tracing::warn!(%error, now, wanted, "the limit of open files cannot be raised");
            now
        }
    }
}

/// Never less than there are.
fn wanted(limit: Rlimit) -> u64 {
    let most = limit.maximum.unwrap_or(u64::MAX);
    limit.current.unwrap_or(u64::MAX).max(WANTED.min(most))
}

/// Connections of hosts at once: the other half is for journals, volumes, images and the catalogue.
pub(crate) fn connections_of_hosts(descriptors: u64) -> usize {
    let most = usize::try_from(descriptors / 2 / OF_A_CONNECTION).unwrap_or(usize::MAX);
    if most < NBD_CONNECTIONS_MAX {
        tracing::warn!(
            descriptors,
            connections = most,
            "hosts may have fewer connections than they could: raise the limit of open files to {WANTED} (LimitNOFILE= of the service)"
        );
    }
    most.min(NBD_CONNECTIONS_MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_never_take_the_descriptors_that_journals_need() {
        assert_eq!(connections_of_hosts(1024), 256);
        for many in [WANTED, u64::MAX] {
            assert_eq!(connections_of_hosts(many), NBD_CONNECTIONS_MAX);
        }
    }

    #[test]
    fn the_limit_is_raised_as_far_as_the_system_allows_and_never_lowered() {
        let of = |current, maximum| wanted(Rlimit { current, maximum });
        assert_eq!(of(Some(1024), Some(1 << 20)), WANTED);
        assert_eq!(of(Some(1024), None), WANTED);
        assert_eq!(of(Some(1024), Some(4096)), 4096);
        assert_eq!(of(Some(1 << 20), Some(1 << 20)), 1 << 20);
        assert_eq!(of(None, None), u64::MAX);
    }
}
