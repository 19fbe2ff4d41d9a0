//! `tidemark drill check`: ready checks for `--check`. They find the volumes of the drill in their environment, look at them with
//! Debian's own programs, and end with 0 when all is well.

use std::path::{Path, PathBuf};
use std::process::Command as Program;

use anyhow::{Context, bail};
use clap::Subcommand;

use super::attach::{Attached, Mounted, command, finish};
use crate::failure::Failure;
use crate::output::say;
use crate::roles::drill::variable;
use crate::roles::drill_left::FOLDER;

/// `tidemark drill check ...`.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Replay the journal of ext4 file systems and check them
    Ext4(Volumes),
    /// Replay the log of XFS file systems and check them
    Xfs(Volumes),
    /// Check SQLite databases in a mounted volume
    Sqlite {
        /// The volume they lie in
        #[arg(long)]
        volume: String,
        /// Their files, relative to its root
        #[arg(required = true)]
        files: Vec<PathBuf>,
    },
    /// Start PostgreSQL on the volumes and check all its tables and indexes with pg_amcheck
    Postgresql {
        /// The volume with the data directory
        #[arg(long)]
        data: String,
        /// The data directory, relative to the volume's root
        #[arg(long, default_value = ".")]
        path: PathBuf,
        /// The volume with the WAL, when it is another one
        #[arg(long)]
        wal: Option<String>,
        /// The directory of the WAL there, relative to that volume's root
        #[arg(long, default_value = ".")]
        wal_path: PathBuf,
    },
    /// Mount all volumes, at TIDEMARK_DRILL_MOUNT_VOLUME, and run a command for the shell: what --mount does
    Mounted {
        /// The command
        command: String,
    },
}

/// Some of the drill's volumes.
#[derive(Debug, clap::Args)]
pub(crate) struct Volumes {
    /// A volume; all of them without it
    #[arg(long = "volume")]
    volumes: Vec<String>,
}

/// Runs a check.
pub(crate) fn run(command: Command) -> Result<(), Failure> {
    Ok(checked(command)?)
}

fn checked(command: Command) -> anyhow::Result<()> {
    let drill = Drill::from_environment()?;
    match command {
        Command::Ext4(Volumes { volumes }) => drill.each(&volumes, ext4),
        Command::Xfs(Volumes { volumes }) => drill.each(&volumes, xfs),
        Command::Sqlite { volume, files } => {
            let mounted = drill.mount(&volume)?;
            files.iter().try_for_each(|file| sqlite(&mounted.path().join(file)))
        }
        Command::Postgresql { data, path, wal, wal_path } => {
            let mounted = drill.mount(&data)?;
            let other = wal.map(|wal| drill.mount(&wal)).transpose()?;
            let wal = other.as_ref().map(|other| other.path().join(wal_path));
            postgresql(&mounted.path().join(path), wal.as_deref(), &drill.folder)
        }
        Command::Mounted { command } => drill.mounted(&command),
    }
}

/// What the drill says of itself.
struct Drill {
    volumes: Vec<String>,
    folder: PathBuf,
}

impl Drill {
    fn from_environment() -> anyhow::Result<Self> {
        let outside = "this is a check for `tidemark drill run GROUP --check`, which says what to look at";
        let volumes = std::env::var("TIDEMARK_DRILL_VOLUMES").context(outside)?;
        let folder = std::env::var(FOLDER).context(outside)?;
        Ok(Self { volumes: volumes.split_whitespace().map(str::to_owned).collect(), folder: folder.into() })
    }

    fn attach(&self, volume: &str) -> anyhow::Result<Attached> {
        let uri = std::env::var(format!("TIDEMARK_DRILL_NBD_{}", variable(volume)));
        let uri =
            uri.with_context(|| format!("the drill has no volume '{volume}': it has {}", self.volumes.join(", ")))?;
        Attached::new(&uri, &self.folder.join(format!("{volume}.fuse")))
    }

    fn mount(&self, volume: &str) -> anyhow::Result<Mounted> {
        Mounted::new(self.attach(volume)?, &self.folder.join(volume))
    }

