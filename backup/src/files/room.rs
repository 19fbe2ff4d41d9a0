//! Memory for what is listed of file systems, owned by all backups under way together: guests decide how often a file is named, how deep it
//! lies and in how many pieces.

use std::sync::Arc;

use parking_lot::Mutex;

/// Memory of all of them.
#[derive(Debug)]
pub struct Room {
    bytes: usize,
    left: Mutex<usize>,
}

impl Room {
    /// So many bytes.
    #[must_use]
    pub fn of(bytes: usize) -> Self {
        Self { bytes, left: Mutex::new(bytes) }
    }
}

/// What one backup has taken, until this is dropped.
#[derive(Debug)]
pub struct Share {
    room: Arc<Room>,
    taken: usize,
}

impl Share {
    /// Nothing yet.
    #[must_use]
    pub fn of(room: Arc<Room>) -> Self {
        Self { room, taken: 0 }
    }

    /// So many bytes more.
    ///
    /// # Errors
    /// For people, that there are not so many left.
    pub fn take(&mut self, bytes: usize) -> Result<(), String> {
        let mut left = self.room.left.lock();
        let next = left.checked_sub(bytes).ok_or_else(|| {
            format!(
                "to list its files, with those of other backups under way, takes more than {} bytes, so many are they, so long their names, or so \
                 many their fragments: back up the volume or partition whole, or when others are over",
                self.room.bytes
            )
        })?;
        *left = next;
        self.taken += bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        *self.room.left.lock() += self.taken;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backups_share_it_and_give_it_back() {
        let room = Arc::new(Room::of(100));
        let (mut one, mut other) = (Share::of(Arc::clone(&room)), Share::of(Arc::clone(&room)));
        one.take(60).unwrap();
        assert!(other.take(41).unwrap_err().contains("more than 100 bytes"));
        other.take(40).unwrap();
        assert!(one.take(1).is_err());
        drop(other);
        one.take(40).unwrap();
        drop(one);
        assert_eq!(*room.left.lock(), 100);
    }
}
