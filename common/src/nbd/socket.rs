//! A connected socket, Unix or TCP, that wakes its task only for what the task waits for.
//!
//! The runtime's own streams are registered for reading and writing alike. On a Unix socket the peer taking a reply then
//! counts as news ("writable again") and wakes a task that waits for the next request: one wake-up in vain for each reply,
//! a quarter of the throughput of a client with one request at a time. This one is registered for reading; for writing it
//! is registered, through a second descriptor, only from the time the socket was full until that has stopped happening.
//! The second descriptor is also what tells of a client that has gone while nothing is read of it.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use rustix::io::Errno;
use rustix::net::{RecvFlags, SendAncillaryBuffer, SendFlags, Shutdown, recv, sendmsg, shutdown};
use tokio::io::unix::AsyncFd;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, Interest, ReadBuf};
use tokio_rustls::server::TlsStream;

/// Writes in a row that were not refused, after which the socket is taken for one that is never full.
const CALM_WRITES: u32 = 64;

/// Bytes from and to a host.
pub trait HostStream: AsyncRead + AsyncWrite + Unpin + Send {
    /// Ready when the host sends no more, as when it has gone, also if something that it has sent is still to be read. Only while nothing is to be
    /// written. A stream that cannot tell is never ready.
    fn poll_ended(&mut self, _context: &mut Context<'_>) -> Poll<()> {
        Poll::Pending
    }
}

/// For tests.
impl HostStream for DuplexStream {}

impl<S: HostStream> HostStream for TlsStream<S> {
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        self.get_mut().0.poll_ended(context)
    }
}

/// A connected socket.
#[derive(Debug)]
pub(super) struct Socket {
    reader: AsyncFd<OwnedFd>,
    writer: Option<Writer>,
    /// Never beside `writer`: a connection has two descriptors at most.
    watcher: Option<AsyncFd<OwnedFd>>,
}

#[derive(Debug)]
struct Writer {
    descriptor: AsyncFd<OwnedFd>,
    calm_writes: u32,
}

impl Socket {
    /// Takes a connected, non-blocking socket. Within a runtime.
    pub(super) fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self { reader: register(socket, Interest::READABLE)?, writer: None, watcher: None })
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
        let this = self.get_mut();
        this.watcher = None;
        loop {
            let mut ready = ready!(this.reader.poll_read_ready(context))?;
            let room = buffer.remaining();
            match recv(this.reader.get_ref(), buffer.initialize_unfilled(), RecvFlags::empty()) {
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
        let Self { reader, writer, watcher } = self.get_mut();
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
                    None => {
                        *watcher = None;
                        *writer = Some(Writer::of(reader.get_ref())?);
                    }
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

impl HostStream for Socket {
    fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.watcher.is_none() {
            self.writer = None;
            // Without a descriptor for it, it is not told.
            self.watcher =
                self.reader.get_ref().try_clone().and_then(|socket| register(socket, Interest::READABLE)).ok();
        }
        let Some(watcher) = &self.watcher else { return Poll::Pending };
        loop {
            match ready!(watcher.poll_read_ready(context)) {
                Ok(ready) if ready.ready().is_read_closed() => return Poll::Ready(()),
                // More has come, which is not looked at here.
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return Poll::Pending,
            }
        }
    }
}
