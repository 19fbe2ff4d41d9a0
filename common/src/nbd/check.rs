//! Whether a request may reach an export, or which error number the protocol document names for it.
//!
//! What is let through is inside the export's size and has no flag that is not understood. Nothing here does I/O.

use super::protocol::{Errno, command, command_flag};
use super::request::{Refusal, Request, RequestHeader, Style, Terms};
use super::{Bounds, ZeroMode};
use crate::limits::NBD_REQUEST_BYTES_MAX;

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
            command in 0u16..9, flags in 0u16..64, offset in 0..2 * SIZE, length in 0..2 * SIZE,
            simple: bool
        ) {
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
