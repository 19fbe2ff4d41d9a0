//! The sockets underneath: what a simulation replaces.

use std::fmt::Debug;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use quinn::udp::{RecvMeta, Transmit};
use quinn::{AsyncUdpSocket, Runtime, TokioRuntime, UdpPoller};
use rustix::net::sockopt;

/// Where datagrams go. The product uses [`UdpNetwork`].
pub trait Network: Debug + Send + Sync + 'static {
    /// A socket bound to the address.
    ///
    /// # Errors
    /// What the operating system says.
    fn bind(&self, address: SocketAddr, buffer_bytes: usize) -> io::Result<Arc<dyn AsyncUdpSocket>>;
}

/// The machine's UDP.
#[derive(Debug, Default, Clone, Copy)]
pub struct UdpNetwork;

impl Network for UdpNetwork {
    fn bind(&self, address: SocketAddr, buffer_bytes: usize) -> io::Result<Arc<dyn AsyncUdpSocket>> {
        let socket = UdpSocket::bind(address)?;
        enlarge(&socket, buffer_bytes);
        TokioRuntime.wrap_udp_socket(socket)
    }
}

/// Asks for larger buffers: a burst that overflows them is lost and sent again. Needs a privilege beyond the system's
/// limit; less than asked for works, only slower.
fn enlarge(socket: &UdpSocket, bytes: usize) {
    let enlarged = sockopt::set_socket_recv_buffer_size_force(socket, bytes)
        .or_else(|_| sockopt::set_socket_recv_buffer_size(socket, bytes))
        .and_then(|()| {
            sockopt::set_socket_send_buffer_size_force(socket, bytes)
                .or_else(|_| sockopt::set_socket_send_buffer_size(socket, bytes))
        })
        .and_then(|()| sockopt::socket_recv_buffer_size(socket));
    match enlarged {
        Ok(got) if got >= bytes => {}
        Ok(got) => {
            tracing::info!(asked = bytes, got, "the socket buffer is limited: raise net.core.rmem_max and wmem_max")
        }
        Err(error) => tracing::warn!(%error, "cannot enlarge the socket buffers"),
    }
}

/// A socket that takes at most so many datagrams in one send, see [`LinkConfig`](super::LinkConfig).
#[derive(Debug)]
pub(super) struct SegmentCap {
    pub(super) socket: Arc<dyn AsyncUdpSocket>,
    pub(super) segments_max: usize,
}

impl AsyncUdpSocket for SegmentCap {
    fn create_io_poller(self: Arc<Self>) -> Pin<Box<dyn UdpPoller>> {
        Arc::clone(&self.socket).create_io_poller()
    }

    fn try_send(&self, transmit: &Transmit<'_>) -> io::Result<()> {
        self.socket.try_send(transmit)
    }

    fn poll_recv(
        &self,
        context: &mut Context<'_>,
        buffers: &mut [IoSliceMut<'_>],
        meta: &mut [RecvMeta],
    ) -> Poll<io::Result<usize>> {
        self.socket.poll_recv(context, buffers, meta)
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    fn max_transmit_segments(&self) -> usize {
        self.socket.max_transmit_segments().min(self.segments_max).max(1)
    }

    fn max_receive_segments(&self) -> usize {
        self.socket.max_receive_segments()
    }

    fn may_fragment(&self) -> bool {
        self.socket.may_fragment()
    }
}
