//! A request of the transmission phase: from bytes to something that may be given to an export, or to the error number the
//! protocol names.
//!
//! ```text
//! compact:   0x25609513 u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u32          28 bytes
//! extended:  0x21e41c71 u32 | flags u16 | type u16 | cookie u64 | offset u64 | length u64          32 bytes
//! ```
//!
//! Nothing here does I/O. What [`check`] lets through is inside the export's size and has no flag that is not understood.

use std::borrow::Cow;

use super::protocol::{EXTENDED_REQUEST_MAGIC, Errno, Fields, REQUEST_MAGIC, command, command_flag};
use super::{Bounds, ZeroMode};
use crate::limits::NBD_REQUEST_BYTES_MAX;

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

/// Decides whether a request may reach the export, as the protocol document says for each command.
///
/// # Errors
/// [`Refusal`] with the error number to answer. A payload, if there is one, is still on the wire.
pub fn check(header: &RequestHeader, terms: Terms, bounds: Bounds) -> Result<Request, Refusal> {
    let RequestHeader { flags, command, offset, length, .. } = *header;
    check_flags(header, terms)?;
    let changes = matches!(command, command::WRITE | command::TRIM | command::WRITE_ZEROES);
    if changes && bounds.read_only {
        return Err(Refusal::new(Errno::Perm, "the export is read-only"));
    }
    if command == command::FLUSH {
        return if offset == 0 && length == 0 {
            Ok(Request::Flush)
        } else {
            Err(Refusal::new(Errno::Invalid, "a flush has no offset and no length"))
        };
    }
    check_range(header, bounds)?;
    let fua = flags & command_flag::FUA != 0;
    match command {
        command::READ => payload_size(header).map(|bytes| Request::Read { offset, bytes }),
        command::WRITE => payload_size(header).map(|bytes| Request::Write { offset, bytes, fua }),
        command::TRIM => Ok(Request::Trim { offset, length, fua }),
        command::WRITE_ZEROES => Ok(Request::Zero { offset, length, mode: zero_mode(flags) }),
        command::CACHE => Ok(Request::Cache { offset, length }),
        _ => Ok(Request::Status { offset, length, one: flags & command_flag::REQ_ONE != 0 }),
    }
    .map(|request| if length == 0 { Request::Nothing } else { request })
}

/// The command is known, was agreed on, and has no flag that does not belong to it.
fn check_flags(header: &RequestHeader, terms: Terms) -> Result<(), Refusal> {
    let own = match header.command {
        command::READ if terms.style == Style::Simple => 0,
        command::READ => command_flag::DF,
        command::WRITE if terms.style == Style::Extended => command_flag::PAYLOAD_LEN,
        command::WRITE | command::FLUSH | command::TRIM | command::CACHE => 0,
        command::WRITE_ZEROES => command_flag::NO_HOLE | command_flag::FAST_ZERO,
        command::BLOCK_STATUS if !terms.allocation_context => {
            return Err(Refusal::new(Errno::Invalid, "no metadata context was chosen for this export"));
        }
        command::BLOCK_STATUS if header.length == 0 => {
            return Err(Refusal::new(Errno::Invalid, "a block status request has a length"));
        }
        command::BLOCK_STATUS => command_flag::REQ_ONE,
        _ => return Err(Refusal::new(Errno::Invalid, "unknown command")),
    };
    if header.flags & !(own | command_flag::FUA) != 0 {
        return Err(Refusal::new(Errno::Invalid, "a flag that does not belong to the command"));
    }
    Ok(())
}

fn check_range(header: &RequestHeader, bounds: Bounds) -> Result<(), Refusal> {
    if header.offset.checked_add(header.length).is_some_and(|end| end <= bounds.size) {
        return Ok(());
    }
    let errno = match header.command {
        command::WRITE | command::WRITE_ZEROES => Errno::NoSpace,
        _ => Errno::Invalid,
    };
    let message =
        format!("{} bytes at {} are beyond the export's end at {}", header.length, header.offset, bounds.size);
    Err(Refusal { errno, message: message.into() })
}

