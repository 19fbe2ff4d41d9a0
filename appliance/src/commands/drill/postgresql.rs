//! `tidemark drill check postgresql`: PostgreSQL started on a clone, and all that it holds looked at.
//!
//! ```text
//! mount ─▶ lead its links to the clone ─▶ refuse what still leads out ─▶ start ─▶ pg_amcheck ─▶ stop
//! ```
//!
//! The original may be in use on this machine. Nothing of it is touched: no link leads there when PostgreSQL starts, and settings that name
//! other places, or have others told, are overridden on its command line; and the server sees everything but the drill's folder read-only.

use std::collections::BTreeMap;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command as Program;

use anyhow::{Context, bail};
use tidemark_common::ids::check_name;

use super::attach::{Mounted, command, finish};
use super::check::Drill;
use super::confines::{Confines, Leaving};
use crate::output::say;

/// Nobody else is at this socket: its folder is new.
const PORT: &str = "5432";
/// So many links are named when they are refused.
const NAMED: usize = 10;

/// Where a database lies.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// The volume with the data directory
    #[arg(long, value_name = "VOLUME")]
    data: String,
    /// The data directory, relative to the volume's root
    #[arg(long, value_name = "DIR", default_value = ".")]
    path: PathBuf,
    /// The volume with the WAL, if that is not in the data directory
    #[arg(long, value_name = "VOLUME")]
    wal: Option<String>,
    /// The directory of the WAL, relative to the root of that volume
    #[arg(long, value_name = "DIR", default_value = ".")]
    wal_path: PathBuf,
    /// A tablespace, by its OID or its directory on the primary, and where it is in the clone; may be given several times
    #[arg(long = "tablespace", value_name = "OID|DIRECTORY=VOLUME[/PATH]", value_parser = tablespace)]
    tablespaces: Vec<Tablespace>,
    /// A symbolic link to remove in the clone, relative to the data directory; may be given several times
    #[arg(long = "drop-link", value_name = "PATH")]
    dropped: Vec<PathBuf>,
}

/// A tablespace and its place in the clone.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Tablespace {
    /// Its OID, or where its link leads.
    which: String,
    volume: String,
    path: PathBuf,
}

fn tablespace(text: &str) -> Result<Tablespace, String> {
    let (which, place) =
        text.rsplit_once('=').filter(|(which, _)| !which.is_empty()).ok_or("OID=VOLUME/PATH is needed")?;
    let (volume, path) = place.split_once('/').unwrap_or((place, "."));
    check_name(volume).map_err(|error| error.to_string())?;
    let path = if path.is_empty() { "." } else { path };
    Ok(Tablespace { which: which.into(), volume: volume.into(), path: path.into() })
}

/// Volumes of the clone, each mounted once.
struct Volumes<'a> {
    drill: &'a Drill,
    mounted: BTreeMap<String, Mounted>,
    confines: Confines,
}

impl Volumes<'_> {
    /// A path of a volume, which stays in the clone.
    fn path(&mut self, volume: &str, path: &Path) -> anyhow::Result<PathBuf> {
        let root = match self.mounted.get(volume) {
            Some(mounted) => mounted.path().to_owned(),
            None => {
                let mounted = self.drill.mount(volume)?;
                let root = mounted.path().to_owned();
                self.mounted.insert(volume.to_owned(), mounted);
                self.confines.add(&root)?;
                root
            }
        };
        self.confines.path(&root.join(path)).with_context(|| format!("volume '{volume}'"))
    }
}

/// Runs the check.
pub(super) fn check(options: &Options, drill: &Drill) -> anyhow::Result<()> {
    let mut volumes = Volumes { drill, mounted: BTreeMap::new(), confines: Confines::default() };
    let data = volumes.path(&options.data, &options.path)?;
    expect_cluster(&data).with_context(|| format!("volume '{}'", options.data))?;
    if let Some(wal) = &options.wal {
        let wal = volumes.path(wal, &options.wal_path)?;
        // On the primary the link leads to where the WAL is mounted there.
        relink(&data.join("pg_wal"), &wal)?;
    }
    for given in &options.tablespaces {
        let place = volumes.path(&given.volume, &given.path)?;
        // The folder of the links may itself be one.
        let folder = volumes.confines.path(&data.join("pg_tblspc"))?;
        relink(&tablespace_link(&folder, &given.which)?, &place)?;
    }
    for link in &options.dropped {
        drop_link(&volumes.confines, &data, link)?;
    }
    refuse(&volumes.confines.leaving(&data)?, &data)?;
    run(&data, &drill.folder)
}

