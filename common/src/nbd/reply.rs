//! Replies of the transmission phase, as bytes.
//!
//! ```text
//! simple:      0x67446698 u32 | error u32             | cookie u64                              16 bytes
//! structured:  0x668e33ef u32 | flags u16 | type u16  | cookie u64 | length u32                 20 bytes
//! extended:    0x6e8a278c u32 | flags u16 | type u16  | cookie u64 | offset u64 | length u64    32 bytes
//! ```
//!
//! Every reply here is complete in one chunk: data are in memory before their header is written, so an error can no
//! longer turn up behind a header that promised success. Nothing here does I/O.

use super::Allocation;
use super::protocol::{
    BASE_ALLOCATION_ID, EXTENDED_REPLY_MAGIC, SIMPLE_REPLY_MAGIC, STATE_HOLE, STATE_ZERO, STRUCTURED_REPLY_MAGIC,
    chunk, command,
};
use super::request::{Refusal, RequestHeader, Style};
use crate::limits::NBD_STATUS_RUNS_MAX;

/// What a reply must know of its request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyTo {
    /// Form of the reply.
    pub style: Style,
    /// READ: its replies are structured wherever that was agreed, also when they have no data.
    pub read: bool,
    /// The client's name for the request.
    pub cookie: u64,
    /// The request's offset.
    pub offset: u64,
}

impl ReplyTo {
    /// For this request.
    #[must_use]
    pub const fn new(header: &RequestHeader, style: Style) -> Self {
        Self { style, read: header.command == command::READ, cookie: header.cookie, offset: header.offset }
    }

    /// Done, without data.
    pub fn done(&self, out: &mut Vec<u8>) {
        match self.style {
            Style::Structured if !self.read => self.simple(out, 0),
            Style::Simple => self.simple(out, 0),
            Style::Structured | Style::Extended => self.chunk(out, chunk::NONE, 0),
        }
    }

    /// Not done.
    pub fn refused(&self, out: &mut Vec<u8>, refusal: &Refusal) {
        if self.style == Style::Simple {
            return self.simple(out, refusal.errno.code());
        }
        // Messages are written here, so they are short; one that is not is left out rather than cut.
        let message = Some(refusal.message.as_bytes()).filter(|bytes| bytes.len() <= 1024).unwrap_or_default();
        let Ok(message_bytes) = u16::try_from(message.len()) else { return };
        self.chunk(out, chunk::ERROR, 6 + u32::from(message_bytes));
        out.extend_from_slice(&refusal.errno.code().to_be_bytes());
        out.extend_from_slice(&message_bytes.to_be_bytes());
        out.extend_from_slice(message);
    }

    /// What comes before `bytes` bytes of data read.
    pub(crate) fn data_follow(&self, out: &mut Vec<u8>, bytes: u32) {
        if self.style == Style::Simple {
            return self.simple(out, 0);
        }
        self.chunk(out, chunk::OFFSET_DATA, bytes.saturating_add(8));
        out.extend_from_slice(&self.offset.to_be_bytes());
    }

    /// All `bytes` bytes read are zeroes. Only where [`ReplyTo::can_say_zeroes`].
    pub fn zeroes(&self, out: &mut Vec<u8>, bytes: u32) {
        self.chunk(out, chunk::OFFSET_HOLE, 12);
        out.extend_from_slice(&self.offset.to_be_bytes());
        out.extend_from_slice(&bytes.to_be_bytes());
    }

    /// Whether zeroes read need not be sent as data.
    #[must_use]
    pub const fn can_say_zeroes(&self) -> bool {
        !matches!(self.style, Style::Simple)
    }

    /// What is allocated, from the request's offset on. `runs` is not empty, and no longer than [`NBD_STATUS_RUNS_MAX`].
    pub fn status(&self, out: &mut Vec<u8>, runs: &[Allocation]) {
        debug_assert!(!runs.is_empty() && runs.len() <= NBD_STATUS_RUNS_MAX);
        let count = u32::try_from(runs.len()).unwrap_or(u32::MAX);
        if self.style == Style::Extended {
            self.chunk(out, chunk::BLOCK_STATUS_EXT, count.saturating_mul(16).saturating_add(8));
            out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
            out.extend_from_slice(&count.to_be_bytes());
            for run in runs {
                out.extend_from_slice(&run.length.to_be_bytes());
                out.extend_from_slice(&u64::from(state(run)).to_be_bytes());
            }
        } else {
            self.chunk(out, chunk::BLOCK_STATUS, count.saturating_mul(8).saturating_add(4));
            out.extend_from_slice(&BASE_ALLOCATION_ID.to_be_bytes());
            for run in runs {
                // Runs end where the request ends, and a compact request is shorter than 4 GiB.
                out.extend_from_slice(&u32::try_from(run.length).unwrap_or(u32::MAX).to_be_bytes());
                out.extend_from_slice(&state(run).to_be_bytes());
            }
        }
    }

