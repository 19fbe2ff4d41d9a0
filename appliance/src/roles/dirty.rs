//! What an old primary has alone, as it tells who took over (`rejoin`). In comes its tail, or the other side's messages; out go regions, or
//! that nothing is known of them.

use std::sync::Arc;
use std::time::Duration;

use tidemark_common::differential::Bitmap;
use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;
use tidemark_common::limits::REGION_BYTES;
use tidemark_common::link::{ControlReceiver, ControlSender, LinkError};
use tidemark_common::wire::message::{DirtyRun, Message};
use tidemark_secondary::returned::Tail;
use tokio::runtime::Handle;
use tokio_util::task::AbortOnDropHandle;

use super::rejoin::ANSWER_TIMEOUT;

/// Runs of one message: far less than a message may have.
const RUNS: usize = 16_384;
/// Between two messages to a side that waits: it gives up after [`ANSWER_TIMEOUT`].
const STILL_AT_IT: Duration = Duration::from_secs(5);

/// Looks for what this side has alone, and keeps that aside, however much of the journal that is to be read and copied: the other side
/// is told meanwhile that it will hear.
pub(super) fn while_the_other_side_waits<T>(
    runtime: &Handle,
    control: &Arc<ControlSender>,
    work: impl FnOnce() -> T,
) -> T {
    let _says = AbortOnDropHandle::new(runtime.spawn(say_nothing_yet(Arc::clone(control))));
    tokio::task::block_in_place(work)
}

async fn say_nothing_yet(control: Arc<ControlSender>) {
    let nothing = Message::Dirty { runs: Vec::new(), whole: false, last: false };
    while control.send(&nothing).await.is_ok() {
        tokio::time::sleep(STILL_AT_IT).await;
    }
}

/// Tells all of it.
pub(super) async fn send_dirty(control: &ControlSender, tail: &Tail) -> Result<(), LinkError> {
    let mut at = (VolumeIndex(0), 0);
    loop {
        let mut runs = Vec::new();
        while runs.len() < RUNS
            && let Some(run) = tail.dirty.next_run(at.0, at.1).filter(|_| tail.is_known())
        {
            at = (run.volume, run.end());
            runs.push(DirtyRun { volume: run.volume.0, offset: run.offset, length: run.length });
        }
        let last = runs.len() < RUNS;
        control.send(&Message::Dirty { runs, whole: !tail.is_known(), last }).await?;
        if last {
            return Ok(());
        }
    }
}

