//! `make bench-parts`: what one step of the way costs by itself, one file per part. The whole is measured by `make bench`; a part that
//! is slow here is slow there.

mod differential;
mod frames;
mod journal;
mod overlay;
mod ring;
mod wire;

use tidemark_common::extent::Extent;
use tidemark_common::ids::VolumeIndex;

fn main() {
    divan::main();
}

/// A range of the one volume.
const fn extent(offset: u64, length: u64) -> Extent {
    Extent { volume: VolumeIndex(1), offset, length }
}

/// The same numbers in each run.
struct Numbers(u64);

impl Numbers {
    const fn new() -> Self {
        Self(0x9e37_79b9_7f4a_7c15)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The begin of a block below this many.
    fn block(&mut self, blocks: u64) -> u64 {
        self.next() % blocks * 4096
    }

    /// Data of which half compresses, in each block.
    fn data(&mut self, bytes: usize) -> Vec<u8> {
        let mut data = vec![0; bytes];
        for block in data.chunks_mut(4096) {
            let noise = block.len() / 2;
            block[..noise].chunks_mut(8).for_each(|word| {
                let next = self.next().to_le_bytes();
                word.copy_from_slice(&next[..word.len()]);
            });
        }
        data
    }
}