    fn each(&self, chosen: &[String], check: fn(Attached, &Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
        for volume in if chosen.is_empty() { &self.volumes } else { chosen } {
            let attached = self.attach(volume)?;
            check(attached, &self.folder.join(volume)).with_context(|| format!("volume '{volume}'"))?;
            say(&format!("volume '{volume}' is well"));
        }
        Ok(())
    }

    fn mounted(&self, text: &str) -> anyhow::Result<()> {
        let mounts = self.volumes.iter().map(|volume| self.mount(volume)).collect::<anyhow::Result<Vec<_>>>()?;
        let mut shell = Program::new("/bin/sh");
        shell.args(["-c", text]);
        for (volume, mount) in self.volumes.iter().zip(&mounts) {
            shell.env(format!("TIDEMARK_DRILL_MOUNT_{}", variable(volume)), mount.path());
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
    mount.args(["-o", "loop,nouuid"]).arg(&file).arg(place);
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

fn sqlite(file: &Path) -> anyhow::Result<()> {
    if !file.is_file() {
        bail!("{} is not there", file.display());
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

/// The newest version's programs, as Debian lays them out.
fn postgres_programs() -> anyhow::Result<PathBuf> {
    let missing = "PostgreSQL is missing: install it with `apt-get install postgresql`";
    let versions = std::fs::read_dir("/usr/lib/postgresql").context(missing)?;
    let mut versions: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_string_lossy().parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.pop().map(|(_, path)| path).context(missing)
}

/// PostgreSQL does not run as root: its programs run as the owner of the data.
fn as_owner(data: &Path, program: &Path) -> anyhow::Result<Program> {
    use std::os::unix::fs::MetadataExt;
    let owner = std::fs::metadata(data).with_context(|| format!("look at {}", data.display()))?;
    if rustix::process::getuid().as_raw() == owner.uid() {
        return Ok(Program::new(program));
    }
    let mut run = command("setpriv", "util-linux")?;
    run.args(["--reuid", &owner.uid().to_string(), "--regid", &owner.gid().to_string(), "--clear-groups"]).arg(program);
    Ok(run)
}

fn postgresql(data: &Path, wal: Option<&Path>, folder: &Path) -> anyhow::Result<()> {
    use std::os::unix::fs::{MetadataExt, chown, symlink};
    let programs = postgres_programs()?;
    if let Some(wal) = wal {
        // On the primary the link leads to where the WAL is mounted there.
        let link = data.join("pg_wal");
        std::fs::remove_file(&link).with_context(|| format!("replace the link {}", link.display()))?;
        symlink(wal, &link).with_context(|| format!("make the link {}", link.display()))?;
    }
    let owner = std::fs::metadata(data)?;
    // In the drill's folder, which goes with the drill even when this is killed.
    let sockets =
        tempfile::Builder::new().prefix("sockets").tempdir_in(folder).context("make a folder for its socket")?;
    chown(sockets.path(), Some(owner.uid()), Some(owner.gid())).context("give the socket's folder to PostgreSQL")?;
    let _ = std::fs::remove_file(data.join("postmaster.pid"));
    let options = format!("-c listen_addresses= -k {}", sockets.path().display());
    let control = |word: &str| -> anyhow::Result<Program> {
        let mut control = as_owner(data, &programs.join("pg_ctl"))?;
        control.arg(word).arg("-w").arg("-D").arg(data).args(["-t", "300"]);
        Ok(control)
    };
    let mut start = control("start")?;
    start.args(["-o", &options]).arg("-l").arg(sockets.path().join("log"));
    let started = finish(start, "pg_ctl start", &[0]);
    let checked = started.and_then(|_| {
        let mut look = as_owner(data, &programs.join("pg_amcheck"))?;
        look.arg("-h").arg(sockets.path()).args(["--all", "--install-missing", "--heapallindexed"]);
        finish(look, "pg_amcheck", &[0])
    });
    let mut stop = control("stop")?;
    stop.args(["-m", "fast"]);
    let stopped = finish(stop, "pg_ctl stop", &[0]);
    if checked.is_err() || stopped.is_err() {
        say(&std::fs::read_to_string(sockets.path().join("log")).unwrap_or_default());
    }
    checked.and(stopped)?;
    say("PostgreSQL starts, and all its tables and indexes are well");
    Ok(())
}
