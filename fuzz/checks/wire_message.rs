//! Messages of a control stream: what decodes is what was encoded, and nothing is taken before it is whole.

use bytes::BytesMut;
use tidemark_common::limits::CONTROL_MESSAGE_BYTES_MAX;
use tidemark_common::record::crc32c;
use tidemark_common::wire::codec::{ENVELOPE_BYTES, Kind, MAGIC, decode, encode};
use tidemark_common::wire::handshake::{Versions, read_answer, read_hello};
use tidemark_common::wire::message::{Message, PROTOCOL_VERSION, PROTOCOL_VERSION_MIN};

use super::Input;

pub fn check(data: &[u8]) {
    let mut input = Input(data);
    match input.u8() {
        0 => stream(input.0),
        choice => stream(&sealed(choice, input.0)),
    }
}

/// Decodes until the end or an error, as the receiver does.
fn stream(bytes: &[u8]) {
    let mut buffer = BytesMut::from(bytes);
    while let Ok(Some(message)) = decode(&mut buffer) {
        again(&message);
        sense(message);
    }
}

/// What was decoded encodes, and decodes to itself; no part of it decodes to anything.
fn again(message: &Message) {
    let encoded = encode(message).expect("what came in fits");
    assert!(encoded.len() <= CONTROL_MESSAGE_BYTES_MAX);
    let mut whole = BytesMut::from(&encoded[..]);
    assert_eq!(decode(&mut whole).as_ref(), Ok(&Some(message.clone())));
    assert!(whole.is_empty());
    for cut in [encoded.len() - 1, encoded.len() / 2, ENVELOPE_BYTES] {
        let mut part = BytesMut::from(&encoded[..cut.min(encoded.len() - 1)]);
        assert_eq!(decode(&mut part), Ok(None), "cut at {cut}");
    }
}

/// What the two sides make of it as a first message or answer.
fn sense(message: Message) {
    if let Ok((version, hello)) = read_hello(Versions::OURS, message.clone()) {
        assert_eq!(Versions::OURS.highest_common(Versions::of(&hello)), Some(version));
        assert!(hello.member < hello.members);
    }
    if let Ok(welcome) = read_answer(Versions::OURS, message) {
        assert!((PROTOCOL_VERSION_MIN..=PROTOCOL_VERSION).contains(&welcome.version));
    }
}

/// An envelope with a good checksum around any body, so that the body is looked at.
fn sealed(choice: u8, body: &[u8]) -> Vec<u8> {
    let kind = Kind::ALL[usize::from(choice) % Kind::ALL.len()];
    let mut bytes = MAGIC.to_vec();
    bytes.extend(u32::try_from(body.len()).expect("inputs are short").to_le_bytes());
    bytes.extend(PROTOCOL_VERSION.to_le_bytes());
    bytes.extend(kind.number().to_le_bytes());
    bytes.extend([0; 2]);
    let check = crc32c(&[&bytes, body].concat());
    bytes.extend(check.to_le_bytes());
    bytes.extend(body);
    bytes
}
