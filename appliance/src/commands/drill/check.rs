//! `tidemark drill check`: ready checks for `--check`. They find the volumes of the drill in their environment, look at them with
//! Debian's own programs, and end with 0 when all is well.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use anyhow::{Context, anyhow, bail};
use clap::Subcommand;

use super::attach::{Attached, Mounted, command, finish, xfs_options};
use super::confines::Confines;
use super::postgresql;
use crate::failure::Failure;
use crate::output::say;
use crate::roles::drill::{URIS, own_variable};
use crate::roles::drill_left::FOLDER;

/// `tidemark drill check ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replay the journal of ext4 file systems and check them
    Ext4(Volumes),
    /// Replay the log of XFS file systems and check them
    Xfs(Volumes),
    /// Mount a volume and check SQLite databases in it
    Sqlite {
        /// The volume that holds the databases
        #[arg(long)]
        volume: String,
        /// The database files, relative to the root of the file system
        #[arg(value_name = "FILE", required = true)]
        files: Vec<PathBuf>,
    },
    /// Start PostgreSQL on the volumes and check all its tables and indexes with pg_amcheck
    Postgresql(postgresql::Options),
    /// Mount the volumes and run a shell command, as --mount does; TIDEMARK_DRILL_MOUNT_PG_DATA names where volume pg-data is mounted
    Mounted {
        #[command(flatten)]
        volumes: Volumes,
        /// The command
        command: String,
    },
}

/// Some of the drill's volumes.
#[derive(Debug, clap::Args)]
pub(crate) struct Volumes {
    /// A volume; may be given several times. Without it, all of them
    #[arg(long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
}

/// The variable with the places of all mounted volumes, as [`URIS`].
const MOUNTS: &str = "TIDEMARK_DRILL_MOUNT";

/// Runs a check.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    Ok(checked(command)?)
}

fn checked(command: Command) -> anyhow::Result<()> {
    let drill = Drill::from_environment()?;
    if std::env::var_os(MOUNTS).is_some() {
        bail!(
            "--mount has mounted the drill's volumes already, but this check needs them unmounted: leave --mount out"
        );
    }
    match command {
        Command::Ext4(Volumes { volumes }) => drill.each(&volumes, ext4),
        Command::Xfs(Volumes { volumes }) => drill.each(&volumes, xfs),
        Command::Sqlite { volume, files } => {
            let mounted = drill.mount(&volume)?;
            let mut confines = Confines::default();
            confines.add(mounted.path())?;
            files.iter().try_for_each(|file| sqlite(&confines, &mounted.path().join(file)))
        }
        Command::Postgresql(options) => postgresql::check(&options, &drill),
        Command::Mounted { volumes: Volumes { volumes }, command } => drill.mounted(&volumes, &command),
    }
}

/// What the drill says of itself.
pub(super) struct Drill {
    volumes: Vec<String>,
    /// By volume. Variables with names of volumes are for people: of some volumes there are none.
    uris: BTreeMap<String, String>,
    /// What goes with the drill.
    pub(super) folder: PathBuf,
}

impl Drill {
    fn from_environment() -> anyhow::Result<Self> {
        let outside = "this check runs inside a drill only: name it in `tidemark drill run GROUP --check`";
        let volumes = std::env::var("TIDEMARK_DRILL_VOLUMES").ok().context(outside)?;
        let folder = std::env::var(FOLDER).ok().context(outside)?;
        let uris = serde_json::from_str(&std::env::var(URIS).ok().context(outside)?)
            .with_context(|| format!("read {URIS}"))?;
        Ok(Self { volumes: volumes.split_whitespace().map(str::to_owned).collect(), uris, folder: folder.into() })
    }

    fn attach(&self, volume: &str) -> anyhow::Result<Attached> {
        let uri = self.uris.get(volume);
        let uri =
            uri.with_context(|| format!("the drill has no volume '{volume}': it has {}", self.volumes.join(", ")))?;
        // No volume has a name that begins with a point.
        Attached::new(uri, &self.folder.join(".fuse").join(volume))
    }

    /// Mounts what is in a volume.
    pub(super) fn mount(&self, volume: &str) -> anyhow::Result<Mounted> {
        Mounted::new(self.attach(volume)?, &self.folder.join(volume)).with_context(|| format!("volume '{volume}'"))
    }

    /// Those that were named, or all.
    fn chosen<'a>(&'a self, named: &'a [String]) -> &'a [String] {
        if named.is_empty() { &self.volumes } else { named }
    }

