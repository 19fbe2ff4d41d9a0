//! The envelope around every record: what it is, how long it is, and a checksum that also covers its key.
//!
//! ```text
//! format version u16 | kind u16 | payload length u32 | check u32 | payload        (little endian)
//! check = CRC-32C(key, the 8 bytes before it, CRC-32C(payload))
//! ```
//!
//! Invariant: what [`open`] returns was sealed under this key, as this kind, and not one byte of it differs.

use super::schema::Key;
use crate::record::crc32c;

/// Version of the envelope itself.
const ENVELOPE_VERSION: u16 = 1;
const HEAD_BYTES: usize = 8;
const ENVELOPE_BYTES: usize = HEAD_BYTES + 4;

/// The bytes to store under `key`, or nothing when the payload is longer than 32 bits can say.
pub(super) fn seal(key: &Key, payload: &[u8]) -> Option<Vec<u8>> {
    let length = u32::try_from(payload.len()).ok()?;
    let mut head = [0; HEAD_BYTES];
    let [v0, v1, k0, k1, length_bytes @ ..] = &mut head;
    [*v0, *v1] = ENVELOPE_VERSION.to_le_bytes();
    [*k0, *k1] = key.table().kind().to_le_bytes();
    *length_bytes = length.to_le_bytes();
    let mut sealed = Vec::with_capacity(ENVELOPE_BYTES + payload.len());
    sealed.extend_from_slice(&head);
    sealed.extend_from_slice(&check(key.bytes(), head, payload).to_le_bytes());
    sealed.extend_from_slice(payload);
    Some(sealed)
}

/// The payload of what was stored under `key`, verified.
///
/// # Errors
/// What is wrong with it, in words that follow "record KEY:".
pub(super) fn open<'a>(kind: u16, key: &[u8], sealed: &'a [u8]) -> Result<&'a [u8], &'static str> {
    const SHORT: &str = "it is cut short";
    let (head, rest) = sealed.split_first_chunk::<HEAD_BYTES>().ok_or(SHORT)?;
    let (stored_check, payload) = rest.split_first_chunk::<4>().ok_or(SHORT)?;
    if check(key, *head, payload) != u32::from_le_bytes(*stored_check) {
        return Err("its checksum does not match: it was altered, or belongs to another key");
    }
    let [v0, v1, k0, k1, length @ ..] = *head;
    if u16::from_le_bytes([v0, v1]) != ENVELOPE_VERSION {
        return Err("its envelope is of another build");
    }
    if u16::from_le_bytes([k0, k1]) != kind {
        return Err("it is of another kind than its key says");
    }
    if u32::from_le_bytes(length) as usize != payload.len() {
        return Err("its length is not what it says");
    }
    Ok(payload)
}

fn check(key: &[u8], head: [u8; HEAD_BYTES], payload: &[u8]) -> u32 {
    let mut covered = Vec::with_capacity(key.len() + ENVELOPE_BYTES);
    covered.extend_from_slice(key);
    covered.extend_from_slice(&head);
    covered.extend_from_slice(&crc32c(payload).to_le_bytes());
    crc32c(&covered)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key() -> Key {
        Key::volume("pg-data").unwrap()
    }

    proptest! {
        #[test]
        fn what_was_sealed_is_what_is_opened(payload: Vec<u8>) {
            let sealed = seal(&key(), &payload).unwrap();
            prop_assert_eq!(open(key().table().kind(), key().bytes(), &sealed), Ok(payload.as_slice()));
        }

        #[test]
        fn any_altered_bit_is_noticed(payload: Vec<u8>, at: prop::sample::Index, bit in 0_u8..8) {
            let mut sealed = seal(&key(), &payload).unwrap();
            let at = at.index(sealed.len());
            sealed[at] ^= 1 << bit;
            prop_assert!(open(key().table().kind(), key().bytes(), &sealed).is_err());
        }

        #[test]
        fn any_other_length_is_noticed(payload: Vec<u8>, keep: prop::sample::Index, more in 1_usize..9) {
            let sealed = seal(&key(), &payload).unwrap();
            prop_assert!(open(key().table().kind(), key().bytes(), &sealed[..keep.index(sealed.len())]).is_err());
            let longer = [sealed, vec![0; more]].concat();
            prop_assert!(open(key().table().kind(), key().bytes(), &longer).is_err());
        }

        #[test]
        fn garbage_is_refused(garbage: Vec<u8>, other_key: Vec<u8>) {
            prop_assert!(open(key().table().kind(), &other_key, &garbage).is_err());
        }
    }

    #[test]
    fn another_key_or_kind_is_noticed() {
        let sealed = seal(&key(), b"record").unwrap();
        let other = Key::volume("pg-datb").unwrap();
        assert!(open(other.table().kind(), other.bytes(), &sealed).is_err());
        assert!(open(Key::peer("x").unwrap().table().kind(), key().bytes(), &sealed).is_err());
    }
}
