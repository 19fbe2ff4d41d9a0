//! The extended attributes that lie in an inode of ext4. One of them may be content: small ones lie there whole (`inline_data`).
//!
//! ```text
//! inode  │ fields │ 60 bytes: the content's begin │ fields │ attributes: …, system.data: what does not fit there, … │
//! ```

use crate::bytes::Bytes;

/// Where others have the map of their blocks.
const BEGIN: (usize, usize) = (0x28, 60);
/// Fields of every inode; how many more there are is what follows.
const FIELDS_BYTES: usize = 0x80;
const MAGIC: u32 = 0xea02_0000;
const ATTRIBUTE_BYTES: usize = 16;
/// Of names that begin with `system.`
const SYSTEM: u8 = 7;

/// The attributes of an inode.
struct Attributes<'a> {
    /// What the places of their values are counted from.
    first: usize,
    /// Where each stands in the list, and its name.
    listed: Vec<(usize, u8, &'a [u8])>,
}

fn is_content(index: u8, name: &[u8]) -> bool {
    index == SYSTEM && name == b"data"
}

fn read<'a>(inode: &Bytes<'a>) -> Result<Attributes<'a>, String> {
    let mut found = Attributes { first: 0, listed: Vec::new() };
    if inode.bytes.len() < FIELDS_BYTES + 4 {
        return Ok(found);
    }
    let head = FIELDS_BYTES + usize::from(inode.u16(FIELDS_BYTES)?);
    if inode.bytes.len() < head + 4 || inode.u32(head)? != MAGIC {
        return Ok(found);
    }
    found.first = head + 4;
    let mut at = found.first;
    // Zeroes end the list.
    while inode.u32(at)? != 0 {
        let name = inode.part(at + ATTRIBUTE_BYTES, usize::from(inode.u8(at)?))?;
        found.listed.push((at, inode.u8(at + 1)?, name));
        at += (ATTRIBUTE_BYTES + name.len()).next_multiple_of(4);
    }
    Ok(found)
}

/// Whether there are some that are not content.
pub(super) fn are_there(inode: &Bytes<'_>) -> Result<bool, String> {
    Ok(read(inode)?.listed.iter().any(|(_, index, name)| !is_content(*index, name)))
}

/// The two parts of an inode that are its content, (first byte, bytes); both lie in it.
pub(super) fn content_parts(inode: &Bytes<'_>) -> Result<[(usize, usize); 2], String> {
    inode.part(BEGIN.0, BEGIN.1)?;
    let attributes = read(inode)?;
    let content = attributes.listed.iter().find(|(_, index, name)| is_content(*index, name));
    let Some((at, ..)) = content else { return Ok([BEGIN, (0, 0)]) };
    if inode.u32(at + 4)? != 0 {
        return Err("a part of its content lies in another inode".into());
    }
    let begin = attributes.first + usize::from(inode.u16(at + 2)?);
    let length = usize::try_from(inode.u32(at + 8)?).unwrap_or(usize::MAX);
    inode.part(begin, length)?;
    Ok([BEGIN, (begin, length)])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An inode of 256 bytes with attributes: (index, name, value).
    fn inode(attributes: &[(u8, &str, &[u8])]) -> Vec<u8> {
        let mut bytes = vec![0; 256];
        bytes[0x80] = 32;
        bytes[0xa0..0xa4].copy_from_slice(&MAGIC.to_le_bytes());
        let (mut at, mut end) = (0xa4, 256);
        for (index, name, value) in attributes {
            end -= value.len();
            bytes[at] = u8::try_from(name.len()).unwrap();
            bytes[at + 1] = *index;
            bytes[at + 2..at + 4].copy_from_slice(&u16::try_from(end - 0xa4).unwrap().to_le_bytes());
            bytes[at + 8..at + 12].copy_from_slice(&u32::try_from(value.len()).unwrap().to_le_bytes());
            bytes[at + 16..at + 16 + name.len()].copy_from_slice(name.as_bytes());
            bytes[end..end + value.len()].copy_from_slice(value);
            at += (16 + name.len()).next_multiple_of(4);
        }
        bytes
    }

    fn found(bytes: &[u8]) -> Result<[(usize, usize); 2], String> {
        content_parts(&Bytes::new(bytes, "an inode"))
    }

    #[test]
    fn what_does_not_fit_is_the_attribute_of_that_name_alone() {
        let data = (SYSTEM, "data", &b"the rest"[..]);
        assert_eq!(found(&inode(&[data])), Ok([(0x28, 60), (248, 8)]));
        let others = [(1, "data", &b"user.data"[..]), (SYSTEM, "posix", b"x"), data];
        assert_eq!(found(&inode(&others)), Ok([(0x28, 60), (238, 8)]));
        assert_eq!(found(&inode(&others[..2])), Ok([(0x28, 60), (0, 0)]));
        assert_eq!(found(&inode(&[])), Ok([(0x28, 60), (0, 0)]));
        assert_eq!(found(&[0; 128]), Ok([(0x28, 60), (0, 0)]));
        let others_than_content = |bytes: &[u8]| are_there(&Bytes::new(bytes, "an inode"));
        assert_eq!(others_than_content(&inode(&others)), Ok(true));
        assert_eq!(others_than_content(&inode(&[data])), Ok(false));
        assert_eq!(others_than_content(&[0; 128]), Ok(false));
    }

    #[test]
    fn what_leads_out_of_the_inode_is_an_error() {
        let mut bytes = inode(&[(SYSTEM, "data", b"the rest")]);
        bytes[0xa4 + 8] = 9;
        assert!(found(&bytes).is_err());
        let mut bytes = inode(&[(SYSTEM, "data", b"the rest")]);
        bytes[0xa4 + 4] = 1;
        assert!(found(&bytes).unwrap_err().contains("another inode"));
        for at in 0..256 {
            for value in [0, 1, 0x7f, 0xff] {
                let mut bytes = inode(&[(SYSTEM, "data", b"the rest")]);
                bytes[at] = value;
                if let Ok([_, (begin, length)]) = found(&bytes) {
                    assert!(begin + length <= 256);
                }
            }
        }
    }
}
