//! `config.toml` of an appliance: what an operator decides, with its defaults.
//!
//! A directory comes in, a checked [`Config`] goes out; nothing is kept. What is unknown, out of range or cut short is
//! refused with file, line and remedy: a service never starts on a guess. `init` writes the file with [`Config::to_toml`],
//! whose comments are the reference for operators.

pub mod address;
mod check;
pub mod duration;
mod error;
pub mod size;
mod template;

use std::fmt;
use std::io::{self, Read};
use std::path::{self, Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use address::{Address, AddressError, HostPort};
pub use duration::{DurationError, format_duration, parse_duration};
pub use error::ConfigError;
pub use size::{SizeError, format_size, parse_size};

/// Name of the file in an appliance's directory.
pub const CONFIG_FILE: &str = "config.toml";
/// Name of the control socket in an appliance's directory.
pub const CONTROL_SOCKET: &str = "api.sock";
/// Largest file read, bytes: a hundred times what `init` writes.
const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// An appliance's settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// What people and peers call it.
    pub name: String,
    /// Where hosts come in.
    pub nbd: NbdConfig,
    /// Where peers come in, and how the links to them behave.
    pub replication: ReplicationConfig,
    /// What each group gets.
    #[serde(default)]
    pub groups: GroupConfig,
    /// Images at a moment.
    #[serde(default)]
    pub images: ImageConfig,
    /// Where operators come in.
    #[serde(default)]
    pub control: ControlConfig,
    /// What is logged.
    #[serde(default)]
    pub log: LogConfig,
    /// Where Prometheus comes in.
    pub metrics: MetricsConfig,
}

/// `[nbd]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NbdConfig {
    /// Every address listened on. Socket paths are absolute after [`Config::load`].
    pub addresses: Vec<Address>,
    /// Certificate chain for STARTTLS, PEM. Absolute after [`Config::load`]; given exactly when `tls_key` is.
    pub tls_certificate: Option<PathBuf>,
    /// Private key for STARTTLS, PEM.
    pub tls_key: Option<PathBuf>,
}

/// `[replication]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReplicationConfig {
    /// UDP address for QUIC.
    pub address: HostPort,
    /// What one link may send, bytes per second; `None` for as much as the link takes.
    #[serde(default, with = "size::optional", skip_serializing_if = "Option::is_none")]
    pub rate_limit_bytes_per_second: Option<u64>,
    /// How senders find out what a link carries.
    #[serde(default)]
    pub congestion: Congestion,
    /// Between heartbeats on an idle link.
    #[serde(default = "defaults::heartbeat_interval", with = "duration")]
    pub heartbeat_interval: Duration,
    /// A link that is silent for so long is down.
    #[serde(default = "defaults::idle_timeout", with = "duration")]
    pub idle_timeout: Duration,
}

/// How senders find out what a link carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Congestion {
    /// By what the path delivers, and how long it takes: fills long and lossy links, and sends hardly anything in vain.
    #[default]
    Steady,
    /// The same, as quinn does it: takes more than its share and sends much in vain.
    Bbr,
    /// By loss: fair to other traffic, for short links without loss.
    Cubic,
}

/// `[metrics]`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MetricsConfig {
    /// TCP address.
    pub address: HostPort,
    /// Whether `address` may be one that others can reach.
    #[serde(default)]
    pub allow_remote_metrics: bool,
}

/// `[groups]`: what each group gets.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct GroupConfig {
    /// Size of its write buffer.
    #[serde(with = "size")]
    pub write_buffer_bytes: u64,
    /// Where write buffers lie: a tmpfs, so that they outlive the process and cost no disk.
    pub ring_directory: PathBuf,
    /// Size of its journal.
    #[serde(with = "size")]
    pub journal_bytes: u64,
    /// Size of one segment file of its journal.
    #[serde(with = "size")]
    pub segment_bytes: u64,
    /// Longest time hosts are held by a cut.
    #[serde(with = "duration")]
    pub freeze_limit: Duration,
}

impl Default for GroupConfig {
    fn default() -> Self {
        Self {
            write_buffer_bytes: 64 << 20,
            ring_directory: "/dev/shm".into(),
            journal_bytes: 10 << 30,
            segment_bytes: 32 << 20,
            freeze_limit: Duration::from_millis(50),
        }
    }
}

/// `[images]`: T0 copies, clones and drills.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ImageConfig {
    /// Disk space for what images need of content that was overwritten since, for all of them together.
    #[serde(with = "size")]
    pub side_store_bytes: u64,
    /// What may be written over one clone, unless its maker says otherwise.
    #[serde(with = "size")]
    pub clone_bytes: u64,
    /// What may be written over all clones together.
    #[serde(with = "size")]
    pub all_clones_bytes: u64,
    /// Memory for knowing where the content of images, backups and splits lies, for all of them together.
    #[serde(with = "size")]
    pub memory_bytes: u64,
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self {
            side_store_bytes: 10 << 30,
            clone_bytes: 10 << 30,
            all_clones_bytes: 50 << 30,
            // What ten gibibytes in blocks of four kibibytes take.
            memory_bytes: 256 << 20,
        }
    }
}

