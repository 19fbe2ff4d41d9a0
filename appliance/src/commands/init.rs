//! `tidemark init`: the directory of a new appliance, complete or not at all.
//!
//! A directory that is not there yet is put together beside its place and renamed into it. One that is there (a mount
//! point, or made by an administrator with its permissions) is filled in place; `config.toml` comes last, because a
//! directory is an appliance exactly when it has one. Nothing that is there already is ever overwritten. What a kill or a full disk has left
//! of an earlier try is gone on with.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use serde::Serialize;
use tidemark_common::config::{Address, CONFIG_FILE, CONTROL_SOCKET, Config, HostPort};
use tidemark_common::identity::{CERTIFICATE_FILE, Identity, KEY_FILE};
use tidemark_common::ids::ApplianceId;

use super::{directory, whole_path};
use crate::cli::{Common, name};
use crate::failure::Failure;
use crate::output;

/// What a fresh file system has at its top.
const LOST_AND_FOUND: &str = "lost+found";
/// How the name of what is not complete begins.
const DRAFT: &str = ".tidemark-init-";
/// Longest path of a Unix socket, bytes.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// `tidemark init DIR`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Directory to make [default: that of --dir or TIDEMARK_DIR]
    #[arg(value_name = "DIR")]
    pub(crate) directory: Option<PathBuf>,
    /// Name of the appliance [default: the directory's name]
    #[arg(long, value_parser = name)]
    pub(crate) name: Option<String>,
    /// Where hosts connect: unix:PATH or HOST:PORT; may be given several times, and replaces the default
    /// [default: unix:DIR/nbd.sock]
    #[arg(long, value_name = "ADDR")]
    pub(crate) nbd: Vec<Address>,
    /// Where peers connect: HOST:PORT (UDP) [default: 127.0.0.1:7411]
    #[arg(long, value_name = "ADDR")]
    pub(crate) replication: Option<HostPort>,
    /// Where Prometheus reads the metrics: HOST:PORT; anybody who can reach the address can read them
    /// [default: 127.0.0.1:9411]
    #[arg(long, value_name = "ADDR")]
    pub(crate) metrics: Option<HostPort>,
}

#[derive(Serialize)]
struct Made {
    id: ApplianceId,
    name: String,
    directory: PathBuf,
}

/// Makes the appliance and prints its id.
pub(crate) fn run(args: Args, common: &Common) -> Result<(), Failure> {
    let directory = PathBuf::from(whole_path(&directory(args.directory.clone(), common)?)?);
    let config = settings(args, &directory)?;
    let id = make(&directory, &config)?;
    let made = Made { id, name: config.name, directory };
    output::answer(common.json, &made, |made| Ok(made.id.to_string()))?;
    output::say(&format!(
        "appliance '{}' is in {}; start it with `tidemark serve {}`",
        made.name,
        made.directory.display(),
        output::shell_word(&made.directory)
    ));
    Ok(())
}

fn settings(args: Args, directory: &Path) -> Result<Config, Failure> {
    let name = args.name.map_or_else(|| name_of(directory), Ok)?;
    let mut config = Config::new(name);
    if !args.nbd.is_empty() {
        let here = PathBuf::from(whole_path(Path::new("."))?);
        config.nbd.addresses = args.nbd.iter().map(|address| address.resolved(&here)).collect();
    }
    if let Some(address) = args.replication {
        config.replication.address = address;
    }
    if let Some(address) = args.metrics {
        // Naming such an address here is asking for it; in the file it takes a second word.
        config.metrics.allow_remote_metrics = !address.is_loopback();
        config.metrics.address = address;
    }
    config.check().map_err(Failure::Usage)?;
    check_socket_paths(&config, directory)?;
    Ok(config)
}

/// The appliance's name when none is given: its directory's, when that can be one.
fn name_of(directory: &Path) -> Result<String, Failure> {
    let last = directory.file_name().and_then(|last| last.to_str()).unwrap_or_default();
    name(last).map_err(|_| Failure::Usage(format!("'{last}' cannot be the appliance's name, so give one with --name")))
}

fn check_socket_paths(config: &Config, directory: &Path) -> Result<(), Failure> {
    check_socket_path(&directory.join(CONTROL_SOCKET), "use a shorter directory")?;
    for address in &config.nbd.addresses {
        if let Address::Unix(path) = address.resolved(directory) {
            check_socket_path(&path, "name a shorter one with --nbd")?;
        }
    }
    Ok(())
}

