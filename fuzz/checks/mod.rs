//! What the fuzz targets hold the parsers to. Each `check` takes any bytes and panics on a finding.
//!
//! A fuzz target calls one of them (`make fuzz`), and a test of the suite calls each with every file of its corpus. They
//! share no state, so that the same bytes always do the same.

#![allow(dead_code, reason = "each target uses one of them")]

pub mod frame_codec;
pub mod journal_scan;
pub mod nbd_request;
pub mod nbd_session;
pub mod wire_message;

/// Takes numbers and bytes off the front of the input; what is missing reads as zeroes.
pub struct Input<'a>(pub &'a [u8]);

impl<'a> Input<'a> {
    /// Up to so many bytes.
    pub fn take(&mut self, bytes: usize) -> &'a [u8] {
        let (taken, rest) = self.0.split_at(bytes.min(self.0.len()));
        self.0 = rest;
        taken
    }

    /// One byte.
    pub fn u8(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or_default()
    }

    /// Two bytes.
    pub fn u16(&mut self) -> u16 {
        u16::from_le_bytes([self.u8(), self.u8()])
    }

    /// Four bytes.
    pub fn u32(&mut self) -> u32 {
        u32::from(self.u16()) | u32::from(self.u16()) << 16
    }

    /// Eight bytes.
    pub fn u64(&mut self) -> u64 {
        u64::from(self.u32()) | u64::from(self.u32()) << 32
    }
}