/// The length of a request whose data cross the wire. One too large to be sent in one piece, when one piece was asked for,
/// is the one case where the protocol wants EOVERFLOW.
fn payload_size(header: &RequestHeader) -> Result<usize, Refusal> {
    if header.length <= NBD_REQUEST_BYTES_MAX.into() {
        return usize::try_from(header.length).map_err(|_| Refusal::new(Errno::Invalid, "too large"));
    }
    let errno = if header.flags & command_flag::DF == 0 { Errno::Invalid } else { Errno::Overflow };
    Err(Refusal::new(errno, "larger than the largest block that was advertised (32 MiB)"))
}

const fn zero_mode(flags: u16) -> ZeroMode {
    ZeroMode {
        no_hole: flags & command_flag::NO_HOLE != 0,
        fast: flags & command_flag::FAST_ZERO != 0,
        fua: flags & command_flag::FUA != 0,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SIZE: u64 = 1 << 20;
    const RW: Bounds = Bounds { size: SIZE, read_only: false };
    const RO: Bounds = Bounds { size: SIZE, read_only: true };
    const SIMPLE: Terms = Terms { style: Style::Simple, allocation_context: false };
    const FULL: Terms = Terms { style: Style::Structured, allocation_context: true };
    const EXTENDED: Terms = Terms { style: Style::Extended, allocation_context: true };

    const fn header(command: u16, flags: u16, offset: u64, length: u64) -> RequestHeader {
        RequestHeader { flags, command, cookie: 7, offset, length }
    }

    fn errno(header: RequestHeader, terms: Terms, bounds: Bounds) -> Option<Errno> {
        check(&header, terms, bounds).err().map(|refusal| refusal.errno)
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

    #[test]
    fn beyond_the_end_is_enospc_for_writes_and_einval_for_the_rest() {
        for (offset, length) in [(SIZE, 1), (SIZE - 1, 2), (u64::MAX, 1), (u64::MAX, u64::from(u32::MAX))] {
            for command in [command::WRITE, command::WRITE_ZEROES] {
                assert_eq!(errno(header(command, 0, offset, length), FULL, RW), Some(Errno::NoSpace), "{command}");
            }
            for command in [command::READ, command::TRIM, command::CACHE, command::BLOCK_STATUS] {
                assert_eq!(errno(header(command, 0, offset, length), FULL, RW), Some(Errno::Invalid), "{command}");
            }
        }
        assert_eq!(errno(header(command::READ, 0, SIZE - 1, 1), FULL, RW), None);
    }

    #[test]
    fn read_only_is_eperm_for_all_that_changes() {
        for command in [command::WRITE, command::TRIM, command::WRITE_ZEROES] {
            assert_eq!(errno(header(command, 0, 0, 512), FULL, RO), Some(Errno::Perm), "{command}");
        }
        for command in [command::READ, command::CACHE, command::BLOCK_STATUS] {
            assert_eq!(errno(header(command, 0, 0, 512), FULL, RO), None, "{command}");
        }
        assert_eq!(errno(header(command::FLUSH, 0, 0, 0), FULL, RO), None);
    }

    #[test]
    fn each_command_takes_its_own_flags_and_fua() {
        let own = [
            (command::READ, command_flag::DF),
            (command::WRITE, 0),
            (command::FLUSH, 0),
            (command::TRIM, 0),
            (command::CACHE, 0),
            (command::WRITE_ZEROES, command_flag::NO_HOLE | command_flag::FAST_ZERO),
            (command::BLOCK_STATUS, command_flag::REQ_ONE),
        ];
        for (command, own) in own {
            let length = if command == command::FLUSH { 0 } else { 512 };
            for flag in (0..16).map(|bit| 1 << bit) {
                let allowed = (own | command_flag::FUA) & flag != 0;
                let expected = if allowed { None } else { Some(Errno::Invalid) };
                assert_eq!(errno(header(command, flag, 0, length), FULL, RW), expected, "{command} {flag:#x}");
            }
        }
        assert_eq!(errno(header(command::READ, command_flag::DF, 0, 1), SIMPLE, RW), Some(Errno::Invalid));
    }

    #[test]
    fn what_was_not_agreed_on_or_not_known_is_einval() {
        assert_eq!(errno(header(command::BLOCK_STATUS, 0, 0, 512), SIMPLE, RW), Some(Errno::Invalid));
        assert_eq!(errno(header(command::BLOCK_STATUS, 0, 0, 0), FULL, RW), Some(Errno::Invalid));
        assert_eq!(errno(header(command::FLUSH, 0, 0, 1), FULL, RW), Some(Errno::Invalid));
        assert_eq!(errno(header(command::FLUSH, 0, 1, 0), FULL, RW), Some(Errno::Invalid));
        assert_eq!(errno(header(8, 0, 0, 512), FULL, RW), Some(Errno::Invalid));
        assert_eq!(errno(header(command::WRITE, 0, 0, 512), EXTENDED, RW), None);
        assert_eq!(errno(header(command::WRITE, command_flag::PAYLOAD_LEN, 0, 512), EXTENDED, RW), None);
        assert_eq!(errno(header(command::TRIM, command_flag::PAYLOAD_LEN, 0, 512), EXTENDED, RW), Some(Errno::Invalid));
    }

    #[test]
    fn too_large_is_einval_and_eoverflow_when_it_must_not_be_split() {
        let large = Bounds { size: 1 << 40, read_only: false };
        let length = u64::from(NBD_REQUEST_BYTES_MAX) + 1;
        assert_eq!(errno(header(command::READ, 0, 0, length), FULL, large), Some(Errno::Invalid));
        assert_eq!(errno(header(command::READ, command_flag::DF, 0, length), FULL, large), Some(Errno::Overflow));
        assert_eq!(errno(header(command::WRITE, 0, 0, length), FULL, large), Some(Errno::Invalid));
        assert_eq!(errno(header(command::READ, command_flag::DF, 0, length - 1), FULL, large), None);
        for command in [command::TRIM, command::WRITE_ZEROES, command::CACHE, command::BLOCK_STATUS] {
            assert_eq!(errno(header(command, 0, 0, 1 << 40), EXTENDED, large), None, "{command}");
        }
    }

    #[test]
    fn empty_requests_succeed_without_reaching_the_export() {
        for command in [command::READ, command::WRITE, command::TRIM, command::WRITE_ZEROES, command::CACHE] {
            assert_eq!(check(&header(command, 0, 0, 0), FULL, RW), Ok(Request::Nothing), "{command}");
        }
    }

    proptest! {
        #[test]
        fn what_is_let_through_is_inside_the_export(
            bytes: [u8; 32], command in 0u16..9, flags in 0u16..64, offset in 0..2 * SIZE, length in 0..2 * SIZE,
            simple: bool
        ) {
            let _ = parse_request(&bytes, Style::Simple);
            let terms = if simple { SIMPLE } else { EXTENDED };
            let range = match check(&header(command, flags, offset, length), terms, RW) {
                Ok(Request::Read { offset, bytes } | Request::Write { offset, bytes, .. }) => (offset, bytes as u64),
                Ok(
                    Request::Trim { offset, length, .. }
                    | Request::Zero { offset, length, .. }
                    | Request::Cache { offset, length }
                    | Request::Status { offset, length, .. },
                ) => (offset, length),
                Ok(Request::Flush | Request::Nothing) | Err(_) => (0, 1),
            };
            prop_assert!(range.1 > 0 && range.0 + range.1 <= SIZE);
        }
    }
}