fn check_socket_path(path: &Path, remedy: &str) -> Result<(), Failure> {
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX {
        return Ok(());
    }
    let path = path.display();
    Err(Failure::Usage(format!("{path} is too long for a socket: at most {SOCKET_PATH_BYTES_MAX} bytes; {remedy}")))
}

/// Makes an appliance with these settings; its id.
pub(super) fn make(directory: &Path, config: &Config) -> anyhow::Result<ApplianceId> {
    match fs::read_dir(directory) {
        Ok(entries) => {
            refuse_occupied(directory, entries)?;
            fill(directory, config)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => make_beside(directory, config),
        Err(error) => Err(error).with_context(|| format!("look into {}", directory.display())),
    }
}

/// Puts the directory together under another name and gives it its own when it is complete.
fn make_beside(directory: &Path, config: &Config) -> anyhow::Result<ApplianceId> {
    let parent = directory.parent().context("the root directory cannot be an appliance")?;
    fs::create_dir_all(parent).with_context(|| format!("make {}", parent.display()))?;
    let draft = tempfile::Builder::new()
        .prefix(DRAFT)
        .tempdir_in(parent)
        .with_context(|| format!("make a directory in {}", parent.display()))?;
    let whole = draft.path().join("appliance");
    DirBuilder::new().mode(0o700).create(&whole).with_context(|| format!("make {}", whole.display()))?;
    let id = fill(&whole, config)?;
    fs::rename(&whole, directory)
        .with_context(|| format!("make {}: did somebody else make it just now?", directory.display()))?;
    sync_directory(parent)?;
    Ok(id)
}

fn refuse_occupied(directory: &Path, entries: fs::ReadDir) -> anyhow::Result<()> {
    let shown = directory.display();
    if directory.join(CONFIG_FILE).exists() {
        let who = Config::load(directory).map_or_else(|_| String::new(), |config| format!(" '{}'", config.name));
        let word = output::shell_word(directory);
        bail!("{shown} already holds an appliance{who}: nothing was changed; `tidemark id {word}` prints its id");
    }
    for entry in entries {
        let found = entry.with_context(|| format!("look into {shown}"))?.file_name();
        ensure!(
            found == LOST_AND_FOUND || is_left_over(&found),
            "{shown} is not empty (it holds '{}'): nothing was changed; name a new or an empty directory",
            found.display()
        );
    }
    Ok(())
}

/// What an earlier try may have left in a directory.
fn is_left_over(name: &OsStr) -> bool {
    let name = name.to_string_lossy();
    let whole = name.strip_suffix(".new").unwrap_or(&name);
    [KEY_FILE, CERTIFICATE_FILE].contains(&whole) || name.starts_with(DRAFT)
}

/// Key, certificate, and last of all `config.toml`, each durable before the next.
fn fill(directory: &Path, config: &Config) -> anyhow::Result<ApplianceId> {
    let is_made = directory.join(CERTIFICATE_FILE).exists();
    let id = if is_made { Identity::load(directory) } else { Identity::create(directory) }?.id();
    let file = directory.join(CONFIG_FILE);
    let writing = || format!("write {}", file.display());
    let mut draft = tempfile::Builder::new().prefix(DRAFT).tempfile_in(directory).with_context(writing)?;
    draft.write_all(config.to_toml().as_bytes()).with_context(writing)?;
    draft.as_file().sync_all().with_context(writing)?;
    draft.persist_noclobber(&file).with_context(writing)?;
    sync_directory(directory)?;
    Ok(id)
}

fn sync_directory(directory: &Path) -> anyhow::Result<()> {
    File::open(directory).and_then(|opened| opened.sync_all()).with_context(|| format!("sync {}", directory.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// It was refused as not empty, and a mount point is the one place where it is to be.
    #[test]
    fn what_a_kill_has_left_in_a_directory_is_gone_on_with() {
        let directory = tempfile::tempdir().unwrap();
        let identity = Identity::create(directory.path()).unwrap();
        fs::write(directory.path().join(format!("{DRAFT}x1y2z3")), "name").unwrap();
        assert_eq!(make(directory.path(), &Config::new("east")).unwrap(), identity.id());
        assert_eq!(Config::load(directory.path()).unwrap().name, "east");
        make(directory.path(), &Config::new("east")).unwrap_err();
        assert!(!is_left_over("precious".as_ref()) && !is_left_over("catalog".as_ref()));
    }
}
