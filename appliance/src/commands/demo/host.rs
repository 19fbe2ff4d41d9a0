//! A host: a small NBD client over a Unix socket, one request at a time.
//!
//! It shares nothing with the server it talks to, not even constants: it is the witness. Newstyle handshake with GO, simple
//! replies (`doc/proto.md` of the NBD project). Owns its connection; every call ends, because the socket has a timeout.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

const GREETING: [u8; 16] = *b"NBDMAGICIHAVEOPT";
const OPTION_MAGIC: [u8; 8] = *b"IHAVEOPT";
const OPTION_REPLY_MAGIC: u64 = 0x0003_e889_0455_65a9;
const REQUEST_MAGIC: u32 = 0x2560_9513;
const REPLY_MAGIC: u32 = 0x6744_6698;
/// FIXED_NEWSTYLE, NO_ZEROES.
const CLIENT_FLAGS: u32 = 0b11;
const OPTION_GO: u32 = 7;
const REPLY_ACK: u32 = 1;
const REPLY_INFO: u32 = 3;
/// Set in the type of a reply that refuses an option.
const REPLY_ERROR: u32 = 1 << 31;
const INFO_EXPORT: [u8; 2] = [0, 0];
/// Longest reply to an option that is taken, bytes.
const OPTION_REPLY_BYTES_MAX: u32 = 64 << 10;
/// A server silent for so long is given up.
const TIMEOUT: Duration = Duration::from_secs(20);

/// Why a request has no good answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HostError {
    /// The connection failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        source: io::Error,
    },
    /// The server does not open the export.
    #[error("{message}")]
    Refused {
        /// The server's words.
        message: String,
    },
    /// The server says something that is not NBD.
    #[error("the NBD server sent {what}")]
    Garbled {
        /// What came.
        what: String,
    },
    /// The request failed.
    #[error("{request} of {length} bytes at {offset} failed with error {errno}")]
    Failed {
        /// Its kind.
        request: &'static str,
        /// Where.
        offset: u64,
        /// How much.
        length: usize,
        /// The error number of the protocol.
        errno: u32,
    },
}

/// The kinds of requests sent here.
#[derive(Debug, Clone, Copy)]
enum Command {
    Read,
    Write { fua: bool },
}

impl Command {
    const fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write { .. } => "write",
        }
    }

    /// Flags and type, as they lie in a request.
    const fn code(self) -> [u8; 4] {
        match self {
            Self::Read => [0, 0, 0, 0],
            Self::Write { fua } => [0, fua as u8, 0, 1],
        }
    }
}

/// One open export.
#[derive(Debug)]
pub(crate) struct Host {
    stream: UnixStream,
    size: u64,
    cookie: u64,
}

impl Host {
    /// Connects and opens an export.
    ///
    /// # Errors
    /// [`HostError::Refused`] with the server's words when it does not open it.
    pub(crate) fn open(socket: &Path, export: &str) -> Result<Self, HostError> {
        let connecting = |source| HostError::Io { doing: "connect over NBD", source };
        let mut stream = UnixStream::connect(socket).map_err(connecting)?;
        stream.set_read_timeout(Some(TIMEOUT)).map_err(connecting)?;
        stream.set_write_timeout(Some(TIMEOUT)).map_err(connecting)?;
        greet(&mut stream)?;
        let size = go(&mut stream, export)?;
        Ok(Self { stream, size, cookie: 0 })
    }

    /// Bytes of the export.
    pub(crate) const fn size(&self) -> u64 {
        self.size
    }

    /// Fills the buffer from the offset on.
    pub(crate) fn read(&mut self, offset: u64, buffer: &mut [u8]) -> Result<(), HostError> {
        self.send(Command::Read, offset, buffer.len(), &[])?;
        self.answered(Command::Read, offset, buffer.len())?;
        self.stream.read_exact(buffer).map_err(|source| HostError::Io { doing: "read over NBD", source })
    }

    /// Writes; with `fua` it is durable when this returns.
    pub(crate) fn write(&mut self, offset: u64, data: &[u8], fua: bool) -> Result<(), HostError> {
        self.send(Command::Write { fua }, offset, data.len(), data)?;
        self.answered(Command::Write { fua }, offset, data.len())
    }

