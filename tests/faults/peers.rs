//! Peers that are trusted and say what cannot be: refused, and nothing ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tidemark_common::config::Config;
use tidemark_common::identity::Identity;
use tidemark_common::ids::ApplianceId;
use tidemark_common::link::{Endpoint, LinkConfig, Trust};
use tidemark_common::wire::message::{Hello, Message, Refusal, VolumeSpec};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;

struct Anybody;

impl Trust for Anybody {
    fn peer_name(&self, _: &ApplianceId) -> Option<String> {
        Some("other".into())
    }

    fn refused(&self, _: SocketAddr, _: Option<ApplianceId>, _: &str) {}
}

/// Says a first message as another appliance would: the answer.
pub(crate) fn say(from: &Appliance, to: &Appliance, first: &Message) -> Message {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let config = Config::load(from.directory()).expect("the caller's configuration");
        let identity = Identity::load(from.directory()).expect("the caller's identity");
        let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
        let settings = LinkConfig::from(&config.replication);
        let endpoint = Endpoint::bind(any, &identity, Arc::new(Anybody), settings).expect("an endpoint");
        let id = to.id().parse().expect("an id");
        let connection = endpoint.dial(to.replication(), id).await.expect("dial");
        let (control, mut answers) = connection.open_control().await.expect("a control stream");
        control.send(first).await.expect("say it");
        answers.recv().await.expect("an answer").expect("an answer before the end")
    })
}

/// A hello for a group nobody knows, with one volume.
pub(crate) fn hello() -> Hello {
    Hello {
        version_min: 1,
        version_max: 1,
        appliance: "caller".into(),
        group: [7; 16],
        group_name: "h".into(),
        member: 0,
        members: 1,
        generation: 1,
        create: true,
        volumes: vec![VolumeSpec { index: 1, name: "v".into(), size: 1 << 20 }],
        interval_ms: 1000,
        generation_start_seq: 1,
    }
}

#[test]
fn numbers_at_the_end_of_their_range_are_refused_and_leave_nothing() {
    let cluster = Cluster::new();
    let (west, caller) = (cluster.running("west"), cluster.appliance("caller"));
    west.trust(&caller, None);
    let last = VolumeSpec { index: u32::MAX, name: "v".into(), size: 1 << 20 };
    for unfit in [
        Hello { volumes: vec![last], ..hello() },
        Hello { generation: u64::MAX, ..hello() },
        Hello { interval_ms: 0, ..hello() },
        Hello { interval_ms: u64::MAX, ..hello() },
    ] {
        match say(&caller, &west, &Message::Hello(unfit.clone())) {
            Message::Refused(refused) => assert_eq!(refused.refusal, Refusal::Malformed, "{refused:?}"),
            other => panic!("{unfit:?} is answered with {other:?}"),
        }
    }
    let status = west.status();
    assert!(status.groups.is_empty() && status.volumes.is_empty(), "{status:?}");
    assert!(matches!(say(&caller, &west, &Message::Hello(hello())), Message::Welcome(_)));
}
