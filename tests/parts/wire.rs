//! The wire codec: the two messages that never end, and the largest of a beginning.

use bytes::BytesMut;
use divan::Bencher;
use tidemark_common::wire::codec;
use tidemark_common::wire::message::{Message, Position, VolumeSpec};

const KINDS: [&str; 3] = ["heartbeat", "ack", "volumes-100"];

fn message(kind: &str) -> Message {
    match kind {
        "heartbeat" => Message::Heartbeat { number: 1, as_of_ms: 2, captured_seq: 3, marker: 4 },
        "ack" => Message::Ack { position: Position::default(), heartbeat: 1, good_as_of_ms: 2, journal_free_bytes: 3 },
        _ => {
            let volume = |index| VolumeSpec { index, name: format!("volume-{index}"), size: 1 << 40 };
            Message::Volumes { volumes: (0..100).map(volume).collect() }
        }
    }
}

#[divan::bench(args = KINDS)]
fn encode(bencher: Bencher<'_, '_>, kind: &str) {
    let message = message(kind);
    bencher.bench(|| codec::encode(&message).expect("fits"));
}

#[divan::bench(args = KINDS)]
fn decode(bencher: Bencher<'_, '_>, kind: &str) {
    let bytes = codec::encode(&message(kind)).expect("fits");
    let input = || BytesMut::from(&bytes[..]);
    bencher.with_inputs(input).bench_refs(|bytes| codec::decode(bytes).expect("sound").expect("whole"));
}
