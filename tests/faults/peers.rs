//! Peers that are trusted and say what cannot be: refused, and nothing ends.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use tidemark_common::api::types::{PairState, PairStatus};
use tidemark_common::config::Config;
use tidemark_common::identity::Identity;
use tidemark_common::ids::ApplianceId;
use tidemark_common::link::{Endpoint, LinkConfig, Trust};
use tidemark_common::wire::handshake::{Versions, read_hello};
use tidemark_common::wire::message::{
    Hello, Message, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN, Position, Refusal, VolumeSpec, Welcome,
};
use tidemark_tests::appliance::Appliance;
use tidemark_tests::cluster::Cluster;
use tidemark_tests::pair::{COPY_LIMIT, GROUP, Pair, Setup};
use tidemark_tests::prometheus::{figures, get};
use tidemark_tests::wait::{check, wait_until};

/// Of builds to come.
const NEWER: Versions = Versions { min: PROTOCOL_VERSION + 1, max: PROTOCOL_VERSION + 2 };

struct Anybody;

impl Trust for Anybody {
    fn peer_name(&self, _: &ApplianceId) -> Option<String> {
        Some("other".into())
    }

    fn refused(&self, _: SocketAddr, _: Option<ApplianceId>, _: &str) {}
}

/// Listens as an appliance that does not run would.
pub(crate) fn endpoint(of: &Appliance, address: SocketAddr) -> Endpoint {
    let config = Config::load(of.directory()).expect("its configuration");
    let identity = Identity::load(of.directory()).expect("its identity");
    let settings = LinkConfig::from(&config.replication);
    Endpoint::bind(address, &identity, Arc::new(Anybody), settings).expect("an endpoint")
}

/// Says a first message as another appliance would: the answer.
pub(crate) fn say(from: &Appliance, to: &Appliance, first: &Message) -> Message {
    say_at(to.replication(), from, to, first)
}

/// The same over another way to it.
pub(crate) fn say_at(address: &str, from: &Appliance, to: &Appliance, first: &Message) -> Message {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = endpoint(from, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
        let id = to.id().parse().expect("an id");
        let connection = endpoint.dial(address, id).await.expect("dial");
        let (control, mut answers) = connection.open_control().await.expect("a control stream");
        control.send(first).await.expect("say it");
        answers.recv().await.expect("an answer").expect("an answer before the end")
    })
}

/// Answers the first message of the next caller as an appliance that does not run would.
fn answer(as_one: &Appliance, answer: impl FnOnce(Message) -> Message) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let endpoint = endpoint(as_one, as_one.replication().parse().expect("its address"));
        let connection = endpoint.accept().await.expect("a caller");
        let (control, mut said) = connection.accept_control().await.expect("a control stream");
        let first = said.recv().await.expect("a message").expect("a message before the end");
        control.send(&answer(first)).await.expect("answer");
        connection.closed().await;
    });
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

#[test]
fn a_primary_of_another_protocol_version_is_refused_and_told_both_ranges() {
    let cluster = Cluster::new();
    let (west, caller) = (cluster.running("west"), cluster.appliance("caller"));
    west.trust(&caller, None);
    let newer = Message::Hello(Hello { version_min: NEWER.min, version_max: NEWER.max, ..hello() });
    match say(&caller, &west, &newer) {
        Message::Refused(refused) => {
            assert_eq!(refused.refusal, Refusal::Version, "{refused:?}");
            assert_names_both(&refused.message);
        }
        other => panic!("it is answered with {other:?}"),
    }
    assert_names_both(&west.log_text());
    assert!(west.status().groups.is_empty());
    // One that speaks ours too is welcome.
    let wider = Message::Hello(Hello { version_min: 1, version_max: NEWER.max, ..hello() });
    match say(&caller, &west, &wider) {
        Message::Welcome(welcome) => assert_eq!(welcome.version, PROTOCOL_VERSION),
        other => panic!("it is answered with {other:?}"),
    }
}

/// Of a peer that speaks newer ones.
fn assert_names_both(text: &str) {
    let ours = format!("{PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}");
    let theirs = format!("{} to {}", NEWER.min, NEWER.max);
    assert!(text.contains(&theirs) && text.contains(&ours), "names both ranges: {text}");
}

/// A primary with a group, and a secondary that answers its hello in this way.
fn told_by(secondary: impl FnOnce(Message) -> Message + Send) -> PairStatus {
    let cluster = Cluster::new();
    let (east, west) = (cluster.running("east"), cluster.appliance("west"));
    east.trust(&west, Some(west.replication()));
    east.ok(&["volume", "create", "a", "--size", "1MiB"]);
    east.ok(&["group", "create", GROUP, "--volume", "a"]);
    let pair = std::thread::scope(|scope| {
        let answering = scope.spawn(|| answer(&west, secondary));
        east.ok(&["pair", "create", GROUP, "--to", "west"]);
        answering.join().expect("the answer is taken");
        east.wait_pair(GROUP, "the answer to be shown", COPY_LIMIT, |pair| {
            pair.reason.as_ref().is_some_and(|reason| reason.contains("version"))
        })
    });
    east.open("a").write(0, &[1; 4096]).expect("hosts do not notice");
    pair
}

