//! Our link by itself: lanes, frames in their order, received into memory of their own, with nothing read, checked or written.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use bytes::Bytes;
use tidemark_common::identity::Identity;
use tidemark_common::ids::ApplianceId;
use tidemark_common::limits::DATA_STREAMS;
use tidemark_common::link::{Congestion, Endpoint, LinkConfig, Trust};

use super::plain::{FRAME, Source, per_cpu_second};

/// Whoever calls is the other end.
struct Anyone;

impl Trust for Anyone {
    fn peer_name(&self, _id: &ApplianceId) -> Option<String> {
        Some("the other end".into())
    }

    fn refused(&self, remote: SocketAddr, _id: Option<ApplianceId>, why: &str) {
        eprintln!("{remote} is refused: {why}");
    }
}

/// Bytes delivered per second of processor time, both ends together.
pub(super) fn bytes_per_cpu_second(bytes: u64, congestion: Congestion) -> f64 {
    let frames = Source::Memory.frames();
    per_cpu_second(transfer(bytes, frames, congestion))
}

async fn transfer(bytes: u64, frames: Vec<Bytes>, congestion: Congestion) -> anyhow::Result<u64> {
    let folders = [tempfile::tempdir()?, tempfile::tempdir()?];
    let (east, west) = (Identity::create(folders[0].path())?, Identity::create(folders[1].path())?);
    let config = LinkConfig { congestion, ..LinkConfig::default() };
    let any_port = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let dialer = Endpoint::bind(any_port, &east, Arc::new(Anyone), config.clone())?;
    let listener = Endpoint::bind(any_port, &west, Arc::new(Anyone), config)?;
    let address = listener.local_addr()?.to_string();
    let (dialed, accepted) = tokio::join!(dialer.dial(&address, west.id()), listener.accept());
    let (dialed, accepted) = (dialed?, accepted.ok_or_else(|| anyhow::anyhow!("the listener is closed"))?);
    let (sender, receiver) = tokio::join!(dialed.open_data(DATA_STREAMS), accepted.accept_data(DATA_STREAMS));
    let (mut sender, mut receiver) = (sender?, receiver?);
    let receiving = tokio::spawn(async move {
        let mut received = 0_u64;
        while let Some(frame) = receiver.recv().await? {
            received += frame.len() as u64;
        }
        anyhow::Ok(received)
    });
    for frame in frames.iter().cycle().take(usize::try_from(bytes)? / FRAME) {
        sender.send(frame.clone()).await?;
    }
    sender.finish().await?;
    receiving.await?
}
