//! A connected socket, Unix or TCP, that wakes its task only for what the task waits for.
//!
//! The runtime's own streams are registered for reading and writing alike. On a Unix socket the peer taking a reply then
//! counts as news ("writable again") and wakes a task that waits for the next request: one wake-up in vain for each reply,
//! a quarter of the throughput of a client with one request at a time. This one is registered for reading; for writing it
//! is registered, through a second descriptor, only from the time the socket was full until that has stopped happening.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};

/// Writes in a row that were not refused, after which the socket is taken for one that is never full.
const CALM_WRITES: u32 = 64;

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    reader: AsyncFd<OwnedFd>,
    writer: Option<Writer>,
}

#[derive(Debug)]
struct Writer {
    descriptor: AsyncFd<OwnedFd>,
    calm_writes: u32,
}

impl Socket {
    /// Takes a connected, non-blocking socket. Within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { reader: register(socket, Interest::READABLE)?, writer: None })
    }
}

impl Writer {
    fn of(socket: &OwnedFd) -> io::Result<Self> {
        let descriptor = register(socket.as_fd().try_clone_to_owned()?, Interest::WRITABLE)?;
        Ok(Self { descriptor, calm_writes: 0 })
    }
}

#[expect(deprecated, reason = "its replacement is unsafe for types that may close their descriptor; this one owns it")]
fn register(socket: OwnedFd, interest: Interest) -> io::Result<AsyncFd<OwnedFd>> {
    AsyncFd::with_interest(socket, interest)
}

impl AsyncRead for Socket {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        loop {
            let mut ready = ready!(self.reader.poll_read_ready(context))?;
            let room = buffer.remaining();
            match recv(self.reader.get_ref(), buffer.initialize_unfilled(), RecvFlags::empty()) {
                Ok((length, _)) => {
                    // Less than there is room for: that was all, and news will come when there is more.
                    if 0 < length && length < room {
                        ready.clear_ready();
                    }
                    buffer.advance(length);
                    return Poll::Ready(Ok(()));
                }
                Err(Errno::AGAIN) => ready.clear_ready(),
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }
}

impl AsyncWrite for Socket {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let Self { reader, writer } = self.get_mut();
        loop {
            // Asked before the write is tried: what becomes writable meanwhile must not be taken for what was refused.
            let ready = match writer {
                Some(writer) => Some(ready!(writer.descriptor.poll_write_ready(context))?),
                None => None,
            };
            match sendmsg(reader.get_ref(), slices, &mut SendAncillaryBuffer::default(), SendFlags::NOSIGNAL) {
                Ok(length) => {
                    writer.iter_mut().for_each(|writer| writer.calm_writes += 1);
                    writer.take_if(|writer| writer.calm_writes > CALM_WRITES);
                    return Poll::Ready(Ok(length));
                }
                Err(Errno::AGAIN) => match ready {
                    Some(mut ready) => {
                        ready.clear_ready();
                        writer.iter_mut().for_each(|writer| writer.calm_writes = 0);
                    }
                    None => *writer = Some(Writer::of(reader.get_ref())?),
                },
                Err(Errno::INTR) => {}
                Err(error) => return Poll::Ready(Err(error.into())),
            }
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match shutdown(self.reader.get_ref(), Shutdown::Write) {
            // The peer was faster.
            Ok(()) | Err(Errno::NOTCONN) => Poll::Ready(Ok(())),
            Err(error) => Poll::Ready(Err(error.into())),
        }
    }
}