    /// What went wrong with a volume that nobody has named may be that it has no file system, as one with a log of a database.
    fn hint(&self, named: &[String]) -> &'static str {
        if named.is_empty() && self.volumes.len() > 1 {
            ". When it holds no such file system: `--volume` (several times, if need be) names those that do"
        } else {
            ""
        }
    }

    fn each(&self, named: &[String], check: fn(Attached, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for volume in self.chosen(named) {
            let attached = self.attach(volume)?;
            check(attached, &self.folder.join(volume))
                .map_err(|error| anyhow!("volume '{volume}': {error:#}{}", self.hint(named)))?;
            say(&format!("volume '{volume}' is well"));
        }
        Ok(())
    }

    fn mounted(&self, named: &[String], text: &str) -> anyhow::Result<()> {
        let chosen = self.chosen(named);
        let told = |error: anyhow::Error| anyhow!("{error:#}{}", self.hint(named));
        let mounts =
            chosen.iter().map(|volume| self.mount(volume).map_err(told)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut shell = Program::new("/bin/sh");
        shell.args(["-c", text]);
        let places: BTreeMap<_, _> = chosen.iter().zip(mounts.iter().map(Mounted::path)).collect();
        shell.env(MOUNTS, serde_json::to_string(&places).context("say where the volumes are mounted")?);
        for (volume, place) in places {
            if let Some(end) = own_variable(volume, &self.volumes) {
                shell.env(format!("{MOUNTS}_{end}"), place);
            }
        }
        finish(shell, "the command", &[0]).map(drop)
    }
}

fn ext4(disk: Attached, _: &Path) -> anyhow::Result<()> {
    let mut replay = command("e2fsck", "e2fsprogs")?;
    // A journal that was replayed is told with 0 or 1; what is wrong is found by the second run, which changes nothing.
    replay.args(["-f", "-p"]).arg(disk.file());
    finish(replay, "e2fsck (replay)", &[0, 1])?;
    let mut look = command("e2fsck", "e2fsprogs")?;
    look.args(["-f", "-n"]).arg(disk.file());
    finish(look, "e2fsck", &[0]).map(drop)
}

fn xfs(disk: Attached, place: &Path) -> anyhow::Result<()> {
    // Only the kernel replays its log.
    let file = disk.file().to_owned();
    let mut mount = command("mount", "mount")?;
    std::fs::create_dir_all(place).with_context(|| format!("make {}", place.display()))?;
    mount.arg("-o").arg(xfs_options()).arg(&file).arg(place);
    finish(mount, "mount (replay)", &[0])?;
    let mut unmount = Program::new("umount");
    unmount.arg(place);
    finish(unmount, "umount", &[0])?;
    let mut look = command("xfs_repair", "xfsprogs")?;
    let output = look.arg("-n").arg(&file).output().context("start xfs_repair")?;
    say(&without_noise(&String::from_utf8_lossy(&[output.stdout, output.stderr].concat())));
    if output.status.success() { Ok(()) } else { bail!("xfs_repair ended with {}", output.status) }
}

/// Of a file that no XFS holds, xfs_repair says twice that it knows nothing of the disk below it. That frightens, and means nothing.
fn without_noise(said: &str) -> String {
    const NOISE: [&str; 3] = [
        "Cannot get host filesystem geometry.",
        "Repair may fail if there is a sector size mismatch between",
        "the image and the host filesystem.",
    ];
    said.lines().filter(|line| !NOISE.contains(line)).collect::<Vec<_>>().join("\n")
}

/// What SQLite has beside a database, and writes.
const SQLITE_COMPANIONS: [&str; 3] = ["-journal", "-wal", "-shm"];

fn sqlite(confines: &Confines, file: &Path) -> anyhow::Result<()> {
    if !file.is_file() && !file.is_symlink() {
        bail!("{} is not there", file.display());
    }
    // A journal is rolled back: what is looked at is written.
    let file = &confines.path(file)?;
    for companion in SQLITE_COMPANIONS {
        let mut beside = file.clone().into_os_string();
        beside.push(companion);
        if !confines.hold_file(Path::new(&beside)) {
            bail!("{} is a link that leads out of the clone, where the original may be", Path::new(&beside).display());
        }
    }
    let mut look = command("sqlite3", "sqlite3")?;
    let output = look.arg(file).arg("PRAGMA integrity_check").output().context("start sqlite3")?;
    let said = String::from_utf8_lossy(&output.stdout);
    if output.status.success() && said.trim() == "ok" {
        say(&format!("{} is well", file.display()));
        return Ok(());
    }
    bail!("{}: {}{}", file.display(), said.trim(), String::from_utf8_lossy(&output.stderr).trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_volume_without_a_file_system_can_be_left_out() {
        let volumes = vec!["data".to_owned(), "log".to_owned()];
        let drill = Drill { volumes: volumes.clone(), uris: BTreeMap::new(), folder: PathBuf::new() };
        assert_eq!(drill.chosen(&[]), volumes);
        assert!(drill.hint(&[]).contains("`--volume`"));
        let named = ["data".to_owned()];
        assert_eq!(drill.chosen(&named), named);
        assert_eq!(drill.hint(&named), "");
    }
}
