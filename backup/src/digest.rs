//! The digest of a content: BLAKE3 over its blocks of 64 KiB that are not all zeroes, each behind its number (8 bytes,
//! little-endian). So it is the same however holes are kept, and a volume of 64 TiB that is empty costs nothing.

/// Bytes of one block.
const BLOCK: usize = 64 << 10;

/// A digest being made from bytes that come in their order.
pub struct Digest {
    hasher: blake3::Hasher,
    number: u64,
    block: Vec<u8>,
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Digest").field("block", &self.number).finish_non_exhaustive()
    }
}

impl Default for Digest {
    fn default() -> Self {
        Self { hasher: blake3::Hasher::new(), number: 0, block: Vec::with_capacity(BLOCK) }
    }
}

impl Digest {
    /// Bytes at a place behind all that came before; what lies between reads as zeroes.
    pub fn add(&mut self, at: u64, mut bytes: &[u8]) {
        let mut at = at;
        while !bytes.is_empty() {
            let (number, within) = (at / BLOCK as u64, usize::try_from(at % BLOCK as u64).unwrap_or(0));
            if number != self.number {
                self.close();
                self.number = number;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(BLOCK - within));
            self.block.resize(within.max(self.block.len()), 0);
            self.block.extend_from_slice(now);
            at += now.len() as u64;
            bytes = rest;
        }
    }

    /// The digest of a content of this size, hexadecimal.
    #[must_use]
    pub fn finish(mut self, size: u64) -> String {
        self.close();
        self.hasher.update(&size.to_le_bytes());
        self.hasher.finalize().to_hex().to_string()
    }

    /// Zeroes at the end of a block are not told from what is not there: the size is in the digest.
    fn close(&mut self) {
        let used = self.block.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
        if let Some(used) = self.block.get(..used).filter(|used| !used.is_empty()) {
            self.hasher.update(&self.number.to_le_bytes());
            self.hasher.update(&(used.len() as u64).to_le_bytes());
            self.hasher.update(used);
        }
        self.block.clear();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn whole(bytes: &[u8]) -> String {
        let mut digest = Digest::default();
        digest.add(0, bytes);
        digest.finish(bytes.len() as u64)
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_it_comes_nor_whether_zeroes_come(
            parts in proptest::collection::vec((any::<u8>(), 1..90_000_usize, any::<bool>()), 1..8)
        ) {
            let mut bytes = Vec::new();
            let mut digest = Digest::default();
            for (value, length, zero) in parts {
                let part = vec![if zero { 0 } else { value }; length];
                if !zero {
                    for (piece, at) in part.chunks(7001).zip((0_u64..).map(|n| n * 7001)) {
                        digest.add(bytes.len() as u64 + at, piece);
                    }
                }
                bytes.extend(part);
            }
            prop_assert_eq!(digest.finish(bytes.len() as u64), whole(&bytes));
        }
    }

    #[test]
    fn every_place_and_the_size_count() {
        let mut bytes = vec![0; 200_000];
        let empty = whole(&bytes);
        assert_ne!(empty, whole(&bytes[1..]));
        let mut seen = std::collections::BTreeSet::from([empty]);
        for at in [0, 65_535, 65_536, 131_072, 199_999] {
            bytes[at] = 1;
            assert!(seen.insert(whole(&bytes)));
            bytes[at] = 0;
        }
    }
}