/// `[control]`: `DIR/api.sock`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ControlConfig {
    /// Who may command this appliance.
    pub access: ControlAccess,
}

/// Who may open the control socket.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ControlAccess {
    /// The user the service runs as.
    #[default]
    Owner,
    /// That user's group as well.
    Group,
}

impl ControlAccess {
    /// Permission bits of the socket.
    #[must_use]
    pub const fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Group => 0o660,
        }
    }
}

/// `[log]`.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogConfig {
    /// Lines for people or for machines.
    pub format: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// Defaults of single fields.
mod defaults {
    use std::time::Duration;

    pub(super) fn heartbeat_interval() -> Duration {
        Duration::from_millis(500)
    }

    pub(super) fn idle_timeout() -> Duration {
        Duration::from_secs(5)
    }
}

impl Config {
    /// The settings of a new appliance of this name.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        let local = |port| HostPort { host: "127.0.0.1".into(), port };
        Self {
            name: name.into(),
            nbd: NbdConfig { addresses: vec![Address::Unix("nbd.sock".into())], tls_certificate: None, tls_key: None },
            replication: ReplicationConfig {
                address: local(7411),
                rate_limit_bytes_per_second: None,
                congestion: Congestion::default(),
                heartbeat_interval: defaults::heartbeat_interval(),
                idle_timeout: defaults::idle_timeout(),
            },
            groups: GroupConfig::default(),
            images: ImageConfig::default(),
            control: ControlConfig::default(),
            log: LogConfig::default(),
            metrics: MetricsConfig { address: local(9411), allow_remote_metrics: false },
        }
    }

    /// Reads and checks `config.toml` of the appliance in `directory`; relative paths in it begin there.
    ///
    /// # Errors
    /// [`ConfigError`] says which line and what to do.
    pub fn load(directory: &Path) -> Result<Self, ConfigError> {
        let file = directory.join(CONFIG_FILE);
        let text = read_bounded(&file)?;
        let mut config = Self::parse(&text, &file)?;
        let directory = path::absolute(directory).map_err(|source| ConfigError::Read { file: file.clone(), source })?;
        config.resolve(&directory);
        Ok(config)
    }

    /// Checks a text; `file` is for messages. Paths stay as they are.
    ///
    /// # Errors
    /// [`ConfigError`] says which line and what to do.
    pub fn parse(text: &str, file: &Path) -> Result<Self, ConfigError> {
        let config: Self = toml::from_str(text).map_err(|error| ConfigError::from_toml(&error, text, file))?;
        match check::first_problem(&config) {
            None => Ok(config),
            Some(problem) => Err(ConfigError::from_problem(problem, text, file)),
        }
    }

    /// Checks settings that were put together in memory, as `init` does.
    ///
    /// # Errors
    /// What is wrong and what to do.
    pub fn check(&self) -> Result<(), String> {
        check::first_problem(self).map_or(Ok(()), |problem| Err(problem.message))
    }

    /// The file as `init` writes it: every setting with its meaning, defaults as comments.
    #[must_use]
    pub fn to_toml(&self) -> String {
        template::render(self)
    }

    fn resolve(&mut self, directory: &Path) {
        for address in &mut self.nbd.addresses {
            *address = address.resolved(directory);
        }
        for path in [&mut self.nbd.tls_certificate, &mut self.nbd.tls_key].into_iter().flatten() {
            *path = directory.join(&*path);
        }
    }
}

fn read_bounded(file: &Path) -> Result<String, ConfigError> {
    let failed = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => ConfigError::Missing { file: file.into() },
        _ => ConfigError::Read { file: file.into(), source },
    };
    let mut bytes = Vec::new();
    let opened = std::fs::File::open(file).map_err(failed)?;
    opened.take(CONFIG_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > CONFIG_BYTES_MAX {
        return Err(ConfigError::NotAConfig { file: file.into(), why: "it is larger than 1 MiB" });
    }
    String::from_utf8(bytes)
        .map_err(|_| ConfigError::NotAConfig { file: file.into(), why: "it holds bytes that are no text" })
}

macro_rules! word {
    ($name:ident { $($variant:ident => $text:literal),+ }) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    };
}
word!(Congestion { Steady => "steady", Bbr => "bbr", Cubic => "cubic" });
word!(ControlAccess { Owner => "owner", Group => "group" });
word!(LogFormat { Text => "text", Json => "json" });

#[cfg(test)]
mod tests;
