//! The `config.toml` that `init` writes: every setting with its meaning, defaults as comments.
//!
//! The required `[metrics]` table stands last on purpose: a file cut short at any line then misses something that must
//! be there, and is refused instead of read as a file with more defaults.

use std::fmt::Write;

use toml::Value;

use super::{Config, GroupConfig, ImageConfig, ReplicationConfig, duration::format_duration, size::format_size};

/// The file for these settings; reading it gives them back.
pub(super) fn render(config: &Config) -> String {
    let mut file = File(String::from(HEAD));
    file.required("name", config.name.as_str());
    nbd(&mut file, config);
    replication(&mut file, config);
    groups(&mut file, config);
    images(&mut file, config);
    control_and_log(&mut file, config);
    metrics(&mut file, config);
    file.0
}

const HEAD: &str = "\
# Settings of a Tidemark appliance. Read once, when the service starts; what is unknown here keeps it from starting.
#
# Sizes:     \"64KiB\", \"512MiB\", \"1GiB\" (powers of 1024), or plain bytes
# Durations: \"250ms\", \"1s\", \"10m\"
# Addresses: \"unix:PATH\" or \"HOST:PORT\"; port 0 stands for any free one (`tidemark status` tells which)
# Paths:     a relative path begins at the directory of this file
#
# Lines that begin with `# ` and a key show the default.

# What people and peers call this appliance.
";

/// A file being written.
struct File(String);

impl File {
    fn table(&mut self, name: &str, about: &str) {
        let _ = write!(self.0, "\n# {about}\n[{name}]\n");
    }

    fn about(&mut self, lines: &str) {
        for line in lines.lines() {
            let _ = writeln!(self.0, "# {line}");
        }
    }

    /// A setting that must be in the file.
    fn required(&mut self, key: &str, value: impl Into<Value>) {
        let _ = writeln!(self.0, "{key} = {}", value.into());
    }

    /// A setting with a default: a comment unless it differs.
    fn defaulted(&mut self, key: &str, value: impl Into<Value>, default: impl Into<Value>) {
        let (value, default) = (value.into(), default.into());
        let mark = if value == default { "# " } else { "" };
        let _ = writeln!(self.0, "{mark}{key} = {value}");
    }

    /// A setting that may be left out, with an example for when it is.
    fn optional(&mut self, key: &str, value: Option<String>, example: &str) {
        match value {
            Some(value) => self.required(key, value),
            None => self.defaulted(key, example, example),
        }
    }
}

fn nbd(file: &mut File, config: &Config) {
    file.table("nbd", "Where hosts connect.");
    let addresses: Vec<String> = config.nbd.addresses.iter().map(ToString::to_string).collect();
    file.required("addresses", addresses);
    file.about("With both of these set, hosts may use TLS (certificate chain and private key, PEM).");
    let path = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| path.display().to_string());
    file.optional("tls_certificate", path(&config.nbd.tls_certificate), "nbd.pem");
    file.optional("tls_key", path(&config.nbd.tls_key), "nbd.key");
}

fn replication(file: &mut File, config: &Config) {
    let link = &config.replication;
    let default = default_replication();
    file.table("replication", "Where peers connect (UDP), and how the links to them behave.");
    file.required("address", link.address.to_string());
    file.about("What one link may send per second. Without a limit, as much as congestion control allows.");
    file.optional("rate_limit_bytes_per_second", link.rate_limit_bytes_per_second.map(format_size), "100MiB");
    file.about("How senders find out how much a line carries: \"steady\" (any line), \"bbr\" or \"cubic\" (gives way to others at every loss).");
    file.defaulted("congestion", link.congestion.to_string(), default.congestion.to_string());
    file.about("Time between heartbeats of an idle link, 50ms to 1s.");
    let heartbeat = |link: &ReplicationConfig| format_duration(link.heartbeat_interval);
    file.defaulted("heartbeat_interval", heartbeat(link), heartbeat(&default));
    file.about("A link that is silent for this long is down; at least three heartbeats.");
    let idle = |link: &ReplicationConfig| format_duration(link.idle_timeout);
    file.defaulted("idle_timeout", idle(link), idle(&default));
}

fn default_replication() -> ReplicationConfig {
    Config::new("default").replication
}

fn groups(file: &mut File, config: &Config) {
    let (groups, default) = (&config.groups, GroupConfig::default());
    file.table("groups", "Memory and disk space of each consistency group.");
    file.about("Memory for acknowledged writes that are not yet in the journal.");
    let size = |size: u64| format_size(size);
    file.defaulted("write_buffer_bytes", size(groups.write_buffer_bytes), size(default.write_buffer_bytes));
    file.about("Folder of that memory. A tmpfs, so that it outlives the process; on a disk it would be slow.");
    let ring = |groups: &GroupConfig| groups.ring_directory.display().to_string();
    file.defaulted("ring_directory", ring(groups), ring(&default));
    file.about(
        "Disk space for the journal. It decides how long a link may be down before differences are kept as a bitmap.",
    );
    file.defaulted("journal_bytes", size(groups.journal_bytes), size(default.journal_bytes));
    file.about("The journal is kept in files of this size; at least four of them.");
    file.defaulted("segment_bytes", size(groups.segment_bytes), size(default.segment_bytes));
    file.about("Longest time a cut may hold hosts; past it the marker is given up, counted and reported.");
    file.defaulted("freeze_limit", format_duration(groups.freeze_limit), format_duration(default.freeze_limit));
}

fn images(file: &mut File, config: &Config) {
    let (images, default) = (&config.images, ImageConfig::default());
    file.table("images", "Images at a moment: T0 copies, clones, drills.");
    file.about("Disk space for old content that images still need, for all images together. When it is used up, the oldest\nimage ends; hosts and replication never wait for it.");
    file.defaulted("side_store_bytes", format_size(images.side_store_bytes), format_size(default.side_store_bytes));
    file.about("How much may be written to one clone, unless --space says otherwise.");
    file.defaulted("clone_bytes", format_size(images.clone_bytes), format_size(default.clone_bytes));
    file.about("How much may be written to all clones together; beyond that their hosts get ENOSPC.");
    file.defaulted("all_clones_bytes", format_size(images.all_clones_bytes), format_size(default.all_clones_bytes));
    file.about("Memory for knowing where the content of images, backups and splits is. When it is used up, the oldest image ends,\nas with the disk space.");
    file.defaulted("memory_bytes", format_size(images.memory_bytes), format_size(default.memory_bytes));
}

fn control_and_log(file: &mut File, config: &Config) {
    file.table("control", "The socket for administration commands: api.sock beside this file.");
    file.about("Who may open it: \"owner\", the user the service runs as, or \"group\", that user's group as well.");
    file.defaulted("access", config.control.access.to_string(), "owner");
    file.table("log", "Logs go to stderr; the variable RUST_LOG chooses what is logged (default \"info\").");
    file.about("\"text\" for people, \"json\" for machines.");
    file.defaulted("format", config.log.format.to_string(), "text");
}

fn metrics(file: &mut File, config: &Config) {
    file.table("metrics", "Where Prometheus reads metrics: GET /metrics, GET /-/healthy.");
    file.about("An address that other machines can reach needs the line after this.");
    file.defaulted("allow_remote_metrics", config.metrics.allow_remote_metrics, false);
    file.required("address", config.metrics.address.to_string());
}
