//! What a check starts must stay inside its clone. Links of a copy lead by the original's paths, and there may be the original, in use, when
//! both are on one machine. In come the places where volumes of the clone are mounted; out go paths inside them, and the links that leave.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};

/// Links that lead to links are followed so often, as the kernel does it.
const LINKS_MAX: usize = 40;

/// Where volumes of the clone are mounted.
#[derive(Debug, Default)]
pub(super) struct Confines {
    roots: Vec<PathBuf>,
}

/// A link that leads out.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Leaving {
    /// Where the link is.
    pub(super) link: PathBuf,
    /// What it says.
    pub(super) to: PathBuf,
}

impl Confines {
    /// A volume is mounted here, too.
    pub(super) fn add(&mut self, root: &Path) -> anyhow::Result<()> {
        self.roots.push(root.canonicalize().with_context(|| format!("look at {}", root.display()))?);
        Ok(())
    }

    fn hold(&self, path: &Path) -> bool {
        self.roots.iter().any(|root| path.starts_with(root))
    }

    /// What a path really is, which must be inside.
    pub(super) fn path(&self, path: &Path) -> anyhow::Result<PathBuf> {
        let real = path.canonicalize().with_context(|| format!("look at {}", path.display()))?;
        if !self.hold(&real) {
            bail!(
                "{} leads to {}, out of the clone, where the original may be: name a path that stays in its volume",
                path.display(),
                real.display()
            );
        }
        Ok(real)
    }

    /// Whether a file, or what is made under its name, lies inside.
    pub(super) fn hold_file(&self, path: &Path) -> bool {
        !path.is_symlink() || end_of(path).is_some_and(|end| self.hold(&end))
    }

    /// The links in a folder, and in all that they and its folders lead to, that lead out.
    ///
    /// # Errors
    /// A folder that cannot be listed.
    pub(super) fn leaving(&self, folder: &Path) -> anyhow::Result<Vec<Leaving>> {
        let mut found = BTreeSet::new();
        let mut seen = BTreeSet::new();
        let mut waiting = vec![self.path(folder)?];
        while let Some(folder) = waiting.pop() {
            if !seen.insert(folder.clone()) {
                continue;
            }
            let listed = std::fs::read_dir(&folder).and_then(Iterator::collect::<io::Result<Vec<_>>>);
            for entry in listed.with_context(|| format!("list {}", folder.display()))? {
                let path = entry.path();
                let kind = entry.file_type().with_context(|| format!("look at {}", path.display()))?;
                if kind.is_dir() {
                    waiting.push(path);
                } else if kind.is_symlink() {
                    match end_of(&path).filter(|end| self.hold(end)) {
                        Some(end) if end.is_dir() => waiting.push(end),
                        Some(_) => {}
                        None => {
                            let to = std::fs::read_link(&path).unwrap_or_default();
                            found.insert(Leaving { link: path, to });
                        }
                    }
                }
            }
        }
        Ok(found.into_iter().collect())
    }
}

/// Where a link ends: what is there, or what would be made through it.
fn end_of(link: &Path) -> Option<PathBuf> {
    let mut link = link.to_owned();
    for _ in 0..LINKS_MAX {
        let to = link.parent()?.join(std::fs::read_link(&link).ok()?);
        match to.canonicalize() {
            Ok(real) => return Some(real),
            Err(error) if error.kind() != io::ErrorKind::NotFound => return None,
            Err(_) => {}
        }
        if !to.is_symlink() {
            return Some(to.parent()?.canonicalize().ok()?.join(to.file_name()?));
        }
        link = to;
    }
    None
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn links_that_lead_out_are_found_wherever_they_are() {
        let place = tempfile::tempdir().unwrap();
        let place = place.path().canonicalize().unwrap();
        let at = |path: &str| place.join(path);
        for folder in ["data/pg/pg_tblspc", "data/pg/log", "data/other", "wal/pg/deep", "live"] {
            std::fs::create_dir_all(at(folder)).unwrap();
        }
        std::fs::write(at("live/file"), "in use").unwrap();
        let mut confines = Confines::default();
        confines.add(&at("data")).unwrap();
        confines.add(&at("wal")).unwrap();
        let link = |name: &str, to: &str| symlink(to.replace('@', place.to_str().unwrap()), at(name)).unwrap();
        // What stays: relative ones, those into another volume, one round in a circle, and what is not there yet.
        link("data/pg/pg_wal", "@/wal/pg");
        link("data/pg/log/latest", "not-yet");
        link("data/pg/round", "../pg");
        link("data/pg/near", "../other");
        assert!(confines.leaving(&at("data/pg")).unwrap().is_empty());
        // What does not.
        link("data/pg/pg_tblspc/16385", "@/live");
        link("data/pg/conf", "../../live/file");
        link("data/pg/made", "@/live/not-yet");
        link("data/other/further", "@/live/made-through-two");
        link("data/pg/chain", "../other/further");
        link("data/pg/nowhere", "@/no/such/place");
        link("data/pg/self", "self");
        link("wal/pg/deep/out", "@/live");
        let found: Vec<_> = confines.leaving(&at("data/pg")).unwrap().into_iter().map(|leaving| leaving.link).collect();
        let expected = [
            "data/other/further",
            "data/pg/chain",
            "data/pg/conf",
            "data/pg/made",
            "data/pg/nowhere",
            "data/pg/pg_tblspc/16385",
            "data/pg/self",
            "wal/pg/deep/out",
        ];
        assert_eq!(found, expected.map(at));
        assert!(confines.path(&at("data/pg/pg_tblspc/16385")).unwrap_err().to_string().contains("out of the clone"));
        assert!(confines.path(&at("data/../live")).is_err());
        assert_eq!(confines.path(&at("data/pg/near")).unwrap(), at("data/other"));
        assert!(confines.hold_file(&at("data/pg/none")) && confines.hold_file(&at("data/pg/log/latest")));
        assert!(!confines.hold_file(&at("data/pg/made")));
    }
}
