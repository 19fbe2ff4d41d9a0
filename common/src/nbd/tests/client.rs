//! A client that says exactly what a test tells it to.

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use crate::nbd::protocol::{
    EXTENDED_REPLY_MAGIC, EXTENDED_REQUEST_MAGIC, INIT_MAGIC, OPTION_MAGIC, OPTION_REPLY_MAGIC, REQUEST_MAGIC,
    SIMPLE_REPLY_MAGIC, STRUCTURED_REPLY_MAGIC, chunk, command, command_flag, option, reply_type,
};
use crate::nbd::request::Style;

pub(super) struct Client<S> {
    pub(super) stream: S,
    pub(super) style: Style,
    cookie: u64,
}

/// A reply of the transmission phase, whatever form it came in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Reply {
    Done,
    Error(u32),
    Data(Vec<u8>),
    Zeroes(u32),
    /// Lengths and flags.
    Runs(Vec<(u64, u64)>),
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub(super) fn new(stream: S) -> Self {
        Self { stream, style: Style::Simple, cookie: 0 }
    }

    pub(super) async fn greet(&mut self, flags: u32) {
        assert_eq!(self.stream.read_u64().await.unwrap(), INIT_MAGIC);
        assert_eq!(self.stream.read_u64().await.unwrap(), OPTION_MAGIC);
        assert_eq!(self.stream.read_u16().await.unwrap(), 3);
        self.stream.write_u32(flags).await.unwrap();
    }

    pub(super) async fn send_option(&mut self, number: u32, data: &[u8]) {
        let mut bytes = OPTION_MAGIC.to_be_bytes().to_vec();
        bytes.extend_from_slice(&number.to_be_bytes());
        bytes.extend_from_slice(&u32::try_from(data.len()).unwrap().to_be_bytes());
        bytes.extend_from_slice(data);
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// Sends an option and takes its replies up to the last.
    pub(super) async fn option(&mut self, number: u32, data: &[u8]) -> Vec<(u32, Vec<u8>)> {
        self.send_option(number, data).await;
        let mut replies = Vec::new();
        loop {
            assert_eq!(self.stream.read_u64().await.unwrap(), OPTION_REPLY_MAGIC);
            assert_eq!(self.stream.read_u32().await.unwrap(), number);
            let kind = self.stream.read_u32().await.unwrap();
            let length = self.stream.read_u32().await.unwrap();
            replies.push((kind, self.bytes(length.into()).await));
            if kind == reply_type::ACK || kind >> 31 != 0 {
                return replies;
            }
        }
    }

    /// The type of an option's last reply.
    pub(super) async fn outcome(&mut self, number: u32, data: &[u8]) -> u32 {
        self.option(number, data).await.last().unwrap().0
    }

    /// Greets, agrees on a form, chooses `base:allocation` where that is possible, and goes.
    pub(super) async fn enter(&mut self, style: Style, name: &str) {
        self.greet(3).await;
        self.agree(style).await;
        if style != Style::Simple {
            let chosen = self.outcome(option::SET_META_CONTEXT, &meta(name, &["base:allocation"])).await;
            assert_eq!(chosen, reply_type::ACK);
        }
        assert_eq!(self.outcome(option::GO, &go(name)).await, reply_type::ACK);
    }

    pub(super) async fn agree(&mut self, style: Style) {
        let number = match style {
            Style::Simple => return,
            Style::Structured => option::STRUCTURED_REPLY,
            Style::Extended => option::EXTENDED_HEADERS,
        };
        assert_eq!(self.outcome(number, &[]).await, reply_type::ACK);
        self.style = style;
    }

    /// Sends a request; says its cookie.
    pub(super) async fn send(&mut self, command: u16, flags: u16, offset: u64, length: u64, payload: &[u8]) -> u64 {
        self.cookie += 1;
        let bytes = request(self.style, command, flags, self.cookie, offset, length);
        self.stream.write_all(&bytes).await.unwrap();
        self.stream.write_all(payload).await.unwrap();
        self.cookie
    }

    /// Sends a request without payload and takes its reply, which must be the next.
    pub(super) async fn ask(&mut self, command: u16, flags: u16, offset: u64, length: u64) -> Reply {
        let cookie = self.send(command, flags, offset, length, &[]).await;
        let read = if command == command::READ { length } else { 0 };
        let (of, reply) = self.reply(read).await;
        assert_eq!(of, cookie);
        reply
    }

    pub(super) async fn read(&mut self, offset: u64, length: u64) -> Reply {
        self.ask(command::READ, 0, offset, length).await
    }

    pub(super) async fn write(&mut self, flags: u16, offset: u64, data: &[u8]) -> Reply {
        let flags = if self.style == Style::Extended { flags | command_flag::PAYLOAD_LEN } else { flags };
        let cookie = self.send(command::WRITE, flags, offset, data.len() as u64, data).await;
        let (of, reply) = self.reply(0).await;
        assert_eq!(of, cookie);
        reply
    }

    /// Takes the next reply; a simple one has `read` bytes of data when it is a success.
    pub(super) async fn reply(&mut self, read: u64) -> (u64, Reply) {
        match self.stream.read_u32().await.unwrap() {
            SIMPLE_REPLY_MAGIC => {
                assert_ne!(self.style, Style::Extended);
                let error = self.stream.read_u32().await.unwrap();
                let cookie = self.stream.read_u64().await.unwrap();
                let reply = match (error, read) {
                    (0, 0) => Reply::Done,
                    (0, read) => Reply::Data(self.bytes(read).await),
                    (error, _) => Reply::Error(error),
                };
                (cookie, reply)
            }
            STRUCTURED_REPLY_MAGIC => {
                assert_eq!(self.style, Style::Structured);
                let (kind, cookie) = self.chunk_head().await;
                let length = self.stream.read_u32().await.unwrap();
                (cookie, chunk_reply(kind, &self.bytes(length.into()).await))
            }
            EXTENDED_REPLY_MAGIC => {
                assert_eq!(self.style, Style::Extended);
                let (kind, cookie) = self.chunk_head().await;
                let _offset = self.stream.read_u64().await.unwrap();
                let length = self.stream.read_u64().await.unwrap();
                (cookie, chunk_reply(kind, &self.bytes(length).await))
            }
            other => panic!("no reply begins with {other:#x}"),
        }
    }

    async fn chunk_head(&mut self) -> (u16, u64) {
        assert_eq!(self.stream.read_u16().await.unwrap(), chunk::FLAG_DONE);
        let kind = self.stream.read_u16().await.unwrap();
        (kind, self.stream.read_u64().await.unwrap())
    }

    pub(super) async fn bytes(&mut self, length: u64) -> Vec<u8> {
        let mut bytes = vec![0; usize::try_from(length).unwrap()];
        self.stream.read_exact(&mut bytes).await.unwrap();
        bytes
    }

    /// The server closes, without another byte.
    pub(super) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A server that cuts a connection off may reset it.
        let _ = self.stream.read_to_end(&mut rest).await;
        assert_eq!(rest, Vec::<u8>::new());
    }

    /// Says goodbye; the server closes without another byte.
    pub(super) async fn leave(&mut self) {
        self.send(command::DISC, 0, 0, 0, &[]).await;
        self.closed().await;
    }
}

