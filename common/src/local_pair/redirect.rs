//! The target as a file, wherever its content lies: what backups of it, and what is saved for them, read.

use std::io;
use std::sync::Arc;

use super::bits::{VOLUME, range};
use super::pair::LocalPair;
use crate::storage::DiskFile;
use crate::t0::export::DATA_STEP;
use crate::volumes::VolumeFile;

/// How far one look for data goes.
const LOOK_BYTES: u64 = 32 << 20;

/// See the module. It is only read.
#[derive(Debug, Clone)]
pub struct RedirectFile {
    pair: Arc<LocalPair>,
    /// What is read and lacks is copied to the target first.
    bring: bool,
}

impl RedirectFile {
    /// The target of a pair that is split; with `bring`, what is asked for is copied to the target first, then read from it.
    #[must_use]
    pub const fn new(pair: Arc<LocalPair>, bring: bool) -> Self {
        Self { pair, bring }
    }

    /// The same as a volume, for what is saved of it.
    pub(super) fn volume(pair: &Arc<LocalPair>) -> VolumeFile {
        let target = pair.target();
        let file = Arc::new(Self::new(Arc::clone(pair), false));
        VolumeFile::new(VOLUME, target.name.clone(), file, target.size())
    }
}

fn refuse<T>() -> io::Result<T> {
    Err(io::Error::new(io::ErrorKind::Unsupported, "the image of a target is only read"))
}

impl DiskFile for RedirectFile {
    fn read_exact_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<()> {
        if self.bring {
            self.pair.bring(range(offset, buffer.len() as u64))?;
        }
        Ok(self.pair.read(offset, buffer)?)
    }

    fn read_cached_at(&self, _buffer: &mut [u8], _offset: u64) -> io::Result<bool> {
        Ok(false)
    }

    fn write_all_at(&self, _data: &[u8], _offset: u64) -> io::Result<()> {
        refuse()
    }

    fn write_direct_at(&self, _data: &[u8], _offset: u64) -> io::Result<bool> {
        refuse()
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.pair.target().size())
    }

    fn grow(&self, _size: u64) -> io::Result<()> {
        refuse()
    }

    fn zero(&self, _offset: u64, _length: u64, _hole: bool) -> io::Result<()> {
        refuse()
    }

    fn next_data(&self, offset: u64) -> io::Result<Option<(u64, u64)>> {
        let size = self.pair.target().size();
        let mut at = offset;
        while at < size {
            let look = LOOK_BYTES.min(size - at);
            let hole = self.pair.hole(at, look)?;
            if hole < look {
                // Data, as far as the next place worth asking about.
                let begin = at + hole;
                return Ok(Some((begin, begin.saturating_add(DATA_STEP).min(size))));
            }
            at += look;
        }
        Ok(None)
    }
}