fn relink(link: &Path, to: &Path) -> anyhow::Result<()> {
    std::fs::remove_file(link).with_context(|| format!("replace the link {}", link.display()))?;
    symlink(to, link).with_context(|| format!("make the link {}", link.display()))
}

/// The link of a tablespace in `pg_tblspc`.
fn tablespace_link(folder: &Path, which: &str) -> anyhow::Result<PathBuf> {
    let entries = std::fs::read_dir(folder).with_context(|| format!("list {}", folder.display()))?;
    let links = entries.flatten().filter_map(|entry| Some((entry.path(), std::fs::read_link(entry.path()).ok()?)));
    let mut links: Vec<(PathBuf, PathBuf)> = links.collect();
    links.sort();
    let is_it = |(link, to): &&(PathBuf, PathBuf)| {
        link.file_name().is_some_and(|name| name == which) || to.as_path() == Path::new(which)
    };
    if let Some((link, _)) = links.iter().find(is_it) {
        return Ok(link.clone());
    }
    let there = links.iter().map(|(link, to)| {
        let name = link.file_name().unwrap_or_default();
        format!("{} ({})", name.display(), to.display())
    });
    let there = there.collect::<Vec<_>>().join(", ");
    let there = if there.is_empty() { "none" } else { there.as_str() };
    bail!("there is no tablespace '{which}' in pg_tblspc, which has {there}")
}

fn drop_link(confines: &Confines, data: &Path, link: &Path) -> anyhow::Result<()> {
    let path = data.join(link);
    let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("'{}' is no link of the data directory", link.display());
    };
    let path = confines.path(folder)?.join(name);
    if !path.is_symlink() {
        bail!("'{}' is not a symbolic link of the data directory: --drop-link removes only those", link.display());
    }
    std::fs::remove_file(&path).with_context(|| format!("take away the link {}", path.display()))
}

/// Started on any other folder, PostgreSQL would speak of its owner, or of files that it lacks, and not of that.
fn expect_cluster(data: &Path) -> anyhow::Result<()> {
    if data.join("PG_VERSION").is_file() {
        return Ok(());
    }
    bail!(
        "{} is not a data directory of PostgreSQL (it has no PG_VERSION): name the directory with --path, relative to the volume's root \
         (as in --path 15/main)",
        data.display()
    )
}

/// What still leads out, and what to do about each.
fn refuse(leaving: &[Leaving], data: &Path) -> anyhow::Result<()> {
    if leaving.is_empty() {
        return Ok(());
    }
    let mut text = String::from(
        "PostgreSQL was not started: it would follow links out of the clone, perhaps to the original data in use",
    );
    for Leaving { link, to } in leaving.iter().take(NAMED) {
        let within = link.strip_prefix(data).unwrap_or(link).display().to_string();
        let advice = match within.strip_prefix("pg_tblspc/") {
            Some(oid) => format!("name the place of this tablespace in the clone with --tablespace {oid}=VOLUME/PATH"),
            None if within == "pg_wal" => "name the volume of the WAL with --wal (and --wal-path)".into(),
            None => format!("--drop-link {within} takes it away in the clone, if PostgreSQL starts without it"),
        };
        text.push_str(&format!("\n  {within} leads to {}: {advice}", to.display()));
    }
    if leaving.len() > NAMED {
        text.push_str(&format!("\n  and {} more", leaving.len() - NAMED));
    }
    bail!(text)
}

/// The newest version's programs, as Debian lays them out.
fn programs() -> anyhow::Result<(u32, PathBuf)> {
    let missing = "PostgreSQL is missing: install it with `apt-get install postgresql`";
    let versions = std::fs::read_dir("/usr/lib/postgresql").context(missing)?;
    let mut versions: Vec<(u32, PathBuf)> = versions
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_string_lossy().parse().ok()?, entry.path().join("bin"))))
        .collect();
    versions.sort();
    versions.pop().context(missing)
}

/// PostgreSQL does not run as root: its programs run as the owner of the data, and so does whatever the data has them load: it gets no other rights by
/// programs of this machine that have some.
fn as_owner(data: &Path, program: &Path) -> anyhow::Result<Program> {
    let owner = std::fs::metadata(data).with_context(|| format!("look at {}", data.display()))?;
    if rustix::process::getuid().as_raw() == owner.uid() {
        return Ok(Program::new(program));
    }
    let mut run = command("setpriv", "util-linux")?;
    run.args([
        "--reuid",
        &owner.uid().to_string(),
        "--regid",
        &owner.gid().to_string(),
        "--clear-groups",
        "--no-new-privs",
    ]);
    run.arg(program);
    Ok(run)
}

