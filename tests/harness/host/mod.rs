//! A host: a small NBD client (fixed newstyle, GO, simple replies) that can keep several requests in flight and knows
//! which of them were answered. Strict: an answer it does not understand is an error, not a shrug.

mod negotiate;
mod stream;

use std::collections::HashMap;
use std::io::{BufReader, Read, Write};

pub use stream::{Address, Stream};

const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// Request flag: answer only when it is durable.
pub const FUA: u16 = 1;
/// NBD_EPERM.
pub const EPERM: u32 = 1;
/// NBD_EIO.
pub const EIO: u32 = 5;
/// NBD_EINVAL.
pub const EINVAL: u32 = 22;
/// NBD_ENOSPC.
pub const ENOSPC: u32 = 28;
/// NBD_ESHUTDOWN.
pub const ESHUTDOWN: u32 = 108;
/// Pieces in which whole volumes are read and written.
const PIECE_BYTES: u64 = 1 << 20;

/// What went wrong between a host and an appliance.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Broken(#[from] std::io::Error),
    /// The export was refused.
    #[error("export refused with {code:#x}: {message}")]
    Refused {
        /// The NBD_REP_ERR number.
        code: u32,
        /// What the server says.
        message: String,
    },
    /// A request was answered with an error.
    #[error("answered with error {0}")]
    Errno(u32),
    /// The server does not keep to the protocol.
    #[error("protocol: {0}")]
    Protocol(String),
}

/// What a host asks for.
#[derive(Debug, Clone, Copy)]
pub enum Request<'a> {
    /// Bytes from an offset.
    Read(u64, u32),
    /// Bytes to an offset; flags.
    Write(u64, &'a [u8], u16),
    /// Everything answered so far becomes durable.
    Flush,
    /// Discard a range; flags.
    Trim(u64, u32, u16),
    /// Zero a range; flags.
    Zero(u64, u32, u16),
}

impl Request<'_> {
    fn kind(&self) -> u16 {
        match self {
            Self::Read(..) => 0,
            Self::Write(..) => 1,
            Self::Flush => 3,
            Self::Trim(..) => 4,
            Self::Zero(..) => 6,
        }
    }

    fn fields(&self) -> (u16, u64, u32) {
        match *self {
            Self::Read(offset, length) => (0, offset, length),
            Self::Write(offset, data, flags) => (flags, offset, u32::try_from(data.len()).expect("a request's size")),
            Self::Flush => (0, 0, 0),
            Self::Trim(offset, length, flags) | Self::Zero(offset, length, flags) => (flags, offset, length),
        }
    }
}

/// One answer.
#[derive(Debug)]
pub struct Reply {
    /// Which request it answers.
    pub cookie: u64,
    /// 0, or an NBD error.
    pub errno: u32,
    /// What was read.
    pub data: Vec<u8>,
}

/// An attached export.
#[derive(Debug)]
pub struct Connection {
    writer: Stream,
    reader: BufReader<Stream>,
    size: u64,
    flags: u16,
    next_cookie: u64,
    /// Bytes a successful answer carries, per request in flight.
    in_flight: HashMap<u64, usize>,
}

impl Connection {
    /// Attaches to an export.
    ///
    /// # Errors
    /// [`HostError`], with the server's words when it refuses.
    pub fn open(address: &Address, export: &str) -> Result<Self, HostError> {
        let mut writer = address.connect()?;
        let mut reader = BufReader::with_capacity(256 << 10, writer.try_clone()?);
        let (size, flags) = negotiate::go(&mut reader, &mut writer, export)?;
        Ok(Self { writer, reader, size, flags, next_cookie: 1, in_flight: HashMap::new() })
    }

