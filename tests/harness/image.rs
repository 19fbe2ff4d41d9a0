//! What a group's volumes hold, block by block.

use crate::host::{Connection, HostError};
use crate::stamp::{self, BLOCK_BYTES, Content};

/// What the volumes of a group show, in the group's order.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Image {
    volumes: Vec<Vec<Content>>,
}

impl Image {
    /// From what each volume shows.
    #[must_use]
    pub fn new(volumes: Vec<Vec<Content>>) -> Self {
        Self { volumes }
    }

    /// From the volumes' bytes.
    #[must_use]
    pub fn from_bytes<B: AsRef<[u8]>>(volumes: &[B]) -> Self {
        let read = |(volume, bytes): (usize, &B)| {
            let blocks = bytes.as_ref().chunks(BLOCK_BYTES).zip(0..);
            blocks.map(|(block, number)| stamp::read(block, volume, number)).collect()
        };
        Self::new(volumes.iter().enumerate().map(read).collect())
    }

    /// Every block: volume, number, content.
    pub fn blocks(&self) -> impl Iterator<Item = (usize, u64, &Content)> {
        let volumes = self.volumes.iter().enumerate();
        volumes
            .flat_map(|(volume, blocks)| blocks.iter().zip(0..).map(move |(content, block)| (volume, block, content)))
    }

    /// For planting violations: what a block shows.
    pub fn block_mut(&mut self, volume: usize, block: u64) -> &mut Content {
        &mut self.volumes[volume][block as usize]
    }
}

/// Reads an image from attached exports, in the group's order.
///
/// # Errors
/// [`HostError`].
pub fn read(exports: &mut [Connection]) -> Result<Image, HostError> {
    let volumes = exports.iter_mut().map(Connection::read_all).collect::<Result<Vec<_>, _>>()?;
    Ok(Image::from_bytes(&volumes))
}

/// Compares two volumes byte for byte.
///
/// # Errors
/// Where they differ first, and how many blocks do.
pub fn compare(left: &[u8], right: &[u8]) -> Result<(), String> {
    if left.len() != right.len() {
        return Err(format!("{} bytes against {}", left.len(), right.len()));
    }
    let Some(first) = left.iter().zip(right).position(|(left, right)| left != right) else { return Ok(()) };
    let pairs = left.chunks(BLOCK_BYTES).zip(right.chunks(BLOCK_BYTES));
    let blocks = pairs.filter(|(left, right)| left != right).count();
    Err(format!("first difference at byte {first} (block {}), {blocks} blocks differ", first / BLOCK_BYTES))
}

#[cfg(test)]
mod tests {
    use super::compare;

    #[test]
    fn the_first_difference_is_named() {
        let left = vec![1; 3 * 4096];
        let mut right = left.clone();
        assert_eq!(compare(&left, &right), Ok(()));
        right[5000] = 2;
        right[9000] = 2;
        assert_eq!(compare(&left, &right), Err("first difference at byte 5000 (block 1), 2 blocks differ".into()));
        assert!(compare(&left, &right[1..]).is_err());
    }
}
