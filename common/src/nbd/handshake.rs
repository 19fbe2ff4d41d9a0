//! The handshake of one connection: the greeting, then options until the client is in transmission, under TLS, or gone.
//!
//! Moves bytes for [`Haggling`], which decides. Reads exactly what it needs and never ahead, so nothing that belongs to
//! transmission, or that a man in the middle put before the TLS handshake, is ever buffered here. The caller bounds the time.

use std::io;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

use super::haggle::{ClientFlags, Haggling, Next, parse_client_flags};
use super::options::{OPTION_HEADER_BYTES, OptionError, parse_option_header};
use super::protocol::{INIT_MAGIC, OPTION_MAGIC, handshake_flag};
use crate::limits::{NBD_OPTION_BYTES_MAX, NBD_OPTION_SKIP_BYTES_MAX};

/// Why a handshake came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum HandshakeError {
    /// The socket failed or ended.
    #[error("the connection failed during the handshake")]
    Socket(#[from] io::Error),
    /// Client flags that are not known here.
    #[error("the client sent unknown handshake flags {flags:#x}")]
    UnknownFlags {
        /// What it sent.
        flags: u32,
    },
    /// TLS is required, and the client speaks a protocol too old to be told so.
    #[error("TLS is required here, and the client does not speak fixed newstyle: use a newer client")]
    TooOldForTls,
    /// The client sends something else than options.
    #[error("the client does not speak NBD: {0}")]
    NotAnOption(#[from] OptionError),
    /// An option so long that it is not even skipped.
    #[error("an option with {bytes} bytes of data, where {NBD_OPTION_SKIP_BYTES_MAX} are skipped at most")]
    OptionTooLong {
        /// Bytes claimed.
        bytes: usize,
    },
    /// TLS could not be agreed on.
    #[error("the TLS handshake failed: check both sides' certificates")]
    Tls(#[source] io::Error),
    /// It took too long.
    #[error("the handshake was not done after {seconds} s")]
    TimedOut {
        /// How long.
        seconds: u64,
    },
}

/// Greets a client and takes its answer.
pub(super) async fn greet<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    tls_required: bool,
) -> Result<ClientFlags, HandshakeError> {
    let mut greeting = Vec::with_capacity(18);
    greeting.extend_from_slice(&INIT_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&OPTION_MAGIC.to_be_bytes());
    greeting.extend_from_slice(&(handshake_flag::FIXED_NEWSTYLE | handshake_flag::NO_ZEROES).to_be_bytes());
    stream.write_all(&greeting).await?;
    stream.flush().await?;
    let flags = stream.read_u32().await?;
    let client = parse_client_flags(flags).ok_or(HandshakeError::UnknownFlags { flags })?;
    if tls_required && !client.fixed_newstyle {
        return Err(HandshakeError::TooOldForTls);
    }
    Ok(client)
}

/// Answers options until something else than an option is next.
pub(super) async fn haggle<S: AsyncRead + AsyncWrite + Unpin>(
    stream: &mut S,
    mut haggling: Haggling<'_>,
) -> Result<Next, HandshakeError> {
    let mut data = Vec::new();
    let mut replies = Vec::new();
    loop {
        let mut header = [0; OPTION_HEADER_BYTES];
        stream.read_exact(&mut header).await?;
        let header = parse_option_header(&header)?;
        let length = usize::try_from(header.length).unwrap_or(usize::MAX);
        let next = if length <= NBD_OPTION_BYTES_MAX {
            data.resize(length, 0);
            stream.read_exact(&mut data).await?;
            haggling.answer(header.option, &data, &mut replies)
        } else {
            skip(stream, length).await?;
            haggling.answer_too_big(header.option, &mut replies)
        };
        stream.write_all(&replies).await?;
        stream.flush().await?;
        replies.clear();
        if !matches!(next, Next::Continue) {
            return Ok(next);
        }
    }
}

async fn skip<S: AsyncRead + Unpin>(stream: &mut S, bytes: usize) -> Result<(), HandshakeError> {
    if bytes > NBD_OPTION_SKIP_BYTES_MAX {
        return Err(HandshakeError::OptionTooLong { bytes });
    }
    let skipped = tokio::io::copy(&mut stream.take(bytes as u64), &mut tokio::io::sink()).await?;
    if skipped == bytes as u64 { Ok(()) } else { Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()) }
}
