//! Listening sockets of the front end.
//!
//! A Unix socket's file is private from the moment it exists; one left behind by a killed process is replaced, one that is
//! answered is not. The file goes when the listener does, and before it, so that it is never another server's file.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net as unix;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::io::Errno;
use rustix::net::{SocketAddrUnix, connect, listen, sockopt};
use tokio::net::{TcpListener, TcpStream, UnixListener};

use crate::config::Address;
use crate::private_socket::{bind_private, unix_socket};

/// Connections waiting to be accepted.
const BACKLOG: i32 = 1024;
/// A host that has not been heard for so long, though it was asked or answered, has gone.
const SILENCE_MAX: Duration = Duration::from_secs(120);

/// Why an address cannot be listened on.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another process answers there.
    #[error("'{}' is in use: another service answers there; stop it or choose another address", path.display())]
    Live {
        /// The socket's file.
        path: PathBuf,
    },
    /// There is a file of another kind.
    #[error("'{}' exists and is not a socket: remove it or choose another address", path.display())]
    NotASocket {
        /// The file.
        path: PathBuf,
    },
    /// The system says no.
    #[error(
        "listen for NBD on {address}: {source}. Choose another address under [nbd] in config.toml, or stop what uses it"
    )]
    System {
        /// The address.
        address: Address,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// One listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Unix { _file: SocketFile, listener: UnixListener },
    Tcp(TcpListener),
}

impl Listener {
    /// Listens; says where, with the real port.
    pub(super) async fn bind(address: &Address, mode: u32) -> Result<(Self, Address), BindError> {
        let failed = |source| BindError::System { address: address.clone(), source };
        match address {
            Address::Unix(path) => {
                clear_way(path, failed)?;
                let (file, listener) = bind_unix(path, mode).map_err(failed)?;
                Ok((Self::Unix { _file: file, listener }, address.clone()))
            }
            Address::Tcp(wanted) => {
                let listener = TcpListener::bind((wanted.host.as_str(), wanted.port)).await.map_err(failed)?;
                let real = Address::Tcp(listener.local_addr().map_err(failed)?.into());
                Ok((Self::Tcp(listener), real))
            }
        }
    }
}

/// Removes what a killed process left behind.
fn clear_way(path: &Path, failed: impl Fn(io::Error) -> BindError) -> Result<(), BindError> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed(error)),
    };
    if !found.file_type().is_socket() {
        return Err(BindError::NotASocket { path: path.to_owned() });
    }
    match knock(path) {
        Err(Errno::CONNREFUSED) => fs::remove_file(path).map_err(failed),
        // Also a server that is too busy to answer is one.
        Ok(()) | Err(Errno::AGAIN) => Err(BindError::Live { path: path.to_owned() }),
        Err(error) => Err(failed(error.into())),
    }
}

/// Connects, without waiting.
fn knock(path: &Path) -> Result<(), Errno> {
    connect(&unix_socket()?, &SocketAddrUnix::new(path)?)
}

fn bind_unix(path: &Path, mode: u32) -> io::Result<(SocketFile, UnixListener)> {
    // Nobody else can connect before the mode asked for is set.
    let socket = bind_private(path)?;
    let file = SocketFile::new(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))?;
    listen(&socket, BACKLOG)?;
    Ok((file, UnixListener::from_std(unix::UnixListener::from(socket))?))
}

/// The file of a Unix socket; removed with this, if it is still the same.
#[derive(Debug)]
pub(super) struct SocketFile {
    path: PathBuf,
    identity: (u64, u64),
}

impl SocketFile {
    fn new(path: &Path) -> io::Result<Self> {
        Ok(Self { path: path.to_owned(), identity: identity(path)? })
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if identity(&self.path).is_ok_and(|now| now == self.identity)
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "the NBD socket's file stays behind");
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|found| (found.dev(), found.ino()))
}

/// Makes a TCP connection answer at once, and notice a host that has gone without a word.
pub(super) fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, Duration::from_secs(60))?;
    sockopt::set_tcp_keepintvl(stream, Duration::from_secs(15))?;
    sockopt::set_tcp_keepcnt(stream, 4)?;
    // While answers are under way nothing is asked, and the system would send those again for a quarter of an hour.
    sockopt::set_tcp_user_timeout(stream, u32::try_from(SILENCE_MAX.as_millis()).unwrap_or(u32::MAX))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_host_that_has_gone_without_a_word_is_noticed_with_answers_under_way_too() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&stream).unwrap();
        assert_eq!(sockopt::tcp_user_timeout(&stream), Ok(120_000));
    }
}