#[test]
fn a_secondary_of_another_protocol_version_is_named_with_both_ranges() {
    let pair = told_by(|first| Message::Refused(read_hello(NEWER, first).expect_err("too old")));
    assert_names_both(&pair.reason.clone().unwrap_or_default());
    assert_eq!(pair.state, PairState::Error, "{pair:?}");
}

#[test]
fn a_secondary_that_chooses_a_version_that_was_not_offered_is_named() {
    let pair = told_by(|_| {
        Message::Welcome(Welcome {
            version: PROTOCOL_VERSION + 1,
            appliance: "west".into(),
            has_history: false,
            generation: 0,
            position: Position::default(),
            chain: [0; 16],
            journal_free_bytes: 1 << 30,
            journal_capacity_bytes: 1 << 30,
        })
    });
    let reason = pair.reason.clone().unwrap_or_default();
    let chosen = format!("chose protocol version {}", PROTOCOL_VERSION + 1);
    let offered = format!("{PROTOCOL_VERSION_MIN} to {PROTOCOL_VERSION}");
    assert!(reason.contains(&chosen) && reason.contains(&offered), "{reason}");
    assert_eq!(pair.state, PairState::InitialCopy, "{pair:?}");
}

/// Whoever is trusted for one group has nothing to say about another: not as the primary of its copy, not as one that took over.
#[test]
fn a_peer_that_is_trusted_for_another_group_is_refused_counted_and_logged() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 218));
    let other = pair.cluster.running("other");
    for side in [&pair.east, &pair.west] {
        side.trust(&other, None);
        other.trust(side, Some(side.replication()));
    }
    other.ok(&["volume", "create", "o", "--size", "1MiB"]);
    other.ok(&["group", "create", "theirs", "--volume", "o"]);
    other.ok(&["pair", "create", "theirs", "--to", "west"]);
    other.wait_pair("theirs", "the other group to be paired", COPY_LIMIT, |pair| pair.state == PairState::Paired);
    let mut outsider = other;
    outsider.stop();
    let group: [u8; 16] = hex::decode(pair.east.group(GROUP).id).expect("hexadecimal").try_into().expect("16 bytes");
    for generation in [1, 2, 7] {
        let claim = Hello { group, group_name: GROUP.into(), generation, ..hello() };
        for side in [&pair.east, &pair.west] {
            match say(&outsider, side, &Message::Hello(claim.clone())) {
                Message::Refused(refused) => assert_eq!(refused.refusal, Refusal::Conflict, "{refused:?}"),
                answer => panic!("{claim:?} is answered with {answer:?}"),
            }
        }
    }
    for side in [&pair.east, &pair.west] {
        let page = get(&side.status().addresses.metrics, "/metrics");
        let counted = page.lines().any(|line| {
            line.starts_with("tidemark_peers_refused_total") && line.contains("conflict") && line.ends_with(" 3")
        });
        assert!(counted, "{page}");
        assert!(side.log_text().contains("a peer was refused"), "{}", side.log_text());
    }
    // Nobody was fenced, and the copy is still that of east.
    pair.assert_same();
}

/// Waits until a side has refused so many more.
fn wait_refused(side: &Appliance, more: f64) {
    let metrics = side.status().addresses.metrics;
    let refused = || figures(&metrics, "tidemark_peers_refused_total").iter().sum::<f64>();
    let before = refused();
    wait_until("the caller to be refused again and again", COPY_LIMIT, || {
        let now = refused();
        check(now >= before + more, || format!("{before} before, {now} now"))
    });
}

fn lines(side: &Appliance, with: &str) -> usize {
    side.log_text().lines().filter(|line| line.contains(with)).count()
}

/// The copy was given up over there and the pair was not here: it calls every few seconds, for ever. First its group is unknown, then
/// the caller.
#[test]
fn a_caller_that_is_refused_again_and_again_is_logged_once() {
    let pair = Pair::paired(&Setup::one_volume("v", 1 << 20, 222));
    pair.west.ok(&["pair", "delete", GROUP, "--to", "east", "--force"]);
    pair.east.wait_pair(GROUP, "the copy to be gone", COPY_LIMIT, |pair| pair.state == PairState::Error);
    let before = [&pair.east, &pair.west].map(|side| lines(side, ""));
    wait_refused(&pair.west, 3.0);
    assert_eq!(lines(&pair.west, "a peer was refused"), 1, "{}", pair.west.log_text());
    let after = [&pair.east, &pair.west].map(|side| lines(side, ""));
    assert_eq!(after, before, "nothing is written of what was said: {}{}", pair.east.log_text(), pair.west.log_text());

    pair.west.ok(&["peer", "remove", "east"]);
    wait_refused(&pair.west, 3.0);
    assert_eq!(lines(&pair.west, "a connection was refused"), 1, "{}", pair.west.log_text());
    assert_eq!(lines(&pair.east, ""), after[0], "{}", pair.east.log_text());
    // What changes is said: the group's pair can be made again.
    pair.west.trust(&pair.east, None);
    pair.west.ok(&["volume", "delete", "v"]);
    pair.east.ok(&["pair", "delete", GROUP, "--to", "west"]);
    pair.create();
    pair.assert_same();
}
