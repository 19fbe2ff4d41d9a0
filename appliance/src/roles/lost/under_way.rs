//! Exports of lost tails under way: how far each is, and that no two write one file.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use tidemark_common::api::types::{ErrorBody, LostExport, LostExportStatus};
use tidemark_common::rate::Rate;

use super::super::appliance::{Appliance, refused};

/// Those under way, by their file.
#[derive(Default)]
pub(crate) struct LostExports(Mutex<BTreeMap<String, UnderWay>>);

struct UnderWay {
    group: String,
    name: String,
    volume: String,
    done_bytes: u64,
    total_bytes: u64,
    rate: Rate,
}

/// One of them, for as long as this lives.
pub(super) struct Exporting<'a> {
    all: &'a LostExports,
    to: &'a str,
}

impl LostExports {
    /// One begins, if no other one writes that file: its command may have been broken off, and the export goes on.
    pub(super) fn begin<'a>(
        &'a self,
        group: &str,
        name: &str,
        request: &'a LostExport,
    ) -> Result<Exporting<'a>, ErrorBody> {
        let mut all = self.0.lock();
        if all.contains_key(&request.to) {
            return Err(refused(format!(
                "an export is writing {} already: `tidemark status` shows how far it is. Wait for it, or name another file",
                request.to
            )));
        }
        let one = UnderWay {
            group: group.into(),
            name: name.into(),
            volume: request.volume.clone(),
            done_bytes: 0,
            total_bytes: 0,
            rate: Rate::default(),
        };
        all.insert(request.to.clone(), one);
        Ok(Exporting { all: self, to: &request.to })
    }
}

impl Exporting<'_> {
    /// So much of the tail's journal is in the file.
    pub(super) fn reaches(&self, done_bytes: u64, total_bytes: u64) {
        if let Some(one) = self.all.0.lock().get_mut(self.to) {
            (one.done_bytes, one.total_bytes) = (done_bytes, total_bytes);
        }
    }
}

impl Drop for Exporting<'_> {
    fn drop(&mut self) {
        self.all.0.lock().remove(self.to);
    }
}

impl Appliance {
    /// Those under way, for status.
    pub(crate) fn lost_exports_now(&self) -> Vec<LostExportStatus> {
        let now = self.clock.monotonic();
        let mut all = self.lost_exports.0.lock();
        let shown = |(to, one): (&String, &mut UnderWay)| LostExportStatus {
            group: one.group.clone(),
            name: one.name.clone(),
            volume: one.volume.clone(),
            to: to.clone(),
            progress: one.rate.progress(now, one.done_bytes, one.total_bytes),
        };
        all.iter_mut().map(shown).collect()
    }
}