fn chunk_reply(kind: u16, payload: &[u8]) -> Reply {
    let number =
        |range: std::ops::Range<usize>| payload[range].iter().fold(0u64, |number, byte| number << 8 | u64::from(*byte));
    match kind {
        chunk::NONE => Reply::Done,
        chunk::ERROR => Reply::Error(u32::try_from(number(0..4)).unwrap()),
        chunk::OFFSET_DATA => Reply::Data(payload[8..].to_vec()),
        chunk::OFFSET_HOLE => Reply::Zeroes(u32::try_from(number(8..12)).unwrap()),
        chunk::BLOCK_STATUS => {
            Reply::Runs((4..payload.len()).step_by(8).map(|at| (number(at..at + 4), number(at + 4..at + 8))).collect())
        }
        chunk::BLOCK_STATUS_EXT => Reply::Runs(
            (8..payload.len()).step_by(16).map(|at| (number(at..at + 8), number(at + 8..at + 16))).collect(),
        ),
        other => panic!("unknown chunk {other}"),
    }
}

/// Bytes of a request's header.
pub(super) fn request(style: Style, command: u16, flags: u16, cookie: u64, offset: u64, length: u64) -> Vec<u8> {
    let extended = style == Style::Extended;
    let magic = if extended { EXTENDED_REQUEST_MAGIC } else { REQUEST_MAGIC };
    let mut bytes = magic.to_be_bytes().to_vec();
    bytes.extend_from_slice(&flags.to_be_bytes());
    bytes.extend_from_slice(&command.to_be_bytes());
    bytes.extend_from_slice(&cookie.to_be_bytes());
    bytes.extend_from_slice(&offset.to_be_bytes());
    if extended {
        bytes.extend_from_slice(&length.to_be_bytes());
    } else {
        bytes.extend_from_slice(&u32::try_from(length).unwrap().to_be_bytes());
    }
    bytes
}

fn prefixed(text: &str) -> Vec<u8> {
    let mut bytes = u32::try_from(text.len()).unwrap().to_be_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes
}

/// Data of GO and INFO without wishes.
pub(super) fn go(name: &str) -> Vec<u8> {
    [prefixed(name), vec![0, 0]].concat()
}

/// Data of SET_META_CONTEXT and LIST_META_CONTEXT.
pub(super) fn meta(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut bytes = prefixed(name);
    bytes.extend_from_slice(&u32::try_from(queries.len()).unwrap().to_be_bytes());
    queries.iter().for_each(|query| bytes.extend_from_slice(&prefixed(query)));
    bytes
}
