//! Data that compression does not help with.

use crate::appliance::Appliance;

/// Bytes that lz4 cannot make smaller.
#[must_use]
pub fn noise(seed: u64, bytes: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    (0..bytes / 8).flat_map(|_| next().to_le_bytes()).collect()
}

/// Writes it to a place of a volume, and flushes.
///
/// # Panics
/// When the side does not take it.
pub fn write_noise(side: &Appliance, volume: &str, at: u64, bytes: u64, seed: u64) {
    let mut export = side.open(volume);
    export.write_all(at, &noise(seed, bytes)).expect("write");
    export.flush().expect("flush");
}