/// What the settings of the original must not say in a drill: where else to write, whom else to tell, from whom else to take. The command
/// line comes before every file. `own` is the folder of its socket.
fn settings(version: u32, data: &Path, own: &Path) -> Vec<String> {
    let at = |name: &str, path: &Path| format!("{name}={}", path.display());
    let mut all = vec![
        at("data_directory", data),
        at("hba_file", &own.join("hba")),
        at("ident_file", &own.join("ident")),
        at("external_pid_file", &own.join("pid")),
        at("unix_socket_directories", own),
        format!("port={PORT}"),
    ];
    let mut fixed = vec![
        "listen_addresses=",
        "ssl=off",
        "archive_mode=off",
        "logging_collector=off",
        "log_destination=stderr",
        // A subscriber's copy would take from the publisher what the original has not got yet.
        "max_logical_replication_workers=0",
        // pg_cron runs its jobs in whatever answers at its port.
        "cron.launch_active_jobs=off",
    ];
    if version >= 12 {
        fixed.extend([
            "restore_command=",
            "archive_cleanup_command=",
            "recovery_end_command=",
            "primary_conninfo=",
            "primary_slot_name=",
        ]);
    }
    if version < 15 {
        fixed.push("stats_temp_directory=pg_stat_tmp");
    }
    all.extend(fixed.into_iter().map(str::to_owned));
    all
}