    /// Bytes the export has.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Transmission flags.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.flags
    }

    /// Requests not answered yet.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.len()
    }

    /// Sends a request without waiting for its answer; the number its answer will carry.
    ///
    /// # Errors
    /// [`HostError::Broken`].
    pub fn submit(&mut self, request: Request<'_>) -> Result<u64, HostError> {
        let cookie = self.next_cookie;
        self.next_cookie += 1;
        let (flags, offset, length) = request.fields();
        let mut bytes = Vec::with_capacity(28 + if let Request::Write(_, data, _) = request { data.len() } else { 0 });
        bytes.extend_from_slice(&REQUEST_MAGIC.to_be_bytes());
        bytes.extend_from_slice(&flags.to_be_bytes());
        bytes.extend_from_slice(&request.kind().to_be_bytes());
        bytes.extend_from_slice(&cookie.to_be_bytes());
        bytes.extend_from_slice(&offset.to_be_bytes());
        bytes.extend_from_slice(&length.to_be_bytes());
        if let Request::Write(_, data, _) = request {
            bytes.extend_from_slice(data);
        }
        let expected = if let Request::Read(_, length) = request { length as usize } else { 0 };
        self.in_flight.insert(cookie, expected);
        self.writer.write_all(&bytes)?;
        Ok(cookie)
    }

    /// The next answer, whichever request it is for.
    ///
    /// # Errors
    /// [`HostError::Broken`], or [`HostError::Protocol`] when it answers nothing that was asked.
    pub fn reply(&mut self) -> Result<Reply, HostError> {
        let mut head = [0; 16];
        self.reader.read_exact(&mut head)?;
        let word = |at: usize| u32::from_be_bytes(head[at..at + 4].try_into().expect("four bytes"));
        if word(0) != REPLY_MAGIC {
            return Err(HostError::Protocol(format!("reply magic is {:#x}", word(0))));
        }
        let (errno, cookie) = (word(4), u64::from_be_bytes(head[8..].try_into().expect("eight bytes")));
        let expected = self.in_flight.remove(&cookie);
        let expected = expected.ok_or_else(|| HostError::Protocol(format!("answer to nothing asked: {cookie}")))?;
        let mut data = vec![0; if errno == 0 { expected } else { 0 }];
        self.reader.read_exact(&mut data)?;
        Ok(Reply { cookie, errno, data })
    }

    /// Sends a request and waits for its answer; nothing else may be in flight.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn ask(&mut self, request: Request<'_>) -> Result<Vec<u8>, HostError> {
        assert_eq!(self.in_flight(), 0, "one request at a time");
        self.submit(request)?;
        let reply = self.reply()?;
        if reply.errno == 0 { Ok(reply.data) } else { Err(HostError::Errno(reply.errno)) }
    }

    /// Reads.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn read(&mut self, offset: u64, length: u32) -> Result<Vec<u8>, HostError> {
        self.ask(Request::Read(offset, length))
    }

    /// Writes.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn write(&mut self, offset: u64, data: &[u8]) -> Result<(), HostError> {
        self.ask(Request::Write(offset, data, 0)).map(drop)
    }

    /// Flushes.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn flush(&mut self) -> Result<(), HostError> {
        self.ask(Request::Flush).map(drop)
    }

    /// Reads everything, piece by piece.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn read_all(&mut self) -> Result<Vec<u8>, HostError> {
        let mut bytes = Vec::new();
        let mut offset = 0;
        while offset < self.size {
            let length = (self.size - offset).min(PIECE_BYTES);
            bytes.extend(self.read(offset, u32::try_from(length).expect("a piece"))?);
            offset += length;
        }
        Ok(bytes)
    }

    /// Writes a range piece by piece.
    ///
    /// # Errors
    /// [`HostError`].
    pub fn write_all(&mut self, offset: u64, data: &[u8]) -> Result<(), HostError> {
        for (piece, at) in data.chunks(PIECE_BYTES as usize).zip((offset..).step_by(PIECE_BYTES as usize)) {
            self.write(at, piece)?;
        }
        Ok(())
    }

    /// The raw connection, for hosts that misbehave.
    pub fn raw(&mut self) -> &mut Stream {
        &mut self.writer
    }
}