    fn simple(&self, out: &mut Vec<u8>, error: u32) {
        out.extend_from_slice(&SIMPLE_REPLY_MAGIC.to_be_bytes());
        out.extend_from_slice(&error.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
    }

    fn chunk(&self, out: &mut Vec<u8>, kind: u16, length: u32) {
        let extended = self.style == Style::Extended;
        let magic = if extended { EXTENDED_REPLY_MAGIC } else { STRUCTURED_REPLY_MAGIC };
        out.extend_from_slice(&magic.to_be_bytes());
        out.extend_from_slice(&chunk::FLAG_DONE.to_be_bytes());
        out.extend_from_slice(&kind.to_be_bytes());
        out.extend_from_slice(&self.cookie.to_be_bytes());
        if extended {
            out.extend_from_slice(&self.offset.to_be_bytes());
            out.extend_from_slice(&u64::from(length).to_be_bytes());
        } else {
            out.extend_from_slice(&length.to_be_bytes());
        }
    }
}

const fn state(run: &Allocation) -> u32 {
    (if run.hole { STATE_HOLE } else { 0 }) | (if run.zero { STATE_ZERO } else { 0 })
}

/// Makes runs what a reply may carry: none of them empty, neighbours different, together at most `length`, at most `limit`
/// of them. An export that reports nothing gives nothing, which the caller answers as an error.
#[must_use]
pub(crate) fn tidy_runs(runs: &[Allocation], length: u64, limit: usize) -> Vec<Allocation> {
    let mut tidy: Vec<Allocation> = Vec::new();
    let mut left = length;
    for run in runs {
        let run = Allocation { length: run.length.min(left), ..*run };
        if run.length == 0 {
            continue;
        }
        left -= run.length;
        let full = tidy.len() == limit;
        match tidy.last_mut() {
            Some(last) if (last.hole, last.zero) == (run.hole, run.zero) => last.length += run.length,
            _ if full => break,
            _ => tidy.push(run),
        }
    }
    tidy
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nbd::protocol::Errno;

    const fn to(style: Style, read: bool) -> ReplyTo {
        ReplyTo { style, read, cookie: 0x0102_0304_0506_0708, offset: 0x1000 }
    }

    fn encoded(encode: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        encode(&mut out);
        hex::encode(out)
    }

    const COOKIE: &str = "0102030405060708";

    #[test]
    fn success_is_the_shortest_form_that_was_agreed() {
        let done = |style, read| encoded(|out| to(style, read).done(out));
        assert_eq!(done(Style::Simple, true), format!("6744669800000000{COOKIE}"));
        assert_eq!(done(Style::Structured, false), format!("6744669800000000{COOKIE}"));
        assert_eq!(done(Style::Structured, true), format!("668e33ef00010000{COOKIE}00000000"));
        assert_eq!(done(Style::Extended, false), format!("6e8a278c00010000{COOKIE}00000000000010000000000000000000"));
    }

    #[test]
    fn errors_carry_their_number_and_where_there_is_room_their_message() {
        let refusal = Refusal::new(Errno::NoSpace, "hi");
        let refused = |style| encoded(|out| to(style, false).refused(out, &refusal));
        assert_eq!(refused(Style::Simple), format!("674466980000001c{COOKIE}"));
        assert_eq!(refused(Style::Structured), format!("668e33ef00018001{COOKIE}000000080000001c00026869"));
        assert!(refused(Style::Extended).ends_with("00000000000000080000001c00026869"));
    }

    #[test]
    fn data_and_zeroes_say_where_they_belong() {
        let data = |style| encoded(|out| to(style, true).data_follow(out, 512));
        assert_eq!(data(Style::Simple), format!("6744669800000000{COOKIE}"));
        assert_eq!(data(Style::Structured), format!("668e33ef00010001{COOKIE}000002080000000000001000"));
        let zeroes = encoded(|out| to(Style::Structured, true).zeroes(out, 512));
        assert_eq!(zeroes, format!("668e33ef00010002{COOKIE}0000000c000000000000100000000200"));
    }

    #[test]
    fn status_has_short_and_long_runs() {
        let runs = [Allocation { length: 1 << 33, hole: true, zero: true }, run(5, false)];
        let long = encoded(|out| to(Style::Extended, false).status(out, &runs));
        assert!(long.ends_with(
            "0000000100000002000000020000000000000000000000030000000000000005\
                                0000000000000000"
        ));
        let short = encoded(|out| to(Style::Structured, false).status(out, &[run(5, true)]));
        assert_eq!(short, format!("668e33ef00010005{COOKIE}0000000c000000010000000500000003"));
    }

    const fn run(length: u64, empty: bool) -> Allocation {
        Allocation { length, hole: empty, zero: empty }
    }

    #[test]
    fn runs_are_merged_cut_and_limited() {
        let runs = [run(0, true), run(1, false), run(2, false), run(3, true), run(9, false)];
        assert_eq!(tidy_runs(&runs, 100, 9), [run(3, false), run(3, true), run(9, false)]);
        assert_eq!(tidy_runs(&runs, 5, 9), [run(3, false), run(2, true)]);
        assert_eq!(tidy_runs(&runs, 100, 1), [run(3, false)]);
        assert_eq!(tidy_runs(&[], 5, 9), []);
    }
}