/// Only regions of volumes there are count: what a volume that is gone held is nobody's. A side that names nothing else waits for a copy
/// all the same, and one of nothing is none: a region of any volume is copied then.
pub(super) async fn receive_dirty(
    incoming: &mut ControlReceiver,
    volumes: &[(VolumeIndex, u64)],
) -> Result<(Bitmap, bool), String> {
    let (mut dirty, mut waits) = (Bitmap::default(), false);
    loop {
        let message = tokio::time::timeout(ANSWER_TIMEOUT, incoming.recv()).await;
        let message = message.map_err(|_| "it went silent".to_owned())?.map_err(|error| error.to_string())?;
        let Some(Message::Dirty { runs, whole, last }) = message else {
            return Err("it said something else than what differs".into());
        };
        waits |= !runs.is_empty();
        for run in runs {
            let size = volumes.iter().find(|(index, _)| index.0 == run.volume).map_or(0, |(_, size)| *size);
            let end = run.offset.saturating_add(run.length).min(size);
            if run.offset < end {
                dirty.mark(Extent { volume: VolumeIndex(run.volume), offset: run.offset, length: end - run.offset });
            }
        }
        if last {
            if let Some((volume, _)) = volumes.first().filter(|_| waits && dirty.is_empty()) {
                dirty.mark(Extent { volume: *volume, offset: 0, length: REGION_BYTES });
            }
            return Ok((dirty, whole));
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use std::net::{Ipv4Addr, SocketAddr};
    use std::sync::mpsc;

    use tidemark_common::identity::Identity;
    use tidemark_common::ids::{ApplianceId, Seq};
    use tidemark_common::journal::Position;
    use tidemark_common::link::{Connection, Endpoint, LinkConfig, Trust};
    use tokio::task::JoinHandle;

    use super::*;

    struct Anybody;

    impl Trust for Anybody {
        fn peer_name(&self, _: &ApplianceId) -> Option<String> {
            Some("somebody".into())
        }

        fn refused(&self, _: SocketAddr, _: Option<ApplianceId>, _: &str) {}
    }

    /// An appliance's, which lets anybody in.
    pub(crate) fn endpoint() -> (ApplianceId, Endpoint) {
        let folder = tempfile::tempdir().unwrap();
        let identity = Identity::create(folder.path()).unwrap();
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        (identity.id(), Endpoint::bind(any, &identity, Arc::new(Anybody), LinkConfig::default()).unwrap())
    }

    /// What keeps a line.
    type Line = (Endpoint, Connection, ControlReceiver);

    /// An old primary's side of a conversation, and what the other side, with one volume of a MiB, makes of what comes over it.
    async fn conversation(
        heard: mpsc::SyncSender<Option<Message>>,
    ) -> (Arc<ControlSender>, Line, JoinHandle<Result<(Bitmap, bool), String>>) {
        let ((_, near), (id, far)) = (endpoint(), endpoint());
        let address = far.local_addr().unwrap().to_string();
        let other_side = tokio::spawn(async move {
            let connection = far.accept().await.unwrap();
            let (_control, mut incoming) = connection.accept_control().await.unwrap();
            let first = incoming.recv().await.unwrap();
            heard.send(first).unwrap();
            receive_dirty(&mut incoming, &[(VolumeIndex(1), 1 << 20)]).await
        });
        let connection = near.dial(&address, id).await.unwrap();
        let (control, answers) = connection.open_control().await.unwrap();
        (Arc::new(control), (near, connection, answers), other_side)
    }

    fn tail(dirty: Extent) -> Tail {
        let mut regions = Bitmap::default();
        regions.mark(dirty);
        Tail { cut: Some(Position::default()), dirty: regions, writes: 1, newest: None, next_seq: Seq(2) }
    }

    /// It gave up after twenty seconds, and every later try copied the same tail from its begin, which takes as long.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_took_over_is_told_to_wait_while_a_long_tail_is_kept() {
        let (heard, hears) = mpsc::sync_channel(1);
        let (control, _line, other_side) = conversation(heard).await;
        let work = || hears.recv_timeout(Duration::from_secs(20));
        let first = while_the_other_side_waits(&Handle::current(), &control, work).unwrap();
        assert_eq!(first, Some(Message::Dirty { runs: Vec::new(), whole: false, last: false }));
        let dirty = Extent { volume: VolumeIndex(1), offset: REGION_BYTES, length: 1 };
        send_dirty(&control, &tail(dirty)).await.unwrap();
        let (received, whole) = other_side.await.unwrap().unwrap();
        let marked = [0, REGION_BYTES].map(|offset| received.is_marked(VolumeIndex(1), offset));
        assert_eq!((marked, whole), ([false, true], false));
    }

    /// Hosts had written only to a volume that the old primary alone had taken in, or behind the end of one that it alone had grown. It
    /// waited for a copy that never began: the pair stood in error.
    #[tokio::test(flavor = "multi_thread")]
    async fn who_returns_with_what_only_it_had_is_copied_to_all_the_same() {
        for dirty in [
            Extent { volume: VolumeIndex(2), offset: 0, length: 1 },
            Extent { volume: VolumeIndex(1), offset: 1 << 20, length: 1 },
        ] {
            let (heard, _hears) = mpsc::sync_channel(1);
            let (control, _line, other_side) = conversation(heard).await;
            control.send(&Message::Dirty { runs: Vec::new(), whole: false, last: false }).await.unwrap();
            send_dirty(&control, &tail(dirty)).await.unwrap();
            let (received, _) = other_side.await.unwrap().unwrap();
            assert!(!received.is_empty(), "{dirty:?}");
        }
    }
}