    fn send(&mut self, command: Command, offset: u64, length: usize, data: &[u8]) -> Result<(), HostError> {
        self.cookie += 1;
        let wire_length = u32::try_from(length).map_err(|_| garbled("no answer: the request is too long"))?;
        let mut request = Vec::with_capacity(28 + data.len());
        request.extend(REQUEST_MAGIC.to_be_bytes());
        request.extend(command.code());
        request.extend(self.cookie.to_be_bytes());
        request.extend(offset.to_be_bytes());
        request.extend(wire_length.to_be_bytes());
        request.extend(data);
        self.stream.write_all(&request).map_err(|source| HostError::Io { doing: "send over NBD", source })
    }

    fn answered(&mut self, command: Command, offset: u64, length: usize) -> Result<(), HostError> {
        let magic = u32::from_be_bytes(take(&mut self.stream)?);
        let errno = u32::from_be_bytes(take(&mut self.stream)?);
        let cookie = u64::from_be_bytes(take(&mut self.stream)?);
        if magic != REPLY_MAGIC {
            return Err(garbled(format!("{magic:#x} where a reply begins")));
        }
        if cookie != self.cookie {
            return Err(garbled(format!("the answer to request {cookie} while {} was waited for", self.cookie)));
        }
        match errno {
            0 => Ok(()),
            errno => Err(HostError::Failed { request: command.name(), offset, length, errno }),
        }
    }
}

fn garbled(what: impl Into<String>) -> HostError {
    HostError::Garbled { what: what.into() }
}

fn take<const N: usize>(stream: &mut UnixStream) -> Result<[u8; N], HostError> {
    let mut bytes = [0; N];
    stream.read_exact(&mut bytes).map_err(|source| HostError::Io { doing: "wait for an answer over NBD", source })?;
    Ok(bytes)
}

fn greet(stream: &mut UnixStream) -> Result<(), HostError> {
    let greeting: [u8; 16] = take(stream)?;
    if greeting != GREETING {
        return Err(garbled("a greeting that is not NBD's"));
    }
    let [_, flags] = take(stream)?;
    if flags & 0b11 != 0b11 {
        return Err(garbled("an old style greeting"));
    }
    tell(stream, &CLIENT_FLAGS.to_be_bytes())
}

/// Asks for the export and enters transmission; its size.
fn go(stream: &mut UnixStream, export: &str) -> Result<u64, HostError> {
    let wire = |length: usize| u32::try_from(length).map_err(|_| garbled("no answer: the name is too long"));
    let mut option = Vec::from(OPTION_MAGIC);
    option.extend(OPTION_GO.to_be_bytes());
    option.extend(wire(export.len() + 6)?.to_be_bytes());
    option.extend(wire(export.len())?.to_be_bytes());
    option.extend(export.as_bytes());
    // Nothing more is asked than what always comes.
    option.extend([0, 0]);
    tell(stream, &option)?;
    let mut size = None;
    loop {
        let (kind, data) = option_reply(stream)?;
        match (kind, data.as_slice()) {
            (REPLY_ACK, _) => return size.ok_or_else(|| garbled("no size for the export")),
            (REPLY_INFO, [a, b, rest @ ..]) if [*a, *b] == INFO_EXPORT => {
                let bytes = rest.first_chunk().ok_or_else(|| garbled("a size that is cut short"))?;
                size = Some(u64::from_be_bytes(*bytes));
            }
            (REPLY_INFO, _) => {}
            (kind, message) if kind & REPLY_ERROR != 0 => {
                return Err(HostError::Refused { message: String::from_utf8_lossy(message).into_owned() });
            }
            (kind, _) => return Err(garbled(format!("{kind} in answer to GO"))),
        }
    }
}

fn option_reply(stream: &mut UnixStream) -> Result<(u32, Vec<u8>), HostError> {
    let magic = u64::from_be_bytes(take(stream)?);
    let _option: [u8; 4] = take(stream)?;
    let kind = u32::from_be_bytes(take(stream)?);
    let length = u32::from_be_bytes(take(stream)?);
    if magic != OPTION_REPLY_MAGIC || length > OPTION_REPLY_BYTES_MAX {
        return Err(garbled("something that is no answer to an option"));
    }
    let mut data = Vec::new();
    let read = stream.take(length.into()).read_to_end(&mut data);
    read.map_err(|source| HostError::Io { doing: "read the answer to GO", source })?;
    Ok((kind, data))
}

fn tell(stream: &mut UnixStream, bytes: &[u8]) -> Result<(), HostError> {
    stream.write_all(bytes).map_err(|source| HostError::Io { doing: "greet the NBD server", source })
}
