//! Addresses: `unix:PATH` or `HOST:PORT`.
//!
//! Text comes in from operators, the config and peers; what goes out prints as it was read.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Why a text is no address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Neither form.
    #[error("'{text}' is not an address: write unix:PATH or HOST:PORT (port 0 for any free one)")]
    Malformed {
        /// What was given.
        text: String,
    },
    /// `unix:` without a path.
    #[error("'{text}' names no socket: write unix:PATH, as in unix:/run/tidemark/nbd.sock")]
    NoPath {
        /// What was given.
        text: String,
    },
    /// Not a host and a port.
    #[error(
        "'{text}' is not HOST:PORT: a name or an IP address (IPv6 in brackets), a colon, and a port from 0 to 65535"
    )]
    NotHostPort {
        /// What was given.
        text: String,
    },
}

/// A TCP or UDP address with a host that may be a name.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HostPort {
    /// A name or an IP address, IPv6 without brackets.
    pub host: String,
    /// The port; 0 stands for any free one.
    pub port: u16,
}

impl HostPort {
    /// Whether only this machine can reach it. A name other than `localhost` is taken as reachable by others.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        match self.host.parse::<IpAddr>() {
            Ok(address) => address.is_loopback(),
            Err(_) => self.host == "localhost",
        }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl FromStr for HostPort {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        split_host_port(text.trim()).ok_or_else(|| AddressError::NotHostPort { text: text.into() })
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

fn split_host_port(text: &str) -> Option<HostPort> {
    let (host, port) = text.rsplit_once(':')?;
    let plain_port = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
    let port = port.parse().ok().filter(|_| plain_port)?;
    let host = match host.strip_prefix('[') {
        Some(rest) => rest.strip_suffix(']').filter(|ip| ip.parse::<Ipv6Addr>().is_ok())?,
        None => Some(host).filter(|host| is_host_name(host))?,
    };
    Some(HostPort { host: host.into(), port })
}

/// Whether a text can be a host name or an IPv4 address.
fn is_host_name(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
    (1..=253).contains(&text.len()) && text.chars().all(plain)
}

/// Where something listens or is reached.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A Unix socket.
    Unix(PathBuf),
    /// TCP or UDP.
    Tcp(HostPort),
}

impl Address {
    /// The same address, a relative socket path taken to begin at `directory`.
    #[must_use]
    pub fn resolved(&self, directory: &Path) -> Self {
        match self {
            Self::Unix(path) => Self::Unix(directory.join(path)),
            Self::Tcp(_) => self.clone(),
        }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Tcp(address) => address.fmt(f),
        }
    }
}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        match text.strip_prefix("unix:") {
            Some("") => Err(AddressError::NoPath { text: text.into() }),
            Some(path) => Ok(Self::Unix(path.into())),
            None if !text.contains(':') => Err(AddressError::Malformed { text: text.into() }),
            None => text.parse().map(Self::Tcp),
        }
    }
}

macro_rules! serde_as_text {
    ($name:ident) => {
        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
            }
        }
    };
}
serde_as_text!(HostPort);
serde_as_text!(Address);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn both_forms_read_what_they_print() {
        for text in ["unix:/run/tidemark/nbd.sock", "unix:nbd.sock", "127.0.0.1:7411", "west.example:0", "[::1]:10809"]
        {
            assert_eq!(text.parse::<Address>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_address_is_refused() {
        for (text, says) in [
            ("", "write unix:PATH or HOST:PORT"),
            ("7411", "write unix:PATH or HOST:PORT"),
            ("/run/nbd.sock", "write unix:PATH or HOST:PORT"),
            ("unix:", "names no socket"),
            (":7411", "is not HOST:PORT"),
            ("host:", "is not HOST:PORT"),
            ("host:+80", "is not HOST:PORT"),
            ("host:65536", "is not HOST:PORT"),
            ("::1:80", "is not HOST:PORT"),
            ("[::1:80", "is not HOST:PORT"),
            ("[west]:80", "is not HOST:PORT"),
            ("a b:80", "is not HOST:PORT"),
            ("tcp://host:80", "is not HOST:PORT"),
        ] {
            let message = text.parse::<Address>().unwrap_err().to_string();
            assert!(message.contains(says), "{text}: {message}");
        }
    }

    #[test]
    fn a_socket_address_is_written_as_it_is_read() {
        for text in ["127.0.0.1:7411", "[::1]:10809"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(HostPort::from(address), text.parse().unwrap());
            assert_eq!(HostPort::from(address).to_string(), text);
        }
    }

    #[test]
    fn loopback_is_told_from_the_rest() {
        let loopback = |text: &str| text.parse::<HostPort>().unwrap().is_loopback();
        assert!(["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "localhost:1"].into_iter().all(loopback));
        assert!(!["0.0.0.0:1", "[::]:1", "10.0.0.1:1", "east.example:1"].into_iter().any(loopback));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in ".{0,40}") {
            if let Ok(address) = text.parse::<Address>() {
                prop_assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
            }
        }
    }
}
