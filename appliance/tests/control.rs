//! The control API over a real Unix socket, with a fake appliance behind it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test fails where it stands")]

mod fake;

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;
use std::time::Duration;

use fake::{Fake, Served, samples};
use serde_json::Value;
use tidemark_common::api::backup::types::{BackupCreate, BackupOrder, RestoreRequest, SetCreate, WhileDifferential};
use tidemark_common::api::client::{Client, ClientError};
use tidemark_common::api::control::Control;
use tidemark_common::api::local_pair::types::{LocalPairCreate, LocalPairSplit};
use tidemark_common::api::openapi;
use tidemark_common::api::server::{BindError, ControlListener, serve_metrics};
use tidemark_common::api::types::{
    Cut, ErrorBody, ErrorKind, Failover, GroupCreate, GroupVolume, OnFull, PairTarget, PeerAdd, Rejoin, Switchover,
    VolumeCreate, VolumeOffer, VolumeResize, Wait, WaitFor,
};
use tidemark_common::config::ControlAccess;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

/// An answer as it came over the wire.
struct Answer {
    status: u16,
    head: String,
    body: String,
}

impl Answer {
    fn error(&self) -> ErrorBody {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

async fn exchange(mut stream: impl AsyncRead + AsyncWrite + Unpin, request: &str) -> Answer {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

async fn ask(served: &Served, method: &str, path: &str, body: &str) -> Answer {
    let stream = UnixStream::connect(served.directory.path().join("api.sock")).await.unwrap();
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n");
    exchange(stream, &(head + body)).await
}

fn wait(marker: Option<u64>, timeout_ms: u64) -> Wait {
    Wait { to: Some("west".into()), marker, wait_for: WaitFor::Received, timeout_ms }
}

#[tokio::test]
async fn every_method_arrives_as_it_was_asked() {
    let served = Served::showing(samples::paired());
    let client = served.client();
    let text = String::from;
    let status = client.status().await.unwrap();
    assert_eq!(status, samples::paired());
    let peer = PeerAdd { name: text("west"), id: "00".repeat(32), address: Some(text("west:7411")) };
    assert_eq!(client.peer_add(&peer).await.unwrap().address, peer.address);
    client.peer_remove("north").await.unwrap();
    let volume = VolumeCreate { name: text("c"), size: 512, backing: Some(text("/dev/vdb")) };
    assert_eq!(client.volume_create(&volume).await.unwrap().size, 512);
    client.volume_delete("a").await.unwrap();
    let offer = VolumeOffer { group: Some(text("h")) };
    assert_eq!(client.volume_offer("a", &offer).await.unwrap().offered_to, offer.group);
    assert_eq!(client.volume_resize("a", &VolumeResize { size: 1024 }).await.unwrap().size, 1024);
    let group = GroupCreate {
        name: text("h"),
        volumes: vec![text("a")],
        interval_ms: 250,
        on_full: OnFull::Throttle,
        history: tidemark_common::history::History::default(),
    };
    assert_eq!(client.group_create(&group).await.unwrap().volumes, ["a"]);
    let added = client.group_add("g", &GroupVolume { volume: text("c") }, true).await.unwrap();
    assert_eq!(added.volumes, ["a", "b", "c"]);
    assert_eq!(client.group_remove("g", "a").await.unwrap().volumes, ["b"]);
    client.group_delete("h").await.unwrap();
    let west = PairTarget { to: text("west") };
    assert_eq!(client.pair_create("g", &west).await.unwrap().peer, "west");
    client.pair_suspend("g", "west").await.unwrap();
    client.pair_resume("g", "west").await.unwrap();
    client.pair_release("g", "west").await.unwrap();
    client.pair_delete("g", "west", false).await.unwrap();
    assert_eq!(client.cut("g", &Cut { tag: Some(text("x")) }).await.unwrap().number, 43);
    assert_eq!(client.markers("g").await.unwrap().len(), 5);
    assert_eq!(client.wait("g", &wait(Some(7), 1000)).await.unwrap().number, 7);
    assert_eq!(
        client.failover("g", &Failover { force: true, ..Failover::default() }).await.unwrap().exports,
        ["a", "b"]
    );
    assert_eq!(client.rejoin("g", &Rejoin::default()).await.unwrap().lost_writes, 7);
    let switchover = Switchover { to: text("west"), timeout_ms: 1000 };
    assert_eq!(client.switchover("g", &switchover).await.unwrap().primary, "west");
    let expected = [
        format!("{peer:?}"),
        text(r#"peer_remove "north""#),
        format!("{volume:?}"),
        text(r#"volume_delete "a""#),
        format!("volume_offer \"a\" {offer:?}"),
        text(r#"volume_resize "a" 1024"#),
        format!("{group:?}"),
        text(r#"group_add "g" "c" true"#),
        text(r#"group_remove "g" "a""#),
        text(r#"group_delete "h""#),
        text(r#"pair_create "g" "west""#),
        text(r#"pair_suspend "g" "west""#),
        text(r#"pair_resume "g" "west""#),
        text(r#"pair_release "g" "west""#),
        text(r#"pair_delete "g" "west" false"#),
        text(r#"cut "g" Cut { tag: Some("x") }"#),
        text(r#"markers "g""#),
        format!("wait \"g\" {:?}", wait(Some(7), 1000)),
        text(r#"failover "g" Failover { force: true, marker: None, time: None }"#),
        text(r#"rejoin "g" Rejoin { as_primary: false, force: false }"#),
        text(r#"switchover "g" Switchover { to: "west", timeout_ms: 1000 }"#),
    ];
    assert_eq!(served.fake.calls(), expected);
}

#[tokio::test]
async fn what_is_asked_of_sets_and_backups_arrives_as_it_was_asked() {
    let served = Served::showing(samples::paired());
    let client = served.client();
    let text = String::from;
    let set = SetCreate { name: text("s"), extents: vec![text("a:p1:/x")] };
    assert_eq!(client.set_create(&set).await.unwrap().name, "s");
    assert_eq!(client.sets().await.unwrap().len(), 1);
    client.set_delete("s").await.unwrap();
    let backup = BackupCreate {
        name: text("b"),
        sets: vec![text("s")],
        order: BackupOrder::SmallestFirst,
        to: text("-"),
        at: Some(samples::now()),
        rate: Some(1),
        when_idle: true,
        while_differential: WhileDifferential::Copy,
    };
    assert_eq!(client.backup_create(&backup).await.unwrap().name, "b");
    assert_eq!(client.backups().await.unwrap().len(), 1);
    assert_eq!(client.backup("b").await.unwrap().name, "b");
    assert_eq!(client.backup_cancel("b").await.unwrap().name, "b");
    client.backup_delete("b").await.unwrap();
    let mut archive = Vec::new();
    let taken = client.backup_stream("b", |piece| std::io::Write::write_all(&mut archive, piece)).await.unwrap();
    taken.unwrap();
    assert_eq!(archive, b"an archive");
    let restore = RestoreRequest { from: text("/b"), set: None, onto: Some(text("c")) };
    assert_eq!(client.restore(&restore).await.unwrap().members, 1);
    assert_eq!(client.restore_cancel(&restore).await.unwrap().volumes, ["b"]);
    assert_eq!(client.restore_give_up("a").await.unwrap().name, "a");
    let expected = [
        format!("set_create {set:?}"),
        text("sets"),
        text("set_delete s"),
        format!("backup_create {backup:?}"),
        text("backups"),
        text("backup b"),
        text("backup_cancel b"),
        text("backup_delete b"),
        text("backup_stream b"),
        format!("restore {restore:?}"),
        format!("restore_cancel {restore:?}"),
        text(r#"restore_give_up "a""#),
    ];
    assert_eq!(served.fake.calls(), expected);
}

#[tokio::test]
async fn what_is_asked_of_local_pairs_arrives_as_it_was_asked() {
    let served = Served::showing(samples::paired());
    let client = served.client();
    let create = LocalPairCreate { source: "a".into(), target: "t".into(), rate: Some(1 << 20) };
    assert_eq!(client.local_pair_create(&create).await.unwrap().target, "t");
    let split = LocalPairSplit { targets: vec!["t".into(), "u".into()] };
    assert_eq!(client.local_pair_split(&split).await.unwrap().len(), 2);
    client.local_pair_resync("t", false).await.unwrap();
    client.local_pair_resync("t", true).await.unwrap();
    client.local_pair_reverse("t").await.unwrap();
    client.local_pair_delete("t", true).await.unwrap();
    assert_eq!(client.local_pairs().await.unwrap().len(), 1);
    assert_eq!(client.local_pair("t").await.unwrap().source, "a");
    let text = String::from;
    let expected = [
        format!("{create:?}"),
        format!("{split:?}"),
        text("resync t false"),
        text("resync t true"),
        text("reverse t"),
        text("local_pair_delete t true"),
        text("local_pairs"),
        text("local_pair t"),
    ];
    assert_eq!(served.fake.calls(), expected);
}

#[tokio::test]
async fn a_name_is_one_segment_whatever_is_in_it() {
    let served = Served::showing(samples::paired());
    for name in ["a/b", "..", "a b?c#d%2F", "ä\n"] {
        served.client().volume_delete(name).await.unwrap_err();
        assert_eq!(served.fake.calls(), [format!("volume_delete {name:?}")]);
    }
}

#[tokio::test]
async fn every_kind_of_error_has_its_status() {
    let served = Served::showing(samples::paired());
    for (kind, status) in [
        (ErrorKind::Invalid, 400),
        (ErrorKind::NotFound, 404),
        (ErrorKind::Refused, 409),
        (ErrorKind::Timeout, 408),
        (ErrorKind::Failed, 500),
    ] {
        let refusal = ErrorBody::new(kind, "why, and what to do");
        served.fake.refuse(refusal.clone());
        let answer = ask(&served, "POST", "/v1/groups/g/markers", "{}").await;
        assert_eq!((answer.status, answer.error()), (status, refusal.clone()));
        let ClientError::Answered(told) = served.client().cut("g", &Cut::default()).await.unwrap_err() else {
            panic!("the refusal is the answer");
        };
        assert_eq!(told, refusal);
    }
}

#[tokio::test]
async fn what_makes_no_sense_is_answered_in_the_same_way() {
    let served = Served::showing(samples::paired());
    let large = format!("{{\"tag\": \"{}\"}}", "x".repeat(1 << 20));
    for (method, path, body, status, kind, says) in [
        ("GET", "/", "", 404, ErrorKind::NotFound, "nothing is at /"),
        ("GET", "/v2/status", "", 404, ErrorKind::NotFound, "/v2/status"),
        ("PUT", "/v1/volumes", "", 405, ErrorKind::Invalid, "PUT is not for /v1/volumes"),
        ("POST", "/v1/volumes", "{", 400, ErrorKind::Invalid, "EOF while parsing"),
        ("POST", "/v1/volumes", "", 400, ErrorKind::Invalid, "missing field `name`"),
        ("POST", "/v1/volumes", r#"{"name": "a", "size": -1}"#, 400, ErrorKind::Invalid, "invalid value"),
        ("POST", "/v1/volumes", r#"{"name": "a", "size": 1.5}"#, 400, ErrorKind::Invalid, "expected u64"),
        ("POST", "/v1/volumes", "[1]", 400, ErrorKind::Invalid, "openapi.json"),
        ("POST", "/v1/groups/g/markers", &large, 413, ErrorKind::Invalid, "read the body"),
        ("DELETE", "/v1/volumes/%ff", "", 400, ErrorKind::Invalid, "UTF-8"),
    ] {
        let answer = ask(&served, method, path, body).await;
        let error = answer.error();
        assert_eq!((answer.status, error.kind), (status, kind), "{method} {path}: {error:?}");
        assert!(error.message.contains(says), "{method} {path}: {}", error.message);
    }
    assert!(ask(&served, "PUT", "/v1/volumes", "").await.head.contains("\r\nallow: post"));
    assert!(served.fake.calls().is_empty(), "nothing of this reached the appliance");
}

#[tokio::test]
async fn no_body_is_an_empty_one() {
    let served = Served::showing(samples::paired());
    assert_eq!(ask(&served, "POST", "/v1/groups/g/markers", "").await.status, 200);
    assert_eq!(served.fake.calls(), [r#"cut "g" Cut { tag: None }"#]);
}

#[tokio::test]
async fn the_document_describes_every_route_and_every_route_is_there() {
    let served = Served::showing(samples::paired());
    let answer = ask(&served, "GET", "/v1/openapi.json", "").await;
    let document: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(document, serde_json::to_value(openapi()).unwrap());
    let mut described = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            assert!(operation["summary"].is_string(), "{method} {path} says what it does");
            described.push(format!("{} {path}", method.to_uppercase()));
            let filled = path.replace("{group}", "g").replace("{volume}", "a").replace("{peer}", "west");
            let status = ask(&served, &method.to_uppercase(), &filled, "").await.status;
            assert!(matches!(status, 200 | 204 | 400), "{method} {path} answers {status}");
        }
    }
    described.sort();
    assert_eq!(
        described,
        [
            "DELETE /v1/backups/{backup}",
            "DELETE /v1/groups/{group}",
            "DELETE /v1/groups/{group}/drill-schedule",
            "DELETE /v1/groups/{group}/lost/{tail}",
            "DELETE /v1/groups/{group}/pairs/{peer}",
            "DELETE /v1/groups/{group}/volumes/{volume}",
            "DELETE /v1/images/{image}",
            "DELETE /v1/local-pairs/{target}",
            "DELETE /v1/peers/{peer}",
            "DELETE /v1/sets/{set}",
            "DELETE /v1/volumes/{volume}",
            "DELETE /v1/volumes/{volume}/restore",
            "GET /v1/backups",
            "GET /v1/backups/{backup}",
            "GET /v1/backups/{backup}/stream",
            "GET /v1/drills",
            "GET /v1/drills/{drill}",
            "GET /v1/groups/{group}/lost",
            "GET /v1/groups/{group}/markers",
            "GET /v1/local-pairs",
            "GET /v1/local-pairs/{target}",
            "GET /v1/sets",
            "GET /v1/status",
            "PATCH /v1/groups/{group}",
            "PATCH /v1/volumes/{volume}",
            "POST /v1/backups",
            "POST /v1/backups/{backup}/cancel",
            "POST /v1/clones",
            "POST /v1/groups",
            "POST /v1/groups/{group}/drills",
            "POST /v1/groups/{group}/drills/cancel",
            "POST /v1/groups/{group}/failover",
            "POST /v1/groups/{group}/lost/{tail}/export",
            "POST /v1/groups/{group}/markers",
            "POST /v1/groups/{group}/pairs",
            "POST /v1/groups/{group}/pairs/{peer}/in-place",
            "POST /v1/groups/{group}/pairs/{peer}/release",
            "POST /v1/groups/{group}/pairs/{peer}/resume",
            "POST /v1/groups/{group}/pairs/{peer}/suspend",
            "POST /v1/groups/{group}/rejoin",
            "POST /v1/groups/{group}/switchover",
            "POST /v1/groups/{group}/verify",
            "POST /v1/groups/{group}/volumes",
            "POST /v1/groups/{group}/wait",
            "POST /v1/local-pairs",
            "POST /v1/local-pairs/{target}/resync",
            "POST /v1/local-pairs/{target}/reverse",
            "POST /v1/local-splits",
            "POST /v1/peers",
            "POST /v1/restore",
            "POST /v1/restore/cancel",
            "POST /v1/sets",
            "POST /v1/t0",
            "POST /v1/volumes",
            "PUT /v1/groups/{group}/drill-schedule",
            "PUT /v1/volumes/{volume}/offer",
        ]
    );
    every_reference_resolves(&document, &document);
}

fn every_reference_resolves(value: &Value, document: &Value) {
    match value {
        Value::Object(fields) => {
            if let Some(Value::String(target)) = fields.get("$ref") {
                let pointer = target.strip_prefix('#').unwrap();
                assert!(document.pointer(pointer).is_some(), "{target} is nowhere");
            }
            fields.values().for_each(|field| every_reference_resolves(field, document));
        }
        Value::Array(items) => items.iter().for_each(|item| every_reference_resolves(item, document)),
        _ => {}
    }
}

/// The JSON that outside scripts read, field by field.
#[tokio::test]
async fn status_has_every_field_of_the_contract() {
    let contract: Value = serde_json::from_str(include_str!("contract-status.json")).unwrap();
    let mut status = samples::paired();
    status.appliance.id = "…".into();
    status.addresses.nbd = vec!["unix:…".into()];
    status.addresses.replication = "127.0.0.1:7411".into();
    status.groups[0].marker.time = Some(samples::now());
    let served = Served::showing(status);
    let answer = ask(&served, "GET", "/v1/status", "").await;
    assert_contains(&serde_json::from_str(&answer.body).unwrap(), &contract, "status");
}

/// Everything in `expected` is in `found`, which may have more fields and more list items.
fn assert_contains(found: &Value, expected: &Value, place: &str) {
    match expected {
        Value::Object(fields) => fields.iter().for_each(|(key, field)| {
            let inner = found.get(key).unwrap_or_else(|| panic!("{place} has no {key}"));
            assert_contains(inner, field, &format!("{place}.{key}"));
        }),
        Value::Array(items) => items.iter().enumerate().for_each(|(index, item)| {
            let inner = found.get(index).unwrap_or_else(|| panic!("{place} has no item {index}"));
            assert_contains(inner, item, &format!("{place}[{index}]"));
        }),
        _ => assert_eq!(found, expected, "{place}"),
    }
}

#[tokio::test]
async fn an_operation_goes_on_when_who_asked_hangs_up() {
    let served = Served::showing(samples::paired());
    let hold = served.fake.hold();
    let client = served.client();
    let asking = tokio::spawn(async move { client.cut("g", &Cut::default()).await });
    served.fake.asked.notified().await;
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    // Until the service has seen the connection close: another request is answered in the meantime.
    assert_eq!(served.client().status().await.unwrap(), samples::paired());
    hold.notify_one();
    let ended = timeout(Duration::from_secs(20), served.fake.ended.notified()).await;
    assert!(ended.is_ok(), "the operation was dropped with the connection");
}

#[tokio::test]
async fn what_copies_much_is_waited_for_longer_than_what_does_not() {
    let served = Served::showing(samples::paired());
    let _held = served.fake.hold();
    let client = served.client().waiting_for_operations(Duration::from_millis(50));
    let (rejoin, cut) = (Rejoin::default(), Cut::default());
    let given_up = tokio::select! {
        // Asked first, and so, when it waits no longer, given up first.
        biased;
        returned = client.rejoin("g", &rejoin) => panic!("{returned:?}"),
        given_up = client.cut("g", &cut) => given_up.unwrap_err(),
    };
    assert!(matches!(given_up, ClientError::Silent { .. }), "{given_up}");
}

#[tokio::test]
async fn stopping_ends_waits_and_lets_operations_end() {
    let mut served = Served::showing(samples::paired());
    let client = served.client();
    let waiting = tokio::spawn(async move { client.wait("g", &wait(Some(99), 60_000)).await });
    served.fake.asked.notified().await;
    let hold = served.fake.hold();
    let client = served.client();
    let cutting = tokio::spawn(async move { client.cut("g", &Cut::default()).await });
    served.fake.asked.notified().await;
    served.stop.cancel();
    let message = waiting.await.unwrap().unwrap_err().to_string();
    assert!(message.contains("stopping"), "{message}");
    hold.notify_one();
    assert_eq!(cutting.await.unwrap().unwrap().number, 43);
    (&mut served.serving).await.unwrap();
    assert!(!served.directory.path().join("api.sock").exists(), "the socket is gone");
    let gone = served.client().status().await.unwrap_err();
    assert!(matches!(gone, ClientError::Unreachable { .. }), "{gone}");
}

#[tokio::test]
async fn a_socket_left_behind_is_replaced_and_anything_else_is_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("api.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let unreachable = Client::new(directory.path()).status().await.unwrap_err();
    assert!(unreachable.to_string().contains("it is not running"), "{unreachable}");
    for (access, mode) in [(ControlAccess::Owner, 0o600), (ControlAccess::Group, 0o660)] {
        let listener = ControlListener::bind(directory.path(), access).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
        drop(listener);
        assert!(!path.exists());
    }
    std::fs::write(&path, "precious").unwrap();
    let refused = ControlListener::bind(directory.path(), ControlAccess::Owner).unwrap_err();
    assert!(matches!(refused, BindError::InTheWay { .. }), "{refused}");
    assert_eq!(std::fs::read(&path).unwrap(), b"precious");
}

#[tokio::test]
async fn a_client_that_breaks_the_protocol_loses_only_its_connection() {
    let served = Served::showing(samples::paired());
    let connect = async || UnixStream::connect(served.directory.path().join("api.sock")).await.unwrap();
    assert_eq!(exchange(connect().await, "\0\0nonsense\r\n\r\n").await.status, 400);
    let endless = format!("GET /{} HTTP/1.1\r\n", "x".repeat(128 << 10));
    let mut stream = connect().await;
    // The service may hang up before all of it is written.
    let _ = stream.write_all(endless.as_bytes()).await;
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest).await;
    drop(connect().await);
    assert_eq!(served.client().status().await.unwrap(), samples::paired());
}

#[tokio::test]
async fn a_service_that_is_something_else_is_told_as_that() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(directory.path().join("api.sock")).unwrap();
    let answers =
        ["HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "HTTP/1.1 500 X\r\nContent-Length: 2\r\n\r\nno", ""];
    let serving = tokio::spawn(async move {
        for answer in answers {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 4096];
            let _ = stream.read(&mut request).await.unwrap();
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    });
    let client = Client::new(directory.path());
    for _ in 0..2 {
        let error = client.status().await.unwrap_err();
        assert!(matches!(error, ClientError::Garbled { .. }), "{error}");
    }
    let error = client.status().await.unwrap_err();
    assert!(matches!(error, ClientError::BrokenOff { .. }), "{error}");
    serving.await.unwrap();
}

/// A kill while a long answer is on its way.
#[tokio::test]
async fn a_service_that_goes_away_in_the_middle_of_an_answer_is_not_said_to_be_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(directory.path().join("api.sock")).unwrap();
    let serving = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[{").await.unwrap();
    });
    let error = Client::new(directory.path()).markers("g").await.unwrap_err();
    assert!(matches!(error, ClientError::BrokenOff { .. }), "{error}");
    serving.await.unwrap();
}

#[tokio::test]
async fn who_waits_for_a_hundred_groups_keeps_no_operator_out() {
    const WAITS: usize = 100;
    let served = Served::showing(samples::paired());
    let begin = |client: Client| tokio::spawn(async move { client.wait("g", &wait(Some(99), 60_000)).await });
    let waits: Vec<_> = (0..WAITS).map(|_| begin(served.client())).collect();
    let all_wait = async {
        let mut asked = 0;
        while asked < WAITS {
            served.fake.asked.notified().await;
            asked += served.fake.calls().len();
        }
    };
    timeout(Duration::from_secs(20), all_wait).await.unwrap();
    assert_eq!(served.client().status().await.unwrap(), samples::paired());
    waits.iter().for_each(tokio::task::JoinHandle::abort);
}

/// What a copy with a history of a week lists.
#[tokio::test]
async fn a_week_of_markers_is_taken() {
    const MARKERS: usize = 7 * 86_400;
    let directory = tempfile::tempdir().unwrap();
    let listener = tokio::net::UnixListener::bind(directory.path().join("api.sock")).unwrap();
    let serving = tokio::spawn(async move {
        let marker = r#"{"number":7,"boundary_seq":60480000,"time":"2026-01-01T00:00:00.123456789Z","tag":null}"#;
        let body = format!("[{}]", vec![marker; MARKERS].join(","));
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut request = [0; 4096];
        let _ = stream.read(&mut request).await.unwrap();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
        // A client that has had enough hangs up.
        let _ = stream.write_all((head + &body).as_bytes()).await;
    });
    assert_eq!(Client::new(directory.path()).markers("g").await.unwrap().len(), MARKERS);
    serving.await.unwrap();
}

#[tokio::test]
async fn metrics_are_a_page_of_their_own() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let control: Arc<dyn Control> = Fake::showing(samples::paired());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_metrics(listener, control.clone(), stop.clone()));
    let get = async |method: &str, path: &str| {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        exchange(TcpStream::connect(address).await.unwrap(), &request).await
    };
    let page = get("GET", "/metrics").await;
    assert_eq!((page.status, page.body), (200, control.metrics()));
    assert!(page.head.contains("content-type: text/plain; version=0.0.4"), "{}", page.head);
    assert_eq!(get("GET", "/-/healthy").await.status, 200);
    assert_eq!(get("GET", "/v1/status").await.status, 404);
    assert_eq!(get("POST", "/metrics").await.status, 405);
    stop.cancel();
    serving.await.unwrap();
}
