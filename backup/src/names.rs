//! Names of files as text. A file system has bytes, of which text is only some: in come bytes, out goes text that no other bytes have, and back.
//!
//! What is UTF-8 stands as it is, what is not as `\xHH`. A name in which such a thing stands, whether by that or because the file is really
//! named so, has `\x5c` for each backslash of its own.

/// The text of a name.
#[must_use]
pub fn readable(name: &[u8]) -> String {
    if let Ok(text) = std::str::from_utf8(name)
        && !is_escaped(text)
    {
        return text.to_owned();
    }
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        text.push_str(&chunk.valid().replace('\\', r"\x5c"));
        chunk.invalid().iter().for_each(|byte| text.push_str(&format!("\\x{byte:02x}")));
    }
    text
}

/// The name whose text this is.
#[must_use]
pub fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        match escape(rest) {
            Some(byte) => {
                bytes.push(byte);
                rest = rest.get(4..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    bytes
}

/// Whether a text is another than its name.
#[must_use]
pub(crate) fn is_escaped(text: &str) -> bool {
    text.as_bytes().windows(4).any(|window| escape(window).is_some())
}

/// The byte that an escape at the begin of a text stands for.
fn escape(text: &[u8]) -> Option<u8> {
    let [b'\\', b'x', high, low, ..] = text else { return None };
    let digit = |byte: u8| match byte {
        b'0'..=b'9' => Some(byte - b'0'),
        b'a'..=b'f' => Some(byte - b'a' + 10),
        _ => None,
    };
    Some(digit(*high)? * 16 + digit(*low)?)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_is_no_text_or_looks_like_it_is_escaped() {
        for (name, text) in [
            (&b"plain"[..], "plain"),
            (b"a\\b\\x", "a\\b\\x"),
            ("\u{e4}/\u{20ac}".as_bytes(), "\u{e4}/\u{20ac}"),
            (b"caf\xe9", r"caf\xe9"),
            (br"caf\xe9", r"caf\x5cxe9"),
            (b"\\\xff", r"\x5c\xff"),
            (br"\x5cxe9", r"\x5cx5cxe9"),
            (br"\xE9", r"\xE9"),
        ] {
            assert_eq!(readable(name), text);
            assert_eq!(bytes(text), name);
            assert_eq!(is_escaped(text), text.as_bytes() != name);
        }
    }

    proptest! {
        #[test]
        fn a_name_comes_back_and_no_other_has_its_text(
            names in proptest::collection::vec(proptest::collection::vec(
                prop_oneof![Just(b'\\'), Just(b'x'), Just(b'e'), Just(b'9'), Just(0xe9_u8), any::<u8>()], 0..12), 2..3)
        ) {
            for name in &names {
                prop_assert_eq!(&bytes(&readable(name)), name);
            }
            prop_assert_eq!(names[0] == names[1], readable(&names[0]) == readable(&names[1]));
        }
    }
}
