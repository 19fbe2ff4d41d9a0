//! Reading a tape: it gives one block for each read, and fails a read that has not room for all of it. Blocks of an archive are its
//! records, and larger when somebody has copied it so.

use std::io::{self, Read};

/// Bytes of a tape's block at most.
const BLOCK_BYTES_MAX: usize = 1 << 20;

/// Reads block by block, and gives of that what is asked for.
#[derive(Debug)]
pub(crate) struct Records<R> {
    from: R,
    block: Vec<u8>,
    taken: usize,
    held: usize,
}

impl<R: Read> Records<R> {
    pub(crate) fn new(from: R) -> Self {
        Self { from, block: vec![0; BLOCK_BYTES_MAX], taken: 0, held: 0 }
    }
}

impl<R: Read> Read for Records<R> {
    fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
        if self.taken == self.held && !target.is_empty() {
            (self.taken, self.held) = (0, 0);
            self.held = self.from.read(&mut self.block)?;
        }
        let some = self.block.get(self.taken..self.held).unwrap_or_default();
        let taken = some.len().min(target.len());
        if let (Some(to), Some(from)) = (target.get_mut(..taken), some.get(..taken)) {
            to.copy_from_slice(from);
        }
        self.taken += taken;
        Ok(taken)
    }
}

#[cfg(test)]
mod tests {
    use rustix::io::Errno;

    use super::*;
    use crate::archive::RECORD;
    use crate::archive::read::{Found, Taker, walk};
    use crate::archive::write::ArchiveWriter;
    use crate::content::{Content, Run};
    use crate::form::Form;
    use crate::plan::{Kind, Member};

    /// As Linux gives what is on a tape with blocks of any size.
    struct Tape<'a>(std::slice::Chunks<'a, u8>);

    impl Read for Tape<'_> {
        fn read(&mut self, target: &mut [u8]) -> io::Result<usize> {
            // Behind its last block there is a mark, where it ends.
            let Some(block) = self.0.next() else { return Ok(0) };
            let room = target.get_mut(..block.len()).ok_or(Errno::NOMEM)?;
            room.copy_from_slice(block);
            Ok(block.len())
        }
    }

    /// What was taken of one member.
    #[derive(Default)]
    struct One(Vec<u8>);

    impl Taker for One {
        fn begin(&mut self, _: &Found) -> Result<(), String> {
            Ok(())
        }

        fn data(&mut self, _: u64, bytes: &[u8]) -> Result<(), String> {
            self.0.extend_from_slice(bytes);
            Ok(())
        }

        fn end(&mut self) -> Result<(), String> {
            Ok(())
        }
    }

    #[test]
    fn an_archive_comes_back_from_a_tape_whatever_its_blocks_are() {
        let content: Vec<u8> = (0..300_000_u32).map(|at| u8::try_from(at % 251).unwrap()).collect();
        let (size, mut bytes) = (content.len() as u64, Vec::<u8>::new());
        let manifest = r#"{"format":1,"name":"b","appliance":"a","version":"0","began":"1970-01-01T00:00:00Z","order":"given",
            "moments":[],"skew_seconds":0.0,"sets":[],"members":[]}"#;
        let mut archive = ArchiveWriter::new(&mut bytes, 0);
        archive
            .begin(&Member {
                set: "s".into(),
                name: "s/a".into(),
                volume: "a".into(),
                kind: Kind::Range { offset: 0 },
                content: Content { size, runs: vec![Run { at: 0, from: 0, length: size }] },
            })
            .unwrap();
        archive.data(0, &content).unwrap();
        archive.end().unwrap();
        archive.finish(manifest).unwrap();
        let record = usize::try_from(RECORD).unwrap();
        for block in [record, 512, 26 * record] {
            let mut one = One::default();
            let found = walk(Records::new(Tape(bytes.chunks(block))), &mut one).unwrap();
            assert_eq!(found.name, "b");
            assert!(one.0 == content, "blocks of {block} bytes");
        }
    }
}
