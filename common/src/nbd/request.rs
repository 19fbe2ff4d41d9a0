//! A request of the transmission phase: its bytes, and what it asks for once [`super::check`] has let it through.
//!
//! ```text
//! compact:   0x25609513 u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32          28 bytes
//! extended:  0x21e41c71 u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u64          32 bytes
//! ```
//!
//! Nothing here does I/O.

use std::borrow::Cow;

use super::ZeroMode;
use super::protocol::{EXTENDED_REQUEST_MAGIC, Errno, Fields, REQUEST_MAGIC, command, command_flag};

/// What the two sides agreed on for requests and replies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Style {
    /// Compact requests, simple replies.
    #[default]
    Simple,
    /// Compact requests, structured replies where they have data or an error.
    Structured,
    /// Extended requests, extended replies.
    Extended,
}

impl Style {
    /// Bytes of a request before its payload.
    #[must_use]
    pub const fn request_bytes(self) -> usize {
        match self {
            Self::Simple | Self::Structured => 28,
            Self::Extended => 32,
        }
    }

    const fn request_magic(self) -> u32 {
        match self {
            Self::Simple | Self::Structured => REQUEST_MAGIC,
            Self::Extended => EXTENDED_REQUEST_MAGIC,
        }
    }
}

/// What haggling settled for a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Terms {
    /// Form of requests and replies.
    pub style: Style,
    /// `base:allocation` was chosen for this export.
    pub allocation_context: bool,
}

/// A request as it came, without its payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RequestHeader {
    /// One of [`command_flag`] each, or something unknown.
    pub flags: u16,
    /// One of [`command`], or something unknown.
    pub command: u16,
    /// The client's name for this request.
    pub cookie: u64,
    /// First byte.
    pub offset: u64,
    /// Bytes; of the payload or of the effect.
    pub length: u64,
}

/// Bytes that are not a request: the two sides have lost each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a request begins with {found:#010x} instead of {expected:#010x}")]
pub struct BadMagic {
    /// What was there.
    pub found: u32,
    /// What should have been there.
    pub expected: u32,
}

/// Reads a request's header off the front; `None` while it is not all there.
///
/// # Errors
/// [`BadMagic`]: nothing that follows can be understood.
pub fn parse_request(bytes: &[u8], style: Style) -> Result<Option<RequestHeader>, BadMagic> {
    let mut fields = Fields(bytes);
    let Some(found) = fields.u32() else { return Ok(None) };
    let expected = style.request_magic();
    if found != expected {
        return Err(BadMagic { found, expected });
    }
    Ok(header_fields(&mut fields, style))
}

fn header_fields(fields: &mut Fields<'_>, style: Style) -> Option<RequestHeader> {
    Some(RequestHeader {
        flags: fields.u16()?,
        command: fields.u16()?,
        cookie: fields.u64()?,
        offset: fields.u64()?,
        length: match style {
            Style::Simple | Style::Structured => fields.u32()?.into(),
            Style::Extended => fields.u64()?,
        },
    })
}

impl RequestHeader {
    /// Bytes that follow the header on the wire.
    ///
    /// With extended headers a client must flag the payload of a write. QEMU 10 does not, and sends it all the same, so a
    /// write always has one.
    #[must_use]
    pub const fn payload_bytes(&self, style: Style) -> u64 {
        let flagged = matches!(style, Style::Extended) && self.flags & command_flag::PAYLOAD_LEN != 0;
        if flagged || self.command == command::WRITE { self.length } else { 0 }
    }
}

/// What an export is asked to do: inside its size, never empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Read; `bytes` fits a buffer.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes, at most the largest request.
        bytes: usize,
    },
    /// Write the payload.
    Write {
        /// First byte.
        offset: u64,
        /// Bytes, at most the largest request.
        bytes: usize,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Make all that was answered durable.
    Flush,
    /// Discard.
    Trim {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// Durable before it is answered.
        fua: bool,
    },
    /// Write zeroes.
    Zero {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// How.
        mode: ZeroMode,
    },
    /// Read ahead.
    Cache {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
    },
    /// What is allocated.
    Status {
        /// First byte.
        offset: u64,
        /// Bytes.
        length: u64,
        /// One run is enough.
        one: bool,
    },
    /// An empty request that is otherwise right: answered at once.
    Nothing,
}

/// A request that is answered with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The error number.
    pub errno: Errno,
    /// For people, where the reply has room for it.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// With a fixed text.
    #[must_use]
    pub const fn new(errno: Errno, message: &'static str) -> Self {
        Self { errno, message: Cow::Borrowed(message) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn header(command: u16, flags: u16, offset: u64, length: u64) -> RequestHeader {
        RequestHeader { flags, command, cookie: 7, offset, length }
    }

    #[test]
    fn headers_are_read_in_both_forms() {
        let compact = hex::decode("256095130001000300000000000000070000000000001000ffffffff").unwrap();
        let expected = header(command::FLUSH, 1, 0x1000, 0xffff_ffff);
        assert_eq!(parse_request(&compact, Style::Structured), Ok(Some(expected)));
        let extended = hex::decode("21e41c71000100030000000000000007000000000000100000000000ffffffff").unwrap();
        assert_eq!(parse_request(&extended, Style::Extended), Ok(Some(expected)));
        for end in 0..28 {
            assert_eq!(parse_request(&compact[..end], Style::Simple), Ok(None), "cut at {end}");
        }
        assert!(parse_request(&compact, Style::Extended).is_err());
        assert!(parse_request(&extended, Style::Simple).is_err());
    }

    #[test]
    fn only_what_announces_a_payload_has_one() {
        let write = header(command::WRITE, 0, 0, 512);
        let flagged = header(command::READ, command_flag::PAYLOAD_LEN, 0, 512);
        assert_eq!(write.payload_bytes(Style::Simple), 512);
        assert_eq!(write.payload_bytes(Style::Extended), 512, "QEMU does not flag it");
        assert_eq!(flagged.payload_bytes(Style::Structured), 0);
        assert_eq!(flagged.payload_bytes(Style::Extended), 512);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            for style in [Style::Simple, Style::Structured, Style::Extended] {
                let _ = parse_request(&bytes, style);
            }
        }
    }
}
