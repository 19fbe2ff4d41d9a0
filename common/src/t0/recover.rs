//! Eras after a restart: side files and the records of their users come in, eras go out.
//!
//! | file | a record names it | what happens |
//! |---|---|---|
//! | there | yes | an era |
//! | there | no, and there is an older era | it becomes part of that one |
//! | there | no | it is removed: nobody was told of it, or its last user was deleted |
//! | missing or damaged | yes | this era and the older ones, which need it, are lost |
//! | damaged | no, and there is an older era | the older ones are lost |

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::concordance::Concordance;
use super::eras::{Era, EraUser, Eras, ErasParts, T0Error, file_name};
use super::side_file::SideFile;

/// An era that cannot come back, and why.
type Lost = (u64, String);

impl Eras {
    /// Opens the eras of a group that records name; those that are lost, and why.
    ///
    /// # Errors
    /// [`T0Error`] when the folder cannot be read.
    pub fn open(parts: ErasParts, users: &[EraUser]) -> Result<(Arc<Self>, Vec<Lost>), T0Error> {
        let eras = Self::new(parts);
        let lost = eras.recover(users)?;
        Ok((Arc::new(eras), lost))
    }

    fn recover(&self, users: &[EraUser]) -> Result<Vec<Lost>, T0Error> {
        let mut wanted: BTreeMap<u64, Vec<&EraUser>> = BTreeMap::new();
        for user in users {
            wanted.entry(user.era).or_default().push(user);
        }
        let files = self.files()?;
        let all: BTreeSet<u64> = files.iter().copied().chain(wanted.keys().copied()).collect();
        let mut eras: Vec<Era> = Vec::new();
        let mut lost: Vec<Lost> = Vec::new();
        let mut gone: Vec<u64> = Vec::new();
        for number in all.iter().copied() {
            let of = wanted.get(&number);
            if of.is_none() && (eras.is_empty() || self.is_empty(number)) {
                self.discard(number);
                continue;
            }
            match self.read(number) {
                Ok((file, concordance)) => settle(&mut eras, of, number, file, concordance),
                Err(error) => {
                    let reason = format!("what was saved for it cannot be read: {error}");
                    gone.push(number);
                    gone.extend(eras.iter().flat_map(|era| &era.files).map(|file| file.number()));
                    lost.extend(eras.drain(..).map(|era| (era.number, reason.clone())));
                    lost.extend(of.map(|_| (number, reason)));
                }
            }
        }
        for (number, reason) in &lost {
            tracing::error!(folder = %self.parts.folder.display(), era = number, %reason, "an image is lost");
        }
        self.discard_lost(&lost, &gone);
        self.parts.space.found(eras.iter().map(Era::bytes).sum());
        let mut state = self.state.write();
        state.eras = eras;
        state.spent = all;
        // Some of their files may be there still, too.
        state.left.extend(lost.iter().map(|(number, _)| *number).chain(gone));
        self.recount(&state);
        drop(state);
        Ok(lost)
    }

    fn files(&self) -> Result<Vec<u64>, T0Error> {
        let folder = &self.parts.folder;
        let names = match self.parts.disk.list(folder) {
            Ok(names) => names,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(T0Error::Io { action: "list", path: folder.clone(), source }),
        };
        let number = |name: &String| u64::from_str_radix(name.strip_suffix(".side")?, 16).ok();
        Ok(names.iter().filter_map(number).collect())
    }

    fn read(&self, number: u64) -> Result<(SideFile, Concordance), T0Error> {
        let path = self.parts.folder.join(file_name(number));
        let mut concordance = Concordance::default();
        let mut found = |extent, saved| concordance.add(extent, saved);
        let file = SideFile::open(&*self.parts.disk, &path, self.parts.group, number, &mut found)?;
        Ok((file, concordance))
    }

    /// Whether nothing was ever saved in a file: it was being made when the service was killed.
    fn is_empty(&self, number: u64) -> bool {
        let path = self.parts.folder.join(file_name(number));
        let file = self.parts.disk.open(&path, crate::storage::Open::Existing);
        file.and_then(|file| file.size()).is_ok_and(|size| size <= 4096)
    }

    /// Removes the files of eras that are lost, those that a record names first: without the others, one of them would be taken for whole. None of
    /// the others stays: the next start would take it for what a later image has saved.
    fn discard_lost(&self, lost: &[Lost], gone: &[u64]) {
        let mut are_gone = true;
        for (number, _) in lost {
            are_gone &= self.discard(*number);
        }
        if !gone.is_empty() && are_gone && self.parts.disk.sync_folder(&self.parts.folder).is_ok() {
            for number in gone {
                self.discard(*number);
            }
        }
    }

    /// Whether it is not there any more.
    fn discard(&self, number: u64) -> bool {
        let path = self.parts.folder.join(file_name(number));
        match self.parts.disk.remove(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(path = %path.display(), %error, "a side file that nobody needs could not be removed");
                self.state.write().left.insert(number);
                false
            }
            _ => true,
        }
    }
}

fn settle(eras: &mut Vec<Era>, users: Option<&Vec<&EraUser>>, number: u64, file: SideFile, concordance: Concordance) {
    let file = Arc::new(file);
    let first = users.and_then(|users| users.first().map(|first| (first, users.len())));
    if let Some((first, count)) = first {
        let mut era = Era::new(first, file);
        era.number = number;
        era.users = count;
        era.volumes = users.into_iter().flatten().flat_map(|user| user.volumes.iter().copied()).collect();
        era.concordance = concordance;
        eras.push(era);
    } else if let Some(older) = eras.last_mut() {
        older.concordance.merge(&concordance);
        older.files.push(file);
    }
}