/// What the server runs in: a view of this machine in which nothing can be written but what lies below a folder. A log that is replayed makes
/// links anew, which nobody could look at before (that of a tablespace, to where it lies on the primary). The first word is the folder; mounts
/// are told with their odd characters as octal numbers.
const CONFINED: &str = r#"
keep=$1
shift
mount --rbind "$keep" "$keep" || exit 1
mounts=$(cat /proc/self/mounts) || exit 1
printf '%s\n' "$mounts" | while read -r from at rest; do
    at=$(printf '%b' "$(printf '%s' "$at" | sed 's/\\\([0-7]\{3\}\)/\\0\1/g')")
    case "$at" in
    "$keep" | "$keep"/* | /dev | /dev/* | /proc | /proc/* | /sys | /sys/*) continue ;;
    esac
    [ -e "$at" ] || continue
    mount -o remount,bind,ro "$at" || {
        echo "PostgreSQL is not started: $at could not be made read-only for it" >&2
        exit 1
    }
done || exit 1
exec "$@"
"#;

/// Programs and all that they start see everything but the folder read-only.
fn confined(run: Program, folder: &Path) -> anyhow::Result<Program> {
    if !rustix::process::getuid().is_root() {
        // Who may not mount may not write to what is somebody else's either.
        return Ok(run);
    }
    let mut confined = command("unshare", "util-linux")?;
    confined.args(["--mount", "--propagation", "private", "sh", "-c", CONFINED, "sh"]).arg(folder);
    confined.arg(run.get_program()).args(run.get_args());
    Ok(confined)
}

/// As one word for the shell, through which pg_ctl starts the server.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

fn run(data: &Path, folder: &Path) -> anyhow::Result<()> {
    let (version, programs) = programs()?;
    let owner = std::fs::metadata(data).with_context(|| format!("look at {}", data.display()))?;
    // In the drill's folder, which goes with the drill even when this is killed. No volume has a name like this.
    let own = tempfile::Builder::new().prefix(".socket").tempdir_in(folder).context("make a folder for its socket")?;
    // Only its owner gets to the socket, and is let in.
    for (name, text) in [("hba", "local all all trust\n"), ("ident", "")] {
        let path = own.path().join(name);
        std::fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
        chown(&path, Some(owner.uid()), Some(owner.gid())).context("give PostgreSQL its files")?;
    }
    chown(own.path(), Some(owner.uid()), Some(owner.gid())).context("give the socket's folder to PostgreSQL")?;
    let _ = std::fs::remove_file(data.join("postmaster.pid"));
    let settings = settings(version, data, own.path());
    let options = settings.iter().map(|setting| format!("-c {}", quoted(setting))).collect::<Vec<_>>().join(" ");
    let control = |word: &str| -> anyhow::Result<Program> {
        let mut control = as_owner(data, &programs.join("pg_ctl"))?;
        control.arg(word).arg("-w").arg("-D").arg(data).args(["-t", "300"]);
        Ok(control)
    };
    let mut start = control("start")?;
    start.args(["-o", &options]).arg("-l").arg(own.path().join("log"));
    let folder = folder.canonicalize().with_context(|| format!("look at {}", folder.display()))?;
    let started = finish(confined(start, &folder)?, "pg_ctl start", &[0]);
    let checked = started.and_then(|_| {
        let mut look = as_owner(data, &programs.join("pg_amcheck"))?;
        look.arg("-h").arg(own.path()).args(["-p", PORT, "--all", "--install-missing", "--heapallindexed"]);
        finish(look, "pg_amcheck", &[0])
    });
    let mut stop = control("stop")?;
    stop.args(["-m", "fast"]);
    let stopped = finish(stop, "pg_ctl stop", &[0]);
    if checked.is_err() || stopped.is_err() {
        say(&std::fs::read_to_string(own.path().join("log")).unwrap_or_default());
    }
    checked.and(stopped)?;
    say("PostgreSQL starts, and all its tables and indexes are sound");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_is_named_with_its_place() {
        let read = |text: &str| {
            tablespace(text).map(|read| (read.which, read.volume, read.path.display().to_string())).unwrap_or_default()
        };
        let expected = |which: &str, volume: &str, path: &str| (which.to_owned(), volume.to_owned(), path.to_owned());
        assert_eq!(read("16385=fast/pg/ts"), expected("16385", "fast", "pg/ts"));
        assert_eq!(read("/srv/a=b=fast"), expected("/srv/a=b", "fast", "."));
        assert_eq!(read("16385=fast/"), expected("16385", "fast", "."));
        for bad in ["16385", "=fast", "16385=", "16385=/fast", "16385=../x"] {
            assert!(tablespace(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_tablespace_is_found_by_oid_and_by_directory() {
        let folder = tempfile::tempdir().unwrap();
        for (oid, to) in [("16385", "/srv/one"), ("16386", "/srv/two")] {
            symlink(to, folder.path().join(oid)).unwrap();
        }
        let found = |which| tablespace_link(folder.path(), which).map_err(|error| error.to_string());
        assert_eq!(found("16386"), Ok(folder.path().join("16386")));
        assert_eq!(found("/srv/one/"), Ok(folder.path().join("16385")));
        assert!(found("7").unwrap_err().ends_with("which has 16385 (/srv/one), 16386 (/srv/two)"));
    }

    /// What the data has PostgreSQL load runs, too, and this machine has programs that make anybody root who may start them.
    #[test]
    fn what_runs_as_the_owner_of_the_data_gets_no_other_rights() {
        let folder = tempfile::tempdir().unwrap();
        let is_root = rustix::process::getuid().is_root();
        let data = if is_root { folder.path() } else { Path::new("/") };
        if is_root {
            chown(data, Some(4711), Some(4711)).unwrap();
        }
        let run = as_owner(data, Path::new("/bin/true")).unwrap();
        let words: Vec<_> = run.get_args().map(|word| word.to_string_lossy().into_owned()).collect();
        assert!(
            ["--clear-groups", "--no-new-privs"].iter().all(|word| words.iter().any(|has| has == word)),
            "{words:?}"
        );
        assert_eq!(words.last().map(String::as_str), Some("/bin/true"));
    }

    #[test]
    fn a_folder_that_is_no_data_directory_is_told_as_that() {
        let folder = tempfile::tempdir().unwrap();
        let said = expect_cluster(folder.path()).unwrap_err().to_string();
        assert!(said.contains("no PG_VERSION") && said.contains("--path"), "{said}");
        std::fs::write(folder.path().join("PG_VERSION"), "15\n").unwrap();
        expect_cluster(folder.path()).unwrap();
    }

    #[test]
    fn only_links_are_taken_away_and_only_in_the_clone() {
        let place = tempfile::tempdir().unwrap();
        let (data, live) = (place.path().join("data"), place.path().join("live"));
        std::fs::create_dir_all(&data).unwrap();
        std::fs::create_dir_all(&live).unwrap();
        std::fs::write(data.join("file"), "").unwrap();
        symlink("elsewhere", live.join("link")).unwrap();
        symlink(&live, data.join("log")).unwrap();
        let mut confines = Confines::default();
        confines.add(&data).unwrap();
        for kept in ["file", "log/link", "../live/link", "none"] {
            assert!(drop_link(&confines, &data, Path::new(kept)).is_err(), "{kept}");
        }
        drop_link(&confines, &data, Path::new("log")).unwrap();
        assert!(data.join("file").exists() && live.join("link").is_symlink() && !data.join("log").is_symlink());
    }

    #[test]
    fn words_for_the_shell_stay_one_word() {
        assert_eq!(quoted("a b"), "'a b'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
    }
}
